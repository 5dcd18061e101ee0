// Command redrive publishes the dead letters of a NATS JetStream stream to where
// they came from, once whatever killed them is mended:
//
//	go run ./examples/redrive -nats nats://localhost:4222 -stream DLQ_ORDERS -reason max_attempts -rate 50 -dry-run
//
// Without -nats it shows that on a server inside the process: a handler fails
// with some orders, they become dead letters, the handler is mended, and redriven
// they are processed.
//
// It may be stopped and started again at any time. Dead letters that the filters
// do not want stay where they are, as do those that cannot be redriven.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/gcra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "redrive:", err)
		os.Exit(1)
	}
}

// options are what the command line says.
type options struct {
	url, stream, subject, tenant, reason string
	rate                                 int64
	dryRun                               bool
}

func parse(args []string, out io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("redrive", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.StringVar(&o.url, "nats", "", "address of a NATS server (default: one inside the process, with dead letters of its own)")
	flags.StringVar(&o.stream, "stream", "", "dead-letter stream, as in DLQ_ORDERS")
	flags.StringVar(&o.subject, "subject", "", "only those under this subject, with or without wildcards (default: all)")
	flags.StringVar(&o.tenant, "tenant", "", "only those of this tenant")
	flags.StringVar(&o.reason, "reason", "", "only those that died for this reason, as in max_attempts")
	flags.Int64Var(&o.rate, "rate", 100, "dead letters to publish in a second, 1 to 1000000")
	flags.BoolVar(&o.dryRun, "dry-run", false, "publish nothing and delete nothing")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("%q is no flag", flags.Arg(0))
	case o.rate < 1 || o.rate > 1e6:
		return o, fmt.Errorf("-rate %d: must be from 1 to 1000000", o.rate)
	case o.url != "" && o.stream == "":
		return o, errors.New("-stream: must name the dead-letter stream")
	}
	return o, nil
}

func run(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(args, out)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if o.url == "" {
		return demo(ctx, o, out)
	}
	nc, err := nats.Connect(o.url, nats.Name("flux redrive"))
	if err != nil {
		return fmt.Errorf("-nats: cannot connect: %w", err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	return redrive(ctx, js, o, out)
}

// redrive is what the program is for.
func redrive(ctx context.Context, js jetstream.JetStream, o options, out io.Writer) error {
	told := time.Now()
	done, err := fluxnats.Redrive(ctx, js, fluxnats.RedriveConfig{
		Stream:  o.stream,
		Subject: o.subject,
		Filter: func(l *fluxnats.DeadLetter) bool {
			return (o.tenant == "" || l.Tenant == o.tenant) && (o.reason == "" || l.Reason == o.reason)
		},
		Limit:  gcra.PerSecond(o.rate).WithBurst(1),
		DryRun: o.dryRun,
		Progress: func(done fluxnats.Redriven) {
			if now := time.Now(); now.Sub(told) >= time.Second {
				told = now
				report(out, o, done)
			}
		},
	})
	report(out, o, done)
	if err == nil && done.Failed > 0 {
		err = fmt.Errorf("%d dead letters stay, the last because: %w", done.Failed, done.LastError)
	}
	return err
}

func report(out io.Writer, o options, done fluxnats.Redriven) {
	verb := "redriven"
	if o.dryRun {
		verb = "would be redriven"
	}
	_, _ = fmt.Fprintf(out, "%s: of %d dead letters %d %s, %d skipped, %d failed\n", o.stream, done.Read, done.Redriven, verb, done.Skipped, done.Failed)
}
