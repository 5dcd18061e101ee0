// Command redrive publishes the dead letters of a topic to where they came
// from, once whatever killed them is mended.
//
//	go run ./examples/redrive -brokers localhost:9092 -from dlq.orders.billing -rate 100 -dry-run
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
)

func main() {
	var cfg config
	brokers := flag.String("brokers", "localhost:9092", "addresses of the cluster, with commas between")
	flag.StringVar(&cfg.from, "from", "", "dead-letter topic to read")
	flag.StringVar(&cfg.group, "group", "", "consumer group that remembers what is done (default: the topic and \".redrive\")")
	flag.Int64Var(&cfg.rate, "rate", 100, "dead letters to publish in a second")
	flag.StringVar(&cfg.tenant, "tenant", "", "only those of this tenant")
	flag.StringVar(&cfg.reason, "reason", "", "only those that died for this reason, as in max_attempts")
	key := flag.String("key", "", "only those whose key matches this pattern")
	flag.BoolVar(&cfg.dryRun, "dry-run", false, "publish nothing, and remember nothing")
	flag.Parse()

	cfg.brokers = strings.Split(*brokers, ",")
	cfg.out = os.Stdout
	var err error
	if *key != "" {
		cfg.key, err = regexp.Compile(*key)
	}
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		_, err = redrive(ctx, cfg)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "redrive:", err)
		os.Exit(1)
	}
}
