package flux

import (
	"context"
	"sync/atomic"
)

// Key resolves key once, for callers that check the same key many times: a
// check on a handle with the batch's time costs a fraction of a keyed one.
// Handles may be kept for as long as the caller likes, and used by any number
// of goroutines at once. They follow every change of the key's limit.
func (l *Limiter[K]) Key(key K) *Handle[K] {
	hash := l.hash(key)
	h := &Handle[K]{lim: l, key: key, mark: l.mark(hash), room: l.room(hash)}
	h.rule.Store(l.ruleOf(key, nil))
	return h
}

// Handle is a key of a [Limiter], resolved once.
type Handle[K comparable] struct {
	rule atomic.Pointer[rule]
	mark *atomic.Int32
	lim  *Limiter[K]
	room *room[K]
	key  K
}

// CheckAt decides like [Limiter.Check], at a time read from [Limiter.Now]. A
// time that is earlier than others used before is safe: it never admits more.
func (h *Handle[K]) CheckAt(now, n int64) (d Decision, err error) {
	r := h.current()
	if h.mark.Load() != 0 || h.lim.hooks != nil || r.terms.pace != nil {
		return h.checkSlowly(now, n)
	}
	d.Decision, err = r.slot.TakeAt(r.own, now, n)
	return d, err
}

// checkSlowly is CheckAt where there is more to it than a look at the table.
func (h *Handle[K]) checkSlowly(now, n int64) (d Decision, err error) {
	if hooks := h.lim.hooks; hooks != nil {
		ctx := context.Background()
		hooks.beforeCheck(ctx, h.key, n)
		defer func() { hooks.afterCheck(ctx, h.key, n, d, err) }()
	}
	r := h.current()
	if h.mark.Load() != 0 {
		return h.room.check(h.key, now, n)
	}
	g, err := r.slot.TakeAt(r.own, r.terms.pace.at(now), n)
	return r.terms.pace.decision(g, now), err
}

// RefundAt is [Limiter.Refund] at a time read from [Limiter.Now].
func (h *Handle[K]) RefundAt(now, n int64) error {
	if h.mark.Load() != 0 {
		defer h.room.interrupt(h.key)()
	}
	r := h.current()
	return r.slot.RefundAt(r.own, r.terms.pace.at(now), n)
}

// DebtAt is [Limiter.Debt] at a time read from [Limiter.Now].
func (h *Handle[K]) DebtAt(now, n int64) (Decision, error) {
	if h.mark.Load() != 0 {
		defer h.room.interrupt(h.key)()
	}
	r := h.current()
	d, err := r.slot.DebtAt(r.own, r.terms.pace.at(now), n)
	return r.terms.pace.decision(d, now), err
}

// current returns the rule of the key, and keeps it until a limit changes.
func (h *Handle[K]) current() *rule {
	r := h.rule.Load()
	if h.lim.cfg.LimitFor == nil && r.terms == h.lim.terms.Load() {
		return r
	}
	next := h.lim.ruleOf(h.key, r)
	if next != r {
		h.rule.Store(next)
	}
	return next
}
