package gcra

import (
	"fmt"
	"math"
	"math/big"
	"time"
)

// A key's whole state is its TAT, the theoretical arrival time: the instant at
// which the key is as if it had never been used. TAT - now, where positive, is
// the key's debt. Taking n tokens adds their price to the debt, and they are
// given when the debt that is there leaves room for them within the price of a
// whole burst:
//
//	debt = max(TAT, now) - now
//	admitted iff debt + n*interval <= burst*interval
//	TAT' = now + debt + n*interval
//
// This is the virtual scheduling form of the generic cell rate algorithm (ITU-T
// I.371, Annex A). The comparison is made as if in exact fractions and the new
// TAT is rounded up, so a debt is never below that of an exact token bucket
// with the same history, and nothing is given that the bucket would not give.
// A later TAT never hurts a caller whose clock is late: max(TAT, now) means that
// clocks that disagree, in whatever order they arrive, cannot spend a token
// twice.

// maxTime bounds the clock readings that Take and its siblings accept. With
// maxCapacity it leaves room to add any debt without overflow.
const maxTime = 1 << 62

// Take decides whether n tokens may be spent at now by a key whose state is
// tat, and returns the key's next state: tat itself unless they were spent.
// A key never used before has any tat <= now. n = 0 is a peek: it spends
// nothing, and is allowed unless the limit is [DenyAll].
//
// It fails, with the state unchanged, when n is negative ([ErrNegative]), above
// the burst ([ErrExceedsBurst]), now is out of range ([ErrTime]), or the limit
// is not valid ([ErrInvalidLimit]). The Decision is then the zero one, but for
// ErrExceedsBurst, where it tells what the key has left and that no wait helps.
// now may come from any clock, and may be earlier than before: see [Monotonic]
// for clocks that can be set back.
func (l *Limit) Take(tat, now, n int64) (next int64, d Decision, err error) {
	if l.isPlain(now, n) {
		debt, cost, room := l.weigh(tat, now, n)
		if uint64(debt) > uint64(room) {
			return tat, l.denial(now, debt, room), nil
		}
		return now + debt + cost, l.decision(now, 0, debt+cost), nil
	}
	if err := l.check(now, n); err != nil {
		return tat, Decision{}, err
	}
	debt := since(tat, now)
	switch {
	case l.kind == unlimited:
		return tat, l.decision(now, 0, 0), nil
	case l.kind == denyAll:
		return tat, l.decision(now, int64(Forever), 0), nil
	case n == 0:
		return tat, l.decision(now, 0, debt), nil
	case n > l.burst:
		return tat, l.decision(now, int64(Forever), debt), fmt.Errorf("%w: %d tokens, burst %d", ErrExceedsBurst, n, l.burst)
	}
	cost, room := l.price(n)
	if debt > room {
		return tat, l.decision(now, debt-room, debt), nil
	}
	debt += cost
	return now + debt, l.decision(now, 0, debt), nil
}

// isPlain reports whether n tokens at now have a whole price and are no more
// than a burst of them, and no less than one: what most calls ask for, and what
// weigh knows all about.
func (l *Limit) isPlain(now, n int64) bool {
	return uint64(n-1) < uint64(l.plain) && inRange(now)
}

// weigh returns the debt of a key, the price of n tokens that are plain, and
// the room that they need: they are denied if the debt, as an unsigned number,
// is above it. A debt that does not fit is negative.
func (l *Limit) weigh(tat, now, n int64) (debt, cost, room int64) {
	cost = n * l.num
	return max(tat, now) - now, cost, l.capacity - cost
}

// denial is the decision of a key that has a debt where there is but so much
// room, both by weigh.
func (l *Limit) denial(now, debt, room int64) Decision {
	debt = int64(min(uint64(debt), math.MaxInt64))
	return l.decision(now, debt-room, debt)
}

// decision returns the decision that left a debt and asked for a wait: none if
// the tokens were there.
func (l *Limit) decision(now, wait, debt int64) Decision {
	return Decision{RetryAfter: time.Duration(wait), ResetAfter: time.Duration(debt), At: now, limit: l}
}

// Refund gives back n tokens taken earlier and returns the key's next state.
// The key never becomes better than fresh, so a refund that comes after the
// tokens would have been back anyway does nothing. It undoes a Take exactly
// where tokens have a whole price, and otherwise keeps up to a nanosecond: it
// must not be worth more to give tokens back singly than to take them together.
// The errors are those of [Limit.Take], but n may exceed the burst.
func (l *Limit) Refund(tat, now, n int64) (next int64, err error) {
	if err := l.check(now, n); err != nil {
		return tat, err
	}
	if l.kind != limited || tat <= now {
		return tat, nil
	}
	back, _ := mulDiv(n, l.num, l.den)
	if back < since(tat, now) {
		return tat - back, nil
	}
	return now, nil
}

// Debt spends n tokens whether or not they are there, for a cost that is known
// only once the work is done, and returns the key's next state. Later requests
// wait until the debt is worked off. Allowed reports whether Take would have
// said yes; RetryAfter is then 0, and otherwise the time until the key is back
// at an empty, not indebted, bucket. n may exceed the burst; the other errors
// are those of [Limit.Take]. What a key owes beyond its burst stops growing at
// 36 years.
func (l *Limit) Debt(tat, now, n int64) (next int64, d Decision, err error) {
	if l.kind != limited {
		return l.Take(tat, now, n)
	}
	if err := l.check(now, n); err != nil {
		return tat, Decision{}, err
	}
	debt, wait := since(tat, now), int64(0)
	allowed := n == 0
	if n > 0 && n <= l.burst {
		_, room := l.price(n)
		allowed = debt <= room
	}
	// A debt at its bound must not shrink because a late clock looked.
	if owed := min(addSat(debt, l.cost(n)), l.capacity+maxCapacity); owed > debt {
		debt = owed
		tat = now + debt
	}
	if !allowed {
		wait = debt - l.capacity
	}
	return tat, l.decision(now, wait, debt), nil
}

// Rescale returns the state of a key after its limit changed from one to
// another at now. The debt keeps its number of tokens, so it is scaled by the
// ratio of the two intervals; what a key has spent of its burst is then held
// within the new burst, and what it owes beyond is added. So a raise takes
// effect at once, a cut locks nobody out for longer than the new burst takes to
// refill, and nobody is let off what was booked as debt.
//
// The result is exact, rounded up to the nanosecond, so a change never mints
// and one to an equal limit changes nothing. [Unlimited] and [DenyAll] keep no
// debt, so a change from or to one of them starts fresh. Where a limit is not
// valid or now is out of range, the state stays what it is.
func Rescale(tat, now int64, from, to *Limit) int64 {
	if tat <= now || !inRange(now) || from.kind == invalid || to.kind == invalid {
		return tat
	}
	if from.kind != limited || to.kind != limited {
		return now
	}
	debt := since(tat, now)
	beyond := max(0, debt-from.cost(from.burst))
	debt = min(scaleUp(debt-beyond, from, to), to.cost(to.burst))
	if beyond > 0 {
		debt = min(addSat(debt, scaleUp(beyond, from, to)), to.capacity+maxCapacity)
	}
	return now + debt
}

// scaleUp returns debt * to's interval / from's interval, rounded up, and
// math.MaxInt64 where it does not fit.
func scaleUp(debt int64, from, to *Limit) int64 {
	num, _ := mulDiv(to.num, from.den, 1)
	den, _ := mulDiv(from.num, to.den, 1)
	if num < math.MaxInt64 && den < math.MaxInt64 {
		return mulDivUp(debt, num, den)
	}
	// Limits with odd numbers of a great many tokens per day or year.
	p := new(big.Int).Mul(big.NewInt(to.num), big.NewInt(from.den))
	q := new(big.Int).Mul(big.NewInt(from.num), big.NewInt(to.den))
	p.Mul(p, big.NewInt(debt)).Add(p, q).Sub(p, big.NewInt(1)).Quo(p, q)
	if !p.IsInt64() {
		return math.MaxInt64
	}
	return p.Int64()
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

// inRange reports whether now lies in [-maxTime, maxTime): beyond, the sum wraps
// around.
func inRange(now int64) bool { return now+maxTime >= 0 }

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
