package flux_test

import (
	"context"
	"testing"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
)

func TestCheckDoesNotAllocate(t *testing.T) {
	type pair struct {
		tenant string
		topic  int
	}
	plans := []gcra.Limit{gcra.PerSecond(1), gcra.PerSecond(1_000_000)}
	lim := newLimiter(t, flux.Config[string]{Limit: gcra.PerSecond(1), LimitFor: func(k string) gcra.Limit { return plans[len(k)%2] }})
	if err := lim.SetLimit("set", gcra.PerSecond(3), flux.Change{}); err != nil {
		t.Fatal(err)
	}
	numbers := newLimiter(t, flux.Config[int]{Limit: gcra.PerSecond(1)})
	pairs := newLimiter(t, flux.Config[pair]{Limit: gcra.PerSecond(1)})
	ctx := context.Background()
	h := lim.Key(key)
	queued := newLimiter(t, flux.Config[string]{Limit: gcra.PerHour(1)})
	_, _ = queued.Check(ctx, key, 1)
	queued.WaitAsync(ctx, key, 1)
	defer queued.Close()
	slow := newLimiter(t, flux.Config[string]{Limit: gcra.PerSecond(1), LimitFor: func(k string) gcra.Limit { return plans[len(k)%2] }})
	if err := slow.SetFactor(0.3); err != nil {
		t.Fatal(err)
	}
	chain, err := flux.Chain(flux.Link[string]{Name: "plan", Checker: lim}, flux.Link[string]{Name: "all", Checker: slow})
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func(){
		"string":        func() { _, _ = lim.Check(ctx, "tenant", 1) },
		"other plan":    func() { _, _ = lim.Check(ctx, "tenants", 1) },
		"set":           func() { _, _ = lim.Check(ctx, "set", 1) },
		"int":           func() { _, _ = numbers.Check(ctx, 7, 1) },
		"struct":        func() { _, _ = pairs.Check(ctx, pair{"tenant", 7}, 1) },
		"handle":        func() { _, _ = h.CheckAt(lim.Now(), 1) },
		"factor":        func() { _, _ = slow.Check(ctx, "tenants", 1) },
		"chain":         func() { _, _ = chain.Check(ctx, "tenants", 0) },
		"chain, denied": func() { _, _ = chain.Check(ctx, "tenant", 1) },
		"behind others": func() { _, _ = queued.Check(ctx, key, 1) },
		"Refund":        func() { _ = lim.Refund(ctx, "tenant", 1) },
		"Debt":          func() { _, _ = lim.Debt(ctx, "tenant", 0) },
		"Wait":          func() { _ = lim.Wait(ctx, "tenants", 0) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
