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

// The cleanup goroutine ends with its context and with stop: a synctest bubble
// fails if one is left.
func TestStartCleanup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := newLimiter(t, flux.Config[string]{Limit: gcra.PerSecond(1).WithBurst(10)})
		spend(t, lim, 0, 10, 1)
		spend(t, lim, 10, 20, 2)
		stop := lim.StartCleanup(t.Context(), flux.Cleanup{Interval: 1500 * time.Millisecond})
		for _, want := range []int{20, 20, 10, 0} {
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
