package flux

import (
	"context"
	"sync/atomic"

	"github.com/fluxlimiter/flux/gcra"
)

// Key resolves key once, for callers that check the same key many times: a
// check on a handle with the batch's time costs a few nanoseconds, a fraction of
// a keyed one. A handle takes some 100 bytes beside its key and makes no key
// tracked. It may be kept for as long as the caller likes, and used by any number
// of goroutines at once. It follows every change of the key's limit.
func (l *Limiter[K]) Key(key K) *Handle[K] {
	hash := l.hash(key)
	h := &Handle[K]{lim: l, key: key, mark: l.mark(hash), room: l.room(hash)}
	l.table.Resolve(key, &h.slot)
	h.current()
	return h
}

// Handle is a key of a [Limiter], resolved once.
type Handle[K comparable] struct {
	rule atomic.Pointer[stamped]
	mark *mark
	slot gcra.Handle
	lim  *Limiter[K]
	room *room[K]
	key  K
}

// stamped is the rule of a handle, which holds for as long as the mark of its key
// shows nothing else than a generation.
type stamped struct {
	rule

	// stamp is what the mark shows while the rule holds and there is nothing to
	// a check but a look at the table; never if there always is.
	stamp uint64
}

// never is what no mark shows: there are not as many queues.
const never = generation - 1

// CheckAt decides like [Limiter.Check], at a time read from [Limiter.Now]. A
// time that is earlier than others used before is safe: it never admits more. One
// that no clock could show fails with [gcra.ErrTime].
func (h *Handle[K]) CheckAt(now, n int64) (Decision, error) {
	r := h.rule.Load()
	if !h.mark.is(r.stamp) {
		return h.checkSlowly(now, n)
	}
	switch d := h.slot.TryAt(r.own.ref(), now, n); d.By() {
	case r.by.limit:
		return Decision{d.RetryAfter, d.ResetAfter, d.At, r.by}, nil
	case nil:
		return h.take(r, now, n)
	default: // the limit has changed meanwhile
		return h.lim.decision(r.terms, r.own, d, now), nil
	}
}

// checkSlowly is CheckAt where there is more to it than a look at the table.
func (h *Handle[K]) checkSlowly(now, n int64) (Decision, error) {
	hooks := h.lim.hooks
	if hooks == nil {
		return h.check(now, n)
	}
	ctx := context.Background()
	hooks.beforeCheck(ctx, h.key, n)
	d, err := h.check(now, n)
	hooks.afterCheck(ctx, h.key, n, d, err)
	return d, err
}

// check is CheckAt without hooks.
func (h *Handle[K]) check(now, n int64) (Decision, error) {
	r := h.current()
	if h.mark.count() != 0 {
		return h.room.check(h.key, now, n)
	}
	return h.take(r, now, n)
}

// take is CheckAt of a key that nobody waits for, under a rule.
func (h *Handle[K]) take(r *stamped, now, n int64) (Decision, error) {
	d, err := h.slot.TakeAt(r.own.ref(), r.terms.pace.at(now), n)
	if r.by.pace == nil && d.By() == r.by.limit {
		return Decision{d.RetryAfter, d.ResetAfter, d.At, r.by}, err
	}
	return h.lim.decision(r.terms, r.own, d, now), err
}

// RefundAt is [Limiter.Refund] at a time read from [Limiter.Now].
func (h *Handle[K]) RefundAt(now, n int64) error {
	if h.mark.count() != 0 {
		defer h.room.interrupt(h.key)()
		return h.refund(now, n)
	}
	err := h.refund(now, n)
	if h.mark.count() != 0 {
		h.room.interrupt(h.key)() // someone has come to wait meanwhile
	}
	return err
}

// refund is RefundAt past the queue.
func (h *Handle[K]) refund(now, n int64) error {
	r := h.current()
	return h.slot.RefundAt(r.own.ref(), r.terms.pace.at(now), n)
}

// DebtAt is [Limiter.Debt] at a time read from [Limiter.Now].
func (h *Handle[K]) DebtAt(now, n int64) (Decision, error) {
	if h.mark.count() != 0 {
		defer h.room.interrupt(h.key)()
	}
	r := h.current()
	d, err := h.slot.DebtAt(r.own.ref(), r.terms.pace.at(now), n)
	return h.lim.decision(r.terms, r.own, d, now), err
}

// current returns the rule of the key, and keeps it until a limit changes.
func (h *Handle[K]) current() *stamped {
	last, stamp := h.rule.Load(), h.mark.stamp() // before the limit is looked at
	if last != nil && h.lim.cfg.LimitFor == nil && last.stamp|never == stamp|never {
		return last
	}
	r := h.lim.ruleOf(h.key)
	if !r.terms.plain {
		stamp |= never
	}
	if last != nil && last.rule == r && last.stamp == stamp {
		return last
	}
	next := &stamped{r, stamp}
	h.rule.Store(next)
	return next
}
