package gcra_test

import (
	"encoding/binary"
	"errors"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/fluxlimiter/flux/gcra"
)

// bucket is the exact slow model: a token bucket in fractions of any size,
// seen from its empty side. It is full when owed is 0 and holds back what would
// take owed above the burst. It follows the decisions of the code under test,
// and the test asks it whether it would have gone along.
type bucket struct {
	interval *big.Rat // nanoseconds per token
	burst    *big.Rat // tokens
	full     *big.Rat // the time at which the bucket is full again
}

func rat(n int64) *big.Rat { return new(big.Rat).SetInt64(n) }

func newBucket(l gcra.Limit) *bucket {
	return &bucket{interval: interval(l), burst: rat(l.Burst()), full: rat(math.MinInt64)}
}

// interval returns the price of a token as the Rounding section of Limit
// promises it.
func interval(l gcra.Limit) *big.Rat {
	rate, period := l.Rate()
	exact := big.NewRat(int64(period), rate)
	if !exact.IsInt() && exact.Cmp(rat(1000)) >= 0 {
		whole := new(big.Int).Quo(exact.Num(), exact.Denom())
		return new(big.Rat).SetInt(whole.Add(whole, big.NewInt(1)))
	}
	return exact
}

// owed returns what is missing from a full bucket, in nanoseconds.
func (b *bucket) owed(now int64) *big.Rat {
	d := new(big.Rat).Sub(b.full, rat(now))
	if d.Sign() < 0 {
		return new(big.Rat)
	}
	return d
}

func (b *bucket) capacity() *big.Rat { return new(big.Rat).Mul(b.burst, b.interval) }

func (b *bucket) price(n int64) *big.Rat { return new(big.Rat).Mul(rat(n), b.interval) }

// gives reports whether n tokens are there.
func (b *bucket) gives(now, n int64) bool {
	after := new(big.Rat).Add(b.owed(now), b.price(n))
	return after.Cmp(b.capacity()) <= 0
}

func (b *bucket) spend(now, n int64) {
	b.full = new(big.Rat).Add(rat(now), new(big.Rat).Add(b.owed(now), b.price(n)))
}

func (b *bucket) refund(now, n int64) {
	if b.owed(now).Sign() == 0 {
		return
	}
	b.full = new(big.Rat).Sub(b.full, b.price(n))
	if b.full.Cmp(rat(now)) < 0 {
		b.full = rat(now)
	}
}

// bound is where a debt stops growing.
func (b *bucket) bound() *big.Rat {
	c := b.capacity()
	whole := new(big.Int).Quo(c.Num(), c.Denom())
	return new(big.Rat).SetInt(whole.Add(whole, big.NewInt(1<<60)))
}

// priceOfBurst is what an ordinary key can owe: the capacity rounded up.
func (b *bucket) priceOfBurst() *big.Rat {
	c := b.capacity()
	whole := new(big.Int).Add(c.Num(), c.Denom())
	return new(big.Rat).SetInt(whole.Sub(whole, big.NewInt(1)).Quo(whole, c.Denom()))
}

func (b *bucket) debt(now, n int64) {
	before := b.owed(now)
	after := new(big.Rat).Add(before, b.price(n))
	if bound := b.bound(); after.Cmp(bound) > 0 {
		after = bound
	}
	if after.Cmp(before) > 0 {
		b.full = after.Add(after, rat(now))
	}
}

// change moves the tokens that are owed to another limit, and returns by how
// much a nanosecond of debt was stretched.
func (b *bucket) change(now int64, to gcra.Limit) *big.Rat {
	owed, beyond := b.owed(now), new(big.Rat)
	if c := b.priceOfBurst(); owed.Cmp(c) > 0 {
		beyond.Sub(owed, c)
		owed = c
	}
	next := newBucket(to)
	stretch := new(big.Rat).Quo(next.interval, b.interval)
	after := new(big.Rat).Mul(owed, stretch)
	if c := next.priceOfBurst(); after.Cmp(c) > 0 {
		after = c
	}
	after.Add(after, beyond.Mul(beyond, stretch))
	if bound := next.bound(); after.Cmp(bound) > 0 {
		after = bound
	}
	if b.owed(now).Sign() > 0 {
		b.full = after.Add(after, rat(now))
	}
	b.interval, b.burst = next.interval, next.burst
	return stretch
}

// tape turns bytes into the arguments of a run of operations, so that the same
// interpreter serves a fuzzer and a random walk.
type tape []byte

func (p *tape) byte() byte {
	if len(*p) == 0 {
		return 0
	}
	b := (*p)[0]
	*p = (*p)[1:]
	return b
}

// randomTape returns a tape of a length in [least, most).
func randomTape(seed uint64, least, most int) tape {
	r := rand.New(rand.NewPCG(seed, 1))
	p := make(tape, least+r.IntN(most-least))
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

// playTapes runs an interpreter over n random tapes.
func playTapes(t *testing.T, run func(*testing.T, tape), n uint64, least, most int) {
	t.Helper()
	for seed := range n {
		if run(t, randomTape(seed, least, most)); t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// fuzzTapes fuzzes an interpreter, beginning with random tapes.
func fuzzTapes(f *testing.F, run func(*testing.T, tape), length int) {
	f.Helper()
	for seed := range uint64(8) {
		f.Add([]byte(randomTape(seed, length, length+1)))
	}
	f.Fuzz(func(t *testing.T, p []byte) { run(t, p) })
}

// below returns a number in [0, n).
func (p *tape) below(n int64) int64 {
	var w [8]byte
	*p = (*p)[copy(w[:], *p):]
	return int64(binary.LittleEndian.Uint64(w[:]) % uint64(n))
}

// int returns any int64, the ends of the range more often than fair.
func (p *tape) int() int64 {
	switch p.byte() % 4 {
	case 0:
		return math.MaxInt64 - p.below(1000)
	case 1:
		return math.MinInt64 + p.below(1000)
	default:
		var w [8]byte
		*p = (*p)[copy(w[:], *p):]
		return int64(binary.LittleEndian.Uint64(w[:])) >> (p.byte() % 63)
	}
}

// limit returns any limit: good ones of all kinds, and now and then a broken one.
func (p *tape) limit() gcra.Limit {
	var l gcra.Limit
	switch p.byte() % 8 {
	case 0:
		l = gcra.PerSecond(1 + p.below(1000))
	case 1:
		l = gcra.PerHour(1 + p.below(1e6))
	case 2:
		l = gcra.PerSecond(1e6 + p.below(1e9)) // below a microsecond, mostly uneven
	case 3:
		l = gcra.PerSecond(1e9 + p.below(1e12)) // below a nanosecond
	case 4:
		l = gcra.Per(1, time.Duration(1+p.below(1e18)))
	case 5:
		return gcra.Per(p.int(), time.Duration(p.int())).WithBurst(p.int())
	case 6:
		l = gcra.Per(1+p.below(64), time.Duration(1+p.below(64)))
	default:
		l = gcra.Per(1e15+p.below(1e15), time.Duration(1e17+p.below(1e17))) // products beyond 64 bits
	}
	if p.byte()%4 == 0 {
		return l
	}
	return l.WithBurst(1 + p.below(64))
}

// walk drives one key through the operations on the tape beside a bucket.
//
// It holds pitfalls 2, 5, 7, 9, 10, 11, 12 and 14 against every step: whatever
// is admitted the exact bucket would have given, at whatever time and after
// whatever history (never more); the key is behind the bucket by no more than
// the rounding that is promised, nothing at all for whole prices (hardly less);
// and what each decision says about the future comes true to the nanosecond.
func walk(t *testing.T, p tape) {
	t.Helper()
	limit := p.limit()
	for limit.Validate() != nil {
		if len(p) == 0 {
			return
		}
		limit = p.limit()
	}
	var (
		key   = int64(math.MinInt64)
		model = newBucket(limit)
		slack = new(big.Rat) // how far the key may be behind the bucket by rounding
		now   = p.int() / 4
	)
	rounds := func() {
		if !model.interval.IsInt() {
			slack.Add(slack, rat(1))
		}
	}
	for len(p) > 0 {
		n := 1 + p.below(8)
		switch p.byte() % 4 {
		case 0:
			n = 1 + p.below(limit.Burst())
		case 1:
			n = limit.Burst()
		}
		switch op := p.byte() % 8; op {
		case 0, 1, 2:
			next, d, err := limit.Take(key, now, n)
			if n > limit.Burst() {
				if !errors.Is(err, gcra.ErrExceedsBurst) || next != key || d.Allowed() {
					t.Fatalf("Take(%d) above %v: %v, %+v, state changed %v", n, limit, err, d, next != key)
				}
				break
			}
			if err != nil {
				t.Fatalf("%v: Take(%d, %d, %d): %v", limit, key, now, n, err)
			}
			if d.Allowed() {
				if !model.gives(now, n) {
					t.Fatalf("%v: took %d at %d, an exact bucket owing %v would not give them", limit, n, now, model.owed(now))
				}
				model.spend(now, n)
				rounds()
			} else if next != key {
				t.Fatalf("%v: a refusal changed the state from %d to %d", limit, key, next)
			}
			foretold(t, limit, key, now, n, d)
			key = next
		case 3:
			next, d, err := limit.Take(key, now, 0)
			if err != nil || !d.Allowed() || d.RetryAfter != 0 || next != key {
				t.Fatalf("%v: peek: %+v, %v, state changed %v", limit, d, err, next != key)
			}
			left(t, limit, key, now, d)
		case 4:
			next, err := limit.Refund(key, now, n)
			if err != nil || next > key {
				t.Fatalf("%v: Refund(%d, %d, %d) = %d, %v", limit, key, now, n, next, err)
			}
			model.refund(now, n)
			rounds()
			key = next
		case 5:
			if p.byte()%4 == 0 {
				n = 1 + p.below(math.MaxInt64)
			}
			would, _, takeErr := limit.Take(key, now, n)
			next, d, err := limit.Debt(key, now, n)
			if err != nil || next < key || d.Allowed() != (takeErr == nil && would != key) || d.Allowed() != (d.RetryAfter == 0) {
				t.Fatalf("%v: Debt(%d, %d, %d) = %d, %+v, %v; Take would have given %d, %v", limit, key, now, n, next, d, err, would, takeErr)
			}
			model.debt(now, n)
			rounds()
			left(t, limit, next, now, d)
			if !d.Allowed() {
				at := d.At + int64(d.RetryAfter)
				if _, e, _ := limit.Take(next, at, 0); new(big.Rat).SetInt64(int64(e.ResetAfter)).Cmp(model.capacity()) > 0 {
					t.Fatalf("%v: still indebted %v after a debt's RetryAfter", limit, e.ResetAfter)
				}
				if _, e, _ := limit.Take(next, at-1, 0); new(big.Rat).SetInt64(int64(e.ResetAfter)).Cmp(model.capacity()) <= 0 {
					t.Fatalf("%v: no longer indebted 1ns before a debt's RetryAfter", limit)
				}
			}
			key = next
		case 6:
			to := p.limit()
			if to.Validate() != nil {
				break
			}
			key = gcra.Rescale(key, now, &limit, &to)
			stretch := model.change(now, to)
			if stretch.Cmp(rat(1)) > 0 { // else time before now is not scaled
				slack.Mul(slack, stretch)
			}
			slack.Add(slack, rat(3))
			limit = to
			if same := gcra.Rescale(key, now, &limit, &limit); same != key && key > now {
				t.Fatalf("a change from %v to itself moved %d to %d", limit, key, same)
			}
		case 7:
			var step int64
			switch p.byte() % 4 {
			case 0: // backwards, a little
				step = -p.below(1e9)
			case 1:
				step = p.below(int64(time.Hour))
			case 2: // about a token's time
				i, _ := model.interval.Float64()
				step = p.below(max(2, int64(min(2*i, 1<<60))))
			case 3:
				step = p.int() / 4
			}
			if next := now + step; next >= -1<<61 && next <= 1<<61 {
				now = next
			}
		}
		ours := rat(key)
		if ours.Cmp(model.full) < 0 && key > now {
			t.Fatalf("%v: the key is fresh at %d, an exact bucket at %v", limit, key, model.full.FloatString(3))
		}
		if key > now {
			behind := new(big.Rat).Sub(rat(key-now), model.owed(now))
			if behind.Cmp(slack) > 0 {
				t.Fatalf("%v: the key owes %s ns more than an exact bucket, rounding explains %s", limit, behind.FloatString(3), slack.FloatString(3))
			}
		}
	}
}

// foretold checks that what a decision about n tokens says comes true.
func foretold(t *testing.T, l gcra.Limit, before, now, n int64, d gcra.Decision) {
	t.Helper()
	if d.At != now || d.Limit() != l {
		t.Fatalf("%v at %d: the decision says %v at %d", l, now, d.Limit(), d.At)
	}
	after, _, _ := l.Take(before, now, n)
	left(t, l, after, now, d)
	if d.Allowed() {
		if d.RetryAfter != 0 {
			t.Fatalf("%v: allowed, and yet RetryAfter is %v", l, d.RetryAfter)
		}
		return
	}
	if d.RetryAfter <= 0 {
		t.Fatalf("%v: refused with RetryAfter %v", l, d.RetryAfter)
	}
	at := now + int64(d.RetryAfter)
	if _, e, err := l.Take(after, at-1, n); err != nil || e.Allowed() {
		t.Fatalf("%v: told to wait %v for %d, admitted 1ns earlier (%v)", l, d.RetryAfter, n, err)
	}
	if _, e, err := l.Take(after, at, n); err != nil || !e.Allowed() {
		t.Fatalf("%v: told to wait %v for %d, not admitted then: %+v (%v)", l, d.RetryAfter, n, e, err)
	}
	if wait := d.Delay(n); wait != d.RetryAfter {
		t.Fatalf("%v: RetryAfter %v, Delay %v", l, d.RetryAfter, wait)
	}
}

// left checks what a decision says that a key has left, and when it is fresh.
func left(t *testing.T, l gcra.Limit, key, now int64, d gcra.Decision) {
	t.Helper()
	if fresh := now + int64(d.ResetAfter); fresh < key || (d.ResetAfter > 0 && fresh != key) {
		t.Fatalf("%v: fresh at %d, ResetAfter says %d", l, key, fresh)
	}
	largest := d.Largest()
	if largest > 0 {
		if _, e, err := l.Take(key, now, largest); err != nil || !e.Allowed() {
			t.Fatalf("%v: Largest %d is not given: %+v, %v", l, largest, e, err)
		}
	}
	if largest < l.Burst() {
		if _, e, _ := l.Take(key, now, largest+1); e.Allowed() {
			t.Fatalf("%v: Largest %d, and yet one more is given", l, largest)
		}
	}
	remaining := d.Remaining()
	if remaining > largest || interval(l).IsInt() && remaining != largest {
		t.Fatalf("%v: Remaining %d, Largest %d", l, remaining, largest)
	}
	if remaining > 100 {
		return
	}
	for i := range remaining + 1 {
		next, e, err := l.Take(key, now, 1)
		if err != nil || e.Allowed() != (i < remaining) {
			t.Fatalf("%v: Remaining %d, single token %d: allowed %v, %v", l, remaining, i+1, e.Allowed(), err)
		}
		key = next
	}
}

func TestWalkBesideAnExactBucket(t *testing.T) { playTapes(t, walk, 2000, 100, 2100) }

func FuzzLimit(f *testing.F) { fuzzTapes(f, walk, 400) }
