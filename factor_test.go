package flux_test

import (
	"errors"
	"math"
	"math/big"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
)

func TestSetFactorRefuses(t *testing.T) {
	lim := newLimiter(t, flux.Config[string]{Limit: gcra.PerSecond(10)})
	for _, f := range []float64{0, -1, 0.00099, 1.0001, math.NaN(), math.Inf(1), math.Inf(-1)} {
		if err := lim.SetFactor(f); err == nil || lim.Factor() != 1 {
			t.Errorf("SetFactor(%v): %v, now %v", f, err, lim.Factor())
		}
	}
	for _, f := range []float64{0.5, 0.001, 1} {
		if err := lim.SetFactor(f); err != nil || math.Abs(lim.Factor()-f) > 1e-9 {
			t.Errorf("SetFactor(%v): %v, now %v", f, err, lim.Factor())
		}
	}
}

// Pitfall 31: the rate of everyone who waits and checks follows the factor at once,
// down and up again; bursts and what was spent do not change.
func TestSetFactor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := drained(t, flux.Config[string]{Limit: gcra.PerSecond(10).WithBurst(2)})
		h := lim.Key(key)
		g := &grants{lim: lim}
		for id := range 5 {
			g.follow(id, lim.WaitAsync(t.Context(), key, 1))
			synctest.Wait()
		}
		r, err := lim.Reserve(t.Context(), key, 1)
		if err != nil {
			t.Fatal(err)
		}
		want := func(delay time.Duration, retry time.Duration) {
			t.Helper()
			if d := r.Delay(); d != delay {
				t.Errorf("at %v: the reservation is due in %v, want %v", time.Duration(lim.Now()), d, delay)
			}
			if d, _ := h.CheckAt(lim.Now(), 2); d.Allowed() || d.RetryAfter != retry {
				t.Errorf("at %v: RetryAfter = %v, want %v", time.Duration(lim.Now()), d.RetryAfter, retry)
			}
		}
		set := func(f float64) {
			t.Helper()
			if err := lim.SetFactor(f); err != nil {
				t.Fatal(err)
			}
		}
		want(600*ms, 800*ms)
		time.Sleep(150 * ms)
		set(0.5) // 50ms of the second turn are left
		want(900*ms, 1300*ms)
		time.Sleep(200 * ms) // the second turn at 250ms, half way to the third
		set(0.25)
		want(1400*ms, 2200*ms)
		time.Sleep(300 * ms) // the third at 550ms, a quarter of the way to the fourth
		set(1)
		want(275*ms, 475*ms)
		time.Sleep(275 * ms)
		want(0, 200*ms)
		g.want(t, grant{0, 100 * ms, nil}, grant{1, 250 * ms, nil}, grant{2, 550 * ms, nil}, grant{3, 725 * ms, nil}, grant{4, 825 * ms, nil})
	})
}

// Under any history of factors, a denial is exact to the nanosecond, exactly
// Remaining single tokens pass, and the limit is never exceeded.
func TestFactorIsExact(t *testing.T) {
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 2))
			limit := gcra.Per(1+rnd.Int64N(5_000_000), time.Second).WithBurst(1 + rnd.Int64N(2000))
			lim := newLimiter(t, flux.Config[string]{Limit: limit})
			now := int64(0) // CheckAt takes any time that the clock might show
			h := lim.Key(key)
			granted := new(big.Rat) // what the rate and the factors allowed so far, and the burst
			granted.SetInt64(limit.Burst())
			spent := int64(0)
			rate, period := limit.Rate()
			pass := func(by time.Duration) {
				time.Sleep(by)
				now += int64(by)
				f := new(big.Rat).SetFloat64(lim.Factor())
				granted.Add(granted, f.Mul(f, big.NewRat(int64(by)*rate, int64(period))))
			}
			for range 30 {
				if rnd.IntN(2) == 0 {
					if err := lim.SetFactor(0.001 + 0.999*rnd.Float64()); err != nil {
						t.Fatal(err)
					}
				}
				pass(time.Duration(rnd.Int64N(10_000)))
				n := 1 + rnd.Int64N(limit.Burst())
				d, err := h.CheckAt(now, n)
				if err != nil {
					t.Fatal(err)
				}
				if d.Allowed() {
					spent += n
				} else {
					if early, _ := h.CheckAt(now+int64(d.RetryAfter)-1, n); early.Allowed() {
						t.Fatalf("seed %d: admitted a nanosecond before RetryAfter", seed)
					}
					if d.RetryAfter != d.Delay(n) {
						t.Fatalf("seed %d: RetryAfter %v, Delay %v", seed, d.RetryAfter, d.Delay(n))
					}
					pass(d.RetryAfter)
					if d, _ = h.CheckAt(now, n); !d.Allowed() {
						t.Fatalf("seed %d: denied at RetryAfter", seed)
					}
					spent += n
				}
				if rnd.IntN(4) == 0 {
					remaining := d.Remaining()
					if most := d.Largest(); most < remaining {
						t.Fatalf("seed %d: Largest %d < Remaining %d", seed, most, remaining)
					}
					for range remaining {
						if d, _ = h.CheckAt(now, 1); !d.Allowed() {
							t.Fatalf("seed %d: fewer than Remaining passed", seed)
						}
						spent++
					}
					if d, _ = h.CheckAt(now, 1); d.Allowed() {
						t.Fatalf("seed %d: more than Remaining passed", seed)
					}
				}
				if new(big.Rat).SetInt64(spent).Cmp(granted) > 0 {
					t.Fatalf("seed %d: %d tokens spent, %s allowed", seed, spent, granted.FloatString(3))
				}
			}
			d, _ := h.CheckAt(now, 0)
			if d, _ := h.CheckAt(now+int64(d.ResetAfter), 0); d.Remaining() < limit.Burst() && d.ResetAfter != 0 {
				t.Errorf("seed %d: not fresh at ResetAfter", seed)
			}
		})
	}
}

// A clock reading from before a change of the factor mints nothing.
func TestFactorWithLateClocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := newLimiter(t, flux.Config[string]{Limit: gcra.PerSecond(1000).WithBurst(10)})
		h := lim.Key(key)
		rnd := rand.New(rand.NewPCG(3, 4))
		spent, allowed := 0.0, 20.0 // the burst, and the 10ms that the first reading may be late
		for i := range 10_000 {
			time.Sleep(ms / 10)
			allowed += lim.Factor() / 10
			if i%100 == 50 {
				_ = lim.SetFactor([]float64{0.1, 1, 0.5, 0.01}[i/100%4])
			}
			if d, _ := h.CheckAt(lim.Now()-rnd.Int64N(int64(10*ms)), 1); d.Allowed() {
				spent++
			}
			if spent > allowed+1e-3 {
				t.Fatalf("at %v: %v spent, %v allowed", time.Duration(lim.Now()), spent, allowed)
			}
		}
		if spent < allowed-20 {
			t.Errorf("%v spent of %v", spent, allowed)
		}
	})
}

// A time that no clock could show is refused, however slow the paced clock is.
func TestFactorRefusesImpossibleTimes(t *testing.T) {
	lim := newLimiter(t, flux.Config[string]{Limit: gcra.PerSecond(10)})
	h := lim.Key(key)
	for _, f := range []float64{1, 0.5, 0.001} {
		if err := lim.SetFactor(f); err != nil {
			t.Fatal(err)
		}
		for _, now := range []int64{math.MinInt64, -1<<62 - 1, 1 << 62, math.MaxInt64} {
			if d, err := h.CheckAt(now, 1); !errors.Is(err, gcra.ErrTime) || d.Allowed() {
				t.Errorf("factor %v: CheckAt(%d) = %+v, %v", f, now, d, err)
			}
			if err := h.RefundAt(now, 1); !errors.Is(err, gcra.ErrTime) {
				t.Errorf("factor %v: RefundAt(%d) = %v", f, now, err)
			}
		}
	}
	if d, err := h.CheckAt(lim.Now(), 10); err != nil || !d.Allowed() {
		t.Errorf("the burst afterwards: %+v, %v", d, err)
	}
}

// The paced clock against exact arithmetic, there and back, either side of the
// change.
func FuzzPace(f *testing.F) {
	f.Add(int64(0), int64(0), uint64(1<<32), int64(5))
	f.Add(int64(7), int64(3), uint64(1<<31), int64(-9))
	f.Add(int64(1)<<61, int64(1)<<60, uint64(4294967), int64(1)<<61)
	f.Add(int64(1)<<61, -int64(1)<<60, uint64(4294968), -int64(1)<<61)
	f.Fuzz(func(t *testing.T, from, start int64, speed uint64, now int64) {
		speed = max(speed%(1<<32+1), 1<<32/1000)
		from, start, now = from%(1<<62), start%(1<<61), now%(1<<62)
		p := flux.NewPace(from, start, speed)
		exact := big.NewInt(now)
		exact.Sub(exact, big.NewInt(from)).Mul(exact, new(big.Int).SetUint64(speed))
		exact.Rsh(exact, 32).Add(exact, big.NewInt(start)) // rounds down
		at := p.At(now)
		if !exact.IsInt64() || at != exact.Int64() {
			t.Fatalf("at(%d) = %d, want %v", now, at, exact)
		}
		if next := p.At(now + 1); next != at && next != at+1 {
			t.Errorf("at(%d) = %d and a nanosecond later %d: a time was skipped", now, at, next)
		}
		until := p.Until(at)
		if until > now || p.At(until) != at || p.At(until-1) >= at {
			t.Errorf("until(at(%d) = %d) = %d, when it is %d, and %d before", now, at, until, p.At(until), p.At(until-1))
		}
	})
}

// A time that the paced clock reaches in centuries, if ever, is none to convert.
func TestPaceOutOfReach(t *testing.T) {
	p := flux.NewPace(0, 0, 1<<32/1000)
	if at := p.Until(math.MaxInt64); at != math.MaxInt64 {
		t.Errorf("until the end of time: %d", at)
	}
	if at := p.Until(int64(time.Hour)); p.At(at) < int64(time.Hour) || p.At(at-1) >= int64(time.Hour) {
		t.Errorf("until an hour: %v, when it is %v", time.Duration(at), time.Duration(p.At(at)))
	}
}

// The factor is raised while a timer serves those whose turn came before: time
// then lies less far on the paced clock, and turns that had come by it have not.
func TestFactorRaisedWhileTurnsAreGranted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lim *flux.Limiter[int]
		var raise atomic.Bool
		var calls, first atomic.Int64
		limitFor := func(k int) gcra.Limit { // with the lock of a room held
			if calls.Add(1) > 100_000 {
				panic("looks for those whose turn it is without end")
			}
			if raise.CompareAndSwap(true, false) {
				first.Store(int64(k))
				time.Sleep(10 * ms)
				go func() {
					if err := lim.SetFactor(1); err != nil {
						t.Error(err)
					}
				}()
				for lim.Factor() != 1 {
					runtime.Gosched()
				}
			}
			return gcra.Limit{}
		}
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // one room
		lim = newLimiter(t, flux.Config[int]{Limit: gcra.PerSecond(10).WithBurst(1), LimitFor: limitFor})
		if err := lim.SetFactor(0.5); err != nil {
			t.Fatal(err)
		}
		var turns [10]<-chan flux.Result
		for k := range turns {
			if d, err := lim.Check(t.Context(), k, 1); err != nil || !d.Allowed() {
				t.Fatal(d, err)
			}
			turns[k] = lim.WaitAsync(t.Context(), k, 1)
		}
		raise.Store(true)
		for k, turn := range turns {
			res, want := <-turn, 205*ms // the turn after 200ms, 10ms at half the pace ago
			if int64(k) == first.Load() {
				want = 200 * ms
			}
			if res.Err != nil || time.Duration(res.At) != want {
				t.Errorf("key %d: %v at %v, want %v", k, res.Err, time.Duration(res.At), want)
			}
		}
		if now := time.Duration(lim.Now()); raise.Load() || now != 210*ms {
			t.Errorf("the last turn was granted at %v, want 210ms", now)
		}
	})
}
