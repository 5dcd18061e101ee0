package flux_test

import (
	"context"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
)

// More words than four, or fields, and the compiler keeps a value in memory,
// where a check takes twice as long.
func TestDecisionFitsRegisters(t *testing.T) {
	const most = 4 * unsafe.Sizeof(uintptr(0))
	if n := unsafe.Sizeof(flux.Decision{}); n > most && most == 32 {
		t.Errorf("a flux.Decision takes %d bytes", n)
	}
	if n := unsafe.Sizeof(gcra.Decision{}); n > most && most == 32 {
		t.Errorf("a gcra.Decision takes %d bytes", n)
	}
}

// A Checker of one's own can say whatever a Limiter can.
func TestNewDecision(t *testing.T) {
	limit := gcra.PerSecond(10)
	d := flux.NewDecision(limit, 5, 0, 300*ms)
	if !d.Allowed() || d.At != 5 || d.Limit() != limit || d.DeniedBy() != "" || d.Remaining() != 7 || d.Largest() != 7 || d.Delay(8) != 100*ms {
		t.Errorf("an admission: %+v", d)
	}
	denied := d
	denied.RetryAfter, denied.ResetAfter = 100*ms, time.Second
	if denied.Allowed() || denied.Remaining() != 0 || !d.Allowed() {
		t.Errorf("its copy, made a denial: %+v", denied)
	}
	if n := flux.NewDecision(gcra.Limit{}, 0, 0, 0); !n.Allowed() || n.Limit() != (gcra.Limit{}) || n.Remaining() != 0 || n.Delay(1) != gcra.Forever {
		t.Errorf("an admission by nobody knows what: %+v", n)
	}
	if z := (flux.Decision{}); z.Allowed() || z.Limit() != (gcra.Limit{}) || z.DeniedBy() != "" || z.Remaining() != 0 || z.Largest() != 0 || z.Delay(1) != gcra.Forever {
		t.Errorf("the zero Decision: %+v", z)
	}
}

// A denial stays one in a chain, though its Checker does not know for how long.
func TestChainOfOneThatDoesNotKnow(t *testing.T) {
	silent := broken{} // admits, of a limit that nobody knows
	mute := muteLimit{}
	chain, err := flux.Chain(flux.Link[string]{Name: "silent", Checker: silent}, flux.Link[string]{Name: "mute", Checker: mute})
	if err != nil {
		t.Fatal(err)
	}
	if d, err := chain.Check(t.Context(), key, 1); err != nil || d.Allowed() || d.DeniedBy() != "mute" {
		t.Errorf("Check = %+v, %v", d, err)
	}
}

// muteLimit denies, and says nothing about it.
type muteLimit struct{ broken }

func (muteLimit) Check(context.Context, string, int64) (flux.Decision, error) {
	return flux.Decision{}, nil
}

// While the limiter's limit is replaced, a decision names the limit that it was
// taken with.
func TestDecisionNamesItsLimit(t *testing.T) {
	// So that those who decide and the one who changes the limit do take turns.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(8))
	long, short := gcra.PerHour(1), gcra.PerSecond(1_000_000).WithBurst(5)
	lim := newLimiter(t, flux.Config[string]{Limit: short})
	// Most of a call by key is hashing the key, while the limit is replaced.
	name, other := strings.Repeat("n", 1<<20), strings.Repeat("o", 1<<20)
	// A call with a time before the keys that were forgotten is denied by what they
	// owed. It needs a lock, and the limit is replaced while it waits for that.
	early := lim.Now()
	for k := range 1000 {
		if _, err := lim.Check(t.Context(), strconv.Itoa(k), 5); err != nil {
			t.Fatal(err)
		}
	}
	for lim.Len() > 0 {
		if _, err := lim.CleanupStale(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}
	var done atomic.Bool
	var wg sync.WaitGroup
	for g := range 6 {
		forgotten := lim.Key("forgotten")
		decide := []func() (flux.Decision, error){
			func() (flux.Decision, error) { return lim.Check(t.Context(), name, 1) },
			func() (flux.Decision, error) { return lim.Debt(t.Context(), other, 1) },
			func() (flux.Decision, error) { return forgotten.CheckAt(early, 1) },
		}[min(g, 2)]
		wg.Go(func() {
			for !done.Load() {
				d, err := decide()
				if err != nil {
					t.Error(err)
					return
				}
				by := short
				switch {
				case d.Allowed() && d.ResetAfter > time.Minute || !d.Allowed() && g != 1 && d.RetryAfter == d.ResetAfter:
					by = long // which has a burst of one
				case !d.Allowed() && g == 1:
					by = d.Limit()
				}
				if d.Limit() != by {
					t.Errorf("way %d: denied for %v with a debt of %v under %v", g, d.RetryAfter, d.ResetAfter, d.Limit())
					return
				}
			}
		})
	}
	for i := range 2_000 {
		if err := lim.SetDefault([]gcra.Limit{long, short}[i%2], 0); err != nil {
			t.Error(err)
		}
	}
	done.Store(true)
	wg.Wait()
}

// The limiter's limit is replaced after a call has looked at it and before the
// call decides: the decision names the new one.
func TestDecisionNamesTheLimitThatCameBetween(t *testing.T) {
	old, next := gcra.PerHour(10), gcra.PerHour(20)
	for name, decide := range map[string]func(lim *flux.Limiter[string], h *flux.Handle[string]) (flux.Decision, error){
		"Check": func(lim *flux.Limiter[string], _ *flux.Handle[string]) (flux.Decision, error) {
			return lim.Check(t.Context(), key, 1)
		},
		"CheckAt": func(lim *flux.Limiter[string], h *flux.Handle[string]) (flux.Decision, error) {
			return h.CheckAt(lim.Now(), 1)
		},
		"Debt": func(lim *flux.Limiter[string], _ *flux.Handle[string]) (flux.Decision, error) {
			return lim.Debt(t.Context(), key, 1)
		},
		"DebtAt": func(lim *flux.Limiter[string], h *flux.Handle[string]) (flux.Decision, error) {
			return h.DebtAt(lim.Now(), 1)
		},
		"WaitAsync": func(lim *flux.Limiter[string], _ *flux.Handle[string]) (flux.Decision, error) {
			res := <-lim.WaitAsync(t.Context(), key, 1)
			return res.Decision, res.Err
		},
		"CheckAll": func(lim *flux.Limiter[string], _ *flux.Handle[string]) (flux.Decision, error) {
			res, err := lim.CheckAll(t.Context(), []flux.Request[string]{{Key: key, N: 1}}, flux.AllOrNothing)
			return res[0].Decision, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			var lim *flux.Limiter[string]
			var between func()
			lim = newLimiter(t, flux.Config[string]{Limit: old, LimitFor: func(string) (none gcra.Limit) {
				if f := between; f != nil {
					between = nil
					f()
				}
				return none
			}})
			h := lim.Key(key)
			for _, limit := range []gcra.Limit{next, old, next} {
				between = func() {
					if err := lim.SetDefault(limit, 0); err != nil {
						t.Error(err)
					}
				}
				d, err := decide(lim, h)
				if err != nil || !d.Allowed() || d.Limit() != limit {
					t.Errorf("%v, allowed %v, %v; want %v", d.Limit(), d.Allowed(), err, limit)
				}
			}
		})
	}
}

// The same between the two looks of a CheckAt that needs no more: it spends once.
func TestLimitChangesWithinCheckAt(t *testing.T) {
	old, next := gcra.PerHour(10), gcra.PerHour(20)
	lim := newLimiter(t, flux.Config[string]{Limit: old})
	h := lim.Key(key)
	now := lim.Now()
	if d, err := h.CheckAt(now, 1); err != nil || d.Limit() != old || d.Remaining() != 9 {
		t.Fatal(d, err)
	}
	h.Between(func() {
		if err := lim.SetDefault(next, 0); err != nil {
			t.Fatal(err)
		}
	})
	for left := int64(17); left > 10; left-- { // a tenth of the burst was spent
		if d, err := h.CheckAt(now, 1); err != nil || !d.Allowed() || d.Limit() != next || d.Remaining() != left {
			t.Errorf("%v, %d left, %v; want %v, %d", d.Limit(), d.Remaining(), err, next, left)
		}
	}
}
