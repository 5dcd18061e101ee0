package stream_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// order is the message of the examples.
type order struct {
	tenant string
	text   string
}

// orders returns a closed channel with orders in it, each "tenant text".
func orders(texts ...string) <-chan order {
	in := make(chan order, len(texts))
	for _, s := range texts {
		tenant, text, _ := strings.Cut(s, " ")
		in <- order{tenant, text}
	}
	close(in)
	return in
}

// newGate returns a gate of orders with one worker, so that the examples print in
// one order.
func newGate(limiter *flux.Limiter[string], cfg stream.Config[order]) *stream.Gate[order] {
	cfg.Limiter, cfg.Workers = limiter, 1
	cfg.Tenant = func(o order) string { return o.tenant }
	gate, err := stream.New(cfg)
	if err != nil {
		panic(err)
	}
	return gate
}

func newLimiter(limit gcra.Limit) *flux.Limiter[string] {
	limiter, err := flux.New(flux.Config[string]{Limit: limit})
	if err != nil {
		panic(err)
	}
	return limiter
}

// A gate works on a channel as it does on a broker. What has to be deferred waits
// in memory, and dead letters come to a function.
func ExampleFromChan() {
	gate := newGate(newLimiter(gcra.PerSecond(100)), stream.Config[order]{})

	in := orders("acme tea", "acme ???", "umbra coffee")
	source := stream.FromChan(in, func(_ context.Context, o order, l stream.Letter) error {
		fmt.Printf("%s: dead letter %q: %v\n", l.Tenant, o.text, l.Err)
		return nil
	})
	err := gate.Run(context.Background(), source, func(_ context.Context, o order) error {
		if o.text == "???" {
			return stream.Permanent(errors.New("not on the menu"))
		}
		fmt.Printf("%s: %s\n", o.tenant, o.text)
		return nil
	})
	fmt.Println("end:", err)

	// Unordered output:
	// acme: tea
	// acme: dead letter "???": not on the menu
	// umbra: coffee
	// end: <nil>
}

// Throttle is for pipelines of channels that need a limit per key and no more: acme
// has to wait for its second order, and nobody waits for acme.
func ExampleThrottle() {
	limiter := newLimiter(gcra.PerSecond(20).WithBurst(1))
	in := orders("acme tea", "acme more tea", "umbra coffee")

	for o := range stream.Throttle(context.Background(), in, limiter, func(o order) string { return o.tenant }) {
		fmt.Printf("%s: %s\n", o.tenant, o.text)
	}

	// Output:
	// acme: tea
	// umbra: coffee
	// acme: more tea
}

// The iterator form reads from any sequence.
func ExampleThrottleSeq() {
	limiter := newLimiter(gcra.PerSecond(1000))
	numbers := slices.Values([]int{1, 2, 3})

	for n := range stream.ThrottleSeq(context.Background(), numbers, limiter, func(int) string { return "all" }) {
		fmt.Println(n)
	}

	// Output:
	// 1
	// 2
	// 3
}

// A handler of batches returns one result for all, and gives those messages one of
// their own that fare otherwise.
func ExampleGate_RunBatch() {
	gate := newGate(newLimiter(gcra.PerSecond(100)), stream.Config[order]{})
	source := stream.FromChan(orders("acme tea", "acme ???", "acme coffee"), nil)

	batch := stream.BatchConfig{Size: 3, Linger: time.Second}
	err := gate.RunBatch(context.Background(), source, batch, func(_ context.Context, items []*stream.Item[order]) error {
		var texts []string
		for _, item := range items {
			if item.Message.text == "???" {
				item.Done(stream.Permanent(errors.New("not on the menu")))
				continue
			}
			texts = append(texts, item.Message.text)
		}
		fmt.Println("one insert of", texts)
		return nil // for those that are not done yet
	})
	if err != nil {
		panic(err)
	}
	stats := gate.Stats()
	fmt.Println(stats.Processed, "processed,", stats.DeadLettered, "dead letter")

	// Output:
	// one insert of [tea coffee]
	// 2 processed, 1 dead letter
}

// A handler that is told to slow down by whomever it calls has not failed: its
// message is deferred, and no attempt is counted.
func ExampleRetryLater() {
	gate := newGate(newLimiter(gcra.PerSecond(100)), stream.Config[order]{})
	source := stream.FromChan(orders("acme tea"), nil)

	err := gate.Run(context.Background(), source, func(ctx context.Context, o order) error {
		info, _ := stream.FromContext(ctx)
		fmt.Printf("attempt %d, deferred %d times\n", info.Attempt, info.Deferrals)
		if info.Deferrals == 0 {
			return stream.RetryLater(10*time.Millisecond, errors.New("429 Too Many Requests"))
		}
		return nil
	})
	if err != nil {
		panic(err)
	}

	// Output:
	// attempt 1, deferred 0 times
	// attempt 1, deferred 1 times
}

// What a message costs is often known only when the work is done: the tokens of a
// language model, say. The estimate is spent first, and corrected then.
func ExampleSetCost() {
	limiter := newLimiter(gcra.Per(1000, time.Hour))
	gate := newGate(limiter, stream.Config[order]{
		Cost: func(o order) int64 { return 500 },
	})
	source := stream.FromChan(orders("acme tea"), nil)

	err := gate.Run(context.Background(), source, func(ctx context.Context, o order) error {
		stream.SetCost(ctx, 120)
		return nil
	})
	if err != nil {
		panic(err)
	}
	left, err := limiter.Check(context.Background(), "acme", 0)
	if err != nil {
		panic(err)
	}
	fmt.Println("of 1000 tokens, acme has", left.Remaining(), "left")

	// Output:
	// of 1000 tokens, acme has 880 left
}

// While the limiter cannot decide, messages can wait for it, run all the same, or be
// put off at once.
func ExampleFailMode() {
	broken := flux.CheckerFunc[string](func(context.Context, string, int64) (flux.Decision, error) {
		return flux.Decision{}, errors.New("no connection")
	})
	gate, err := stream.New(stream.Config[order]{
		Limiter: broken,
		Tenant:  func(o order) string { return o.tenant },
		Policy:  stream.Policy{OnLimiterError: stream.FailOpen},
	})
	if err != nil {
		panic(err)
	}
	err = gate.Run(context.Background(), stream.FromChan(orders("acme tea"), nil), func(_ context.Context, o order) error {
		fmt.Printf("%s: %s\n", o.tenant, o.text)
		return nil
	})
	if err != nil {
		panic(err)
	}
	fmt.Println("ran without a grant:", gate.Stats().FailedOpen)

	// Output:
	// acme: tea
	// ran without a grant: 1
}

// A function decides for those who pay less: what cannot run within a tenth of a
// second is dropped. The others wait.
func ExamplePolicy_decide() {
	limiter := newLimiter(gcra.PerSecond(2).WithBurst(1))
	gate := newGate(limiter, stream.Config[order]{Policy: stream.Policy{
		Decide: func(s stream.Situation) stream.Verdict {
			if strings.HasPrefix(s.Tenant, "trial-") && s.Delay > 100*time.Millisecond {
				return stream.Verdict{Outcome: stream.Drop}
			}
			return stream.Verdict{}
		},
	}})
	in := orders("trial-acme tea", "trial-acme more tea", "umbra coffee", "umbra more coffee")
	err := gate.Run(context.Background(), stream.FromChan(in, nil), func(_ context.Context, o order) error {
		fmt.Println(o.tenant, o.text)
		return nil
	})
	if err != nil {
		panic(err)
	}
	fmt.Println(gate.Stats().Dropped, "dropped")

	// Unordered output:
	// trial-acme tea
	// umbra coffee
	// umbra more coffee
	// 1 dropped
}
