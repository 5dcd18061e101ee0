package gcra

import (
	"math"
	"time"
)

// Decision is the answer to a request for tokens. A denial is a Decision, not
// an error. It is a value: copy it, keep it.
//
// It is four words, the most that the compiler keeps in registers. Handed on
// through memory it would take longer than the whole decision.
type Decision struct {
	// RetryAfter is 0 when Allowed. Otherwise it is exact: the same request,
	// with nothing else spent meanwhile, is denied at every instant before
	// At+RetryAfter and admitted from At+RetryAfter on. It is [Forever] under
	// [DenyAll].
	RetryAfter time.Duration

	// ResetAfter is the time after At at which the key is as if it had never
	// been used: the debt that it carries now.
	ResetAfter time.Duration

	// At is the time that the decision was taken with, in nanoseconds on the
	// clock of whoever took it.
	At int64

	limit *Limit
}

// NewDecision assembles a Decision for a [Limit] that is kept and decided
// elsewhere, in a shared store, say: an admission if retryAfter is 0. The limit
// must be valid.
func NewDecision(limit *Limit, at int64, retryAfter, resetAfter time.Duration) Decision {
	return Decision{RetryAfter: retryAfter, ResetAfter: resetAfter, At: at, limit: limit}
}

// Allowed reports whether the tokens were spent (for zero tokens: whether the
// limit admits anything at all). It is false for a zero Decision.
func (d Decision) Allowed() bool { return d.RetryAfter == 0 && d.limit != nil }

// Limit returns the limit that the decision was taken with, and the zero Limit
// for a zero Decision.
func (d Decision) Limit() Limit {
	if d.limit == nil {
		return Limit{}
	}
	return *d.limit
}

// By returns the limit that the decision was taken with as the very one that the
// call named, or that [Table.Limit] returned then, and nil for a zero Decision. It
// must not be modified.
func (d Decision) By() *Limit { return d.limit }

// Remaining returns how many single tokens would pass at At, one call each,
// after this decision: exactly that many, and not one more. It is
// [math.MaxInt64] under [Unlimited], and 0 where the decision failed. It costs a
// division.
func (d Decision) Remaining() int64 {
	if d.limit == nil || d.limit.kind != limited {
		return d.boundless()
	}
	cost, room := d.limit.price(1)
	if int64(d.ResetAfter) > room {
		return 0
	}
	return (room-int64(d.ResetAfter))/cost + 1
}

// Largest returns the largest number of tokens that one call would be given at
// At, after this decision. It is never below Remaining, and above it only for
// limits whose tokens cost less when taken together; see the Rounding section
// of [Limit].
func (d Decision) Largest() int64 {
	if d.limit == nil || d.limit.kind != limited {
		return d.boundless()
	}
	return max(0, d.limit.burst-mulDivUp(int64(d.ResetAfter), d.limit.den, d.limit.num))
}

// boundless is how many tokens are left under a limit that has no rate.
func (d Decision) boundless() int64 {
	if d.limit != nil && d.limit.kind == unlimited {
		return math.MaxInt64
	}
	return 0
}

// Delay returns how long after At the last of n more tokens would be admitted
// if they were taken in order as soon as each is due. It is 0 when they would
// pass at once, and [Forever] when they never would. A queue asks it how long
// the newest of its entries will wait. It is exact for a single call of n
// tokens, and for any calls where tokens have a whole price; otherwise each
// further call may add a nanosecond.
func (d Decision) Delay(n int64) time.Duration {
	switch {
	case d.limit == nil || d.limit.kind == denyAll || d.limit.kind == invalid:
		return Forever
	case d.limit.kind == unlimited || n <= 0:
		return 0
	case n > d.limit.burst:
		return time.Duration(addSat(int64(d.ResetAfter), d.limit.cost(n-d.limit.burst)))
	}
	_, room := d.limit.price(n)
	return time.Duration(max(0, int64(d.ResetAfter)-room))
}
