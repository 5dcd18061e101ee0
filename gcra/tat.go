package gcra

import (
	"fmt"
	"math"
	"time"
)

// A key's whole state is its TAT, the theoretical arrival time: the instant at
// which the key is as if it had never been used. TAT - now, where positive, is
// the key's debt. Taking n tokens adds their price to the debt and is admitted
// when the debt stays within the price of a whole burst:
//
//	new = max(TAT, now) + cost(n), admitted iff new - now <= cost(burst)
//
// This is the virtual scheduling form of the generic cell rate algorithm (ITU-T
// I.371, Annex A), with the check made after the increment. A later TAT never
// hurts a caller whose clock is late: max(TAT, now) means that clocks that
// disagree, in whatever order they arrive, cannot spend a token twice.

// maxTime bounds the clock readings that Take and its siblings accept. With
// maxCapacity it leaves room to add any admissible debt without overflow.
const maxTime = 1 << 62

// Take decides whether n tokens may be spent at now by a key whose state is
// tat, and returns the key's next state: tat itself unless they were spent.
// A key never used before has any tat <= now. n = 0 is a peek: it spends
// nothing, and is allowed unless the limit is [DenyAll].
//
// It fails, with the state unchanged, when n is negative ([ErrNegative]), above
// the burst ([ErrExceedsBurst]), now is out of range ([ErrTime]), or the limit
// is not valid ([ErrInvalidLimit]). now may come from any clock, and may be
// earlier than before: see [Monotonic] for clocks that can be set back.
func (l *Limit) Take(tat, now, n int64) (next int64, d Decision, err error) {
	if l.kind != limited || uint64(n) > uint64(l.burst) || !inRange(now) {
		return l.takeOther(tat, now, n)
	}
	debt := since(tat, now)
	cost := l.cost(n)
	if debt > l.capacity-cost && n > 0 {
		return tat, Decision{
			RetryAfter: time.Duration(addSat(debt, cost-l.capacity)),
			ResetAfter: time.Duration(debt),
			At:         now,
			limit:      l,
		}, nil
	}
	debt += cost
	if n > 0 {
		tat = now + debt
	}
	return tat, Decision{Allowed: true, ResetAfter: time.Duration(debt), At: now, limit: l}, nil
}

// takeOther keeps the rare answers out of Take.
func (l *Limit) takeOther(tat, now, n int64) (next int64, d Decision, err error) {
	if err := l.check(now, n); err != nil {
		return tat, Decision{At: now, limit: l}, err
	}
	switch {
	case l.kind == unlimited:
		return tat, Decision{Allowed: true, At: now, limit: l}, nil
	case l.kind == denyAll:
		return tat, Decision{RetryAfter: Forever, At: now, limit: l}, nil
	default:
		return tat, Decision{At: now, limit: l}, fmt.Errorf("%w: %d tokens, burst %d", ErrExceedsBurst, n, l.burst)
	}
}

// Refund gives back n tokens taken earlier and returns the key's next state.
// The key never becomes better than fresh, so a refund that comes after the
// tokens would have been back anyway does nothing. The errors are those of
// [Limit.Take], but n may exceed the burst.
func (l *Limit) Refund(tat, now, n int64) (next int64, err error) {
	if err := l.check(now, n); err != nil {
		return tat, err
	}
	if l.kind != limited || tat <= now {
		return tat, nil
	}
	return now + max(0, since(tat, now)-l.cost(n)), nil
}

// Debt spends n tokens whether or not they are there, for a cost that is known
// only once the work is done, and returns the key's next state. Later requests
// wait until the debt is worked off. Allowed reports whether Take would have
// said yes; RetryAfter is then 0, and otherwise the time until the key is back
// at an empty, not indebted, bucket. n may exceed the burst; the other errors
// are those of [Limit.Take]. The debt of a key stops growing at 36 years.
func (l *Limit) Debt(tat, now, n int64) (next int64, d Decision, err error) {
	if l.kind != limited {
		return l.takeOther(tat, now, n)
	}
	if err := l.check(now, n); err != nil {
		return tat, Decision{At: now, limit: l}, err
	}
	debt := min(addSat(since(tat, now), l.cost(n)), maxCapacity)
	if n > 0 {
		// A debt at its bound must not shrink because a late clock looked.
		tat = max(tat, now+debt)
	}
	return tat, Decision{
		Allowed:    debt <= l.capacity,
		RetryAfter: time.Duration(max(0, debt-l.capacity)),
		ResetAfter: time.Duration(debt),
		At:         now,
		limit:      l,
	}, nil
}

// Rescale returns the state of a key after its limit changed from one to
// another at now: the debt keeps its number of tokens, so it is scaled by the
// ratio of the two intervals, and then held within the new burst. A raise takes
// effect at once, and a cut locks nobody out for longer than the new burst
// takes to refill. Both limits must be valid; [Unlimited] and [DenyAll] keep no
// debt, so a change from or to one of them starts fresh.
func Rescale(tat, now int64, from, to *Limit) int64 {
	if tat <= now {
		return tat
	}
	if from.kind != limited || to.kind != limited {
		return now
	}
	// debt * (to.num/to.den) / (from.num/from.den), rounded up at both steps:
	// rounding may cost a nanosecond or two, but never mints.
	debt := mulDivUp(since(tat, now), to.num, from.num)
	debt = mulDivUp(debt, from.den, to.den)
	return addSat(now, min(debt, to.capacity))
}

// check returns the error that Take, Refund and Debt share, if there is one.
func (l *Limit) check(now, n int64) error {
	switch {
	case l.kind == invalid:
		return l.Validate()
	case n < 0:
		return fmt.Errorf("%w: %d", ErrNegative, n)
	case !inRange(now):
		return fmt.Errorf("%w: %d", ErrTime, now)
	}
	return nil
}

// inRange reports whether now lies within ±maxTime.
func inRange(now int64) bool { return uint64(now)+maxTime <= 2*maxTime }

// since returns how far tat lies after now, at least 0, saturating.
func since(tat, now int64) int64 {
	if tat <= now {
		return 0
	}
	if d := tat - now; d > 0 {
		return d
	}
	return math.MaxInt64
}

// addSat returns a + b, saturating at math.MaxInt64, for b that cannot take a
// below math.MinInt64.
func addSat(a, b int64) int64 {
	if s := a + b; b <= 0 || s >= a {
		return s
	}
	return math.MaxInt64
}
