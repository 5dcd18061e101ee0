// Quickstart shows flux at work on a NATS JetStream stream that many tenants
// share: one of them floods it, flux holds each tenant to its limit, and the
// others do not notice. Run it with
//
//	go run ./examples/quickstart
//
// It needs nothing: a NATS server runs inside the process. The wiring is the
// function throttle, below; the other files make the load and show what happens.
package main

import (
	"context"
	"io"
	"time"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/examples/internal/program"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

const (
	maxWait = time.Second     // a message whose turn is that near waits in memory, a later one is deferred
	maxAge  = 5 * time.Second // a message that would be older at its turn is dead-lettered
)

// throttle runs the messages of source through a limit per tenant to handle,
// until ctx ends. This is all that it takes.
func throttle(ctx context.Context, source *fluxnats.Source, limit gcra.Limit, hooks stream.Hooks, handle stream.Handler[*fluxnats.Msg]) error {
	limiter, err := flux.New(flux.Config[string]{Limit: limit})
	if err != nil {
		return err
	}
	gate, err := stream.New(stream.Config[*fluxnats.Msg]{
		Limiter: limiter,
		Tenant:  tenantOf, // from a header; a message that belongs to nobody is dead-lettered
		Weight:  weightOf, // the gold tenant has two shares of the workers
		Policy:  stream.Policy{MaxWait: maxWait, MaxAge: maxAge},
		Hooks:   hooks, // counts, for the report
	})
	if err != nil {
		return err
	}
	return gate.Run(ctx, source, handle)
}

func main() { program.Main("quickstart", run) }

// run is the whole program. Its error is that something went wrong or that flux
// does not keep what it promises.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parseFlags(args, stdout)
	if err != nil {
		return err
	}
	final, err := demo(ctx, o, stdout, stderr)
	if err != nil {
		return err
	}
	return final.check()
}
