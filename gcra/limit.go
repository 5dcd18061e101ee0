package gcra

import (
	"fmt"
	"math"
	"math/bits"
	"time"
)

// Limit is a rate with a burst: so many tokens per period on average, and so
// many at one instant from a key that has rested.
//
// Build one with [Per], [PerSecond], [PerMinute], [PerHour] or [FromFloat] and
// [Limit.WithBurst], or take [Unlimited] or [DenyAll]. A Limit is an immutable
// value: copy it, compare it with ==, share it between goroutines. The zero
// Limit is not valid, and no broken limit ever means "unlimited": [Limit.Validate]
// says what is wrong, and every constructor of this module that takes a Limit
// calls it.
//
// # Rounding
//
// The state of a key is a whole number of nanoseconds, so the price of a token
// must become one too. It is rounded such that flux may admit a hair less than
// the limit, never more. Where the interval between two tokens is a whole
// number of nanoseconds, or at least a microsecond, every token costs the
// interval rounded up to a nanosecond, so that n tokens cost the same whether
// they are taken together or one by one; the loss is below one part in a
// thousand, and nothing at all for intervals such as 1/s, 10/s or 1000/s. For
// faster, uneven rates (150 million bytes per second, say) the price of a whole
// call is rounded, so that a call loses less than a nanosecond whatever its
// size: nothing that could be measured in calls of a kilobyte, and up to a
// nanosecond for each token that is taken alone.
type Limit struct {
	rate   int64
	period time.Duration
	burst  int64

	// Derived by compile, so that a decision on a whole price needs no
	// division: a token costs num/den nanoseconds, a whole number where den is
	// 1, and the burst costs capacity + frac/den of them. plain is the most
	// tokens that a call of whole price can ask for: the burst where den is 1,
	// and otherwise 0. All are 0 in a limit without a rate and in one that is
	// not valid.
	num, den       int64
	capacity, frac int64
	plain          int64
	kind           kind
}

// kind tells the explicit extremes from a limit with a rate. The zero kind is
// invalid so that a zero Limit is too.
type kind uint8

const (
	invalid kind = iota
	limited
	unlimited
	denyAll
)

const (
	// maxCapacity bounds the price of a burst, the time a key takes to recover
	// from empty, and once more the debt beyond it, so that a TAT built on any
	// clock up to maxTime cannot overflow.
	maxCapacity = 1 << 60 // 36 years

	// wholeInterval is the interval from which a token's price is rounded up
	// to a whole nanosecond by itself; see the Rounding section of Limit.
	wholeInterval = int64(time.Microsecond)
)

// Forever is the RetryAfter of a denial that no wait can mend: the limit is
// [DenyAll].
const Forever = time.Duration(math.MaxInt64)

// Per returns a limit of n tokens per period, with a burst of n.
func Per(n int64, period time.Duration) Limit {
	return compile(n, period, n)
}

// PerSecond returns a limit of n tokens per second, with a burst of n.
func PerSecond(n int64) Limit { return Per(n, time.Second) }

// PerMinute returns a limit of n tokens per minute, with a burst of n.
func PerMinute(n int64) Limit { return Per(n, time.Minute) }

// PerHour returns a limit of n tokens per hour, with a burst of n.
func PerHour(n int64) Limit { return Per(n, time.Hour) }

// FromFloat returns a limit of perSecond tokens per second, for rates that
// come out of a configuration file: 0.5 is one token every two seconds. The
// burst is perSecond rounded down, at least 1. Fractions of rates above a
// million are kept to a thousandth. Zero, negative, infinite and
// not-a-number rates, and rates below one token in 36 years, give an error
// that wraps [ErrInvalidLimit].
func FromFloat(perSecond float64) (Limit, error) {
	const e9 = float64(time.Second)
	// The comparison is written so that NaN fails it.
	if !(perSecond > 0) || perSecond > math.MaxInt64/2 {
		return Limit{}, fmt.Errorf("%w: rate %v per second is not a positive number below 2⁶²", ErrInvalidLimit, perSecond)
	}
	var l Limit
	switch whole := math.Trunc(perSecond); {
	case whole == perSecond:
		l = PerSecond(int64(whole))
	case perSecond >= 1e6:
		// Keep the fraction by counting a thousand seconds at a time.
		l = Per(int64(perSecond*1000), 1000*time.Second)
	default:
		interval := math.Ceil(e9 / perSecond)
		if interval > maxCapacity {
			return Limit{}, fmt.Errorf("%w: rate %v per second is below one token in %v", ErrInvalidLimit, perSecond, time.Duration(maxCapacity))
		}
		l = Per(1, time.Duration(interval))
	}
	return l.WithBurst(max(1, int64(perSecond))), nil
}

// Unlimited returns the limit that admits everything and keeps no state.
func Unlimited() Limit { return Limit{kind: unlimited} }

// DenyAll returns the limit that admits nothing; its denials carry a
// RetryAfter of [Forever].
func DenyAll() Limit { return Limit{kind: denyAll} }

// WithBurst returns l with another burst: how many tokens a key that has
// rested can spend at one instant. It has no effect on [Unlimited] and
// [DenyAll].
func (l Limit) WithBurst(n int64) Limit {
	if l.kind == unlimited || l.kind == denyAll {
		return l
	}
	return compile(l.rate, l.period, n)
}

// Rate returns the tokens per period that the limit was made with: 0 tokens
// per 0 for [Unlimited] and [DenyAll].
func (l Limit) Rate() (tokens int64, period time.Duration) { return l.rate, l.period }

// Burst returns how many tokens a rested key can spend at one instant:
// [math.MaxInt64] for [Unlimited], 0 for [DenyAll].
func (l Limit) Burst() int64 {
	if l.kind == unlimited {
		return math.MaxInt64
	}
	return l.burst
}

// IsUnlimited reports whether l is [Unlimited].
func (l Limit) IsUnlimited() bool { return l.kind == unlimited }

// IsDenyAll reports whether l is [DenyAll].
func (l Limit) IsDenyAll() bool { return l.kind == denyAll }

// Validate returns nil for a usable limit and otherwise an error that wraps
// [ErrInvalidLimit] and names the field and its value.
func (l Limit) Validate() error {
	switch {
	case l.kind != invalid:
		return nil
	case l == Limit{}:
		return fmt.Errorf("%w: it is the zero Limit; use Unlimited or DenyAll if that is what you mean", ErrInvalidLimit)
	case l.rate <= 0:
		return fmt.Errorf("%w: rate %d is not positive", ErrInvalidLimit, l.rate)
	case l.period <= 0:
		return fmt.Errorf("%w: period %v is not positive", ErrInvalidLimit, l.period)
	case l.burst < 1:
		return fmt.Errorf("%w: burst %d is below 1", ErrInvalidLimit, l.burst)
	default:
		return fmt.Errorf("%w: burst %d at %d per %v takes longer than %v to refill",
			ErrInvalidLimit, l.burst, l.rate, l.period, time.Duration(maxCapacity))
	}
}

// String returns the limit as in "100/1s burst 20", "unlimited" or "deny all".
func (l Limit) String() string {
	switch {
	case l.kind == unlimited:
		return "unlimited"
	case l.kind == denyAll:
		return "deny all"
	case l == Limit{}:
		return "zero limit"
	}
	return fmt.Sprintf("%d/%v burst %d", l.rate, l.period, l.burst)
}

// compile derives the arithmetic of a limit, or leaves its kind invalid for
// Validate to explain.
func compile(rate int64, period time.Duration, burst int64) Limit {
	l := Limit{rate: rate, period: period, burst: burst}
	if rate <= 0 || period <= 0 || burst < 1 {
		return l
	}
	num, den := int64(period), rate
	if whole := num / den; num%den == 0 {
		num, den = whole, 1
	} else if whole >= wholeInterval {
		num, den = whole+1, 1
	} else {
		// Lowest terms, so that the products in Rescale fit where they can.
		d := gcd(num, den)
		num, den = num/d, den/d
	}
	capacity, frac := mulDiv(burst, num, den)
	if capacity > maxCapacity {
		return l
	}
	l.num, l.den = num, den
	l.capacity, l.frac = capacity, frac
	if den == 1 {
		l.plain = burst
	}
	l.kind = limited
	return l
}

// price returns what n tokens cost, rounded up, and the room that they need:
// the largest debt that a key may have when it takes them, rounded down. It
// wants 0 <= n <= burst. The two are rounded apart from each other because a
// burst's price rounded up has room for more than the burst.
func (l *Limit) price(n int64) (cost, room int64) {
	q, r := mulDiv(n, l.num, l.den)
	room = l.capacity - q
	if l.frac < r {
		room--
	}
	if r > 0 {
		q++
	}
	return q, room
}

// cost returns the price of any number of tokens, rounded up, and
// math.MaxInt64 where it does not fit.
func (l *Limit) cost(n int64) int64 { return mulDivUp(n, l.num, l.den) }

// mulDiv returns the quotient and remainder of a*b/c, computed in 128 bits, or
// math.MaxInt64 and 0 where the quotient does not fit. It wants a, b >= 0 and
// c > 0.
func mulDiv(a, b, c int64) (q, r int64) {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	if hi >= uint64(c) {
		return math.MaxInt64, 0
	}
	uq, ur := bits.Div64(hi, lo, uint64(c))
	if uq > math.MaxInt64 {
		return math.MaxInt64, 0
	}
	return int64(uq), int64(ur)
}

// mulDivUp is mulDiv rounded up.
func mulDivUp(a, b, c int64) int64 {
	q, r := mulDiv(a, b, c)
	if r > 0 {
		return addSat(q, 1)
	}
	return q
}

// gcd returns the greatest common divisor of a and b, both positive.
func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
