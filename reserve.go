package flux

import (
	"context"
	"time"

	"github.com/fluxlimiter/flux/gcra"
)

// Reservation is a place in the queue of a key, taken by [Limiter.Reserve]. Its
// methods may be called by any number of goroutines at once.
type Reservation[K comparable] struct {
	room *room[K]
	w    waiter[K]
	to   outbox
	had  bool // the turn has come, as far as anyone looked
}

// Reserve takes a place in the queue of key for n tokens, for callers that have
// something better to do than wait: they come back after [Reservation.Delay],
// and go ahead. The tokens are spent when the turn has come, whether or not
// anyone looks. It fails for the same reasons as [Limiter.Wait] does; ctx only
// bounds, by its deadline, how far ahead the turn may lie.
func (l *Limiter[K]) Reserve(ctx context.Context, key K, n int64) (*Reservation[K], error) {
	ctx = orBackground(ctx)
	r := &Reservation[K]{room: l.room(l.hash(key))}
	d, room, err := l.try(ctx, key, n)
	if room != nil {
		r.to = make(outbox, 1)
		r.w.n, r.w.to = n, r.to
		d, err = room.join(ctx, key, &r.w, false)
	}
	if err != nil {
		return nil, err
	}
	r.had = d.Allowed()
	return r, nil
}

// Delay returns how long it is until the turn of the reservation, as things
// stand: it shrinks faster than time passes when someone before it gives up, or
// tokens are given back, and grows when the limit is cut. It is 0 once the turn
// has come, and [gcra.Forever] when it never will: after Cancel and
// [Limiter.Close], and when the limit has become too small for it. It costs a
// step for each one in the queue before it.
func (r *Reservation[K]) Delay() time.Duration {
	r.room.mu.Lock()
	defer r.room.unlock()
	now := r.room.lim.Now()
	if q := r.w.queue; q != nil {
		r.room.advance(q, now)
		defer r.room.settle(q, now)
	}
	if q := r.w.queue; q != nil {
		return time.Duration(r.room.lim.terms.Load().pace.until(q.turn(&r.w)) - now)
	}
	select {
	case res := <-r.to:
		r.had = res.Err == nil
	default:
	}
	if r.had {
		return 0
	}
	return gcra.Forever
}

// Cancel gives the place up: nothing is spent, and everyone behind moves up at
// once. It does nothing when the turn has come, and the tokens are spent; see
// [Limiter.Refund] for those.
func (r *Reservation[K]) Cancel() { r.room.leave(&r.w, context.Canceled) }
