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
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/consumers/fluxnats"
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

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "workers:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	url := flag.String("nats", "", "address of a NATS server (default: one inside the process)")
	rate := flag.Int64("rate", 10, "requests a second that each tenant may have carried out")
	duration := flag.Duration("duration", 5*time.Second, "how long to run")
	flag.Parse()
	if *rate < 1 || *rate > 1e6 {
		return fmt.Errorf("-rate %d: must be from 1 to 1000000", *rate)
	}
	if *duration < time.Second || *duration > time.Hour {
		return fmt.Errorf("-duration %v: must be from 1s to 1h", *duration)
	}
	nc, closeAll, err := connect(*url)
	if err != nil {
		return err
	}
	defer closeAll()
	r, err := demo(ctx, nc, gcra.PerSecond(*rate).WithBurst(min(*rate, 5)), *duration)
	if err != nil {
		return err
	}
	r.print(os.Stdout)
	return r.check()
}
