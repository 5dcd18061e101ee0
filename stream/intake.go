package stream

import (
	"context"
	"math"
	"time"
)

// arrival is a message on its way into the window, with all that the functions
// of the user say of it, so that they are not called with the mutex held.
type arrival[M any] struct {
	delivery Delivery[M]
	meta     Meta
	tenant   string
	key      string
	cost     int64
	weight   int64
	revoked  <-chan struct{}
	invalid  bool // one of them makes no sense
}

// maxCost bounds the cost of a message, so that the costs of a window full of
// them can be added up.
const maxCost = 1 << 40

// maxWeight bounds the weight of a tenant.
const maxWeight = math.MaxInt32

func (r *run[M]) arrival(d Delivery[M]) arrival[M] {
	m := d.Message()
	a := arrival[M]{delivery: d, meta: d.Meta(), tenant: r.cfg.Tenant(m), cost: 1, weight: 1, revoked: d.Revoked()}
	a.key, a.invalid = r.cfg.orderKey(a.tenant, m), a.meta.Bytes < 0
	if r.cfg.Cost != nil {
		cost := r.cfg.Cost(m)
		a.cost, a.invalid = min(max(1, cost), maxCost), a.invalid || cost < 0
	}
	if r.cfg.Weight != nil && a.tenant != "" {
		weight := r.cfg.Weight(a.tenant)
		a.weight, a.invalid = min(max(1, weight), maxWeight), a.invalid || weight < 0
	}
	return a
}

// blockedDeliver is a call of Deliver that waits for room. Whoever makes room
// admits its message before waking it, so that nobody can slip in between.
type blockedDeliver[M any] struct {
	arrival    arrival[M]
	done       chan struct{} // receives one value when err says how it ended
	err        error
	prev, next *blockedDeliver[M]
	queue      *intakeQueue[M] // that it waits in
}

// intakeQueue is the queue of blocked Deliver calls, and those that are free to
// be used again.
type intakeQueue[M any] struct {
	first, last, free *blockedDeliver[M]
	n                 int
}

func (q *intakeQueue[M]) push(a arrival[M]) *blockedDeliver[M] {
	b := q.free
	if b == nil {
		b = &blockedDeliver[M]{done: make(chan struct{}, 1)}
	} else {
		q.free = b.next
	}
	b.arrival, b.err = a, nil
	q.append(b)
	return b
}

func (q *intakeQueue[M]) append(b *blockedDeliver[M]) {
	b.queue = q
	b.prev, b.next = q.last, nil
	if q.last == nil {
		q.first = b
	} else {
		q.last.next = b
	}
	q.last = b
	q.n++
}

func (q *intakeQueue[M]) remove(b *blockedDeliver[M]) {
	if b.prev == nil {
		q.first = b.next
	} else {
		b.prev.next = b.next
	}
	if b.next == nil {
		q.last = b.prev
	} else {
		b.next.prev = b.prev
	}
	b.prev, b.next, b.queue = nil, nil, nil
	q.n--
}

// recycle keeps b, which has received from done, for another call.
func (q *intakeQueue[M]) recycle(b *blockedDeliver[M]) {
	b.arrival = arrival[M]{}
	b.next, q.free = q.free, b
}

// turnSize is how many messages are admitted in one turn at most, so that no
// turn is long.
const turnSize = 16

// Deliver implements [Intake].
func (r *run[M]) Deliver(ctx context.Context, deliveries ...Delivery[M]) error {
	if len(deliveries) == 1 { // without making room for others
		arrivals := [1]arrival[M]{r.arrival(deliveries[0])}
		return r.deliver(ctx, arrivals[:], nil)
	}
	return r.deliverAll(ctx, deliveries)
}

func (r *run[M]) deliverAll(ctx context.Context, deliveries []Delivery[M]) error {
	var arrivals [turnSize]arrival[M]
	for len(deliveries) > 0 {
		n := min(len(deliveries), turnSize)
		for i, d := range deliveries[:n] {
			arrivals[i] = r.arrival(d)
		}
		deliveries = deliveries[n:]
		if err := r.deliver(ctx, arrivals[:n], deliveries); err != nil {
			return err
		}
	}
	return nil
}

// deliver takes arrivals in, or else releases those that it cannot take, and
// others that were to come after them.
func (r *run[M]) deliver(ctx context.Context, arrivals []arrival[M], others []Delivery[M]) error {
	for len(arrivals) > 0 {
		n, err := r.letIn(ctx, arrivals)
		arrivals = arrivals[n:]
		if err != nil {
			for i := range arrivals {
				arrivals[i].delivery.Release()
			}
			for _, d := range others {
				d.Release()
			}
			return err
		}
	}
	return nil
}

// letIn takes in as many arrivals as there is room for in one turn, and if there
// is another it waits until that is in, too. It returns how many are.
func (r *run[M]) letIn(ctx context.Context, arrivals []arrival[M]) (n int, err error) {
	r.mu.Lock()
	if r.stopped {
		r.mu.Unlock()
		return 0, ErrStopped
	}
	now := r.clock.now()
	var b *blockedDeliver[M]
	for i := range arrivals {
		a := &arrivals[i]
		q := r.queue(a, now)
		if q == nil && r.blocked.n > 0 {
			q = &r.blocked
		}
		if q != nil {
			b = q.push(*a)
			break
		}
		r.admit(a, now)
		n++
	}
	r.unlock(now)
	if b == nil {
		return n, nil
	}

	ended := ctx.Done()
	for {
		select {
		case <-b.done:
			r.mu.Lock()
			err := b.err
			r.blocked.recycle(b)
			r.mu.Unlock()
			if err == nil {
				n++
			}
			return n, err
		case <-ended:
			ended = nil
			r.mu.Lock()
			if q := b.queue; q != nil {
				q.remove(b)
				r.blocked.recycle(b)
				r.mu.Unlock()
				return n, ctx.Err()
			}
			// It was admitted in the same moment: its value is on the way.
			r.mu.Unlock()
		}
	}
}

// Room implements [Intake].
func (r *run[M]) Room(ctx context.Context, most int) (int, error) {
	for {
		r.mu.Lock()
		if r.stopped {
			r.mu.Unlock()
			return 0, ErrStopped
		}
		if r.roomy() {
			n := min(max(1, most), r.fitting(r.cfg.Window-r.held, r.limits.window-r.bytes))
			r.mu.Unlock()
			return n, nil
		}
		if r.room == nil {
			r.room = make(chan struct{})
		}
		room := r.room
		r.mu.Unlock()

		select {
		case <-room:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// roomy reports whether sources that wait are to be woken. While the workers
// have enough to do, it is worth waiting for a few places, because waking a
// source for each costs more than the message.
func (r *run[M]) roomy() bool {
	places := r.cfg.Window - r.held
	return r.open() && r.blocked.n == 0 &&
		(places >= min(r.cfg.Workers, r.cfg.Window/8) || r.sched.ready.len() == 0)
}

// queue returns the queue that an arrival has to wait in, nil if there is room
// for it.
func (r *run[M]) queue(a *arrival[M], now int64) *intakeQueue[M] {
	switch {
	case r.crowds(a, now):
		return &r.crowded
	case r.full(r.watchOf(a)):
		return &r.barred
	case !r.open():
		return &r.blocked
	}
	return nil
}

// barredLook is how long a partition that has a place may wait to be given it
// for its sake alone. Waking its source for every single place costs more than
// the message.
const barredLook = int64(10 * time.Millisecond)

// admitBlocked lets messages in that wait for room, in their order.
func (r *run[M]) admitBlocked(now int64) {
	if r.barred.n > 0 && (r.reopened || r.sched.ready.len() == 0 || now-r.lookedAt >= barredLook) {
		r.reopened, r.lookedAt = false, now
		r.readmit(&r.barred, now)
	}
	places := r.cfg.Window - r.held
	if places >= min(r.cfg.Workers, r.cfg.Window/8) || r.sched.ready.len() == 0 {
		for r.blocked.n > 0 && r.open() {
			b := r.blocked.first
			r.blocked.remove(b)
			if q := r.queue(&b.arrival, now); q != nil {
				q.append(b)
				continue
			}
			r.admit(&b.arrival, now)
			b.done <- struct{}{}
		}
	}
	if r.open() {
		r.readmit(&r.crowded, now)
	}
	if r.roomy() {
		r.wakeSources()
	}
}

// readmit looks again at those that wait in q for more than a place in the
// window. Those that need no more than that now come after those that wait for
// one already.
func (r *run[M]) readmit(q *intakeQueue[M], now int64) {
	for b := q.first; b != nil; {
		next := b.next
		switch to := r.queue(&b.arrival, now); {
		case to == q:
		case to == nil && (r.blocked.n == 0 || q == &r.crowded):
			q.remove(b)
			r.admit(&b.arrival, now)
			b.done <- struct{}{}
		default:
			q.remove(b)
			if to == nil {
				to = &r.blocked
			}
			to.append(b)
		}
		b = next
	}
}

// crowds reports whether a message of a tenant has to wait because so many
// others of it are on their way out: a quarter of the window, or as many as
// there are free places. It does not wait once the broker has settled none of
// them for a while.
func (r *run[M]) crowds(a *arrival[M], now int64) bool {
	if r.outgoing < max(1, r.cfg.Window/4) && r.leavers < max(1, r.limits.window/4) {
		return false
	}
	t := r.tenants[a.tenant]
	return r.surplus(t) && now < r.uncrowded(t, a)
}

// uncrowded is when a waits no more for the broker to settle others of t, if it
// does not. One that was delivered before may have been released a moment ago:
// a broker that redelivers at once must not keep the gate busy with it.
func (r *run[M]) uncrowded(t *tenant[M], a *arrival[M]) int64 {
	at := t.settled + int64(stuck)
	if a.meta.Redelivered && r.released != unset {
		at = max(at, r.released+int64(releasePause))
	}
	return at
}

// surplus reports whether t has as many messages on their way out as it may.
func (r *run[M]) surplus(t *tenant[M]) bool {
	return t != nil && (int(t.settling) >= max(1, min(r.cfg.Window/4, r.cfg.Window-r.held)) ||
		t.leavers >= max(1, min(r.limits.window/4, r.limits.window-r.bytes)))
}

// wakeSources ends all calls of Room that wait; they look again.
func (r *run[M]) wakeSources() {
	if r.room != nil {
		close(r.room)
		r.room = nil
	}
}

// refuse ends all calls of Deliver and Room that wait.
func (r *run[M]) refuse() {
	for _, q := range []*intakeQueue[M]{&r.blocked, &r.crowded, &r.barred} {
		for q.n > 0 {
			b := q.first
			q.remove(b)
			b.err = ErrStopped
			b.done <- struct{}{}
		}
	}
	r.wakeSources()
}
