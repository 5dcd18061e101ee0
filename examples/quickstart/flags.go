package main

import (
	"flag"
	"io"
	"time"

	"github.com/fluxlimiter/flux/examples/internal/natsnode"
	"github.com/fluxlimiter/flux/examples/internal/program"
	"github.com/fluxlimiter/flux/gcra"
)

// options are what the command line says.
type options struct {
	natsURL  string // empty: a server of our own, inside this process
	tenants  int
	rate     float64
	burst    int64
	noisy    float64
	duration time.Duration
	json     bool

	limit gcra.Limit // rate and burst, as flux understands them
	seed  uint64     // of the workload: the same on every run, so that runs compare
}

// parseFlags reads the command line: see [program.Parse]. Its errors name the flag
// and its value.
func parseFlags(args []string, help io.Writer) (options, error) {
	o := options{seed: 1}
	fs := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	natsnode.Flag(fs, &o.natsURL)
	fs.IntVar(&o.tenants, "tenants", 8, "how many tenants send messages, 1 to 1000; one of them is the noisy one")
	fs.Float64Var(&o.rate, "rate", 20, "each tenant's limit in messages per second, 0.01 to 100000")
	fs.Int64Var(&o.burst, "burst", 20, "how many messages at once the limit allows a tenant that has rested, 1 to 1000000")
	fs.Float64Var(&o.noisy, "noisy", 50, "the noisy tenant sends this many `times` its limit, 0.01 to 10000; 1 switches the noise off")
	fs.DurationVar(&o.duration, "duration", 15*time.Second, "how long to run, 100ms to 1h")
	fs.BoolVar(&o.json, "json", false, "print the final report as one JSON object, and nothing else")

	if err := program.Parse(fs, "Shows flux throttling a NATS JetStream stream per tenant.", args, help); err != nil {
		return options{}, err
	}
	if err := o.validate(fs); err != nil {
		return options{}, err
	}
	limit, err := gcra.FromFloat(o.rate)
	if err != nil {
		return options{}, program.Usagef("-rate %v: %w", o.rate, err)
	}
	o.limit = limit.WithBurst(o.burst)
	if err := o.limit.Validate(); err != nil {
		return options{}, program.Usagef("-rate %v -burst %d: %w", o.rate, o.burst, err)
	}
	return o, nil
}

func (o options) validate(fs *flag.FlagSet) error {
	for _, f := range []struct {
		name string
		ok   bool
		want string
	}{
		// Written so that NaN is not ok.
		{"tenants", o.tenants >= 1 && o.tenants <= 1000, "a number from 1 to 1000"},
		{"rate", o.rate >= 0.01 && o.rate <= 100_000, "messages per second, from 0.01 to 100000"},
		{"burst", o.burst >= 1 && o.burst <= 1_000_000, "a number from 1 to 1000000"},
		{"noisy", o.noisy >= 0.01 && o.noisy <= 10_000, "a factor from 0.01 to 10000"},
		{"duration", o.duration >= 100*time.Millisecond && o.duration <= time.Hour, "a time from 100ms to 1h"},
	} {
		if !f.ok {
			return program.Usagef("-%s %s: want %s", f.name, fs.Lookup(f.name).Value, f.want)
		}
	}
	return nil
}
