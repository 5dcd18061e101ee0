package flux

import "context"

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
