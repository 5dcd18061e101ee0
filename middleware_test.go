package flux_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
)

func TestLogging(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			level slog.Level
			want  string
		}{
			{slog.LevelDebug, `level=DEBUG msg="flux: allowed" key=tenant n=1 limit="1/1s burst 1"
level=INFO msg="flux: denied" key=tenant n=1 limit="1/1s burst 1" retry_after=1s denied_by=tenants
level=ERROR msg="flux: no decision" key=tenant n=-1 error="flux: limit \"tenants\": flux: negative number of tokens: -1"
`},
			{slog.LevelInfo, `level=INFO msg="flux: denied" key=tenant n=1 limit="1/1s burst 1" retry_after=1s denied_by=tenants
level=ERROR msg="flux: no decision" key=tenant n=-1 error="flux: limit \"tenants\": flux: negative number of tokens: -1"
`},
			{slog.LevelError + 1, ""},
		} {
			var out bytes.Buffer
			log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: tt.level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			}}))
			lim, err := flux.Chain(flux.Link[string]{Name: "tenants", Checker: newLimiter(t, flux.Config[string]{Limit: gcra.PerSecond(1)})})
			if err != nil {
				t.Fatal(err)
			}
			c := flux.Wrap[string](lim, flux.Logging[string](log))
			for _, n := range []int64{1, 1, -1} {
				_, _ = c.Check(t.Context(), key, n)
			}
			if out.String() != tt.want {
				t.Errorf("at level %v:\n%s\nwant\n%s", tt.level, &out, tt.want)
			}
			if err := c.(flux.Refunder[string]).Refund(t.Context(), key, 1); err != nil {
				t.Error(err)
			}
			if d, _ := c.Check(t.Context(), key, 1); !d.Allowed() {
				t.Errorf("after a refund through the middleware: %+v", d)
			}
		}
	})
}

func TestWrapOrder(t *testing.T) {
	var order []string
	note := func(name string) flux.Middleware[string] {
		return func(c flux.Checker[string]) flux.Checker[string] {
			return flux.CheckerFunc[string](func(ctx context.Context, key string, n int64) (flux.Decision, error) {
				order = append(order, name)
				return c.Check(ctx, key, n)
			})
		}
	}
	c := flux.Wrap[string](newLimiter(t, flux.Config[string]{Limit: gcra.PerSecond(1)}), note("outer"), note("inner"))
	if d, err := c.Check(t.Context(), key, 1); err != nil || !d.Allowed() || !slices.Equal(order, []string{"outer", "inner"}) {
		t.Errorf("%+v, %v, %v", d, err, order)
	}
}

// recorder implements every hook.
type recorder struct {
	mu                              sync.Mutex // of waits, which end in several goroutines
	before, allowed, denied, failed int
	waits                           []grant
	swept                           []int
}

func (r *recorder) BeforeCheck(context.Context, string, int64) { r.before++ }

func (r *recorder) AfterCheck(_ context.Context, _ string, _ int64, d flux.Decision) {
	if d.Allowed() {
		r.allowed++
	} else {
		r.denied++
	}
}

func (r *recorder) OnError(context.Context, string, int64, error) { r.failed++ }

func (r *recorder) AfterWait(_ string, n int64, waited time.Duration, res flux.Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waits = append(r.waits, grant{int(n), waited, res.Err})
}

func (r *recorder) OnCleanup(removed int, _ time.Duration, _ error) {
	r.swept = append(r.swept, removed)
}

// Pitfall 29: every decision, every wait and every sweep is told of, once.
func TestHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{}
		lim := newLimiter(t, flux.Config[string]{Limit: gcra.PerSecond(10).WithBurst(4), Hooks: []flux.Hook{rec}})
		_, _ = lim.Check(t.Context(), key, 1)
		_, _ = lim.Key(key).CheckAt(lim.Now(), 1)
		<-lim.CheckAsync(t.Context(), key, 1)
		_, _ = lim.Check(t.Context(), key, 2)
		_, _ = lim.Check(t.Context(), key, 5)
		for _, mode := range []flux.Mode{flux.Each, flux.AllOrNothing, flux.AsManyAsPossible} {
			_, _ = lim.CheckAll(t.Context(), requests("a", 1, "a", 4, "b", 1), mode)
		}
		if rec.before != 14 || rec.allowed != 8 || rec.denied != 2 || rec.failed != 4 || rec.waits != nil {
			t.Errorf("%+v", rec)
		}
	})
}

func TestWaitHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{}
		lim := newLimiter(t, flux.Config[string]{Limit: gcra.PerSecond(10), Hooks: []flux.Hook{rec}})
		ctx, cancel := context.WithCancel(t.Context())
		in := make(chan flux.Request[string], 1)
		out := lim.Stream(t.Context(), in)
		_ = lim.Wait(ctx, key, 10)
		_ = lim.Wait(ctx, key, 11)
		short, cancelShort := context.WithTimeout(ctx, ms)
		defer cancelShort()
		_ = lim.Wait(short, key, 1) // looks for room in the queue, and finds it too long
		one := lim.WaitAsync(t.Context(), key, 1)
		two := lim.WaitAsync(ctx, key, 2)
		r, _ := lim.Reserve(t.Context(), key, 3)
		in <- flux.Request[string]{Key: key, N: 4}
		synctest.Wait()
		time.Sleep(150 * ms)
		cancel()
		<-one
		<-two
		_ = lim.Wait(ctx, key, 1)
		r.Cancel()
		<-out
		close(in)
		<-out
		if n, err := lim.CleanupStale(t.Context(), 0); n != 0 || err != nil {
			t.Errorf("CleanupStale = %d, %v", n, err)
		}
		synctest.Wait()
		want := []grant{{10, 0, nil}, {11, 0, gcra.ErrExceedsBurst}, {1, 0, flux.ErrWaitTooLong}, {1, 100 * ms, nil}, {2, 150 * ms, context.Canceled}, {1, 0, context.Canceled}, {3, 150 * ms, context.Canceled}, {4, 500 * ms, nil}}
		if !slices.EqualFunc(rec.waits, want, func(a, b grant) bool { return a.id == b.id && a.at == b.at && errors.Is(a.err, b.err) }) {
			t.Errorf("got  %v\nwant %v", rec.waits, want)
		}
		if rec.before+rec.allowed+rec.denied+rec.failed != 0 || !slices.Equal(rec.swept, []int{0}) {
			t.Errorf("%+v", rec)
		}
	})
}

// slowHook takes its time to be told of the waits for one key.
type slowHook struct {
	key     string
	goAhead chan struct{}
}

func (h slowHook) AfterWait(key string, _ int64, _ time.Duration, _ flux.Result) {
	if key == h.key {
		<-h.goAhead
	}
}

// Pitfall 27: a hook that does not return holds up who called it, and nobody else:
// no lock is held meanwhile.
func TestHooksAreToldWithoutALock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // one room
		hook := slowHook{"slow", make(chan struct{})}
		lim := newLimiter(t, flux.Config[string]{Limit: gcra.PerSecond(10).WithBurst(1), Hooks: []flux.Hook{hook}})
		for _, k := range []string{"slow", "quick"} {
			_, _ = lim.Check(t.Context(), k, 1)
		}
		slow := lim.WaitAsync(t.Context(), "slow", 1)
		time.Sleep(50 * ms)
		for i := range 3 {
			if res := <-lim.WaitAsync(t.Context(), "quick", 1); res.Err != nil || time.Duration(res.At) != time.Duration(i+1)*100*ms || lim.Now() != res.At {
				t.Errorf("turn %d: %v, %v", i, time.Duration(res.At), res.Err)
			}
		}
		if res := <-slow; res.Err != nil || time.Duration(res.At) != 100*ms {
			t.Errorf("%+v", res)
		}
		close(hook.goAhead)
	})
}

func TestHooksRefused(t *testing.T) {
	for _, hook := range []flux.Hook{nil, 1, struct{}{}} {
		if _, err := flux.New(flux.Config[string]{Limit: gcra.PerSecond(1), Hooks: []flux.Hook{&recorder{}, hook}}); err == nil {
			t.Errorf("%T was taken for a hook", hook)
		}
	}
	if _, err := flux.New(flux.Config[int]{Limit: gcra.PerSecond(1), Hooks: []flux.Hook{struct{ flux.AfterCheckHook[string] }{}}}); err == nil {
		t.Error("a hook for string keys was taken for one for int keys")
	}
}
