package flux_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
)

// Pitfalls 14, 15: what becomes of the tokens that a key has spent when its
// limit changes.
func TestSetLimitTransfer(t *testing.T) {
	hundred, ten := gcra.PerSecond(100), gcra.PerSecond(10)
	for _, tt := range []struct {
		name     string
		from, to gcra.Limit
		transfer flux.Transfer
		spent    int64
		debt     time.Duration
		left     int64
	}{
		{"raise", ten, hundred, flux.Proportional, 10, 100 * ms, 90},
		{"raise of an empty bucket", ten, hundred.WithBurst(10), flux.Proportional, 10, 100 * ms, 0},
		{"cut", hundred, ten, flux.Proportional, 5, 500 * ms, 5},
		{"cut locks nobody out", hundred, ten, flux.Proportional, 100, time.Second, 0},
		{"smaller burst", hundred, hundred.WithBurst(10), flux.Proportional, 100, 100 * ms, 0},
		{"to unlimited", ten, gcra.Unlimited(), flux.Proportional, 10, 0, 1<<63 - 1},
		{"to deny all", ten, gcra.DenyAll(), flux.Proportional, 5, 0, 0},
		{"keep, raised", ten, hundred, flux.Keep, 5, 500 * ms, 50},
		{"keep, cut", hundred, ten, flux.Keep, 50, 500 * ms, 5},
		{"reset", hundred, ten, flux.Reset, 100, 0, 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				check := func(name string, d flux.Decision, err error) {
					t.Helper()
					if err != nil || d.ResetAfter != tt.debt || d.Remaining() != tt.left || d.Limit() != tt.to {
						t.Errorf("%s: debt %v, %d left under %v, %v; want %v, %d under %v", name, d.ResetAfter, d.Remaining(), d.Limit(), err, tt.debt, tt.left, tt.to)
					}
				}
				// To a limit of the key's own, back to that of all, and from one to another.
				c := flux.Change{Transfer: tt.transfer}
				for name, ways := range map[string]struct {
					all    gcra.Limit
					before *gcra.Limit
					change func(lim *flux.Limiter[string]) error
				}{
					"own":        {tt.from, nil, func(lim *flux.Limiter[string]) error { return lim.SetLimit(key, tt.to, c) }},
					"back":       {tt.to, &tt.from, func(lim *flux.Limiter[string]) error { return lim.SetLimit(key, gcra.Limit{}, c) }},
					"own to own": {ten, &tt.from, func(lim *flux.Limiter[string]) error { return lim.SetLimits(map[string]gcra.Limit{key: tt.to}, c) }},
					"all": {tt.from, nil, func(lim *flux.Limiter[string]) error {
						if tt.transfer != flux.Proportional {
							return lim.SetLimit(key, tt.to, c)
						}
						return lim.SetDefault(tt.to, 0)
					}},
				} {
					lim := newLimiter(t, flux.Config[string]{Limit: ways.all})
					if ways.before != nil {
						if err := lim.SetLimit(key, *ways.before, flux.Change{}); err != nil {
							t.Fatal(err)
						}
					}
					h := lim.Key(key)
					if d, err := h.CheckAt(lim.Now(), tt.spent); err != nil || !d.Allowed() {
						t.Fatalf("%+v, %v", d, err)
					}
					if err := ways.change(lim); err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					d, err := lim.Check(t.Context(), key, 0)
					check(name, d, err)
					d, err = h.CheckAt(lim.Now(), 0)
					check(name+", by handle", d, err)
				}
			})
		})
	}
}

func TestSetLimitRefuses(t *testing.T) {
	lim := newLimiter(t, flux.Config[string]{Limit: gcra.PerSecond(10)})
	rate := func() int64 {
		d, err := lim.Check(t.Context(), key, 0)
		if err != nil {
			t.Fatal(err)
		}
		n, _ := d.Limit().Rate()
		return n
	}
	for i, step := range []struct {
		limit   gcra.Limit
		version uint64
		want    error
		rate    int64
	}{
		{gcra.PerSecond(20), 0, nil, 20},
		{gcra.PerSecond(30), 5, nil, 30},
		{gcra.PerSecond(40), 4, flux.ErrStaleLimit, 30},
		{gcra.PerSecond(40), 5, flux.ErrStaleLimit, 30},
		{gcra.PerSecond(-1), 6, gcra.ErrInvalidLimit, 30},
		{gcra.PerSecond(1).WithBurst(0), 6, gcra.ErrInvalidLimit, 30},
		{gcra.PerSecond(50), 0, nil, 50},
		{gcra.PerSecond(60), 5, flux.ErrStaleLimit, 50},
		{gcra.Limit{}, 6, nil, 10},
		{gcra.PerSecond(70), 6, flux.ErrStaleLimit, 10}, // a limit that was taken back does not come back
		{gcra.PerSecond(70), 7, nil, 70},
	} {
		if err := lim.SetLimit(key, step.limit, flux.Change{Version: step.version}); !errors.Is(err, step.want) || rate() != step.rate {
			t.Errorf("step %d: %v, rate %d; want %v, %d", i, err, rate(), step.want, step.rate)
		}
	}
	if err := lim.SetLimit(key, gcra.PerSecond(1), flux.Change{Transfer: 3}); err == nil || rate() != 70 {
		t.Errorf("unknown transfer: %v", err)
	}
	err := lim.SetLimits(map[string]gcra.Limit{key: gcra.PerSecond(80), "new": gcra.PerSecond(80)}, flux.Change{Version: 7})
	if d, _ := lim.Check(t.Context(), "new", 0); !errors.Is(err, flux.ErrStaleLimit) || rate() != 70 || d.Limit() != gcra.PerSecond(80) {
		t.Errorf("SetLimits: %v", err)
	}
	for i, step := range []struct {
		limit   gcra.Limit
		version uint64
		want    error
	}{
		{gcra.PerSecond(2), 2, nil},
		{gcra.PerSecond(1), 1, flux.ErrStaleLimit},
		{gcra.PerSecond(1), 2, flux.ErrStaleLimit},
		{gcra.Limit{}, 3, gcra.ErrInvalidLimit},
		{gcra.PerSecond(3), 0, nil},
		{gcra.PerSecond(4), 3, nil},
	} {
		before, _ := lim.Check(t.Context(), "other", 0)
		err := lim.SetDefault(step.limit, step.version)
		after, _ := lim.Check(t.Context(), "other", 0)
		if want := step.limit; !errors.Is(err, step.want) || step.want == nil && after.Limit() != want || step.want != nil && after.Limit() != before.Limit() {
			t.Errorf("step %d: %v, now %v", i, err, after.Limit())
		}
	}
}

// Those who wait follow a change of their key's limit, of everyone's, and of
// what LimitFor says.
func TestLimitChangeRetimesWaiters(t *testing.T) {
	var plan atomic.Int64
	plan.Store(10)
	for _, tt := range []struct {
		name   string
		cfg    flux.Config[string]
		change func(lim *flux.Limiter[string], limit gcra.Limit) error
	}{
		{"own", flux.Config[string]{Limit: gcra.PerSecond(10)}, func(lim *flux.Limiter[string], limit gcra.Limit) error {
			return lim.SetLimit(key, limit, flux.Change{})
		}},
		{"default", flux.Config[string]{Limit: gcra.PerSecond(10)}, func(lim *flux.Limiter[string], limit gcra.Limit) error {
			return lim.SetDefault(limit, 0)
		}},
	} {
		for _, to := range []struct {
			limit gcra.Limit
			want  []grant
		}{
			// At 350ms, three of ten have gone, and half of the next token is there.
			{gcra.PerSecond(100).WithBurst(10), []grant{{3, 355 * ms, nil}, {4, 375 * ms, nil}, {5, 425 * ms, nil}}},
			{gcra.PerSecond(1).WithBurst(10), []grant{{3, 850 * ms, nil}, {4, 2850 * ms, nil}, {5, 7850 * ms, nil}}},
			{gcra.PerSecond(10).WithBurst(4), []grant{{5, 350 * ms, gcra.ErrExceedsBurst}, {3, 450 * ms, nil}, {4, 650 * ms, nil}}},
			{gcra.DenyAll(), []grant{{3, 350 * ms, flux.ErrDenyAll}, {4, 350 * ms, flux.ErrDenyAll}, {5, 350 * ms, flux.ErrDenyAll}}},
			{gcra.Unlimited(), []grant{{3, 350 * ms, nil}, {4, 350 * ms, nil}, {5, 350 * ms, nil}}},
		} {
			t.Run(fmt.Sprint(tt.name, " to ", to.limit), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					lim := drained(t, tt.cfg)
					g := &grants{lim: lim}
					for id, n := range []int64{1, 1, 1, 1, 2, 5} {
						g.follow(id, lim.WaitAsync(t.Context(), key, n))
						synctest.Wait()
					}
					time.Sleep(350 * ms)
					synctest.Wait()
					if err := tt.change(lim, to.limit); err != nil {
						t.Fatal(err)
					}
					g.want(t, append([]grant{{0, 100 * ms, nil}, {1, 200 * ms, nil}, {2, 300 * ms, nil}}, to.want...)...)
				})
			})
		}
	}
}

// A reset forgives even what was booked beyond the burst.
func TestSetLimitResetsDebt(t *testing.T) {
	lim := newLimiter(t, flux.Config[string]{Limit: gcra.PerSecond(1)})
	if _, err := lim.Debt(t.Context(), key, 1<<40); err != nil {
		t.Fatal(err)
	}
	if err := lim.SetLimit(key, gcra.PerSecond(2), flux.Change{Transfer: flux.Reset}); err != nil {
		t.Fatal(err)
	}
	if d, err := lim.Check(t.Context(), key, 2); err != nil || !d.Allowed() {
		t.Errorf("Check = %+v, %v", d, err)
	}
}

// LimitFor is asked on every check, and answers for what it returns.
func TestLimitFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var own atomic.Pointer[gcra.Limit]
		own.Store(new(gcra.Limit{}))
		lim := newLimiter(t, flux.Config[string]{
			Limit:    gcra.PerSecond(10),
			LimitFor: func(k string) gcra.Limit { return *own.Load() },
		})
		h := lim.Key(key)
		for _, tt := range []struct{ own, want gcra.Limit }{
			{gcra.Limit{}, gcra.PerSecond(10)},
			{gcra.PerSecond(20), gcra.PerSecond(20)},
			{gcra.PerSecond(30), gcra.PerSecond(30)},
			{gcra.Unlimited(), gcra.Unlimited()},
			{gcra.DenyAll(), gcra.DenyAll()},
			{gcra.Limit{}, gcra.PerSecond(10)},
		} {
			own.Store(&tt.own)
			d, err := lim.Check(t.Context(), key, 1)
			if err != nil || d.Limit() != tt.want {
				t.Errorf("Check under %v = %v, %v", tt.want, d.Limit(), err)
			}
			if d, err := h.CheckAt(lim.Now(), 1); err != nil || d.Limit() != tt.want {
				t.Errorf("CheckAt under %v = %v, %v", tt.want, d.Limit(), err)
			}
		}
		own.Store(new(gcra.PerSecond(5).WithBurst(-2)))
		if d, err := lim.Check(t.Context(), key, 1); !errors.Is(err, gcra.ErrInvalidLimit) || d.Allowed() {
			t.Errorf("Check under an invalid limit = %+v, %v", d, err)
		}
		if d, err := h.CheckAt(lim.Now(), 1); !errors.Is(err, gcra.ErrInvalidLimit) || d.Allowed() {
			t.Errorf("CheckAt under an invalid limit = %+v, %v", d, err)
		}
		if err := lim.Refund(t.Context(), key, 1); !errors.Is(err, gcra.ErrInvalidLimit) {
			t.Errorf("Refund under an invalid limit: %v", err)
		}
		// A limit that was set goes before.
		if err := lim.SetLimit(key, gcra.PerSecond(7), flux.Change{}); err != nil {
			t.Fatal(err)
		}
		if d, err := h.CheckAt(lim.Now(), 0); err != nil || d.Limit() != gcra.PerSecond(7) {
			t.Errorf("CheckAt = %v, %v", d.Limit(), err)
		}
	})
}

// Those who wait follow a LimitFor that changed its mind within a second, and a
// queue that nobody could wait in any more starts anew.
func TestLimitForRetimesWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var plan atomic.Pointer[gcra.Limit]
		plan.Store(new(gcra.Per(5, time.Hour)))
		lim := newLimiter(t, flux.Config[string]{
			Limit:    gcra.PerSecond(1),
			LimitFor: func(string) gcra.Limit { return *plan.Load() },
		})
		_, _ = lim.Check(t.Context(), key, 5)
		g := &grants{lim: lim}
		for id, n := range []int64{1, 3, 3} {
			g.follow(id, lim.WaitAsync(t.Context(), key, n))
			synctest.Wait()
		}
		time.Sleep(1500 * ms)
		plan.Store(new(gcra.Per(100, time.Minute).WithBurst(2)))
		time.Sleep(time.Second)
		plan.Store(new(gcra.PerSecond(1000).WithBurst(1 << 40)))
		// The burst of 2 has no room for 3: they left at once when it was seen.
		g.want(t, grant{1, 2000 * ms, gcra.ErrExceedsBurst}, grant{2, 2000 * ms, gcra.ErrExceedsBurst}, grant{0, 3000 * ms, nil})

		plan.Store(new(gcra.PerSecond(10)))
		_, _ = lim.Check(t.Context(), "other", 10)
		var gone [3]<-chan flux.Result
		for i := range gone {
			gone[i] = lim.WaitAsync(t.Context(), "other", 10)
		}
		plan.Store(new(gcra.PerSecond(10).WithBurst(5)))
		one := lim.WaitAsync(t.Context(), "other", 1)
		for i, ch := range gone {
			if len(ch) != 1 {
				t.Errorf("%d is still there", i)
			}
		}
		if d, _ := lim.Check(t.Context(), "other", 1); d.RetryAfter != 700*ms {
			t.Errorf("RetryAfter behind one with its turn in 600ms = %v, want 700ms", d.RetryAfter)
		}
		start := lim.Now()
		if <-one; time.Duration(lim.Now()-start) != 600*ms {
			t.Errorf("its turn came after %v, want 600ms", time.Duration(lim.Now()-start))
		}
	})
}

// Changes of a limit that keep the debt neither mint nor lose tokens, whatever
// checks run at the same time: by key, by handle, and by those who wait.
func TestSetLimitRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const burst = 3000
		lim := newLimiter(t, flux.Config[string]{Limit: gcra.Per(1, time.Hour).WithBurst(burst)})
		var spent atomic.Int64
		var wg sync.WaitGroup
		for g := range 6 {
			wg.Go(func() {
				h := lim.Key(key)
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				for range 2000 {
					switch g % 3 {
					case 0:
						if d, _ := lim.Check(t.Context(), key, 1); d.Allowed() {
							spent.Add(1)
						}
					case 1:
						if d, _ := h.CheckAt(lim.Now(), 2); d.Allowed() {
							spent.Add(2)
						}
					default:
						if (<-lim.WaitAsync(ctx, key, 1)).Err == nil {
							spent.Add(1)
						}
					}
				}
			})
		}
		wg.Go(func() {
			for i := range 500 {
				limit := gcra.Limit{}
				if i%2 == 0 {
					limit = gcra.Per(1, time.Hour).WithBurst(burst / 2)
				}
				if err := lim.SetLimit(key, limit, flux.Change{Version: uint64(i + 1), Transfer: flux.Keep}); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Wait()
		d, _ := lim.Check(t.Context(), key, 0)
		if got := burst - d.Remaining(); got != spent.Load() {
			t.Errorf("%d were charged and %d given out", got, spent.Load())
		}
		if !lim.Idle() {
			t.Error("something was left behind")
		}
	})
}

// A default that is raised while checks are running: what was spent is charged,
// under whichever limit it was.
func TestSetDefaultRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := func(burst int64) gcra.Limit { return gcra.Per(1, time.Hour).WithBurst(burst) }
		lim := newLimiter(t, flux.Config[int]{Limit: limit(100)})
		var spent [20]atomic.Int64
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				h := lim.Key(0)
				for i := range 20_000 {
					k := i % len(spent)
					check := func() (flux.Decision, error) { return lim.Check(t.Context(), k, 1) }
					if k == 0 {
						check = func() (flux.Decision, error) { return h.CheckAt(lim.Now(), 1) }
					}
					if d, _ := check(); d.Allowed() {
						spent[k].Add(1)
					}
				}
			})
		}
		wg.Go(func() {
			for burst := int64(110); burst <= 2000; burst += 10 {
				if err := lim.SetDefault(limit(burst), uint64(burst)); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Wait()
		for k := range spent {
			d, _ := lim.Check(t.Context(), k, 0)
			if got := 2000 - d.Remaining(); got != spent[k].Load() {
				t.Errorf("key %d: %d were charged and %d given out", k, got, spent[k].Load())
			}
		}
	})
}

// A change of the limiter's limit is none of those keys' that have their own.
func TestSetDefaultLeavesOwnLimits(t *testing.T) {
	lim := newLimiter(t, flux.Config[string]{Limit: gcra.PerHour(10), LimitFor: func(k string) (own gcra.Limit) {
		if k == "plan" {
			own = gcra.PerHour(30)
		}
		return own
	}})
	if err := lim.SetLimit("set", gcra.PerHour(20), flux.Change{}); err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"set", "plan", "other"} {
		_, _ = lim.Check(t.Context(), k, 5)
	}
	if err := lim.SetDefault(gcra.PerHour(100), 0); err != nil {
		t.Fatal(err)
	}
	for k, want := range map[string]int64{"set": 15, "plan": 25, "other": 95} {
		if d, _ := lim.Check(t.Context(), k, 0); d.Remaining() != want {
			t.Errorf("%s has %d left, want %d", k, d.Remaining(), want)
		}
	}
}

// Nobody is let through while a limit that denies everything takes the place of
// another, and turns come that belong to neither.
func TestSetDefaultToDenyAllWithWaiters(t *testing.T) {
	lim := newLimiter(t, flux.Config[int]{Limit: gcra.PerSecond(20_000).WithBurst(1)})
	for k := range 50_000 { // it takes a while to go over them
		_, _ = lim.Debt(t.Context(), k, 100_000)
	}
	if _, err := lim.Debt(t.Context(), -1, 1000); err != nil { // some 50ms
		t.Fatal(err)
	}
	var turns []<-chan flux.Result
	for range 5000 {
		turns = append(turns, lim.WaitAsync(t.Context(), -1, 1))
	}
	for len(turns[0]) == 0 {
		runtime.Gosched()
	}
	var over atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for !over.Load() {
			if d, err := lim.Check(t.Context(), -1, 1); err != nil || d.Allowed() {
				t.Errorf("Check behind others: %+v, %v", d, err)
				return
			}
		}
	})
	if err := lim.SetDefault(gcra.DenyAll(), 0); err != nil {
		t.Error(err)
	}
	over.Store(true)
	wg.Wait()
	granted := 0
	for _, turn := range turns {
		switch res := <-turn; {
		case res.Err == nil && res.Spent == 1:
			granted++
		case !errors.Is(res.Err, flux.ErrDenyAll):
			t.Fatalf("%+v", res)
		}
	}
	if granted == len(turns) {
		t.Error("all turns had come before the change: the test shows nothing")
	}
}
