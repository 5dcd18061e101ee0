package flux_test

import (
	"context"
	"runtime"
	"sync"
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
	// More threads than processors: the system stops some of them in the middle of
	// a call, for long enough to change the limit meanwhile.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(8))
	long, short := gcra.PerHour(1), gcra.PerSecond(1_000_000).WithBurst(5)
	lim := newLimiter(t, flux.Config[int]{Limit: long, MaxKeys: 50_000})
	done := make(chan struct{})
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			for k := 1 + g; ; k += 6 {
				select {
				case <-done:
					return
				default:
				}
				var d flux.Decision
				var err error
				switch k % 4 {
				case 0:
					d, err = lim.Key(k).CheckAt(lim.Now(), 1)
				case 1:
					d, err = lim.Debt(t.Context(), k, 1)
				default:
					d, err = lim.Check(t.Context(), k, 1)
				}
				// A call that came late may be denied for what a forgotten key owed.
				asLong := d.ResetAfter > time.Minute || !d.Allowed() && d.Limit() == long
				if err != nil || asLong != (d.Limit() == long) || d.Limit() != long && d.Limit() != short {
					t.Errorf("key %d: a debt of %v under %v, %v", k, d.ResetAfter, d.Limit(), err)
					return
				}
			}
		})
	}
	for i := range 400 {
		if err := lim.SetDefault([]gcra.Limit{short, long}[i%2], 0); err != nil {
			t.Error(err)
		}
	}
	close(done)
	wg.Wait()
}
