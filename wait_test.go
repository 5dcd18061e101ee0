package flux_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
)

const key = "tenant"

// drained returns a limiter whose key has nothing left.
func drained(t *testing.T, cfg flux.Config[string]) *flux.Limiter[string] {
	t.Helper()
	lim := newLimiter(t, cfg)
	if d, err := lim.Check(t.Context(), key, cfg.Limit.Burst()); err != nil || !d.Allowed() {
		t.Fatalf("Check of the burst = %+v, %v", d, err)
	}
	return lim
}

// grants collects when results arrive.
type grants struct {
	lim  *flux.Limiter[string]
	wg   sync.WaitGroup
	mu   sync.Mutex
	list []grant
}

type grant struct {
	id  int
	at  time.Duration // since the limiter was made
	err error
}

func (g *grants) follow(id int, ch <-chan flux.Result) {
	g.wg.Go(func() {
		res := <-ch
		g.mu.Lock()
		defer g.mu.Unlock()
		g.list = append(g.list, grant{id, time.Duration(g.lim.Now()), res.Err})
	})
}

func (g *grants) want(t *testing.T, want ...grant) {
	t.Helper()
	g.wg.Wait()
	// The goroutines that were told at the same instant ran in any order.
	slices.SortFunc(g.list, func(a, b grant) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.id, b.id)) })
	if !slices.EqualFunc(g.list, want, func(a, b grant) bool { return a.id == b.id && a.at == b.at && errors.Is(a.err, b.err) }) {
		t.Errorf("got  %v\nwant %v", g.list, want)
	}
	if !g.lim.Idle() {
		t.Error("something was left behind")
	}
}

const ms = time.Millisecond

// Pitfall 18: first in, first out, whatever the number of tokens.
func TestWaitIsFIFO(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := drained(t, flux.Config[string]{Limit: gcra.PerSecond(10)})
		g := &grants{lim: lim}
		for id, n := range []int64{1, 10, 1, 2, 1} {
			g.follow(id, lim.WaitAsync(t.Context(), key, n))
			synctest.Wait()
		}
		g.want(t, grant{0, 100 * ms, nil}, grant{1, 1100 * ms, nil}, grant{2, 1200 * ms, nil},
			grant{3, 1400 * ms, nil}, grant{4, 1500 * ms, nil})
	})
}

func TestWaitCancel(t *testing.T) {
	for _, tt := range []struct {
		name   string
		cancel int
		want   []grant
	}{
		{"head", 0, []grant{{0, 50 * ms, context.Canceled}, {1, 200 * ms, nil}, {2, 300 * ms, nil}, {3, 600 * ms, nil}}},
		{"middle", 2, []grant{{2, 50 * ms, context.Canceled}, {0, 100 * ms, nil}, {1, 300 * ms, nil}, {3, 600 * ms, nil}}},
		{"tail", 3, []grant{{3, 50 * ms, context.Canceled}, {0, 100 * ms, nil}, {1, 300 * ms, nil}, {2, 400 * ms, nil}}},
	} {
		for _, async := range []bool{true, false} {
			t.Run(tt.name+"/async="+strconv.FormatBool(async), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					lim := drained(t, flux.Config[string]{Limit: gcra.PerSecond(10)})
					g := &grants{lim: lim}
					ctxs := make([]context.CancelFunc, 4)
					for id, n := range []int64{1, 2, 1, 3} {
						ctx, cancel := context.WithCancel(t.Context())
						defer cancel()
						ctxs[id] = cancel
						if async {
							g.follow(id, lim.WaitAsync(ctx, key, n))
						} else {
							ch := make(chan flux.Result, 1)
							go func() { ch <- flux.Result{Err: lim.Wait(ctx, key, n)} }()
							g.follow(id, ch)
						}
						synctest.Wait()
					}
					time.Sleep(50 * ms)
					ctxs[tt.cancel]()
					g.want(t, tt.want...)
				})
			})
		}
	}
}

// Pitfall 19, golang/go#56924, golang/go#69419: who gave up has no place in the
// queue any more, and spent nothing.
func TestCancelledWaitersLeaveNoDebt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := drained(t, flux.Config[string]{Limit: gcra.PerSecond(10)})
		ctx, cancel := context.WithCancel(t.Context())
		results := make([]<-chan flux.Result, 1000)
		for i := range results {
			results[i] = lim.WaitAsync(ctx, key, 1+int64(i%10))
		}
		if d, _ := lim.Check(t.Context(), key, 1); d.Allowed() || d.RetryAfter != 550100*ms {
			t.Errorf("Check behind 1,000 waiters = %v, want a denial for 550.1s", d.RetryAfter)
		}
		cancel()
		for i, ch := range results {
			if res := <-ch; !errors.Is(res.Err, context.Canceled) || res.Spent != 0 || res.Allowed() {
				t.Fatalf("waiter %d: %+v", i, res)
			}
		}
		start := lim.Now()
		if err := lim.Wait(t.Context(), key, 1); err != nil {
			t.Fatal(err)
		}
		if waited := time.Duration(lim.Now() - start); waited != 100*ms {
			t.Errorf("the next one waited for %v, want 100ms", waited)
		}
		if !lim.Idle() {
			t.Error("something was left behind")
		}
	})
}

func TestParkedWaitersAreNotGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 100_000
		lim := drained(t, flux.Config[string]{Limit: gcra.PerSecond(1000), MaxKeyWaiters: n})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		before := runtime.NumGoroutine()
		results := make([]<-chan flux.Result, n)
		for i := range results {
			results[i] = lim.WaitAsync(ctx, key, 1)
		}
		if after := runtime.NumGoroutine(); after > before {
			t.Errorf("%d goroutines before, %d with %d waiters", before, after, n)
		}
		for i, ch := range results {
			res := <-ch
			if want := time.Duration(i+1) * ms; res.Err != nil || time.Duration(res.At) != want || time.Duration(lim.Now()) != want {
				t.Fatalf("waiter %d came at %v, its decision is of %v, %v; want %v", i, time.Duration(lim.Now()), time.Duration(res.At), res.Err, want)
			}
		}
	})
}

// Pitfalls 10, 11, 20: what cannot be waited for fails at once, with an error
// of its own, and spends nothing.
func TestWaitThatCannotBe(t *testing.T) {
	base := flux.Config[string]{Limit: gcra.PerSecond(10)}
	in := func(d time.Duration) func(t *testing.T) context.Context {
		return func(t *testing.T) context.Context {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), d)
			t.Cleanup(cancel)
			return ctx
		}
	}
	ended := func(t *testing.T) context.Context {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		return ctx
	}
	for _, tt := range []struct {
		name string
		cfg  flux.Config[string]
		ctx  func(*testing.T) context.Context
		n    int64
		want error
		long time.Duration
	}{
		{name: "negative", cfg: base, n: -1, want: gcra.ErrNegative},
		{name: "more than the burst", cfg: base, n: 11, want: gcra.ErrExceedsBurst},
		{name: "deny all", cfg: flux.Config[string]{Limit: gcra.DenyAll()}, n: 1, want: flux.ErrDenyAll},
		{name: "deny all, nothing wanted", cfg: flux.Config[string]{Limit: gcra.DenyAll()}, want: flux.ErrDenyAll},
		{name: "context ended", cfg: base, ctx: ended, n: 1, want: context.Canceled},
		{name: "deadline before", cfg: base, ctx: in(300*ms - 1), n: 3, want: flux.ErrWaitTooLong, long: 300 * ms},
		{name: "deadline at", cfg: base, ctx: in(300 * ms), n: 3, want: flux.ErrWaitTooLong, long: 300 * ms},
		{name: "deadline after", cfg: base, ctx: in(300*ms + 1), n: 3},
		{name: "max wait", cfg: flux.Config[string]{Limit: gcra.PerSecond(10), MaxWait: 300*ms - 1}, n: 3, want: flux.ErrWaitTooLong, long: 300 * ms},
		{name: "within max wait", cfg: flux.Config[string]{Limit: gcra.PerSecond(10), MaxWait: 300 * ms}, n: 3},
		{name: "invalid own limit", cfg: flux.Config[string]{Limit: gcra.PerSecond(10), LimitFor: func(string) gcra.Limit { return gcra.PerSecond(-1) }}, n: 1, want: gcra.ErrInvalidLimit},
		{name: "nothing wanted", cfg: base},
		{name: "unlimited", cfg: flux.Config[string]{Limit: gcra.Unlimited()}, n: 1 << 60},
	} {
		for name, wait := range map[string]func(lim *flux.Limiter[string], ctx context.Context) error{
			"Wait": func(lim *flux.Limiter[string], ctx context.Context) error { return lim.Wait(ctx, key, tt.n) },
			"WaitAsync": func(lim *flux.Limiter[string], ctx context.Context) error {
				return (<-lim.WaitAsync(ctx, key, tt.n)).Err
			},
			"Reserve": func(lim *flux.Limiter[string], ctx context.Context) error {
				r, err := lim.Reserve(ctx, key, tt.n)
				if err == nil {
					time.Sleep(r.Delay())
				}
				return err
			},
		} {
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					lim := newLimiter(t, tt.cfg)
					if tt.cfg.LimitFor == nil && !tt.cfg.Limit.IsUnlimited() {
						_, _ = lim.Check(t.Context(), key, tt.cfg.Limit.Burst())
					}
					ctx := t.Context()
					if tt.ctx != nil {
						ctx = tt.ctx(t)
					}
					start := lim.Now()
					err := wait(lim, ctx)
					if !errors.Is(err, tt.want) {
						t.Fatalf("err = %v, want %v", err, tt.want)
					}
					if tt.long > 0 {
						if long, ok := errors.AsType[*flux.WaitTooLongError](err); !ok || long.Wait != tt.long || long.Max >= tt.long+1 ||
							err.Error() != fmt.Sprintf("flux: wait too long: %v, and at most %v would do", long.Wait, long.Max) {
							t.Errorf("err = %#v, want one that says %v", err, tt.long)
						}
					}
					if err == nil {
						return
					}
					if lim.Now() != start {
						t.Errorf("failed after %v", time.Duration(lim.Now()-start))
					}
					if tt.cfg.Limit == base.Limit && tt.cfg.LimitFor == nil {
						if d, err := lim.Check(t.Context(), key, 0); err != nil || d.ResetAfter != time.Second {
							t.Errorf("debt = %v, %v, want 1s: something was spent", d.ResetAfter, err)
						}
					}
					if !lim.Idle() {
						t.Error("something was left behind")
					}
				})
			})
		}
	}
}

func TestTooManyWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := newLimiter(t, flux.Config[string]{Limit: gcra.Per(1, time.Second), MaxWaiters: 5, MaxKeyWaiters: 3})
		for _, k := range []string{"a", "b"} {
			_, _ = lim.Check(t.Context(), k, 1)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for i, want := range []error{nil, nil, nil, flux.ErrTooManyWaiters} {
			if ch := lim.WaitAsync(ctx, "a", 1); want != nil && !errors.Is((<-ch).Err, want) {
				t.Errorf("waiter %d of a was let in", i)
			}
		}
		for i, want := range []error{nil, nil, flux.ErrTooManyWaiters} {
			r, err := lim.Reserve(ctx, "b", 1)
			if !errors.Is(err, want) {
				t.Errorf("waiter %d of b: %v, want %v", i, err, want)
			} else if err == nil {
				defer r.Cancel()
			}
		}
		if err := lim.Wait(ctx, "c", 1); err != nil {
			t.Errorf("who need not wait: %v", err)
		}
		time.Sleep(time.Second)
		if err := lim.Wait(ctx, "b", 1); err != nil {
			t.Errorf("when others have gone: %v", err)
		}
	})
}

// What cannot be waited for, and what need not, is answered at once behind others,
// too.
func TestBehindOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := drained(t, flux.Config[string]{Limit: gcra.PerSecond(10)})
		first := lim.WaitAsync(t.Context(), key, 10)
		short, cancel := context.WithTimeout(t.Context(), 1200*ms-1)
		defer cancel()
		for _, tt := range []struct {
			n       int64
			hurried bool
			want    error
		}{
			{0, false, nil},
			{-1, false, gcra.ErrNegative},
			{11, false, gcra.ErrExceedsBurst},
			{2, true, flux.ErrWaitTooLong},
		} {
			ctx := t.Context()
			if tt.hurried {
				ctx = short
			}
			ch := lim.WaitAsync(ctx, key, tt.n)
			if len(ch) != 1 {
				t.Fatalf("%d: no answer", tt.n)
			}
			if res := <-ch; !errors.Is(res.Err, tt.want) || res.Spent != 0 || res.Allowed() != (tt.want == nil) {
				t.Errorf("%d: %+v, want %v", tt.n, res, tt.want)
			}
		}
		last := lim.WaitAsync(t.Context(), key, 2)
		if res := <-first; res.Err != nil || time.Duration(res.At) != time.Second {
			t.Errorf("%+v", res)
		}
		if res := <-last; res.Err != nil || time.Duration(res.At) != 1200*ms || !lim.Idle() {
			t.Errorf("%+v", res)
		}
	})
}

// wantsContext is a hook that looks at the context.
type wantsContext struct{ t *testing.T }

func (w wantsContext) BeforeCheck(ctx context.Context, _ string, _ int64) {
	if ctx == nil {
		w.t.Error("a hook was given a nil context")
	}
}

// A nil context is one that never ends.
func TestNilContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := newLimiter(t, flux.Config[string]{Limit: gcra.PerSecond(1), Hooks: []flux.Hook{wantsContext{t}}})
		var ctx context.Context
		if d, err := lim.Check(ctx, key, 1); err != nil || !d.Allowed() {
			t.Errorf("Check = %+v, %v", d, err)
		}
		if err := lim.Wait(ctx, key, 1); err != nil {
			t.Error(err)
		}
		if res := <-lim.WaitAsync(ctx, key, 1); res.Err != nil || !res.Allowed() || res.Spent != 1 {
			t.Errorf("%+v", res)
		}
		if r, err := lim.Reserve(ctx, key, 1); err != nil || r.Delay() != time.Second {
			t.Error(err)
		}
		if res := <-lim.CheckAsync(ctx, "other", 1); res.Err != nil || !res.Allowed() {
			t.Errorf("CheckAsync = %+v", res)
		}
		if err := lim.Refund(ctx, "other", 1); err != nil {
			t.Error(err)
		}
		if d, err := lim.Debt(ctx, "other", 1); err != nil || !d.Allowed() {
			t.Errorf("Debt = %+v, %v", d, err)
		}
		if results, err := lim.CheckAll(ctx, requests("a", 1, "b", 1), flux.AllOrNothing); err != nil || !results[1].Allowed() {
			t.Errorf("CheckAll = %+v, %v", results, err)
		}
		if d, err := flux.Wrap(lim, flux.Logging[string](slog.New(slog.DiscardHandler))).Check(ctx, "other", 1); err != nil || d.Allowed() {
			t.Errorf("Check through a middleware = %+v, %v", d, err)
		}
		if _, err := lim.CleanupStale(ctx, 0); err != nil {
			t.Error(err)
		}
		if res := <-lim.CleanupStaleAsync(ctx, 0); res.Err != nil {
			t.Error(res.Err)
		}
		lim.StartCleanup(ctx, flux.Cleanup{})()
		lim.Close()
	})
}

// Pitfall 19: who is let in and who gives up at the same instant, from many
// goroutines: each turn goes to exactly one of them.
func TestWaitRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, seconds, goroutines = 1000, 3, 16
		lim := drained(t, flux.Config[string]{Limit: gcra.PerSecond(rate)})
		ctx, cancel := context.WithTimeout(t.Context(), seconds*time.Second+ms/2)
		defer cancel()
		var mu sync.Mutex
		turns := make(map[int64]int)
		took := func(at int64) {
			mu.Lock()
			defer mu.Unlock()
			turns[at]++
		}
		var wg sync.WaitGroup
		for g := range goroutines {
			wg.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					wait, cancel := context.WithTimeout(ctx, time.Duration(1+(g*7+i*13)%40)*ms)
					switch i % 3 {
					case 0: // leave together with a turn
						ch := lim.WaitAsync(wait, key, 1)
						time.Sleep(time.Duration(g%4) * ms)
						cancel()
						if res := <-ch; res.Err == nil {
							took(res.At)
						}
					case 1:
						if res := <-lim.WaitAsync(wait, key, 1); res.Err == nil {
							took(res.At)
						}
					default:
						if lim.Wait(wait, key, 1) == nil {
							took(lim.Now())
						}
					}
					cancel()
					if i%50 == g {
						_, _ = lim.Check(ctx, key, 1)
					}
					time.Sleep(ms / 4)
				}
			})
		}
		wg.Wait()
		for at, n := range turns {
			if n != 1 || at%int64(ms) != 0 {
				t.Errorf("%d took the turn of %v", n, time.Duration(at))
			}
		}
		if len(turns) < rate*seconds*99/100 {
			t.Errorf("%d of %d turns were taken", len(turns), rate*seconds)
		}
		if !lim.Idle() {
			t.Error("something was left behind")
		}
	})
}

// The turn came while nobody looked, and then the context ended: the tokens are
// spent, so the wait was not in vain.
func TestTurnBeforeTheEndOfTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := drained(t, flux.Config[string]{Limit: gcra.PerSecond(20).WithBurst(1)})
		ctx, cancel := context.WithCancel(t.Context())
		blocked := make(chan error, 1)
		go func() { blocked <- lim.Wait(ctx, key, 1) }()
		synctest.Wait()
		async := lim.WaitAsync(ctx, key, 1)
		later := lim.WaitAsync(ctx, key, 1)
		lim.HoldTimers()
		time.Sleep(120 * ms)
		cancel()
		if err := <-blocked; err != nil {
			t.Errorf("Wait: %v", err)
		}
		if res := <-async; res.Err != nil || time.Duration(res.At) != 100*ms {
			t.Errorf("WaitAsync: %+v", res)
		}
		if res := <-later; !errors.Is(res.Err, context.Canceled) {
			t.Errorf("whose turn had not come: %+v", res)
		}
		if d, _ := lim.Check(t.Context(), key, 0); d.ResetAfter != 30*ms {
			t.Errorf("debt = %v, want 30ms", d.ResetAfter)
		}
	})
}

// The same for those who leave by themselves, and are not sent away.
func TestTurnBeforeLeaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := drained(t, flux.Config[string]{Limit: gcra.PerSecond(20).WithBurst(1)})
		ctx, cancel := context.WithCancel(t.Context())
		blocked := make(chan error, 1)
		go func() { blocked <- lim.Wait(ctx, key, 1) }()
		synctest.Wait()
		r, err := lim.Reserve(t.Context(), key, 1)
		if err != nil {
			t.Fatal(err)
		}
		lim.HoldTimers()
		time.Sleep(120 * ms)
		cancel()
		if err := <-blocked; err != nil {
			t.Errorf("Wait: %v", err)
		}
		lim.HoldTimers()
		r.Cancel()
		if d := r.Delay(); d != 0 {
			t.Errorf("the reservation is due in %v", d)
		}
		if d, _ := lim.Check(t.Context(), key, 0); d.ResetAfter != 30*ms || !lim.Idle() {
			t.Errorf("debt = %v, want 30ms", d.ResetAfter)
		}
	})
}

// However many come at once, for however many keys, no more wait than may.
func TestMaxWaitersIsExact(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(8)) // rooms
	const rivals, trials = 2, 1000
	lim := newLimiter(t, flux.Config[int]{Limit: gcra.PerHour(1), MaxWaiters: 1})
	for k := range rivals {
		_, _ = lim.Check(t.Context(), k, 1)
	}
	var ready, came, gone atomic.Int64
	meet := func(n *atomic.Int64, trial int) {
		for n.Add(1); n.Load() < int64(rivals*(trial+1)); {
			runtime.Gosched()
		}
	}
	var parked [trials]atomic.Int64
	var wg sync.WaitGroup
	for k := range rivals {
		wg.Go(func() {
			for trial := range trials {
				ctx, cancel := context.WithCancel(t.Context())
				meet(&ready, trial)
				ch := lim.WaitAsync(ctx, k, 1)
				if len(ch) == 0 {
					parked[trial].Add(1)
				}
				meet(&came, trial)
				cancel()
				<-ch
				meet(&gone, trial)
			}
		})
	}
	wg.Wait()
	for trial := range parked {
		if n := parked[trial].Load(); n != 1 {
			t.Fatalf("trial %d: %d wait, want 1", trial, n)
		}
	}
	if !lim.Idle() {
		t.Error("something was left behind")
	}
}
