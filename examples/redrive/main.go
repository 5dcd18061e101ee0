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
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/examples/internal/natsnode"
	"github.com/fluxlimiter/flux/examples/internal/program"
	"github.com/fluxlimiter/flux/gcra"
)

func main() { program.Main("redrive", run) }

// options are what the command line says.
type options struct {
	url, stream, subject, tenant, reason string
	rate                                 int64
	dryRun                               bool
}

func parse(args []string, help io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("redrive", flag.ContinueOnError)
	natsnode.Flag(flags, &o.url)
	flags.StringVar(&o.stream, "stream", "", "the dead-letter `stream`, as in DLQ_ORDERS; goes with -nats")
	flags.StringVar(&o.subject, "subject", "", "only those under this `subject`, with or without wildcards (default: all)")
	flags.StringVar(&o.tenant, "tenant", "", "only those of this `tenant`")
	flags.StringVar(&o.reason, "reason", "", "only those that died for this `reason`, as in max_attempts")
	flags.Int64Var(&o.rate, "rate", 100, "dead letters to publish in a second, 1 to 1000000")
	flags.BoolVar(&o.dryRun, "dry-run", false, "publish nothing and delete nothing")
	if err := program.Parse(flags, "Publishes the dead letters of a NATS JetStream stream to where they came from.", args, help); err != nil {
		return o, err
	}
	switch {
	case o.rate < 1 || o.rate > 1e6:
		return o, program.Usagef("-rate %d: want a number from 1 to 1000000", o.rate)
	case o.url != "" && o.stream == "":
		return o, program.Usagef("-stream %q: want the name of the dead-letter stream, as -nats is given", o.stream)
	case o.url == "" && o.stream != "":
		return o, program.Usagef("-stream %q: want -nats as well, to say where it is", o.stream)
	case strings.ContainsAny(o.stream, " \t\r\n.*>/\\"):
		return o, program.Usagef("-stream %q: want the name of a stream", o.stream)
	case o.subject != "" && !server.IsValidSubject(o.subject):
		return o, program.Usagef("-subject %q: want a subject, with or without wildcards", o.subject)
	}
	return o, nil
}

func run(ctx context.Context, args []string, stdout, _ io.Writer) (err error) {
	o, err := parse(args, stdout)
	if err != nil {
		return err
	}
	node, err := natsnode.Open(ctx, o.url, "redrive", true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	js, err := jetstream.New(node.Conn)
	if err != nil {
		return err
	}
	if o.url == "" {
		o.stream = "DLQ_ORDERS"
		return show(ctx, js, o, stdout)
	}
	return redrive(ctx, js, o, stdout)
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
	if err == nil || done.Read > 0 {
		report(out, o, done)
	}
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
