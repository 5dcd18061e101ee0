package main

import (
	"context"
	"sync"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
	"github.com/fluxlimiter/flux/stream/streamtest"
)

// consumer is a way to consume a stream: until it is exhausted, or ctx ends.
type consumer struct {
	name string
	run  func(ctx context.Context, src *streamtest.Broker, handle stream.Handler[*message]) error
}

// contenders are those that the picture compares.
func contenders() []consumer {
	return []consumer{
		{"plain consumer", func(ctx context.Context, src *streamtest.Broker, handle stream.Handler[*message]) error {
			return inOrder(ctx, src, handle, nil)
		}},
		{"one limiter for all", func(ctx context.Context, src *streamtest.Broker, handle stream.Handler[*message]) error {
			// What the service can bear, less a fifth.
			lim, err := flux.New(flux.Config[string]{Limit: gcra.PerSecond(80).WithBurst(10)})
			if err != nil {
				return err
			}
			return inOrder(ctx, src, handle, lim)
		}},
		{"flux", func(ctx context.Context, src *streamtest.Broker, handle stream.Handler[*message]) error {
			return throughGate(ctx, src, handle, gcra.PerSecond(40).WithBurst(20), stream.Config[*message]{})
		}},
	}
}

// throughGate consumes with flux: each tenant has that limit, and the workers
// are shared fairly.
func throughGate(ctx context.Context, src *streamtest.Broker, handle stream.Handler[*message], limit gcra.Limit, cfg stream.Config[*message]) error {
	lim, err := flux.New(flux.Config[string]{Limit: limit})
	if err != nil {
		return err
	}
	cfg.Limiter = lim
	cfg.Tenant = func(m *message) string { return m.Tenant }
	cfg.Workers = workers
	gate, err := stream.New(cfg)
	if err != nil {
		return err
	}
	return gate.Run(ctx, src, handle)
}

// inOrder consumes as one does without flux: workers take the messages as they
// come, and wait for the limiter, if there is one.
func inOrder(ctx context.Context, src *streamtest.Broker, handle stream.Handler[*message], lim *flux.Limiter[string]) error {
	queue := make(intake)
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for d := range queue {
				if lim != nil {
					errs[i] = lim.Wait(ctx, "everyone", 1)
				}
				if errs[i] == nil {
					errs[i] = handle(ctx, d.Message())
				}
				if errs[i] != nil {
					d.Release()
					continue
				}
				errs[i] = d.Ack(ctx)
			}
		})
	}
	err := src.Run(ctx, queue)
	close(queue)
	wg.Wait()
	for _, e := range errs {
		if err == nil {
			err = e
		}
	}
	return err
}

// intake takes a message when a worker is free.
type intake chan stream.Delivery[*message]

// Room implements [stream.Intake].
func (q intake) Room(context.Context, int) (int, error) { return 1, nil }

// Window implements [stream.Intake].
func (q intake) Window(int) int { return 1 }

// Deliver implements [stream.Intake].
func (q intake) Deliver(ctx context.Context, deliveries ...stream.Delivery[*message]) error {
	for _, d := range deliveries {
		select {
		case q <- d:
		case <-ctx.Done():
			d.Release()
		}
	}
	return ctx.Err()
}

// Recall implements [stream.Intake]. There is nothing to give back.
func (q intake) Recall(<-chan struct{}) {}
