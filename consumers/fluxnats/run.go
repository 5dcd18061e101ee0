package fluxnats

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fluxlimiter/flux/stream"
)

// run is one call of Run. The subscription's callback receives, feed delivers,
// pull asks for more, tend watches over what is held and asked for, acknowledge
// sends acknowledgements, examine looks at the stream and the consumer.
type run struct {
	src   *Source
	set   *settings
	nc    *nats.Conn
	in    stream.Intake[*Msg]
	facts atomic.Pointer[facts]
	base  time.Time

	lastError error // of the connection, before the run

	done <-chan struct{} // closed when no more may be delivered
	fail context.CancelCauseFunc
	sub  *nats.Subscription

	arrived chan struct{} // there is something in queue
	hungry  chan struct{} // it may be time to ask for more
	doubt   chan struct{} // the consumer may be gone or unfit
	acking  chan struct{} // there is something in acks
	idle    chan struct{} // nothing is held any more, and nothing will be

	mu       sync.Mutex
	held     int         // received, and not yet settled or released
	oldest   delivery    // ring of what is held, the longest untouched first
	queue    []*delivery // received and not yet handed to feed
	waiting  int         // received and not yet delivered
	requests requests
	acks     []*delivery // to be acknowledged
	recent   recentAcks
	newest   struct { // of what was received
		seq    uint64
		stored int64
	}
	unsure       bool          // whether the stream is the one that what is held came from
	reconnects   uint64        // of the connection, as far as they have been noticed
	cautiousTill time.Duration // nothing is settled before, unless the stream has been looked at
	released     []*delivery   // given up, to be handed back when the server sends no more
	draining     bool          // it does not
	isIdle       bool
	naks         map[uint64]nakked // messages deferred by a delayed negative acknowledgement
}

func newRun(s *Source, in stream.Intake[*Msg], f facts) *run {
	r := &run{
		src: s, set: &s.set, nc: s.js.Conn(), in: in, base: time.Now(), lastError: s.js.Conn().LastError(),
		arrived: make(chan struct{}, 1), hungry: make(chan struct{}, 1), acking: make(chan struct{}, 1), doubt: make(chan struct{}, 1), idle: make(chan struct{}),
		naks: make(map[uint64]nakked), reconnects: f.reconnects,
	}
	r.facts.Store(&f)
	r.oldest.prev, r.oldest.next = &r.oldest, &r.oldest
	return r
}

// now returns the time since the run began, which costs half of a time.Now.
func (r *run) now() time.Duration { return time.Since(r.base) }

func (r *run) run(parent context.Context) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	r.done, r.fail = ctx.Done(), cancel

	inbox := r.nc.NewInbox()
	r.requests.inbox = inbox + "."
	closed := make(chan struct{})
	sub, err := r.nc.Subscribe(inbox+".*", r.receive)
	if err != nil {
		return fmt.Errorf("fluxnats: %w", err)
	}
	r.sub = sub
	sub.SetClosedHandler(func(string) { close(closed) })
	// What may be outstanding is bounded by what is asked for.
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return fmt.Errorf("fluxnats: %w", err)
	}

	var delivering, tending sync.WaitGroup
	delivering.Go(func() { r.feed(ctx) })
	delivering.Go(func() { r.pull(ctx) })
	delivering.Go(func() { r.examine(ctx) })
	tending.Go(r.tend)
	tending.Go(r.acknowledge)

	<-ctx.Done()
	r.endIntake(closed)
	delivering.Wait()
	cause := context.Cause(ctx)
	stopped := parent.Err() != nil || errors.Is(cause, stream.ErrStopped)
	r.drain(stopped)
	if stopped {
		<-r.idle
		cause = nil
	} else {
		r.mu.Lock()
		r.setIdle()
		r.mu.Unlock()
	}
	tending.Wait()
	r.sendAcks(r.acks) // of handlers that were done just before an error
	flush(r.nc, r.set.log)
	return cause
}

// endIntake makes the server send no more, and returns when what it has sent
// has been received. Until then a released message would come straight back.
func (r *run) endIntake(closed <-chan struct{}) {
	r.mu.Lock()
	asked := r.requests.asked > 0
	r.mu.Unlock()
	if !asked {
		_ = r.sub.Unsubscribe()
		return
	}
	unsubscribe(r.nc, r.sub, closed)
}

// drain hands back what was received and never delivered, and what the gate has
// released so far; what it releases from now on goes back at once.
func (r *run) drain(orderly bool) {
	r.mu.Lock()
	for _, d := range r.queue {
		r.letGo(d)
		r.released = append(r.released, d)
	}
	r.queue = nil
	back := r.released
	r.released, r.draining = nil, true
	if orderly && r.held == 0 {
		r.setIdle()
	}
	r.mu.Unlock()
	slices.SortFunc(back, func(a, b *delivery) int { return cmp.Compare(a.seq, b.seq) })
	for _, d := range back {
		r.giveBack(d, 0)
	}
}

// setIdle must be called with the lock held.
func (r *run) setIdle() {
	if !r.isIdle {
		r.isIdle = true
		close(r.idle)
	}
}

// flush waits until the server has what was sent last, but not for a server
// that is not there.
func flush(nc *nats.Conn, log *slog.Logger) {
	if !nc.IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := nc.FlushWithContext(ctx); err != nil {
		log.Warn("flush at the end", "error", err)
	}
}

// ended reports whether no more may be delivered.
func (r *run) ended() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// feedSize is how many messages are handed to the gate at once at most: while it
// takes them they count as waiting, and no more are asked for.
const feedSize = 16

// feed hands what was received to the gate, in order.
func (r *run) feed(ctx context.Context) {
	var batch []*delivery
	some := make([]stream.Delivery[*Msg], 0, feedSize)
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.arrived:
		}
		r.mu.Lock()
		batch, r.queue = r.queue, batch[:0]
		r.mu.Unlock()
		for part := range slices.Chunk(batch, feedSize) {
			some = some[:len(part)]
			for i, d := range part {
				some[i], part[i] = d, nil
			}
			if err := r.in.Deliver(ctx, some...); err != nil {
				r.fail(fmt.Errorf("fluxnats: the gate takes no more: %w", err))
				for _, d := range batch {
					if d != nil {
						d.Release()
					}
				}
				return
			}
			clear(some)
			r.mu.Lock()
			r.waiting -= len(part)
			low := r.requests.low(r.waiting)
			r.mu.Unlock()
			if low {
				poke(r.hungry)
			}
		}
	}
}

// poke wakes the one goroutine that waits on c, now or when it next does.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
