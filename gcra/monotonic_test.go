package gcra_test

import (
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/fluxlimiter/flux/gcra"
)

// Each step names a reading and the time that must come of it.
func TestMonotonic(t *testing.T) {
	type step struct{ reading, at, steps int64 }
	for _, tt := range []struct {
		name      string
		tolerance time.Duration
		steps     []step
	}{
		{"a good clock", 10, []step{{-100, -100, 0}, {0, 0, 0}, {5, 5, 0}, {5, 5, 0}, {1000, 1000, 0}}},
		{"late readings", 10, []step{{100, 100, 0}, {90, 90, 0}, {95, 95, 0}, {101, 101, 0}, {91, 91, 0}}},
		{"set back", 10, []step{{100, 100, 0}, {40, 100, 1}, {41, 101, 1}, {35, 95, 1}, {60, 120, 1}}},
		{"set back twice", 10, []step{{100, 100, 0}, {40, 100, 1}, {50, 110, 1}, {10, 110, 2}, {11, 111, 2}}},
		{"no tolerance", 0, []step{{100, 100, 0}, {99, 100, 1}, {149, 150, 1}}},
		{"negative tolerance", -5, []step{{100, 100, 0}, {101, 101, 0}, {100, 101, 1}, {149, 150, 1}}},
		{"any tolerance", math.MaxInt64, []step{{-1 << 62, -1 << 62, 0}, {1, 1, 0}, {0, 0, 0}}},
		{"set forward", 10, []step{{100, 100, 0}, {1000, 1000, 0}, {1001, 1001, 0}}},
		{"set back and forward", 10, []step{{100, 100, 0}, {40, 100, 1}, {300, 360, 1}, {301, 361, 1}}},
		{"late from before the second step", 10, []step{{100, 100, 0}, {40, 100, 1}, {50, 110, 1}, {10, 110, 2}, {49, 109, 2}}},
		{"late from before the step", 10, []step{{100, 100, 0}, {40, 100, 1}, {95, 95, 1}, {99, 99, 1}, {41, 101, 1}, {42, 102, 1}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := gcra.NewMonotonic(tt.tolerance)
			for i, s := range tt.steps {
				if at := m.At(s.reading); at != s.at || m.Steps() != s.steps {
					t.Fatalf("reading %d, of %d: at %d after %d steps, want %d after %d", i, s.reading, at, m.Steps(), s.at, s.steps)
				}
			}
		})
	}
}

// Pitfalls 1 and 2: a clock that is set back and whose readings arrive out of
// order mints nothing, and refuses nobody for longer than the burst takes.
func TestClockSetBack(t *testing.T) {
	const (
		interval  = int64(100 * time.Millisecond)
		burst     = 10
		tolerance = int64(50 * time.Millisecond)
	)
	l := gcra.PerSecond(10).WithBurst(burst)
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 6))
		m := gcra.NewMonotonic(time.Duration(tolerance))
		var (
			real, wrong  int64 // the time that really passes, and how far the clock is off
			key          = int64(math.MinInt64)
			got          int64
			lastGrant    int64
			back         int64
			history      = []int64{0} // wall readings, to be late with
			forwardSteps int64
		)
		for range 3000 {
			passed := r.Int64N(20e6)
			real += passed
			if r.IntN(200) == 0 {
				step := r.Int64N(int64(time.Hour))
				if r.IntN(4) == 0 {
					wrong += step
					forwardSteps += step
				} else {
					wrong -= step
					if step > 2*tolerance {
						back++
					}
				}
				history = history[len(history)-1:]
			}
			reading := real + wrong
			history = append(history, reading)
			if r.IntN(3) == 0 && len(history) > 2 {
				if late := history[len(history)-2]; reading-late < tolerance {
					reading = late
				}
			}
			next, d, err := l.Take(key, m.At(reading), 1)
			if err != nil {
				t.Fatal(err)
			}
			if d.Allowed() {
				got++
				lastGrant = real
			} else if real-lastGrant > burst*interval+2*tolerance {
				t.Fatalf("seed %d: refused for %v after %d steps", seed, time.Duration(real-lastGrant), m.Steps())
			}
			key = next
		}
		if most := burst + (real+forwardSteps)/interval; got > most {
			t.Fatalf("seed %d: %d in %v, and %v of steps forward: more than %d", seed, got, time.Duration(real), time.Duration(forwardSteps), most)
		}
		if back > 0 && m.Steps() == 0 {
			t.Fatalf("seed %d: %d steps back, none seen", seed, back)
		}
	}
}

// Pitfall 3: a clock that stands still while the machine sleeps gives tokens back
// later, never earlier; one that goes on gives a burst at most.
func TestMachineThatSleeps(t *testing.T) {
	const asleep = int64(time.Hour)
	l := gcra.PerSecond(10).WithBurst(5)
	empty, _, err := l.Take(0, 0, 5)
	if err != nil {
		t.Fatal(err)
	}
	if _, d, err := l.Take(empty, 0, 1); err != nil || d.Allowed() || d.RetryAfter != 100*time.Millisecond {
		t.Errorf("on a clock that stood still: %+v, %v", d, err)
	}
	wall := gcra.NewMonotonic(0)
	wall.At(0)
	key, n := empty, 0
	for {
		next, d, err := l.Take(key, wall.At(asleep), 1)
		if err != nil {
			t.Fatal(err)
		}
		if !d.Allowed() {
			break
		}
		key = next
		n++
	}
	if n != 5 || wall.Steps() != 0 {
		t.Errorf("on a clock that went on: %d tokens, %d steps back; want a burst", n, wall.Steps())
	}
}

// Pitfall 4: nodes whose clocks disagree for good, on one state: they are given
// what the fastest clock would allow, and no more.
func TestClocksThatDisagree(t *testing.T) {
	const (
		skew     = int64(5 * time.Second)
		interval = int64(100 * time.Millisecond)
		burst    = 7
	)
	l := gcra.Per(1, time.Duration(interval)).WithBurst(burst)
	r := rand.New(rand.NewPCG(1, 7))
	key, got := int64(math.MinInt64), int64(0)
	for real := int64(0); real < int64(10*time.Minute); real += r.Int64N(interval) {
		for _, node := range []int64{-skew, 0, skew} {
			next, d, err := l.Take(key, real+node, 1)
			if err != nil {
				t.Fatal(err)
			}
			if d.Allowed() {
				got++
			}
			key = next
		}
		if most := burst + (real+2*skew)/interval; got > most {
			t.Fatalf("%d tokens in %v, at most %d were due", got, time.Duration(real), most)
		}
	}
	if least := int64(10*time.Minute) / interval * 99 / 100; got < least {
		t.Errorf("%d tokens, want %d: the slow clocks took from the fast one", got, least)
	}
}

func TestMonotonicConcurrently(t *testing.T) {
	m := gcra.NewMonotonic(time.Millisecond)
	m.At(int64(time.Hour))
	var wg sync.WaitGroup
	for g := range int64(8) {
		wg.Go(func() {
			latest := int64(time.Hour)
			for i := range int64(5000) {
				at := m.At(i*100 + g) // set back by an hour
				if at < latest-int64(time.Millisecond) {
					t.Errorf("went back by %v", time.Duration(latest-at))
					return
				}
				latest = max(latest, at)
			}
		})
	}
	wg.Wait()
	if m.Steps() < 1 {
		t.Error("an hour back was not noticed")
	}
}
