package flux_test

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
)

// Pitfalls 6, 30: a limiter that would not limit is not made, and the error
// says which field is to blame.
func TestNewRefuses(t *testing.T) {
	ok := gcra.PerSecond(1)
	for _, tt := range []struct {
		cfg   flux.Config[string]
		field string
		want  error
	}{
		{flux.Config[string]{}, "Config.Limit", gcra.ErrInvalidLimit},
		{flux.Config[string]{Limit: gcra.PerSecond(0)}, "Config.Limit: flux: invalid limit: rate 0", gcra.ErrInvalidLimit},
		{flux.Config[string]{Limit: ok.WithBurst(0)}, "burst 0", gcra.ErrInvalidLimit},
		{flux.Config[string]{Limit: ok, MaxKeys: -1}, "Config.MaxKeys: -1", nil},
		{flux.Config[string]{Limit: ok, MaxWait: -1}, "Config.MaxWait: -1", nil},
		{flux.Config[string]{Limit: ok, MaxWaiters: -2}, "Config.MaxWaiters: -2", nil},
		{flux.Config[string]{Limit: ok, MaxKeyWaiters: -2}, "Config.MaxKeyWaiters: -2", nil},
		{flux.Config[string]{Limit: ok, MaxWaiters: 5, MaxKeyWaiters: 6}, "Config.MaxKeyWaiters: 6", nil},
	} {
		lim, err := flux.New(tt.cfg)
		if lim != nil || err == nil || !strings.Contains(err.Error(), tt.field) || tt.want != nil && !errors.Is(err, tt.want) {
			t.Errorf("New(%+v) = %v, %v; want an error about %s", tt.cfg, lim, err, tt.field)
		}
	}
	for _, limit := range []gcra.Limit{ok, gcra.Unlimited(), gcra.DenyAll()} {
		if _, err := flux.New(flux.Config[string]{Limit: limit}); err != nil {
			t.Errorf("%v: %v", limit, err)
		}
	}
}

func TestCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := newLimiter(t, flux.Config[string]{Limit: gcra.PerSecond(10)})
		h := lim.Key(key)
		time.Sleep(time.Second)
		for name, check := range map[string]func(n int64) (flux.Decision, error){
			"Check":   func(n int64) (flux.Decision, error) { return lim.Check(t.Context(), key, n) },
			"CheckAt": func(n int64) (flux.Decision, error) { return h.CheckAt(lim.Now(), n) },
			"CheckAsync": func(n int64) (flux.Decision, error) {
				r := <-lim.CheckAsync(t.Context(), key, n)
				return r.Decision, r.Err
			},
		} {
			start := lim.Now()
			for _, step := range []struct {
				n       int64
				allowed bool
				left    int64
				retry   time.Duration
				err     error
			}{
				{0, true, 10, 0, nil},
				{7, true, 3, 0, nil},
				{4, false, 3, 100 * ms, nil},
				{3, true, 0, 0, nil},
				{1, false, 0, 100 * ms, nil},
				{0, true, 0, 0, nil},
				{11, false, 0, gcra.Forever, gcra.ErrExceedsBurst},
				{-1, false, 0, 0, gcra.ErrNegative},
			} {
				d, err := check(step.n)
				if d.Allowed() != step.allowed || d.Remaining() != step.left || d.RetryAfter != step.retry || !errors.Is(err, step.err) {
					t.Errorf("%s(%d) = %+v, %v; want %+v", name, step.n, d, err, step)
				}
				if step.err == nil && (d.At != start || !lim.Time(d.At).Equal(time.Now())) {
					t.Errorf("%s(%d) was taken at %v", name, step.n, time.Duration(d.At))
				}
			}
			if err := lim.Refund(t.Context(), key, 4); err != nil {
				t.Error(err)
			}
			if err := h.RefundAt(lim.Now(), 2); err != nil {
				t.Error(err)
			}
			if d, _ := check(0); d.Remaining() != 6 {
				t.Errorf("%s: %d left after refunds, want 6", name, d.Remaining())
			}
			if d, err := lim.Debt(t.Context(), key, 6); err != nil || !d.Allowed() {
				t.Errorf("Debt = %+v, %v", d, err)
			}
			if d, err := h.DebtAt(lim.Now(), 25); err != nil || d.Allowed() || d.RetryAfter != 2500*ms {
				t.Errorf("DebtAt = %+v, %v", d, err)
			}
			if d, _ := check(1); d.Allowed() || d.RetryAfter != 2600*ms {
				t.Errorf("%s in debt = %+v", name, d)
			}
			_, debt := lim.Debt(t.Context(), key, -1)
			_, debtAt := h.DebtAt(lim.Now(), -1)
			for _, err := range []error{lim.Refund(t.Context(), key, -1), h.RefundAt(lim.Now(), -1), debt, debtAt} {
				if !errors.Is(err, gcra.ErrNegative) {
					t.Errorf("negative refund or debt: %v", err)
				}
			}
			time.Sleep(time.Minute)
		}
	})
}

// Pitfall 16: many goroutines at one instant spend exactly the burst.
func TestCheckRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const burst = 5000
		lim := newLimiter(t, flux.Config[string]{Limit: gcra.PerHour(burst)})
		var wg sync.WaitGroup
		var spent atomic.Int64
		for g := range 8 {
			wg.Go(func() {
				h := lim.Key(key)
				for i := range 2000 {
					var d flux.Decision
					if (g+i)%2 == 0 {
						d, _ = lim.Check(t.Context(), key, 1)
					} else {
						d, _ = h.CheckAt(lim.Now(), 1)
					}
					if d.Allowed() {
						spent.Add(1)
					}
				}
			})
		}
		wg.Wait()
		if spent.Load() != burst {
			t.Errorf("%d spent of %d", spent.Load(), burst)
		}
	})
}

// Pitfalls 21, 22: a flood of keys is given one limit's worth, and no tracked key
// gains or loses by it.
func TestKeyFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const burst, maxKeys = 10, 100
		lim := newLimiter(t, flux.Config[int]{Limit: gcra.PerHour(1).WithBurst(burst), MaxKeys: maxKeys})
		for k := range maxKeys {
			_, _ = lim.Check(t.Context(), k, 1)
		}
		admitted := 0
		for k := range 5000 {
			d, err := lim.Check(t.Context(), -1-k, 1)
			if err != nil {
				t.Fatal(err)
			}
			if d.Allowed() {
				admitted++
			}
		}
		if n := lim.Live(); n != maxKeys {
			t.Errorf("%d of %d keys owe tokens", n, maxKeys)
		}
		if s := lim.Stats(); admitted != burst || lim.Len() != maxKeys || s.Tracked != maxKeys || s.SharedCalls < 5000 || s.Evictions != 0 {
			t.Errorf("the flood was given %d; %+v", admitted, s)
		}
		for k := range maxKeys {
			if d, _ := lim.Check(t.Context(), k, 0); d.Remaining() != burst-1 {
				t.Fatalf("key %d has %d left", k, d.Remaining())
			}
		}
		// When those that were there are as good as new, they make room, and a
		// new key begins from what the flood left behind.
		time.Sleep(2 * time.Hour)
		if n := lim.Live(); n != 0 || lim.Len() != maxKeys {
			t.Errorf("%d of %d keys owe tokens after two hours", n, lim.Len())
		}
		for k := range 50 {
			_, _ = lim.Check(t.Context(), 1000+k, 1)
		}
		if s := lim.Stats(); s.Evictions == 0 || s.Tracked > maxKeys {
			t.Errorf("%+v", s)
		}
	})
}
