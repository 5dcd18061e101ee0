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
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/consumers/fluxnats"
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

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)   // a second Ctrl-C does not wait for the drain
	signal.Ignore(syscall.SIGPIPE) // a reader that goes away is an error, and what was made is removed
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the whole program. It returns the exit code: 0, or 1 if something went
// wrong or flux did not keep what it promises, or 2 for a wrong command line.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parseFlags(args, stdout)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		complain(stderr, err)
		return 2
	}
	final, err := demo(ctx, o, stdout, stderr)
	if err != nil {
		complain(stderr, err)
		return 1
	}
	if !final.ok() {
		return 1
	}
	return 0
}

// complain writes an error, even one that joins several, as one line.
func complain(stderr io.Writer, err error) {
	_, _ = fmt.Fprintln(stderr, "quickstart:", strings.ReplaceAll(err.Error(), "\n", "; "))
}
