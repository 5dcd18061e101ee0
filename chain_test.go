package flux_test

import (
	"context"
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

// limits returns a chain of a tenant's limit, its plan's and everyone's, and the
// limiters in it.
func limits(t *testing.T, tenant, plan, all gcra.Limit) (flux.Refunder[string], [3]*flux.Limiter[string]) {
	t.Helper()
	lims := [3]*flux.Limiter[string]{
		newLimiter(t, flux.Config[string]{Limit: tenant}),
		newLimiter(t, flux.Config[string]{Limit: plan}),
		newLimiter(t, flux.Config[string]{Limit: all}),
	}
	chain, err := flux.Chain(
		flux.Link[string]{Name: "tenant", Checker: lims[0]},
		flux.Link[string]{Name: "plan", Checker: flux.MapKey(lims[1], func(tenant string) string { return tenant[:1] })},
		flux.Link[string]{Name: "all", Checker: flux.MapKey(lims[2], func(string) string { return "" })},
	)
	if err != nil {
		t.Fatal(err)
	}
	return chain, lims
}

// Pitfall 26: a denial anywhere spends nothing anywhere.
func TestChain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chain, lims := limits(t, gcra.PerSecond(10), gcra.PerSecond(20).WithBurst(15), gcra.PerSecond(100).WithBurst(20))
		want := func(tenant string, n int64, by string, retry time.Duration, left ...int64) {
			t.Helper()
			d, err := chain.Check(t.Context(), tenant, n)
			if err != nil || d.Allowed() != (by == "") || d.DeniedBy() != by || d.RetryAfter != retry {
				t.Errorf("%d for %s = %+v, %v; want %v, denied by %q", n, tenant, d, err, retry, by)
			}
			least := left[0]
			for i, k := range []string{tenant, tenant[:1], ""} {
				d, err := lims[i].Check(t.Context(), k, 0)
				if err != nil || d.Remaining() != left[i] {
					t.Errorf("after %d for %s: limit %d has %d left, want %d", n, tenant, i, d.Remaining(), left[i])
				}
				least = min(least, left[i])
			}
			if by == "" && d.Remaining() != least {
				t.Errorf("%d for %s: Remaining = %d, want that of the limit that has the least left, %d", n, tenant, d.Remaining(), least)
			}
		}
		want("a1", 7, "", 0, 3, 8, 13)
		want("a2", 8, "", 0, 2, 0, 5)
		want("a3", 1, "plan", 50*ms, 10, 0, 5)
		want("b1", 5, "", 0, 5, 10, 0)
		want("b1", 0, "", 0, 5, 10, 0)
		want("a1", 5, "plan", 250*ms, 3, 0, 0)   // tenant for 200ms, plan for 250ms, all for 50ms
		want("a1", 6, "tenant", 300*ms, 3, 0, 0) // plan for as long; the first is named
		want("b2", 6, "all", 60*ms, 10, 10, 0)
		time.Sleep(60*ms - 1)
		want("b2", 6, "all", 1, 10, 11, 5)
		time.Sleep(time.Nanosecond)
		want("b2", 6, "", 0, 4, 5, 0)
		if err := chain.Refund(t.Context(), "b2", 6); err != nil {
			t.Error(err)
		}
		want("b2", 0, "", 0, 10, 11, 6)
		if d, err := chain.Check(t.Context(), "b2", 16); !errors.Is(err, gcra.ErrExceedsBurst) || d.Allowed() {
			t.Errorf("more than a burst = %+v, %v", d, err)
		}
		want("b2", 0, "", 0, 10, 11, 6)
		if _, err := chain.Check(t.Context(), "b2", -1); !errors.Is(err, gcra.ErrNegative) {
			t.Errorf("negative: %v", err)
		}
	})
}

// broken is a limit that fails, or its Refund does.
type broken struct{ check, refund error }

func (b broken) Check(context.Context, string, int64) (flux.Decision, error) {
	if b.check != nil {
		return flux.Decision{}, b.check
	}
	return flux.NewDecision(gcra.Limit{}, 0, 0, 0), nil
}

func (b broken) Refund(context.Context, string, int64) error { return b.refund }

func TestChainFailures(t *testing.T) {
	lim := newLimiter(t, flux.Config[string]{Limit: gcra.PerHour(10)})
	empty := newLimiter(t, flux.Config[string]{Limit: gcra.PerHour(1)})
	_, _ = empty.Check(t.Context(), key, 1)
	outage, lost := errors.New("outage"), errors.New("lost")
	chain := func(checkers ...flux.Checker[string]) flux.Checker[string] {
		var links []flux.Link[string]
		for i, c := range checkers {
			links = append(links, flux.Link[string]{Name: string(rune('a' + i)), Checker: c})
		}
		c, err := flux.Chain(links...)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		name  string
		chain flux.Checker[string]
		want  []error
	}{
		{"error", chain(lim, broken{check: outage}), []error{outage}},
		{"denial before an error", chain(lim, empty, broken{check: outage}), nil},
		{"error of a refund", chain(lim, broken{refund: lost}, broken{check: outage}), []error{outage, lost}},
		{"denial, and an error of a refund", chain(lim, broken{refund: lost}, empty), []error{lost}},
	} {
		var none context.Context
		for _, ctx := range []context.Context{t.Context(), ended, none} {
			d, err := tt.chain.Check(ctx, key, 1)
			for _, want := range tt.want {
				if !errors.Is(err, want) || d.Allowed() {
					t.Errorf("%s: %+v, %v; want %v", tt.name, d, err, want)
				}
			}
			if tt.want == nil && (err != nil || d.Allowed() || d.DeniedBy() != "b" || d.RetryAfter == 0) {
				t.Errorf("%s: %+v, %v", tt.name, d, err)
			}
		}
	}
	if d, _ := lim.Check(t.Context(), key, 0); d.ResetAfter != 0 {
		t.Errorf("debt = %v: tokens were not given back", d.ResetAfter)
	}
}

// A context that ends while the limits are asked does not keep tokens from being
// given back.
func TestChainGivesBackWhenItsContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	lim := newLimiter(t, flux.Config[string]{Limit: gcra.PerHour(10)})
	remote, err := flux.Chain(flux.Link[string]{Name: "remote", Checker: remoteLimit{lim}}, flux.Link[string]{Name: "slow", Checker: slowLimit{cancel}})
	if err != nil {
		t.Fatal(err)
	}
	if d, err := remote.Check(ctx, key, 4); !errors.Is(err, context.Canceled) || d.Allowed() {
		t.Errorf("Check = %+v, %v", d, err)
	}
	if d, _ := lim.Check(t.Context(), key, 0); d.Remaining() != 10 {
		t.Errorf("%d left, want 10", d.Remaining())
	}
}

// remoteLimit does nothing for an ended context.
type remoteLimit struct{ *flux.Limiter[string] }

func (r remoteLimit) Refund(ctx context.Context, key string, n int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return r.Limiter.Refund(ctx, key, n)
}

// slowLimit takes longer than its caller waits.
type slowLimit struct{ cancel context.CancelFunc }

func (s slowLimit) Check(ctx context.Context, _ string, _ int64) (flux.Decision, error) {
	s.cancel()
	return flux.Decision{}, ctx.Err()
}

func (s slowLimit) Refund(context.Context, string, int64) error { return nil }

func TestChainRefusesBadLinks(t *testing.T) {
	lim := newLimiter(t, flux.Config[string]{Limit: gcra.PerSecond(1)})
	plain := flux.CheckerFunc[string](lim.Check)
	for name, links := range map[string][]flux.Link[string]{
		"none":                        {},
		"no name":                     {{Checker: lim}},
		"same name":                   {{Name: "a", Checker: lim}, {Name: "a", Checker: lim}},
		"no checker":                  {{Name: "a"}},
		"no refund":                   {{Name: "a", Checker: plain}},
		"no refund under another key": {{Name: "a", Checker: flux.MapKey[string](plain, strings.ToLower)}},
		"no refund behind middleware": {{Name: "a", Checker: flux.Wrap[string](plain, flux.Logging[string](nil))}},
	} {
		if c, err := flux.Chain(links...); err == nil || c != nil {
			t.Errorf("%s: %v, %v", name, c, err)
		}
	}
}

// Chains with limits in common neither lose nor mint tokens.
func TestChainRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chain, lims := limits(t, gcra.PerHour(300), gcra.PerHour(500), gcra.PerHour(700))
		var wg sync.WaitGroup
		var spent atomic.Int64
		for g := range 8 {
			wg.Go(func() {
				tenant := []string{"a1", "a2", "b1"}[g%3]
				for i := range 300 {
					n := int64(1 + i%3)
					if d, _ := chain.Check(t.Context(), tenant, n); d.Allowed() {
						spent.Add(n)
					}
				}
			})
		}
		wg.Wait()
		for i, keys := range [][]string{{"a1", "a2", "b1"}, {"a", "b"}, {""}} {
			charged := int64(0)
			for _, k := range keys {
				d, _ := lims[i].Check(t.Context(), k, 0)
				charged += []int64{300, 500, 700}[i] - d.Remaining()
			}
			if charged != spent.Load() {
				t.Errorf("limit %d was charged %d, and %d were given out", i, charged, spent.Load())
			}
		}
		if spent.Load() < 690 {
			t.Errorf("%d given out of 700", spent.Load())
		}
	})
}
