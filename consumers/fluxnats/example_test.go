package fluxnats_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// consume handles the orders of every tenant at no more than its plan allows,
// until ctx ends.
func consume(ctx context.Context, js jetstream.JetStream, handle func(ctx context.Context, order []byte) error) error {
	limiter, err := flux.New(flux.Config[string]{
		Limit: gcra.PerSecond(10).WithBurst(20), // for each tenant
	})
	if err != nil {
		return err
	}
	gate, err := stream.New(stream.Config[*fluxnats.Msg]{
		Limiter: limiter,
		Tenant:  func(m *fluxnats.Msg) string { return m.Headers().Get("Tenant") },
		Policy:  stream.Policy{MaxWait: 2 * time.Second}, // longer waits are deferred
	})
	if err != nil {
		return err
	}
	source, err := fluxnats.New(js, fluxnats.Config{Stream: "ORDERS", Consumer: "billing"})
	if err != nil {
		return err
	}
	return gate.Run(ctx, source, func(ctx context.Context, m *fluxnats.Msg) error {
		return handle(ctx, m.Data()) // an error is tried again, then dead-lettered
	})
}

func Example() {
	js, stop := embedded()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	for _, order := range []string{"one lamp", "two chairs", "a table"} {
		m := &nats.Msg{Subject: "orders.new", Header: nats.Header{"Tenant": {"acme"}}, Data: []byte(order)}
		if _, err := js.PublishMsg(ctx, m); err != nil {
			log.Fatal(err)
		}
	}

	ordered := make(chan string)
	done := make(chan error)
	ctx, enough := context.WithCancel(ctx)
	go func() {
		done <- consume(ctx, js, func(_ context.Context, order []byte) error {
			ordered <- string(order)
			return nil
		})
	}()
	orders := make(map[string]bool)
	for len(orders) < 3 {
		orders[<-ordered] = true
	}
	enough() // what is still held goes back to the server
	fmt.Println(len(orders), "orders, stopped with:", <-done)
	// Output: 3 orders, stopped with: <nil>
}

// embedded starts a server in this process, with the streams and the consumer
// that the example needs.
func embedded() (_ jetstream.JetStream, stop func()) {
	dir, err := os.MkdirTemp("", "flux")
	if err != nil {
		log.Fatal(err)
	}
	s, err := server.NewServer(&server.Options{JetStream: true, StoreDir: dir, DontListen: true, NoSigs: true, NoLog: true})
	if err != nil {
		log.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		log.Fatal("the server does not start")
	}
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		log.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		log.Fatal(err)
	}
	source, err := fluxnats.New(js, fluxnats.Config{Stream: "ORDERS", Consumer: "billing"})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := source.Provision(context.Background(), fluxnats.Layout{Subjects: []string{"orders.>"}}); err != nil {
		log.Fatal(err)
	}
	return js, func() {
		nc.Close()
		s.Shutdown()
		s.WaitForShutdown()
		if err := os.RemoveAll(dir); err != nil {
			log.Fatal(err)
		}
	}
}
