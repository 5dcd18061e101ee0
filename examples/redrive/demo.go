package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// orders is how many orders the demo has, of two tenants by turns.
const orders = 40

// show has a handler fail, mends it, and redrives what died.
func show(ctx context.Context, js jetstream.JetStream, o options, out io.Writer) error {
	source, err := fluxnats.New(js, fluxnats.Config{Stream: "ORDERS", Consumer: "billing"})
	if err != nil {
		return err
	}
	if _, err := source.Provision(ctx, fluxnats.Layout{Subjects: []string{"orders.*"}}); err != nil {
		return err
	}
	for i := range orders {
		tenant := []string{"ada", "bob"}[i%2]
		m := &nats.Msg{Subject: "orders." + tenant, Header: nats.Header{"Tenant": {tenant}}, Data: fmt.Append(nil, i)}
		if _, err := js.PublishMsg(ctx, m); err != nil {
			return err
		}
	}

	limiter, err := flux.New(flux.Config[string]{Limit: gcra.PerSecond(1000)})
	if err != nil {
		return err
	}
	gate, err := stream.New(stream.Config[*fluxnats.Msg]{
		Limiter: limiter,
		Tenant:  func(m *fluxnats.Msg) string { return m.Headers().Get("Tenant") },
		Policy:  stream.Policy{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Millisecond }},
	})
	if err != nil {
		return err
	}
	var mended atomic.Bool
	running, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() {
		ended <- gate.Run(running, source, func(context.Context, *fluxnats.Msg) error {
			if mended.Load() {
				return nil
			}
			return errors.New("the printer is on fire")
		})
	}()

	// until waits for so many to be processed or dead.
	until := func(n int64) error {
		for {
			if got := gate.Stats(); got.Processed+got.DeadLettered >= n {
				_, _ = fmt.Fprintf(out, "billing: %d processed, %d dead letters\n", got.Processed, got.DeadLettered)
				return nil
			}
			select {
			case err := <-ended:
				return errors.Join(err, ctx.Err())
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	if err := until(orders); err != nil {
		return err
	}
	mended.Store(true)
	before, err := left(ctx, js, o.stream)
	if err != nil {
		return err
	}
	if err := redrive(ctx, js, o, out); err != nil {
		return err
	}
	after, err := left(ctx, js, o.stream)
	if err != nil {
		return err
	}
	if err := until(orders + before - after); err != nil {
		return err
	}
	stop()
	return <-ended
}

// left returns how many dead letters there are.
func left(ctx context.Context, js jetstream.JetStream, name string) (int64, error) {
	s, err := js.Stream(ctx, name)
	if err != nil {
		return 0, err
	}
	return int64(s.CachedInfo().State.Msgs), nil //nolint:gosec // there are as many as orders
}
