package fluxnats_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// A service that answers one request an hour of each tenant, and tells the others
// when to ask again.
func ExampleNewCore() {
	js, stop := embedded()
	defer stop()
	nc := js.Conn()

	limiter, err := flux.New(flux.Config[string]{Limit: gcra.PerHour(1).WithBurst(1)})
	if err != nil {
		log.Fatal(err)
	}
	gate, err := stream.New(stream.Config[*fluxnats.Msg]{
		Limiter: limiter,
		Tenant:  func(m *fluxnats.Msg) string { return m.Headers().Get("Tenant") },
		Policy:  stream.Policy{OnDenied: stream.DeadLetter},
	})
	if err != nil {
		log.Fatal(err)
	}
	source, err := fluxnats.NewCore(nc, fluxnats.CoreConfig{Subject: "time", Queue: "clocks", AnswerRefused: true})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- gate.Run(ctx, source, func(_ context.Context, m *fluxnats.Msg) error {
			return m.Respond(nil, []byte("noon"))
		})
	}()

	for asked := 0; asked < 2; {
		answer, err := nc.RequestMsg(&nats.Msg{Subject: "time", Header: nats.Header{"Tenant": {"acme"}}}, time.Second)
		if err != nil {
			continue // nobody has subscribed yet
		}
		asked++
		if refusal, refused := fluxnats.ReadRefusal(answer); refused {
			fmt.Println(refusal.Code, refusal.Reason, "ask again in", refusal.RetryAfter.Round(time.Hour))
		} else {
			fmt.Println(string(answer.Data))
		}
	}
	cancel()
	fmt.Println("stopped with:", <-done)
	// Output:
	// noon
	// 429 quota_exceeded ask again in 1h0m0s
	// stopped with: <nil>
}

// An order that died goes back to where it came from.
func ExampleRedrive() {
	js, stop := embedded()
	defer stop()
	ctx := context.Background()
	letter := &nats.Msg{
		Subject: "dlq.ORDERS.billing", Data: []byte("one lamp"),
		Header: nats.Header{"Flux-Subject": {"orders.new"}, "Flux-Stream": {"ORDERS"}, "Flux-Tenant": {"acme"}, "Flux-Reason": {"max_attempts"}},
	}
	if _, err := js.PublishMsg(ctx, letter); err != nil {
		log.Fatal(err)
	}

	done, err := fluxnats.Redrive(ctx, js, fluxnats.RedriveConfig{
		Stream: "DLQ_ORDERS",
		Filter: func(l *fluxnats.DeadLetter) bool { return l.Reason == "max_attempts" },
		Limit:  gcra.PerSecond(50).WithBurst(1),
	})
	fmt.Println(done.Redriven, "redriven,", done.Skipped, "skipped,", err)

	orders, err := js.Stream(ctx, "ORDERS")
	if err != nil {
		log.Fatal(err)
	}
	m, err := orders.GetLastMsgForSubject(ctx, "orders.new")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(m.Data))
	// Output:
	// 1 redriven, 0 skipped, <nil>
	// one lamp
}
