package flux_test

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
)

// spend uses the keys from to to-1.
func spend(t *testing.T, lim *flux.Limiter[string], from, to int, n int64) {
	t.Helper()
	for i := from; i < to; i++ {
		if d, err := lim.Check(t.Context(), strconv.Itoa(i), n); err != nil || !d.Allowed() {
			t.Fatalf("Check = %+v, %v", d, err)
		}
	}
}

func TestCleanupStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := newLimiter(t, flux.Config[string]{Limit: gcra.PerSecond(1).WithBurst(10)})
		spend(t, lim, 0, 10_000, 1)
		spend(t, lim, 10_000, 20_000, 5)
		for _, step := range []struct {
			sleep, older time.Duration
			want         int
		}{
			{time.Second - 1, 0, 0},
			{1, time.Millisecond, 0},
			{0, 0, 10_000},
			{0, 0, 0},
			{4 * time.Second, 0, 10_000},
		} {
			time.Sleep(step.sleep)
			if n, err := lim.CleanupStale(t.Context(), step.older); n != step.want || err != nil {
				t.Errorf("%v: CleanupStale = %d, %v, want %d", time.Duration(lim.Now()), n, err, step.want)
			}
		}
		if lim.Len() != 0 {
			t.Errorf("%d keys are left", lim.Len())
		}
	})
}

func TestCleanupStaleAsync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := newLimiter(t, flux.Config[string]{Limit: gcra.PerSecond(1)})
		spend(t, lim, 0, 100, 1)
		time.Sleep(time.Minute)
		if res := <-lim.CleanupStaleAsync(t.Context(), time.Second); res.Removed != 100 || res.Err != nil {
			t.Errorf("%+v", res)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if res := <-lim.CleanupStaleAsync(ctx, 0); !errors.Is(res.Err, context.Canceled) {
			t.Errorf("with an ended context: %+v", res)
		}
		if res := <-lim.CleanupStaleAsync(t.Context(), -1); res.Err == nil {
			t.Errorf("with a negative age: %+v", res)
		}
	})
}

// A batch that began up to a second ago is decided as if nothing had been
// forgotten meanwhile.
func TestCleanupDuringABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := newLimiter(t, flux.Config[string]{Limit: gcra.PerSecond(10).WithBurst(1)})
		defer lim.StartCleanup(t.Context(), flux.Cleanup{Interval: 10 * time.Second})()
		const interval = 10 * time.Second
		for i := range 100 {
			before := time.Duration(i) * 10 * ms // the sweep
			time.Sleep(interval - before - time.Duration(lim.Now())%interval)
			now := lim.Now()
			spend(t, lim, 0, 1000, 1) // as good as new 100ms later
			time.Sleep(before + 5*ms)
			synctest.Wait()
			for k := range 20 {
				if d, err := lim.Key(strconv.Itoa(-1-20*i-k)).CheckAt(now, 1); err != nil || !d.Allowed() {
					t.Fatalf("a batch that began %v before the sweep: a new key is denied for %v, %v", before, d.RetryAfter, err)
				}
			}
		}
	})
}

// The cleanup goroutine ends with its context and with stop: a synctest bubble
// fails if one is left.
func TestStartCleanup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := newLimiter(t, flux.Config[string]{Limit: gcra.PerSecond(1).WithBurst(10)})
		spend(t, lim, 0, 10, 1)
		spend(t, lim, 10, 20, 2)
		stop := lim.StartCleanup(t.Context(), flux.Cleanup{Interval: 1500 * time.Millisecond})
		for _, want := range []int{20, 20, 20, 0} {
			if n := lim.Len(); n != want {
				t.Errorf("at %v: %d keys, want %d", time.Duration(lim.Now()), n, want)
			}
			time.Sleep(time.Second)
			synctest.Wait()
		}
		stop()
		stop()
		spend(t, lim, 0, 10, 1)
		time.Sleep(time.Hour)
		if n := lim.Len(); n != 10 {
			t.Errorf("after stop: %d keys, want 10", n)
		}

		ctx, cancel := context.WithCancel(t.Context())
		stop = lim.StartCleanup(ctx, flux.Cleanup{})
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := lim.Len(); n != 0 {
			t.Errorf("with the defaults: %d keys, want 0", n)
		}
		cancel()
		synctest.Wait()
		stop()
	})
}
