package flux

import (
	"sync/atomic"

	"github.com/fluxlimiter/flux/gcra"
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
func (h *Handle[K]) CheckAt(now, n int64) (Decision, error) {
	if h.mark.Load() != 0 {
		return h.room.check(h.key, now, n)
	}
	r := h.current()
	d, err := r.slot.TakeAt(r.own, r.terms.pace.at(now), n)
	return r.terms.pace.decision(d, now), err
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

// rule is what a key is decided by, resolved: it holds while the terms do.
type rule struct {
	terms *terms
	own   *gcra.Limit // nil if the key is under the limiter's
	slot  *gcra.Handle
}

// limit returns the limit of the key, whosever it is.
func (r *rule) limit() *gcra.Limit {
	if r.own != nil {
		return r.own
	}
	return &r.terms.limit
}

// ruleOf returns the rule of key: old itself if nothing changed.
func (l *Limiter[K]) ruleOf(key K, old *rule) *rule {
	t := l.terms.Load()
	own := l.ownLimit(key)
	if old != nil && old.terms == t && same(old.own, own) {
		return old
	}
	return &rule{terms: t, own: own, slot: l.table.Key(key)}
}

// same reports whether two limits are the same, or both the limiter's.
func same(a, b *gcra.Limit) bool {
	return a == b || a != nil && b != nil && *a == *b
}

// terms are what all checks are decided by. They are replaced as a whole.
type terms struct {
	limit gcra.Limit // a copy of the table's
	pace  *pace
}

// ownLimit returns the limit of key, and nil if that is the limiter's.
func (l *Limiter[K]) ownLimit(key K) *gcra.Limit {
	if l.cfg.LimitFor != nil {
		if own := l.cfg.LimitFor(key); own != (gcra.Limit{}) {
			return l.limits.keep(own)
		}
	}
	return nil
}

// limitCache finds the same pointer again for the few limits that a LimitFor
// returns, so that a decision, which points to its limit, does not allocate.
type limitCache [64]atomic.Pointer[gcra.Limit]

// keep returns a pointer to a limit equal to l.
func (c *limitCache) keep(l gcra.Limit) *gcra.Limit {
	rate, period := l.Rate()
	h := (uint64(rate)*0x9e3779b97f4a7c15 ^ uint64(period)) * 0x9e3779b97f4a7c15
	place := &c[(h^uint64(l.Burst()))*0x9e3779b97f4a7c15>>58]
	if p := place.Load(); p != nil && *p == l {
		return p
	}
	p := new(l)
	place.Store(p)
	return p
}
