package main

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/fluxlimiter/flux/gcra"
)

func TestMaxRateExcess(t *testing.T) {
	const ms = time.Millisecond
	limit := gcra.PerSecond(10).WithBurst(2)
	for _, tt := range []struct {
		name   string
		grants []time.Duration
		want   float64
	}{
		{"nothing", nil, -2},
		{"one", []time.Duration{0}, -1},
		{"the burst", []time.Duration{0, 0}, 0},
		{"one more at once", []time.Duration{0, 0, 0}, 1},
		{"burst, then the rate", []time.Duration{0, 0, 100 * ms, 200 * ms, 300 * ms}, 0},
		{"a nanosecond early", []time.Duration{0, 0, 100 * ms, 200*ms - 1}, 1e-8},
		{"a nanosecond late", []time.Duration{0, 100 * ms, 200 * ms, 200 * ms, 300 * ms}, 0},
		{"a burst after a rest", []time.Duration{0, time.Hour, time.Hour}, 0},
		{"out of order", []time.Duration{200 * ms, 0, 100 * ms, 0}, 0},
		{"only in the middle", []time.Duration{0, time.Hour, time.Hour, time.Hour + 50*ms, 2 * time.Hour}, 0.5},
	} {
		if got := maxRateExcess(tt.grants, limit); math.Abs(got-tt.want) > 1e-12 {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestMaxRateExcessModel compares with all windows, one by one, in exact
// arithmetic: the sign must be right, always.
func TestMaxRateExcessModel(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	positive, zero := 0, 0
	for round := range 1000 {
		rate := 1 + rng.Int64N(200)
		period := time.Duration(1 + rng.Int64N(int64(time.Second)))
		limit := gcra.Per(rate, period).WithBurst(1 + rng.Int64N(5))
		interval := max(int64(period)/rate, 1)
		var grants []time.Duration
		var tat, now int64
		tat = math.MinInt64 / 4
		for range 1 + rng.IntN(40) {
			now += rng.Int64N(2 * interval)
			if round%2 == 0 { // what the limiter admits must never exceed
				next, d, err := limit.Take(tat, now, 1)
				if err != nil {
					t.Fatal(err)
				}
				if tat = next; !d.Allowed() {
					now += int64(d.RetryAfter)
					if tat, d, _ = limit.Take(tat, now, 1); !d.Allowed() {
						t.Fatal("denied after RetryAfter")
					}
				}
			}
			grants = append(grants, time.Duration(now))
		}
		worst := big.NewRat(-limit.Burst(), 1)
		perNano := big.NewRat(rate, int64(period))
		for i := range grants {
			for j := i; j < len(grants); j++ {
				e := new(big.Rat).Mul(perNano, big.NewRat(int64(grants[j]-grants[i]), 1))
				e.Sub(big.NewRat(int64(j-i+1)-limit.Burst(), 1), e)
				if e.Cmp(worst) > 0 {
					worst = e
				}
			}
		}
		rng.Shuffle(len(grants), func(i, j int) { grants[i], grants[j] = grants[j], grants[i] })
		got := maxRateExcess(grants, limit)
		want, _ := worst.Float64()
		if sign := big.NewFloat(got).Sign(); sign != worst.Sign() || math.Abs(got-want) > 1e-9*max(1, math.Abs(want)) {
			t.Fatalf("%v: %v, want %v", limit, got, worst)
		}
		switch {
		case got > 0 && round%2 == 0:
			t.Fatalf("%v: the limiter admitted %v too many", limit, got)
		case got > 0:
			positive++
		case got == 0:
			zero++
		}
	}
	if positive == 0 || zero == 0 {
		t.Errorf("the test saw %d excesses and %d exact fits", positive, zero)
	}
}

func TestMaxRateExcessFar(t *testing.T) {
	// Rate times window would overflow here.
	limit := gcra.PerSecond(100_000).WithBurst(1)
	grants := []time.Duration{math.MinInt64 / 2, 0, 0, math.MaxInt64 / 2}
	if got := maxRateExcess(grants, limit); got != 1 {
		t.Errorf("got %v, want 1", got)
	}
}
