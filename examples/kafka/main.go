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
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

func main() {
	var cfg config
	brokers := flag.String("brokers", "", "addresses of a Kafka cluster, with commas between (default: one inside the process)")
	flag.StringVar(&cfg.topic, "topic", "flux-example", "topic to make, publish to and consume")
	flag.StringVar(&cfg.group, "group", "flux-example", "consumer group")
	flag.Int64Var(&cfg.rate, "rate", 50, "messages a second that each tenant may have processed")
	flag.DurationVar(&cfg.duration, "duration", 15*time.Second, "how long to run")
	flag.Parse()
	cfg.out = os.Stdout

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := func() error {
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
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "kafka:", err)
		os.Exit(1)
	}
}
