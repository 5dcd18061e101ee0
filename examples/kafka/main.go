// Command kafka shows flux at work on a Kafka topic that several tenants share:
// one of them floods it, flux holds each to its limit, and the others do not
// notice. Run it with
//
//	go run ./examples/kafka
//
// A Kafka made for tests runs inside the process; with -brokers it is a real
// one, where the program makes the topic, its lanes and its dead letters, and
// leaves them. The wiring is the function throttle; the rest makes the load and
// prints what happens.
//
// With redrive as its first argument it publishes the dead letters of a topic to
// where they came from, once whatever killed them is mended:
//
//	go run ./examples/kafka redrive -brokers localhost:9092 -from dlq.orders.billing -rate 100 -dry-run
//
// It goes on where it stopped the last time: what it has redriven is committed
// for a consumer group of its own. It ends at what is the end of the dead letters
// when it starts, so that those that die again are left for the next time.
package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/fluxlimiter/flux/examples/internal/program"
)

func main() { program.Main("kafka", run) }

// run is the whole program.
func run(ctx context.Context, args []string, stdout, _ io.Writer) error {
	if len(args) > 0 && args[0] == "redrive" {
		cfg, err := parseRedrive(args[1:], stdout)
		if err != nil {
			return err
		}
		_, err = redrive(ctx, cfg)
		return err
	}
	cfg, err := parseDemo(args, stdout)
	if err != nil {
		return err
	}
	if cfg.brokers == nil {
		cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
		if err != nil {
			return err
		}
		defer cluster.Close()
		cfg.brokers = cluster.ListenAddrs()
	}
	return demo(ctx, cfg)
}

func parseDemo(args []string, stdout io.Writer) (config, error) {
	cfg := config{out: stdout}
	flags := flag.NewFlagSet("kafka", flag.ContinueOnError)
	brokersFlag(flags, "use the Kafka cluster at these `addresses`, with commas between, instead of one inside this process", &cfg.brokers)
	flags.StringVar(&cfg.topic, "topic", "flux-example", "the `topic` to make, publish to and consume")
	flags.StringVar(&cfg.group, "group", "flux-example", "the consumer `group`")
	flags.Int64Var(&cfg.rate, "rate", 50, "messages a second that each tenant may have processed, 1 to 1000000")
	flags.DurationVar(&cfg.duration, "duration", 15*time.Second, "how long to run, 1s to 1h")
	err := program.Parse(flags, "Shows flux throttling a Kafka topic per tenant. \"kafka redrive -h\" says how to publish dead letters again.", args, stdout)
	switch {
	case err != nil:
		return cfg, err
	case cfg.topic == "":
		return cfg, program.Usagef("-topic %q: want the name of a topic", cfg.topic)
	case cfg.group == "":
		return cfg, program.Usagef("-group %q: want the name of a consumer group", cfg.group)
	case cfg.duration < time.Second || cfg.duration > time.Hour:
		return cfg, program.Usagef("-duration %v: want a time from 1s to 1h", cfg.duration)
	}
	return cfg, checkRate(cfg.rate)
}

func parseRedrive(args []string, stdout io.Writer) (redriveConfig, error) {
	cfg := redriveConfig{brokers: []string{"localhost:9092"}, out: stdout}
	flags := flag.NewFlagSet("kafka redrive", flag.ContinueOnError)
	brokersFlag(flags, "the `addresses` of the cluster, with commas between (default localhost:9092)", &cfg.brokers)
	flags.StringVar(&cfg.from, "from", "", "the dead-letter `topic` to read")
	flags.StringVar(&cfg.group, "group", "", "the consumer `group` that remembers what is done (default: the topic and \".redrive\")")
	flags.Int64Var(&cfg.rate, "rate", 100, "dead letters to publish in a second, 1 to 1000000")
	flags.StringVar(&cfg.tenant, "tenant", "", "only those of this `tenant`")
	flags.StringVar(&cfg.reason, "reason", "", "only those that died for this `reason`, as in max_attempts")
	flags.Func("key", "only those whose key matches this regular `expression`", func(s string) (err error) {
		cfg.key, err = regexp.Compile(s)
		return err
	})
	flags.BoolVar(&cfg.dryRun, "dry-run", false, "publish nothing, and remember nothing")
	err := program.Parse(flags, "Publishes the dead letters of a Kafka topic to where they came from.", args, stdout)
	switch {
	case err != nil:
		return cfg, err
	case cfg.from == "":
		return cfg, program.Usagef("-from %q: want the name of a dead-letter topic", cfg.from)
	}
	return cfg, checkRate(cfg.rate)
}

// brokersFlag adds the flag -brokers, which says where the cluster is.
func brokersFlag(flags *flag.FlagSet, usage string, brokers *[]string) {
	flags.Func("brokers", usage, func(s string) error {
		*brokers = nil
		for address := range strings.SplitSeq(s, ",") {
			if address = strings.TrimSpace(address); address == "" {
				return errors.New("want addresses such as localhost:9092")
			}
			*brokers = append(*brokers, address)
		}
		return nil
	})
}

func checkRate(rate int64) error {
	if rate < 1 || rate > 1e6 {
		return program.Usagef("-rate %d: want a number from 1 to 1000000", rate)
	}
	return nil
}
