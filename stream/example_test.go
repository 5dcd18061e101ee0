package stream_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// One tenant has more orders than its limit lets through at once. They wait for
// their turn in memory, and nobody else waits for them.
func ExampleGate_Run() {
	gate, err := stream.New(stream.Config[order]{
		Limiter: newLimiter(gcra.PerSecond(20).WithBurst(1)),
		Tenant:  func(o order) string { return o.tenant },
		Workers: 1,
	})
	if err != nil {
		fmt.Println(err)
		return
	}

	source := stream.FromChan(orders("acme tea", "acme more tea", "acme milk", "umbra coffee"), nil)
	err = gate.Run(context.Background(), source, func(_ context.Context, o order) error {
		fmt.Printf("%s: %s\n", o.tenant, o.text)
		return nil
	})
	fmt.Println("end:", err)

	// Unordered output:
	// acme: tea
	// umbra: coffee
	// acme: more tea
	// acme: milk
	// end: <nil>
}

// What does not fit together is refused before anything starts, with the field
// and its value.
func ExampleNew() {
	_, err := stream.New(stream.Config[order]{
		Limiter: newLimiter(gcra.PerSecond(20)),
		Tenant:  func(o order) string { return o.tenant },
		Policy:  stream.Policy{MaxWait: time.Minute, MaxAge: time.Second},
	})
	fmt.Println(errors.Is(err, stream.ErrInvalidConfig))
	fmt.Println(err)

	// Output:
	// true
	// stream: invalid config: Policy.MaxWait 1m0s is longer than MaxAge 1s: a message would expire before its wait is over
}

// Two sources share one gate: their orders are one backlog to its limiter and its
// workers.
func ExampleJoin() {
	gate := newGate(newLimiter(gcra.PerSecond(1000)), stream.Config[order]{})
	counter := stream.FromChan(orders("acme tea"), nil)
	website := stream.FromChan(orders("umbra coffee", "acme milk"), nil)

	err := gate.Run(context.Background(), stream.Join[order](counter, website), func(_ context.Context, o order) error {
		fmt.Printf("%s: %s\n", o.tenant, o.text)
		return nil
	})
	fmt.Println("end:", err)

	// Unordered output:
	// acme: tea
	// umbra: coffee
	// acme: milk
	// end: <nil>
}

// The handler's context says what the gate knows of the message: which attempt
// this is, for one.
func ExampleFromContext() {
	gate := newGate(newLimiter(gcra.PerSecond(1000)), stream.Config[order]{
		Policy: stream.Policy{Backoff: func(int) time.Duration { return time.Millisecond }},
	})
	source := stream.FromChan(orders("acme tea"), nil)
	err := gate.Run(context.Background(), source, func(ctx context.Context, o order) error {
		info, _ := stream.FromContext(ctx)
		fmt.Printf("%s: %s, attempt %d\n", info.Tenant, o.text, info.Attempt)
		if info.Attempt < 3 {
			return errors.New("the kettle is cold")
		}
		return nil
	})
	fmt.Println("end:", err)

	// Output:
	// acme: tea, attempt 1
	// acme: tea, attempt 2
	// acme: tea, attempt 3
	// end: <nil>
}
