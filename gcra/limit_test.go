package gcra_test

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/fluxlimiter/flux/gcra"
)

// Pitfall 6: every degenerate limit has one documented result, and none of them
// is "unlimited".
func TestDegenerateLimits(t *testing.T) {
	fromFloat := func(f float64) func() (gcra.Limit, error) {
		return func() (gcra.Limit, error) { return gcra.FromFloat(f) }
	}
	limit := func(l gcra.Limit) func() (gcra.Limit, error) {
		return func() (gcra.Limit, error) { return l, l.Validate() }
	}
	for _, tt := range []struct {
		name  string
		make  func() (gcra.Limit, error)
		names string // what the error must name
	}{
		{"zero value", limit(gcra.Limit{}), "zero Limit"},
		{"zero rate", limit(gcra.PerSecond(0).WithBurst(1)), "rate 0"},
		{"negative rate", limit(gcra.PerSecond(-1)), "rate -1"},
		{"least rate", limit(gcra.PerSecond(math.MinInt64)), "rate -9223372036854775808"},
		{"zero period", limit(gcra.Per(1, 0)), "period 0s"},
		{"negative period", limit(gcra.Per(1, -time.Second)), "period -1s"},
		{"zero burst", limit(gcra.PerSecond(1).WithBurst(0)), "burst 0"},
		{"negative burst", limit(gcra.PerSecond(1).WithBurst(-1)), "burst -1"},
		{"burst of 37 years", limit(gcra.PerHour(1).WithBurst(37 * 366 * 24)), "longer than"},
		{"price beyond 64 bits", limit(gcra.Per(1, math.MaxInt64).WithBurst(math.MaxInt64)), "longer than"},
		{"NaN", fromFloat(math.NaN()), "rate NaN"},
		{"+Inf", fromFloat(math.Inf(1)), "rate +Inf"},
		{"-Inf", fromFloat(math.Inf(-1)), "rate -Inf"},
		{"float zero", fromFloat(0), "rate 0"},
		{"float negative zero", fromFloat(math.Copysign(0, -1)), "rate -0"},
		{"float negative", fromFloat(-0.5), "rate -0.5"},
		{"float too large", fromFloat(1e19), "rate 1e+19"},
		{"float too small", fromFloat(1e-10), "rate 1e-10"},
		{"least float", fromFloat(math.SmallestNonzeroFloat64), "rate 5e-324"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := tt.make()
			if !errors.Is(err, gcra.ErrInvalidLimit) || !strings.Contains(err.Error(), tt.names) {
				t.Fatalf("got %v, want an ErrInvalidLimit that names %q", err, tt.names)
			}
			// A limit whose error was ignored still admits nothing.
			next, d, err := l.Take(0, 0, 1)
			if !errors.Is(err, gcra.ErrInvalidLimit) || d.Allowed() || next != 0 {
				t.Errorf("Take: %+v, %v, state %d", d, err, next)
			}
			if n := d.Remaining() + d.Largest(); n != 0 {
				t.Errorf("%d tokens left under a broken limit", n)
			}
			if _, err := l.Refund(0, 0, 1); !errors.Is(err, gcra.ErrInvalidLimit) {
				t.Errorf("Refund: %v", err)
			}
			if _, d, err := l.Debt(0, 0, 1); !errors.Is(err, gcra.ErrInvalidLimit) || d.Allowed() {
				t.Errorf("Debt: %+v, %v", d, err)
			}
		})
	}
}

func TestLimitsAtTheEdge(t *testing.T) {
	for _, l := range []gcra.Limit{
		gcra.PerSecond(1),
		gcra.PerSecond(1e9),
		gcra.PerSecond(1e9 + 1),
		gcra.PerSecond(math.MaxInt64),
		gcra.Per(1, 1<<60),
		gcra.Per(math.MaxInt64, 1<<60),
		gcra.Per(math.MaxInt64, 1),
		gcra.Per(1, 1).WithBurst(1 << 60),
		gcra.PerHour(24),
	} {
		if err := l.Validate(); err != nil {
			t.Errorf("%v: %v", l, err)
			continue
		}
		next, d, err := l.Take(math.MinInt64, 0, l.Burst())
		if err != nil || !d.Allowed() || d.Remaining() != 0 {
			t.Errorf("%v: the whole burst of a fresh key: %+v, %v, then %d", l, d, err, d.Remaining())
		}
		if _, d, _ := l.Take(next, 0, 1); d.Allowed() {
			t.Errorf("%v: one more than the burst", l)
		}
	}
}

func TestExtremes(t *testing.T) {
	all, none := gcra.Unlimited(), gcra.DenyAll()
	for _, n := range []int64{0, 1, math.MaxInt64} {
		next, d, err := all.Take(7, 5, n)
		if err != nil || !d.Allowed() || next != 7 || d.Remaining() != math.MaxInt64 || d.Largest() != math.MaxInt64 || d.Delay(n) != 0 {
			t.Errorf("unlimited, %d tokens: %+v, %v, state %d", n, d, err, next)
		}
		next, d, err = none.Take(7, 5, n)
		if err != nil || d.Allowed() || next != 7 || d.RetryAfter != gcra.Forever || d.Remaining() != 0 || d.Largest() != 0 || d.Delay(1) != gcra.Forever {
			t.Errorf("deny all, %d tokens: %+v, %v, state %d", n, d, err, next)
		}
		for _, l := range []gcra.Limit{all, none} {
			if next, err := l.Refund(7, 5, n); err != nil || next != 7 {
				t.Errorf("%v: Refund(%d) = %d, %v", l, n, next, err)
			}
			if next, d, err := l.Debt(7, 5, n); err != nil || next != 7 || d.Allowed() != l.IsUnlimited() {
				t.Errorf("%v: Debt(%d) = %d, %+v, %v", l, n, next, d, err)
			}
			if l.WithBurst(3) != l {
				t.Errorf("%v: a burst made it %v", l, l.WithBurst(3))
			}
		}
	}
	if !all.IsUnlimited() || all.IsDenyAll() || all.Burst() != math.MaxInt64 || !none.IsDenyAll() || none.IsUnlimited() || none.Burst() != 0 {
		t.Error("the extremes do not know themselves")
	}
	if d := (gcra.Decision{}); d.Limit() != (gcra.Limit{}) || d.Remaining() != 0 || d.Largest() != 0 || d.Delay(1) != gcra.Forever {
		t.Error("a zero Decision promises something")
	}
}

func TestFromFloat(t *testing.T) {
	for _, tt := range []struct {
		perSecond float64
		rate      int64
		period    time.Duration
		burst     int64
	}{
		{1, 1, time.Second, 1},
		{100, 100, time.Second, 100},
		{0.5, 1, 2 * time.Second, 1},
		{0.1, 1, 10 * time.Second, 1},
		{2.5, 1, 400 * time.Millisecond, 2},
		{1.0 / 3, 1, 3 * time.Second, 1},
		{1e6 + 0.5, 1e9 + 500, 1000 * time.Second, 1e6},
		{150e6, 150e6, time.Second, 150e6},
		{1.0 / (1 << 30), 1, 1 << 30 * time.Second, 1}, // 34 years
	} {
		l, err := gcra.FromFloat(tt.perSecond)
		if err != nil {
			t.Errorf("%v: %v", tt.perSecond, err)
			continue
		}
		rate, period := l.Rate()
		if rate != tt.rate || period != tt.period || l.Burst() != tt.burst || l.Validate() != nil {
			t.Errorf("%v: got %v, want %d/%v burst %d", tt.perSecond, l, tt.rate, tt.period, tt.burst)
		}
	}
	// Never faster than asked, beyond what a float64 cannot tell apart, and
	// slower by a millionth at most below 1000 a second, a thousandth at all.
	for f := 1e-9; f < 1e18; f *= 1.37 {
		l, err := gcra.FromFloat(f)
		if err != nil || l.Validate() != nil {
			t.Fatalf("%v: %v, %v", f, err, l.Validate())
		}
		rate, period := l.Rate()
		got := float64(rate) / float64(period) * 1e9
		if got > f*(1+1e-15) || got < f*(1-1e-3) || f < 1e3 && got < f*(1-1e-6) {
			t.Errorf("%v per second became %v", f, got)
		}
	}
}

func TestLimitString(t *testing.T) {
	for want, l := range map[string]gcra.Limit{
		"100/1s burst 20":   gcra.PerSecond(100).WithBurst(20),
		"5/1m0s burst 5":    gcra.PerMinute(5),
		"unlimited":         gcra.Unlimited(),
		"deny all":          gcra.DenyAll(),
		"zero limit":        {},
		"-1/1h0m0s burst 2": gcra.PerHour(-1).WithBurst(2),
	} {
		if got := l.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestLimitsAreValues(t *testing.T) {
	if gcra.PerSecond(10).WithBurst(5) != gcra.Per(10, time.Second).WithBurst(7).WithBurst(5) {
		t.Error("equal limits differ")
	}
	if gcra.PerSecond(10) == gcra.PerSecond(10).WithBurst(9) {
		t.Error("different limits are equal")
	}
}
