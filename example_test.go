package flux_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
)

func ExampleLimiter_Check() {
	lim, err := flux.New(flux.Config[string]{Limit: gcra.PerMinute(1).WithBurst(2)})
	if err != nil {
		log.Fatal(err)
	}
	for range 3 {
		d, err := lim.Check(context.Background(), "acme", 1)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(d.Allowed(), d.Remaining(), d.RetryAfter.Round(time.Minute))
	}
	// Output:
	// true 1 0s
	// true 0 0s
	// false 0 1m0s
}

// A consumer reads the clock once for what it has polled.
func ExampleLimiter_Key() {
	lim, err := flux.New(flux.Config[string]{Limit: gcra.PerMinute(10).WithBurst(3)})
	if err != nil {
		log.Fatal(err)
	}
	acme := lim.Key("acme")
	now := lim.Now()
	for _, message := range []string{"a", "b", "c", "d"} {
		d, err := acme.CheckAt(now, 1)
		fmt.Println(message, d.Allowed(), err)
	}
	// Output:
	// a true <nil>
	// b true <nil>
	// c true <nil>
	// d false <nil>
}

func ExampleLimiter_Wait() {
	lim, err := flux.New(flux.Config[string]{Limit: gcra.PerSecond(100).WithBurst(1)})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for i := range 3 {
		if err := lim.Wait(ctx, "acme", 1); err != nil {
			log.Fatal(err)
		}
		fmt.Println("call", i)
	}
	// Output:
	// call 0
	// call 1
	// call 2
}

// A wait that could not end in time fails at once, and spends nothing.
func ExampleLimiter_Wait_tooLong() {
	lim, err := flux.New(flux.Config[string]{Limit: gcra.Per(1, time.Hour), MaxWait: time.Second})
	if err != nil {
		log.Fatal(err)
	}
	for range 2 {
		err := lim.Wait(context.Background(), "acme", 1)
		if long, ok := errors.AsType[*flux.WaitTooLongError](err); ok {
			fmt.Println("it would have been", long.Wait.Round(time.Minute))
		}
	}
	// Output:
	// it would have been 1h0m0s
}

func ExampleLimiter_WaitAsync() {
	lim, err := flux.New(flux.Config[string]{Limit: gcra.PerSecond(100).WithBurst(1)})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	first, second := lim.WaitAsync(ctx, "acme", 1), lim.WaitAsync(ctx, "acme", 1)
	for range 2 {
		select {
		case res := <-first:
			fmt.Println("first:", res.Spent, res.Err)
		case res := <-second:
			fmt.Println("second:", res.Spent, res.Err)
		}
	}
	// Output:
	// first: 1 <nil>
	// second: 1 <nil>
}

func ExampleLimiter_Reserve() {
	lim, err := flux.New(flux.Config[string]{Limit: gcra.PerMinute(1)})
	if err != nil {
		log.Fatal(err)
	}
	for range 3 {
		r, err := lim.Reserve(context.Background(), "acme", 1)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("send it in", r.Delay().Round(time.Minute))
		defer r.Cancel()
	}
	// Output:
	// send it in 0s
	// send it in 1m0s
	// send it in 2m0s
}

func ExampleLimiter_Stream() {
	lim, err := flux.New(flux.Config[string]{Limit: gcra.PerSecond(10).WithBurst(1)})
	if err != nil {
		log.Fatal(err)
	}
	in := make(chan flux.Request[string])
	go func() {
		defer close(in)
		in <- flux.Request[string]{Key: "acme", N: 1, Value: "one of acme"}
		in <- flux.Request[string]{Key: "acme", N: 1, Value: "two of acme"}
		in <- flux.Request[string]{Key: "other", N: 1, Value: "one of other"}
	}()
	for res := range lim.Stream(context.Background(), in) {
		fmt.Println(res.Value)
	}
	// Output:
	// one of acme
	// one of other
	// two of acme
}

func ExampleLimiter_CheckAll() {
	lim, err := flux.New(flux.Config[string]{Limit: gcra.PerMinute(10)})
	if err != nil {
		log.Fatal(err)
	}
	poll := []flux.Request[string]{{Key: "acme", N: 8}, {Key: "other", N: 3}, {Key: "acme", N: 5}}
	for _, mode := range []flux.Mode{flux.AllOrNothing, flux.AsManyAsPossible} {
		results, err := lim.CheckAll(context.Background(), poll, mode)
		if err != nil {
			log.Fatal(err)
		}
		for i, res := range results {
			fmt.Println(poll[i].Key, poll[i].N, "->", res.Spent, res.Err)
		}
	}
	// Output:
	// acme 8 -> 0 flux: key acme of a batch: flux: cost exceeds burst: 13 tokens, burst 10
	// other 3 -> 0 flux: key acme of a batch: flux: cost exceeds burst: 13 tokens, burst 10
	// acme 5 -> 0 flux: key acme of a batch: flux: cost exceeds burst: 13 tokens, burst 10
	// acme 8 -> 8 <nil>
	// other 3 -> 3 <nil>
	// acme 5 -> 2 <nil>
}

// A tenant has its own limit, and all of them share another.
func ExampleChain() {
	tenants, err := flux.New(flux.Config[string]{Limit: gcra.PerMinute(2)})
	if err != nil {
		log.Fatal(err)
	}
	database, err := flux.New(flux.Config[string]{Limit: gcra.PerMinute(3)})
	if err != nil {
		log.Fatal(err)
	}
	both, err := flux.Chain(
		flux.Link[string]{Name: "tenant", Checker: tenants},
		flux.Link[string]{Name: "database", Checker: flux.MapKey(database, func(string) string { return "db" })},
	)
	if err != nil {
		log.Fatal(err)
	}
	for _, tenant := range []string{"acme", "acme", "acme", "other", "other"} {
		d, err := both.Check(context.Background(), tenant, 1)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s %v %q\n", tenant, d.Allowed(), d.DeniedBy())
	}
	// Output:
	// acme true ""
	// acme true ""
	// acme false "tenant"
	// other true ""
	// other false "database"
}

func ExampleLimiter_StartCleanup() {
	lim, err := flux.New(flux.Config[string]{Limit: gcra.PerHour(100)})
	if err != nil {
		log.Fatal(err)
	}
	stop := lim.StartCleanup(context.Background(), flux.Cleanup{Interval: 30 * time.Second})
	defer stop()

	// Or whenever it suits. A key that owes nothing is forgotten.
	ctx := context.Background()
	_, _ = lim.Check(ctx, "acme", 100)
	_, _ = lim.Check(ctx, "other", 100)
	_ = lim.Refund(ctx, "other", 100)
	fmt.Println("tracked:", lim.Len())
	n, err := lim.CleanupStale(ctx, 0)
	fmt.Println("forgotten:", n, err)
	// Output:
	// tracked: 2
	// forgotten: 1 <nil>
}

// The plan of a tenant changes while its requests are coming in. Its version
// keeps an older message about it from being the last word.
func ExampleLimiter_SetLimit() {
	lim, err := flux.New(flux.Config[string]{Limit: gcra.PerMinute(10)})
	if err != nil {
		log.Fatal(err)
	}
	d, _ := lim.Check(context.Background(), "acme", 10)
	fmt.Println("left:", d.Remaining())

	fmt.Println(lim.SetLimit("acme", gcra.PerMinute(1000), flux.Change{Version: 2}))
	fmt.Println(lim.SetLimit("acme", gcra.PerMinute(10), flux.Change{Version: 1}))
	d, _ = lim.Check(context.Background(), "acme", 0)
	fmt.Println("left:", d.Remaining(), "of", d.Limit())
	// Output:
	// left: 0
	// <nil>
	// flux: stale limit: version 1 after 2
	// left: 990 of 1000/1m0s burst 1000
}
