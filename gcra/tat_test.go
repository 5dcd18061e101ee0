package gcra_test

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/fluxlimiter/flux/gcra"
)

// Pitfall 9: a burst of B is B single tokens at one instant, no more and no
// less, wherever a token has a whole price.
func TestBurstIsExact(t *testing.T) {
	for _, per := range []struct {
		rate   int64
		period time.Duration
	}{
		{1, time.Second},
		{3, time.Second},
		{7, time.Second},
		{1000, time.Second},
		{1e6, time.Second},
		{999_999, time.Second}, // 1000.001 ns
		{123_457, time.Second},
		{1e9, time.Second},
		{500e6, time.Second},
		{1, 24 * time.Hour},
		{10_000, 24 * time.Hour},
		{1, 1},
		{7, time.Hour},
	} {
		for burst := range int64(64) {
			burst++
			l := gcra.Per(per.rate, per.period).WithBurst(burst)
			for _, now := range []int64{0, 1, 1e18, -1e18, 1<<62 - 1, -1 << 62} {
				key := now
				for i := range burst + 2 {
					next, d, err := l.Take(key, now, 1)
					if err != nil || d.Allowed() != (i < burst) {
						t.Fatalf("%v at %d: token %d: allowed %v, %v", l, now, i+1, d.Allowed(), err)
					}
					if want := max(0, burst-1-i); d.Remaining() != want {
						t.Fatalf("%v at %d: %d left after token %d, want %d", l, now, d.Remaining(), i+1, want)
					}
					key = next
				}
				if next, d, _ := l.Take(now, now, burst); !d.Allowed() || next != key {
					t.Fatalf("%v: the burst in one call costs %d, token by token %d", l, next-now, key-now)
				}
			}
		}
	}
}

// Pitfall 9: a burst of an uneven price is never more than the burst, in calls of any
// size, and all of it in one call.
func TestUnevenBurstIsNeverMore(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 3))
	for range 10_000 {
		l := gcra.PerSecond(1e6 + r.Int64N(1e10)).WithBurst(1 + r.Int64N(64))
		key, got := int64(0), int64(0)
		for range 100 {
			next, d, err := l.Take(key, 0, 1+r.Int64N(l.Burst()))
			if err != nil {
				t.Fatal(err)
			}
			if n := d.Largest(); !d.Allowed() && n > 0 {
				next, d, _ = l.Take(key, 0, n)
				got += n
			} else if d.Allowed() {
				got += l.Burst() - got - d.Largest()
			}
			key = next
			if d.Largest() == 0 {
				break
			}
		}
		if got > l.Burst() {
			t.Fatalf("%v: %d at one instant", l, got)
		}
		if _, d, _ := l.Take(0, 0, l.Burst()); !d.Allowed() {
			t.Fatalf("%v: a rested key is refused its burst", l)
		}
	}
}

// Pitfalls 2 and 13: whatever the order of the clock's readings and however long the
// key rests, no window admits more than the burst and what the rate gives in
// its time. The sums are exact.
func TestNoWindowAdmitsMore(t *testing.T) {
	type grant struct{ at, n int64 }
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 4))
		var l gcra.Limit
		switch seed % 4 {
		case 0:
			l = gcra.PerSecond(1 + r.Int64N(100)).WithBurst(1 + r.Int64N(10))
		case 1:
			l = gcra.PerSecond(1e6 + r.Int64N(1e9)).WithBurst(1 + r.Int64N(100))
		case 2:
			l = gcra.PerSecond(1e9 + r.Int64N(1e11)).WithBurst(1 + r.Int64N(100))
		case 3:
			l = gcra.Per(1+r.Int64N(40), time.Duration(1+r.Int64N(40))).WithBurst(1 + r.Int64N(10))
		}
		rate, period := l.Rate()
		late := r.Int64N(3) * int64(period) / rate // readings are up to this late
		var (
			key    int64
			clock  int64
			grants []grant
		)
		for range 300 {
			switch r.IntN(8) {
			case 0: // rest, about as long as it takes to recover
				clock += r.Int64N(2 + 2*l.Burst()*int64(period)/rate)
			case 1, 2, 3:
				clock += r.Int64N(2 + int64(period)/rate)
			}
			at := clock - r.Int64N(late+1)
			n := 1 + r.Int64N(l.Burst())
			next, d, err := l.Take(key, at, n)
			if err != nil {
				t.Fatal(err)
			}
			if d.Allowed() {
				grants = append(grants, grant{at, n})
			}
			key = next
		}
		if len(grants) < 10 {
			t.Fatalf("%v: only %d grants, the test shows nothing", l, len(grants))
		}
		for i, first := range grants {
			sum := big.NewInt(0)
			for _, g := range grants[i:] {
				sum.Add(sum, big.NewInt(g.n))
				// sum <= burst + rate * w / period, in whole numbers
				have := new(big.Int).Mul(new(big.Int).Sub(sum, big.NewInt(l.Burst())), big.NewInt(int64(period)))
				may := new(big.Int).Mul(big.NewInt(rate), big.NewInt(g.at-first.at))
				if have.Cmp(may) > 0 {
					t.Fatalf("seed %d, %v: %v tokens in %v", seed, l, sum, time.Duration(g.at-first.at))
				}
			}
		}
	}
}

// Pitfall 7: over years the rate is the rate. Every token is taken in the
// nanosecond in which it is due.
func TestNoDrift(t *testing.T) {
	const year = 365 * 24 * time.Hour
	for _, tt := range []struct {
		limit gcra.Limit
		call  int64
		span  time.Duration
		lost  float64 // tokens at most, for rounding
	}{
		{gcra.PerSecond(3), 100, 3 * year, 1},
		{gcra.PerSecond(7), 100, year, 1},
		{gcra.PerSecond(3), 1, 2 * 24 * time.Hour, 0.01},
		{gcra.PerSecond(7), 1, 2 * 24 * time.Hour, 0.01},
		{gcra.PerSecond(1e6), 1e6, 10 * 24 * time.Hour, 0},
		{gcra.PerSecond(1e6), 1, 2 * time.Second, 0},
		{gcra.Per(1, 24*time.Hour), 1, 100 * year, 0},
		{gcra.PerSecond(150e6), 1000, 5 * time.Second, 150e6 * 6 * 5.1e-5},
		{gcra.PerSecond(150e6), 1 << 20, time.Hour, 150e6 * 3600 * 1e-7},
		{gcra.PerSecond(999_999), 1000, time.Hour, 999_999 * 3600 * 1e-3},
	} {
		t.Run(fmt.Sprintf("%v by %d", tt.limit, tt.call), func(t *testing.T) {
			l := tt.limit.WithBurst(max(tt.limit.Burst(), tt.call))
			var key, now, got int64
			for {
				next, d, err := l.Take(key, now, tt.call)
				if err != nil {
					t.Fatal(err)
				}
				if !d.Allowed() {
					if now += int64(d.RetryAfter); now > int64(tt.span) {
						break
					}
					continue
				}
				key = next
				got += tt.call
			}
			rate, period := l.Rate()
			due := float64(l.Burst()) + float64(tt.span)*float64(rate)/float64(period)
			if float64(got) > due || float64(got) < due-tt.lost-float64(tt.call) {
				t.Errorf("got %d in %v, due were %.3f", got, tt.span, due)
			}
		})
	}
}

// Pitfalls 8 and 5: a fresh key is given its burst at any time of any clock, and what
// lies outside is refused as such.
func TestAnyTime(t *testing.T) {
	l := gcra.Per(1, 1<<55).WithBurst(32) // the largest price there is
	for _, now := range []int64{0, 1, -1, 1<<62 - 1, -1 << 62, math.MaxInt32, 1_767_225_600e9} {
		for _, rested := range []int64{now, now - 1, math.MinInt64, -1 << 62} {
			next, d, err := l.Take(rested, now, 32)
			if rested > now {
				continue
			}
			if err != nil || !d.Allowed() || next <= now {
				t.Errorf("at %d, fresh since %d: %+v, %v, next %d", now, rested, d, err, next)
			}
			indebted, d, err := l.Debt(next, now, math.MaxInt64)
			if err != nil || d.Allowed() || indebted < next || d.RetryAfter <= 0 {
				t.Errorf("at %d: debt: %+v, %v, from %d to %d", now, d, err, next, indebted)
			}
			if again, d, err := l.Debt(indebted, now, math.MaxInt64); err != nil || again != indebted || d.RetryAfter != 1<<60 {
				t.Errorf("at %d: a debt at its bound: %+v, %v, from %d to %d", now, d, err, indebted, again)
			}
			if back, err := l.Refund(indebted, now, math.MaxInt64); err != nil || back != now {
				t.Errorf("at %d: refund of everything gives %d, %v", now, back, err)
			}
		}
	}
	// The clock's ends are further apart than an int64 is wide.
	late, _, _ := l.Debt(1<<62-1, 1<<62-1, math.MaxInt64)
	if next, d, err := l.Take(late, -1<<62, 1); err != nil || d.Allowed() || next != late || d.RetryAfter < 1<<62-1 {
		t.Errorf("a key indebted at the clock's end, at its start: %+v, %v", d, err)
	}
	for _, now := range []int64{1 << 62, -1<<62 - 1, math.MaxInt64, math.MinInt64} {
		if next, d, err := l.Take(5, now, 1); !errors.Is(err, gcra.ErrTime) || d.Allowed() || next != 5 {
			t.Errorf("Take at %d: %+v, %v", now, d, err)
		}
		if next, err := l.Refund(5, now, 1); !errors.Is(err, gcra.ErrTime) || next != 5 {
			t.Errorf("Refund at %d: %v", now, err)
		}
		if next, d, err := l.Debt(5, now, 1); !errors.Is(err, gcra.ErrTime) || d.Allowed() || next != 5 {
			t.Errorf("Debt at %d: %+v, %v", now, d, err)
		}
	}
}

// Pitfalls 10 and 11: too many tokens is an error of its own that says what is left,
// none is a peek, and fewer than none is refused.
func TestOddAmounts(t *testing.T) {
	l := gcra.PerSecond(10).WithBurst(5)
	key, _, _ := l.Take(0, 0, 2)
	for _, n := range []int64{6, 7, math.MaxInt64} {
		next, d, err := l.Take(key, 0, n)
		if !errors.Is(err, gcra.ErrExceedsBurst) || d.Allowed() || next != key {
			t.Errorf("Take(%d): %+v, %v", n, d, err)
		}
		if d.RetryAfter != gcra.Forever || d.Remaining() != 3 || d.ResetAfter != 200*time.Millisecond {
			t.Errorf("Take(%d): retry after %v, remaining %d, reset after %v", n, d.RetryAfter, d.Remaining(), d.ResetAfter)
		}
	}
	for _, n := range []int64{-1, math.MinInt64} {
		if next, d, err := l.Take(key, 0, n); !errors.Is(err, gcra.ErrNegative) || d != (gcra.Decision{}) || next != key {
			t.Errorf("Take(%d): %+v, %v", n, d, err)
		}
		if next, err := l.Refund(key, 0, n); !errors.Is(err, gcra.ErrNegative) || next != key {
			t.Errorf("Refund(%d): %v", n, err)
		}
		if next, d, err := l.Debt(key, 0, n); !errors.Is(err, gcra.ErrNegative) || d.Allowed() || next != key {
			t.Errorf("Debt(%d): %+v, %v", n, d, err)
		}
	}
	empty, _, _ := l.Debt(key, 0, 100)
	if next, d, err := l.Take(empty, 0, 0); err != nil || !d.Allowed() || next != empty || d.Remaining() != 0 {
		t.Errorf("a peek at an indebted key: %+v, %v", d, err)
	}
}

// Pitfalls 11 and 19: tokens given back singly are worth no more than they cost together, and a
// refund undoes a take of a whole price exactly.
func TestRefundMintsNothing(t *testing.T) {
	for _, l := range []gcra.Limit{gcra.PerSecond(150e6), gcra.PerSecond(7e9), gcra.PerSecond(3), gcra.PerSecond(1e6 + 1)} {
		l = l.WithBurst(1000)
		taken, _, _ := l.Take(0, 0, 999)
		key := taken
		for range 999 {
			key, _ = l.Refund(key, 0, 1)
		}
		if key < 0 {
			t.Errorf("%v: refunds made the key better than fresh: %d", l, key)
		}
		if interval(l).IsInt() && key != 0 {
			t.Errorf("%v: %d ns left after everything was given back", l, key)
		}
		// With one more token spent there is something to mint from.
		key, _, _ = l.Take(taken, 0, 1)
		for range 999 {
			key, _ = l.Refund(key, 0, 1)
		}
		if _, d, _ := l.Take(key, 0, 1000); d.Allowed() {
			t.Errorf("%v: 999 of 1000 tokens were given back, and 1000 are there", l)
		}
	}
}

// Pitfall 14: the debt keeps its tokens when the limit changes.
func TestRescale(t *testing.T) {
	const now = int64(1e15)
	perSecond := func(n, burst int64) gcra.Limit { return gcra.PerSecond(n).WithBurst(burst) }
	for _, tt := range []struct {
		name     string
		from, to gcra.Limit
		owed     time.Duration
		want     time.Duration
	}{
		{"raise", perSecond(1, 10), perSecond(100, 10), 10 * time.Second, 100 * time.Millisecond},
		{"raise of the burst", perSecond(1, 10), perSecond(1, 100), 10 * time.Second, 10 * time.Second},
		{"cut", perSecond(100, 10), perSecond(1, 10), 100 * time.Millisecond, 10 * time.Second},
		{"cut of half", perSecond(100, 10), perSecond(50, 10), 50 * time.Millisecond, 100 * time.Millisecond},
		{"cut of the burst", perSecond(10, 100), perSecond(10, 5), 10 * time.Second, 500 * time.Millisecond},
		{"cut of both", perSecond(100, 100), perSecond(1, 5), time.Second, 5 * time.Second},
		{"debt beyond the burst stays", perSecond(10, 10), perSecond(10, 10), time.Minute, time.Minute},
		{"debt beyond the burst is scaled", perSecond(10, 10), perSecond(100, 10), 3 * time.Second, 300 * time.Millisecond},
		{"debt beyond a cut burst", perSecond(10, 10), perSecond(10, 5), 3 * time.Second, 2500 * time.Millisecond},
		{"rounded up", perSecond(3, 10), perSecond(7, 10), 1, 1},
		{"fresh", perSecond(3, 10), perSecond(7, 10), 0, 0},
		{"from unlimited", gcra.Unlimited(), perSecond(7, 10), time.Hour, 0},
		{"to unlimited", perSecond(7, 10), gcra.Unlimited(), time.Hour, 0},
		{"from deny all", gcra.DenyAll(), perSecond(7, 10), time.Hour, 0},
		{"products beyond 64 bits", gcra.Per(1e16+1, 30*365*24*time.Hour).WithBurst(1e6), perSecond(1, 100), 946, 9_999_154_406},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := time.Duration(gcra.Rescale(now+int64(tt.owed), now, &tt.from, &tt.to) - now)
			if got < tt.want || got > tt.want+tt.want/1000 {
				t.Errorf("owed %v under %v, owes %v under %v, want %v", tt.owed, tt.from, got, tt.to, tt.want)
			}
		})
	}
	long := now - 12345
	l, m := perSecond(1, 1), perSecond(2, 2)
	if got := gcra.Rescale(long, now, &l, &m); got != long {
		t.Errorf("a fresh key moved from %d to %d", long, got)
	}
}

// Rescale there and back never frees a token, and for a debt within both bursts
// keeps it to the nanosecond of rounding.
func TestRescaleThereAndBack(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 5))
	for range 50_000 {
		from := gcra.Per(1+r.Int64N(1e9), time.Duration(1+r.Int64N(int64(time.Hour)))).WithBurst(1 + r.Int64N(1e6))
		to := gcra.Per(1+r.Int64N(1e9), time.Duration(1+r.Int64N(int64(time.Hour)))).WithBurst(from.Burst())
		if from.Validate() != nil || to.Validate() != nil {
			continue
		}
		key, _, err := from.Take(0, 0, 1+r.Int64N(from.Burst()))
		if err != nil {
			t.Fatal(err)
		}
		there := gcra.Rescale(key, 0, &from, &to)
		back := gcra.Rescale(there, 0, &to, &from)
		ratio := new(big.Rat).Quo(interval(from), interval(to))
		stretch, _ := ratio.Float64()
		if back < key || float64(back-key) > stretch+2 {
			t.Fatalf("from %v to %v and back: %d, %d, %d", from, to, key, there, back)
		}
	}
}

// A decision of a shared store carries the same numbers.
func TestNewDecision(t *testing.T) {
	l := gcra.PerSecond(10)
	_, want, _ := l.Take(3e8, 0, 2)
	got := gcra.NewDecision(&l, want.At, want.RetryAfter, want.ResetAfter)
	if got != want || got.Remaining() != want.Remaining() || got.Limit() != l {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestDelay(t *testing.T) {
	for _, l := range []gcra.Limit{gcra.PerSecond(3).WithBurst(4), gcra.PerSecond(1e6).WithBurst(1), gcra.PerHour(7)} {
		for taken := range int64(12) {
			start, d, err := l.Debt(0, 0, taken)
			if err != nil {
				t.Fatal(err)
			}
			key, now := start, int64(0)
			for n := range int64(30) {
				if got := d.Delay(n); got != time.Duration(now) {
					t.Fatalf("%v, %d taken: Delay(%d) is %v, the last was given after %v", l, taken, n, got, time.Duration(now))
				}
				next, e, _ := l.Take(key, now, 1)
				if !e.Allowed() {
					now += int64(e.RetryAfter)
					next, _, _ = l.Take(key, now, 1)
				}
				key = next
			}
		}
	}
}

func TestTakeAllocatesNothing(t *testing.T) {
	l, uneven := gcra.PerSecond(1000), gcra.PerSecond(150e6)
	hourly, daily := gcra.PerHour(7e9), gcra.Per(9e12, 24*time.Hour)
	var key, now int64
	if n := testing.AllocsPerRun(1000, func() {
		key, _, _ = l.Take(key, now, 1)
		key, _, _ = uneven.Take(key, now, 1000)
		key, _ = l.Refund(key, now, 1)
		key, _, _ = l.Debt(key, now, 1)
		key = gcra.Rescale(key, now, &l, &uneven)
		key = gcra.Rescale(key, now, &hourly, &daily)
		now += 1000
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
