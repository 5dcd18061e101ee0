// Command kafka shows flux at work on a Kafka topic that several tenants share:
// one of them floods it, flux holds each to its limit, and the others do not
// notice. Run it with
//
//	go run ./examples/kafka
//
// A Kafka made for tests runs inside the process; with -brokers it is a real
// one, where the program makes the topic, its lanes and its dead letters. The
// wiring is the function throttle; the rest makes the load and prints what
// happens.
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
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	command, args := demo, os.Args[1:]
	if len(args) > 0 && args[0] == "redrive" {
		command, args = redriveCommand, args[1:]
	}
	if err := command(ctx, args); err != nil {
		fmt.Fprintln(os.Stderr, "kafka:", err)
		os.Exit(1)
	}
}

func demo(ctx context.Context, args []string) error {
	var cfg config
	flags := flag.NewFlagSet("kafka", flag.ExitOnError)
	brokers := flags.String("brokers", "", "addresses of a Kafka cluster, with commas between (default: one inside the process)")
	flags.StringVar(&cfg.topic, "topic", "flux-example", "topic to make, publish to and consume")
	flags.StringVar(&cfg.group, "group", "flux-example", "consumer group")
	flags.Int64Var(&cfg.rate, "rate", 50, "messages a second that each tenant may have processed")
	flags.DurationVar(&cfg.duration, "duration", 15*time.Second, "how long to run")
	_ = flags.Parse(args) // it exits when it fails
	cfg.out = os.Stdout
	if *brokers != "" {
		cfg.brokers = strings.Split(*brokers, ",")
		return run(ctx, cfg)
	}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		return err
	}
	defer cluster.Close()
	cfg.brokers = cluster.ListenAddrs()
	return run(ctx, cfg)
}

func redriveCommand(ctx context.Context, args []string) error {
	var cfg redriveConfig
	flags := flag.NewFlagSet("kafka redrive", flag.ExitOnError)
	brokers := flags.String("brokers", "localhost:9092", "addresses of the cluster, with commas between")
	flags.StringVar(&cfg.from, "from", "", "dead-letter topic to read")
	flags.StringVar(&cfg.group, "group", "", "consumer group that remembers what is done (default: the topic and \".redrive\")")
	flags.Int64Var(&cfg.rate, "rate", 100, "dead letters to publish in a second")
	flags.StringVar(&cfg.tenant, "tenant", "", "only those of this tenant")
	flags.StringVar(&cfg.reason, "reason", "", "only those that died for this reason, as in max_attempts")
	key := flags.String("key", "", "only those whose key matches this pattern")
	flags.BoolVar(&cfg.dryRun, "dry-run", false, "publish nothing, and remember nothing")
	_ = flags.Parse(args) // it exits when it fails
	cfg.brokers, cfg.out = strings.Split(*brokers, ","), os.Stdout
	if *key != "" {
		var err error
		if cfg.key, err = regexp.Compile(*key); err != nil {
			return fmt.Errorf("-key: %w", err)
		}
	}
	_, err := redrive(ctx, cfg)
	return err
}
