package flux_test

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
)

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := drained(t, flux.Config[string]{Limit: gcra.PerSecond(1)})
		async := lim.WaitAsync(t.Context(), key, 1)
		inner := make(chan error, 1)
		go func() { inner <- lim.Wait(t.Context(), key, 1) }()
		synctest.Wait()
		lim.Close()
		lim.Close()
		if err := (<-async).Err; !errors.Is(err, flux.ErrClosed) {
			t.Errorf("WaitAsync: %v", err)
		}
		if err := <-inner; !errors.Is(err, flux.ErrClosed) {
			t.Errorf("Wait: %v", err)
		}
		for _, k := range []string{key, "fresh"} {
			if err := lim.Wait(t.Context(), k, 1); !errors.Is(err, flux.ErrClosed) {
				t.Errorf("Wait after Close: %v", err)
			}
			if err := (<-lim.WaitAsync(t.Context(), k, 1)).Err; !errors.Is(err, flux.ErrClosed) {
				t.Errorf("WaitAsync after Close: %v", err)
			}
			if _, err := lim.Reserve(t.Context(), k, 1); !errors.Is(err, flux.ErrClosed) {
				t.Errorf("Reserve after Close: %v", err)
			}
		}
		if d, err := lim.Check(t.Context(), "fresh", 1); err != nil || !d.Allowed() {
			t.Errorf("Check after Close = %+v, %v", d, err)
		}
		if !lim.Idle() {
			t.Error("something was left behind")
		}
	})
}

// Everyone who joins while the limiter is being closed gets an answer.
func TestCloseRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 50 {
			lim := drained(t, flux.Config[string]{Limit: gcra.PerHour(1)})
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for {
						if err := (<-lim.WaitAsync(t.Context(), key, 1)).Err; !errors.Is(err, flux.ErrClosed) {
							t.Errorf("err = %v", err)
						}
						if lim.Wait(t.Context(), "fresh", 0) != nil {
							return
						}
					}
				})
				wg.Go(lim.Close)
			}
			wg.Wait()
			if !lim.Idle() {
				t.Error("something was left behind")
			}
		}
	})
}

// The limiter is closed between the look for tokens and the queue.
func TestCloseBeforeJoin(t *testing.T) {
	var lim *flux.Limiter[string]
	lim = newLimiter(t, flux.Config[string]{Limit: gcra.DenyAll(), LimitFor: func(string) gcra.Limit {
		lim.Close()
		return gcra.Limit{}
	}})
	if err := lim.Wait(t.Context(), key, 1); !errors.Is(err, flux.ErrClosed) {
		t.Errorf("err = %v", err)
	}
}
