// Command workers shows flux in front of workers that answer requests over core
// NATS, without JetStream. Each tenant may have so many requests a second carried
// out; one beyond that is answered at once with a refusal that says when to ask
// again. Run it with
//
//	go run ./examples/workers
//
// A NATS server runs inside the process; with -nats it is a real one. The wiring
// is the function serve; clients.go makes the requests of three tenants: one
// floods the workers, one asks again when it was told to, and one asks rarely.
package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/examples/internal/natsnode"
	"github.com/fluxlimiter/flux/examples/internal/program"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

const (
	subject = "flux.example.render"
	queue   = "flux-example-workers"
)

// serve answers the requests of a subject until ctx ends, together with all
// others in the queue group. This is all that it takes.
func serve(ctx context.Context, nc *nats.Conn, limit gcra.Limit) (fluxnats.CoreStats, error) {
	limiter, err := flux.New(flux.Config[string]{Limit: limit})
	if err != nil {
		return fluxnats.CoreStats{}, err
	}
	gate, err := stream.New(stream.Config[*fluxnats.Msg]{
		Limiter: limiter,
		Tenant:  func(m *fluxnats.Msg) string { return m.Headers().Get("Tenant") },
		Policy: stream.Policy{
			MaxWait:  100 * time.Millisecond, // one whose turn is that near waits for it
			OnDenied: stream.DeadLetter,      // a later one is refused, being a request
		},
	})
	if err != nil {
		return fluxnats.CoreStats{}, err
	}
	source, err := fluxnats.NewCore(nc, fluxnats.CoreConfig{Subject: subject, Queue: queue, AnswerRefused: true})
	if err != nil {
		return fluxnats.CoreStats{}, err
	}
	err = gate.Run(ctx, source, render)
	return source.Stats(), err
}

// render is the work. It takes a while.
func render(ctx context.Context, m *fluxnats.Msg) error {
	select {
	case <-time.After(10 * time.Millisecond):
	case <-ctx.Done():
		return ctx.Err()
	}
	return m.Respond(nil, []byte("rendered"))
}

func main() { program.Main("workers", run) }

// options are what the command line says.
type options struct {
	natsURL  string // empty: a server of our own, inside this process
	rate     int64
	duration time.Duration
}

func parse(args []string, help io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("workers", flag.ContinueOnError)
	natsnode.Flag(flags, &o.natsURL)
	flags.Int64Var(&o.rate, "rate", 10, "requests a second that each tenant may have carried out, 1 to 1000000")
	flags.DurationVar(&o.duration, "duration", 5*time.Second, "how long to run, 1s to 1h")
	if err := program.Parse(flags, "Shows flux in front of workers that answer requests over core NATS.", args, help); err != nil {
		return o, err
	}
	switch {
	case o.rate < 1 || o.rate > 1e6:
		return o, program.Usagef("-rate %d: want a number from 1 to 1000000", o.rate)
	case o.duration < time.Second || o.duration > time.Hour:
		return o, program.Usagef("-duration %v: want a time from 1s to 1h", o.duration)
	}
	return o, nil
}

// run is the whole program. Its error is that something went wrong or that a
// limit was not kept.
func run(ctx context.Context, args []string, stdout, _ io.Writer) (err error) {
	o, err := parse(args, stdout)
	if err != nil {
		return err
	}
	node, err := natsnode.Open(ctx, o.natsURL, "workers", false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	r, err := demo(ctx, node.Conn, gcra.PerSecond(o.rate).WithBurst(min(o.rate, 5)), o.duration)
	if err != nil {
		return err
	}
	return errors.Join(r.print(stdout), r.check())
}
