package flux

import (
	"cmp"
	"sync/atomic"
	"time"

	"github.com/fluxlimiter/flux/gcra"
)

// Decision is the answer to a request for tokens. A denial is a Decision, not an
// error. It is a value: copy it, keep it, and change its times, to say something
// else of the same limit.
//
// It is four words, the most that the compiler keeps in registers. Handed on
// through memory it would take longer than the whole decision.
type Decision struct {
	// RetryAfter is 0 when Allowed. Otherwise it is exact: the same request,
	// with nothing else spent meanwhile, is denied at every instant before
	// At+RetryAfter and admitted from At+RetryAfter on. It is [gcra.Forever]
	// under [gcra.DenyAll].
	RetryAfter time.Duration

	// ResetAfter is the time after At at which the key is as if it had never
	// been used: the debt that it carries now.
	ResetAfter time.Duration

	// At is the time that the decision was taken with, on the clock of whoever
	// took it: see [Limiter.Now] and [Limiter.Time].
	At int64

	by *grounds // nil in a zero Decision
}

// NewDecision assembles a Decision for a [Checker] that decides in its own way:
// an admission if retryAfter is 0. limit is the zero Limit if nobody knows it,
// and the methods that ask for what is left then have no answer. It allocates;
// copies of what it returns, with other times, do not.
func NewDecision(limit gcra.Limit, at int64, retryAfter, resetAfter time.Duration) Decision {
	return Decision{RetryAfter: retryAfter, ResetAfter: resetAfter, At: at, by: newGrounds(limit)}
}

// Allowed reports whether the tokens were spent (for zero tokens: whether the
// limit admits anything at all). It is false for a zero Decision.
func (d Decision) Allowed() bool { return d.RetryAfter == 0 && d.by != nil }

// Limit returns the limit that the decision was taken with, as it was
// configured, and the zero Limit for a zero Decision. Under a factor, see
// [Limiter.SetFactor], the times and the other methods of a Decision are what
// they are under that factor, if it stays.
func (d Decision) Limit() gcra.Limit {
	if d.by == nil {
		return gcra.Limit{}
	}
	return *d.by.limit
}

// DeniedBy names the limit that denied the request where several were asked, see
// [Chain], and is empty otherwise.
func (d Decision) DeniedBy() string {
	if d.by == nil {
		return ""
	}
	return d.by.deniedBy
}

// Remaining returns how many single tokens would pass at At, one call each,
// after this decision: see [gcra.Decision.Remaining].
func (d Decision) Remaining() int64 { return d.paced().Remaining() }

// Largest returns the largest number of tokens that one call would have been
// given at At, after this decision: see [gcra.Decision.Largest].
func (d Decision) Largest() int64 { return d.paced().Largest() }

// Delay returns how long after At the last of n more tokens would be admitted:
// see [gcra.Decision.Delay].
func (d Decision) Delay(n int64) time.Duration {
	if d.by == nil {
		return gcra.Forever
	}
	return d.by.pace.span(d.At, d.paced().Delay(n))
}

// paced returns the decision with its debt as the paced clock counts it.
func (d Decision) paced() gcra.Decision {
	if d.by == nil {
		return gcra.Decision{}
	}
	if p := d.by.pace; p != nil {
		d.ResetAfter = time.Duration(p.at(addSat(d.At, int64(d.ResetAfter))) - p.at(d.At))
	}
	return gcra.NewDecision(d.by.limit, d.At, d.RetryAfter, d.ResetAfter)
}

// denied returns the denial d in the name of a limit, unless it has one.
func (d Decision) denied(name string) Decision {
	by := d.by
	if by == nil {
		by = newGrounds(gcra.Limit{})
	}
	d.by = by.with(by.pace, cmp.Or(by.deniedBy, name))
	d.RetryAfter = max(d.RetryAfter, 1) // of a Checker that does not know
	return d
}

// grounds is what many decisions have in common.
type grounds struct {
	limit    *gcra.Limit
	pace     *pace // nil if the limit was applied at full speed
	deniedBy string

	latest atomic.Pointer[grounds] // that with returned, likely to be wanted again
}

// newGrounds returns the grounds of decisions under a limit at full speed.
func newGrounds(limit gcra.Limit) *grounds {
	g := &struct {
		grounds
		limit gcra.Limit
	}{limit: limit}
	g.grounds.limit = &g.limit
	return &g.grounds
}

// ref returns the limit as a call to the table wants it, nil for the table's.
func (g *grounds) ref() *gcra.Limit {
	if g == nil {
		return nil
	}
	return g.limit
}

// with returns the grounds for the same limit with another pace or name.
func (g *grounds) with(p *pace, deniedBy string) *grounds {
	if g.pace == p && g.deniedBy == deniedBy {
		return g
	}
	if l := g.latest.Load(); l != nil && l.pace == p && l.deniedBy == deniedBy {
		return l
	}
	l := &grounds{limit: g.limit, pace: p, deniedBy: deniedBy}
	g.latest.Store(l)
	return l
}
