package fluxnats

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fluxlimiter/flux/stream"
)

// coreRun is one call of Core.Run. The subscription's callback delivers, part
// finds a place for what the gate gives up, and run itself looks after the
// subscription.
type coreRun struct {
	src  *Core
	in   stream.Intake[*Msg]
	fail context.CancelCauseFunc

	lastError error // of the connection, before the run

	one [1]stream.Delivery[*Msg] // of the callback alone: what it delivers, or each call would make a slice

	parting chan struct{} // there is something in released
	idle    chan struct{} // nothing is held any more, and nothing will be

	mu       sync.Mutex
	held     int             // received, and not yet settled
	released []*coreDelivery // given up by the gate
	ending   bool            // no more will be received
	isIdle   bool
}

// coreWatch is how often a run looks after its subscription.
const coreWatch = time.Second

func newCoreRun(s *Core, in stream.Intake[*Msg]) *coreRun {
	return &coreRun{
		src: s, in: in, lastError: s.nc.LastError(),
		parting: make(chan struct{}, 1), idle: make(chan struct{}),
	}
}

func (r *coreRun) run(parent context.Context, backlog int) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	r.fail = cancel
	nc, set := r.src.nc, &r.src.set
	// Without a queue that is a subscription like any other.
	sub, err := nc.QueueSubscribe(set.Subject, set.Queue, func(m *nats.Msg) { r.receive(ctx, m) })
	if err != nil {
		return fmt.Errorf("fluxnats: %w", err)
	}
	closed := make(chan struct{})
	sub.SetClosedHandler(func(string) { close(closed) })
	if err := sub.SetPendingLimits(backlog, set.BacklogBytes); err != nil {
		_ = sub.Unsubscribe()
		return fmt.Errorf("fluxnats: %w", err)
	}
	r.src.setSubscription(sub)

	var wg sync.WaitGroup
	wg.Go(r.part)
	r.watch(ctx)
	r.logDropped()
	unsubscribe(nc, sub, closed)
	r.src.setSubscription(nil)

	cause := context.Cause(ctx)
	stopped := parent.Err() != nil || errors.Is(cause, stream.ErrStopped)
	r.mu.Lock()
	r.ending = true
	if r.held == 0 || !stopped {
		r.setIdle()
	}
	r.mu.Unlock()
	wg.Wait()
	flush(nc, set.Logger)
	if stopped {
		return nil
	}
	return cause
}

// watch returns when the run is to end.
func (r *coreRun) watch(ctx context.Context) {
	tick := time.NewTicker(coreWatch)
	defer tick.Stop()
	flushed := false
	for {
		if nc := r.src.nc; !flushed && nc.IsConnected() {
			// The server's answer comes after what it has to say of the subscription.
			answer, cancel := context.WithTimeout(ctx, answerTimeout)
			flushed = nc.FlushWithContext(answer) == nil
			cancel()
		}
		r.examine()
		r.logDropped()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// examine ends the run if the connection is closed, or if the server has refused
// the subscription, of which it only tells the connection.
func (r *coreRun) examine() {
	if r.src.nc.IsClosed() {
		r.fail(fmt.Errorf("fluxnats: %w", nats.ErrConnectionClosed))
		return
	}
	err := r.src.nc.LastError()
	if err == r.lastError || !errors.Is(err, nats.ErrPermissionViolation) { //nolint:errorlint // the same value, not the same kind
		return
	}
	text := strings.ToLower(err.Error())
	if strings.Contains(text, "subscription to") && strings.Contains(text, `"`+strings.ToLower(r.src.set.Subject)+`"`) {
		r.fail(fmt.Errorf("fluxnats: %w", err))
	}
}

func (r *coreRun) logDropped() {
	if n := r.src.countDropped(); n > 0 {
		r.src.set.Logger.Error("the client drops messages: they come faster than the gate takes them, and the backlog is full", "count", n)
	}
}

// receive is the subscription's callback. It blocks while the gate is full.
func (r *coreRun) receive(ctx context.Context, m *nats.Msg) {
	d := &coreDelivery{r: r}
	d.msg = Msg{m: m, core: d}
	r.mu.Lock()
	r.held++
	r.mu.Unlock()
	r.src.stats.received.Add(1)
	r.one[0] = d
	err := r.in.Deliver(ctx, r.one[:]...)
	r.one[0] = nil // the next may be long in coming
	if err != nil && ctx.Err() == nil {
		r.fail(fmt.Errorf("fluxnats: the gate takes no more: %w", err))
	}
}

// letGo ends the hold of n deliveries. The lock must be held.
func (r *coreRun) letGo(n int) {
	r.held -= n
	if r.ending && r.held == 0 {
		r.setIdle()
	}
}

// setIdle must be called with the lock held.
func (r *coreRun) setIdle() {
	if !r.isIdle {
		r.isIdle = true
		close(r.idle)
	}
}

// part makes dead letters of what the gate has given up, until nothing is held
// any more.
func (r *coreRun) part() {
	for over := false; !over; {
		select {
		case <-r.parting:
		case <-r.idle:
			over = true
		}
		r.mu.Lock()
		batch := r.released
		r.released = nil
		r.mu.Unlock()
		r.partWith(batch)
		r.mu.Lock()
		r.letGo(len(batch))
		r.mu.Unlock()
	}
}

// partWith tries each once, several at a time: the run is to end soon.
func (r *coreRun) partWith(batch []*coreDelivery) {
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	const atOnce = 32
	var wg sync.WaitGroup
	for first := range min(len(batch), atOnce) {
		wg.Go(func() {
			for i := first; i < len(batch); i += atOnce {
				d := batch[i]
				if err := d.away(ctx, reasonReleased, stream.Letter{}); err != nil {
					r.src.discard(&d.msg, reasonReleased, err)
				}
			}
		})
	}
	wg.Wait()
}

// unsubscribe ends a subscription when what the server has sent of it has been
// received.
func unsubscribe(nc *nats.Conn, sub *nats.Subscription, closed <-chan struct{}) {
	if !nc.IsConnected() || sub.Drain() != nil {
		_ = sub.Unsubscribe()
		return
	}
	limit := time.NewTimer(2 * time.Second)
	defer limit.Stop()
	select {
	case <-closed:
	case <-limit.C:
		_ = sub.Unsubscribe()
	}
}
