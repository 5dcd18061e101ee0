package flux

import (
	"sync"
	"sync/atomic"

	"github.com/fluxlimiter/flux/gcra"
)

// rule is what a key is decided by. It holds while the terms do.
type rule struct {
	terms *terms
	own   *grounds // nil if the key is under the limiter's limit
	by    *grounds // with the pace of the terms
}

// limit returns the limit of the key, whosever it is.
func (r *rule) limit() *gcra.Limit { return r.by.limit }

// ruleOf returns the rule of key.
func (l *Limiter[K]) ruleOf(key K) rule {
	t, own := l.terms.Load(), l.ownLimit(key)
	return rule{t, own, t.grounds(own)}
}

// terms are what all checks are decided by. They are replaced as a whole.
type terms struct {
	by   *grounds // with the table's limit itself
	pace *pace

	// changing says that the table's limit is being replaced by another.
	changing bool

	// plain says that there is nothing to a check but a look at the table, once
	// the limit of the key is known: no hooks, no LimitFor, no pace. alike says
	// besides that no key has a limit of its own.
	plain, alike bool
}

// agree puts terms in force.
func (l *Limiter[K]) agree(t terms) {
	t.plain = t.pace == nil && !t.changing && l.hooks == nil && l.cfg.LimitFor == nil
	t.alike = t.plain && l.set.Load() == nil
	l.terms.Store(&t)
}

// grounds returns the grounds of decisions under own, nil for the limiter's.
func (t *terms) grounds(own *grounds) *grounds {
	if own == nil {
		return t.by
	}
	return own.with(t.pace, "")
}

// decision converts a decision under own that was taken on the paced clock of t
// at now.
func (l *Limiter[K]) decision(t *terms, own *grounds, d gcra.Decision, now int64) Decision {
	if d == (gcra.Decision{}) {
		return Decision{}
	}
	by := t.grounds(own)
	if own == nil && d.By() != by.limit {
		by = &grounds{limit: d.By(), pace: t.pace} // the limit has changed meanwhile
	}
	return Decision{RetryAfter: t.pace.span(now, d.RetryAfter), ResetAfter: t.pace.span(now, d.ResetAfter), At: now, by: by}
}

// ownLimit returns the limit of key, and nil if that is the limiter's.
func (l *Limiter[K]) ownLimit(key K) *grounds {
	if set := l.set.Load(); set != nil {
		if own := set.find(l.hash(key), key).limit; own != nil {
			return own
		}
	}
	if l.cfg.LimitFor != nil {
		if own := l.cfg.LimitFor(key); own != (gcra.Limit{}) {
			return l.limits.keep(own)
		}
	}
	return nil
}

// limitCache finds the same grounds again for the few limits that a LimitFor
// returns, so that a decision, which points to them, does not allocate.
type limitCache [64]atomic.Pointer[grounds]

// keep returns grounds with a limit equal to l.
func (c *limitCache) keep(l gcra.Limit) *grounds {
	rate, period := l.Rate()
	h := (uint64(rate)*0x9e3779b97f4a7c15 ^ uint64(period)) * 0x9e3779b97f4a7c15
	place := &c[(h^uint64(l.Burst()))*0x9e3779b97f4a7c15>>58]
	if p := place.Load(); p != nil && *p.limit == l {
		return p
	}
	p := newGrounds(l)
	place.Store(p)
	return p
}

// setLimits holds the limits that were set for single keys.
type setLimits[K comparable] [64]struct {
	mu sync.RWMutex
	of map[K]setLimit
}

// setLimit is the limit that was set for a key, nil if it was taken back, and
// the version of the last change.
type setLimit struct {
	limit   *grounds
	version uint64
}

// find returns what was set for key.
func (s *setLimits[K]) find(hash uint64, key K) setLimit {
	part := &s[hash%uint64(len(s))]
	part.mu.RLock()
	defer part.mu.RUnlock()
	return part.of[key]
}

// put sets what find will return.
func (s *setLimits[K]) put(hash uint64, key K, to setLimit) {
	part := &s[hash%uint64(len(s))]
	part.mu.Lock()
	defer part.mu.Unlock()
	if to == (setLimit{}) {
		delete(part.of, key)
		return
	}
	if part.of == nil {
		part.of = make(map[K]setLimit)
	}
	part.of[key] = to
}
