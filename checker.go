package flux

import (
	"context"
	"time"

	"github.com/fluxlimiter/flux/gcra"
)

// Decision is the answer to a request for tokens: that of [gcra.Decision],
// and who denied it.
//
// Limit is the limit as it was configured. Under a factor, see
// [Limiter.SetFactor], the times and the methods of a Decision are what they
// are under that factor, if it stays.
type Decision struct {
	gcra.Decision

	// DeniedBy names the limit that denied the request where several were
	// asked, and is empty otherwise.
	DeniedBy string

	pace *pace // nil if the limit was applied at full speed
}

// Remaining returns how many single tokens would pass at At, one call each,
// after this decision: see [gcra.Decision.Remaining].
func (d Decision) Remaining() int64 { return d.paced().Remaining() }

// Largest returns the largest number of tokens that one call would have been
// given at At, after this decision: see [gcra.Decision.Largest].
func (d Decision) Largest() int64 { return d.paced().Largest() }

// Delay returns how long after At the last of n more tokens would be admitted:
// see [gcra.Decision.Delay].
func (d Decision) Delay(n int64) time.Duration { return d.pace.span(d.At, d.paced().Delay(n)) }

// paced returns the decision with its debt as the paced clock counts it.
func (d Decision) paced() gcra.Decision {
	if d.pace != nil {
		d.ResetAfter = time.Duration(d.pace.at(addSat(d.At, int64(d.ResetAfter))) - d.pace.at(d.At))
	}
	return d.Decision
}

// Checker decides whether n tokens may be spent for key now. A denial is a
// Decision, not an error: an error means that no decision could be taken, and
// that nothing was spent. n = 0 is a peek.
//
// The local [Limiter] is a Checker, and so is everything that limits in another
// way or wraps a limiter, so that they compose like http.Handler does. A
// Checker must be safe for concurrent use, and must not block beyond ctx.
type Checker[K comparable] interface {
	Check(ctx context.Context, key K, n int64) (Decision, error)
}
