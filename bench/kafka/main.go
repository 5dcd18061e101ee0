// Command kafka measures a gate on a Kafka consumer group beside the ways to
// consume one without flux, in turns in one run, and prints what it finds as
// markdown.
//
//	go -C bench run ./kafka                         # on a Kafka in memory, in a process of its own
//	go -C bench run ./kafka -brokers localhost:9092 # on a real one
//	go -C bench run ./kafka -quick                  # once and small, to see that it works
//
// Each peer takes the same messages, of 200 bytes without compression and 1,000 keys
// in 8 partitions, as the only member of a fresh group, fetches up to 1 MiB of a
// partition at once, and commits every quarter of a second and at its end. Throughput
// is that from the first message to the last; it hangs on how busy the machine is,
// and on the broker, and so does its ratio, which is that of two neighbours in one
// round. CPU time is the client's alone, of its whole life, the joining and the last
// commit included, and hangs on little else.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fluxlimiter/flux/bench/internal/cputime"
)

const (
	partitions = 8
	keys       = 1000
)

func main() {
	if serve() {
		return
	}
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "kafka:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("kafka", flag.ContinueOnError)
	brokers := flags.String("brokers", "", "addresses of a Kafka cluster, with commas between (default: one in memory)")
	quick := flags.Bool("quick", false, "measure once and small")
	rounds := flags.Int("rounds", 5, "samples of each figure")
	messages := flags.Int("messages", 500_000, "messages of a sample")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *quick {
		*rounds, *messages = 1, 2000
	}
	if *rounds < 1 || *messages < 1 {
		return fmt.Errorf("-rounds %d and -messages %d must be at least 1", *rounds, *messages)
	}
	ctx := context.Background()
	c, err := open(ctx, *brokers, *messages)
	if err != nil {
		return err
	}
	defer c.close(ctx)
	samples := make([][]sample, len(peers))
	for round := range *rounds + 1 {
		for i, p := range peers {
			s, err := c.measure(ctx, p)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			if round > 0 { // the first warms up
				samples[i] = append(samples[i], s)
			}
		}
	}
	return report(out, samples, *messages)
}

// cluster is a Kafka with a topic of messages.
type cluster struct {
	stop     func() error // nil: a real one
	cl       *kgo.Client
	brokers  []string
	topic    string
	messages int
	groups   []string // that were used
}

func open(ctx context.Context, brokers string, messages int) (c *cluster, err error) {
	c = &cluster{brokers: strings.Split(brokers, ","), topic: fmt.Sprint("flux-bench-", time.Now().UnixNano()), messages: messages}
	if brokers == "" {
		if brokers, c.stop, err = startBroker(); err != nil {
			return nil, err
		}
		c.brokers = strings.Split(brokers, ",")
	}
	defer func() {
		if err != nil {
			c.close(ctx)
		}
	}()
	if c.cl, err = kgo.NewClient(
		kgo.SeedBrokers(c.brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression()),
	); err != nil {
		return c, err
	}
	if _, err = kadm.NewClient(c.cl).CreateTopic(ctx, partitions, -1, nil, c.topic); err != nil {
		return c, err
	}
	value := make([]byte, 200)
	var failed error
	for i := range messages {
		k := i % keys
		c.cl.Produce(ctx, &kgo.Record{
			Topic: c.topic, Partition: int32(k % partitions), Key: strconv.AppendInt(nil, int64(k), 10), Value: value,
		}, func(_ *kgo.Record, err error) {
			if err != nil {
				failed = err
			}
		})
	}
	return c, errors.Join(c.cl.Flush(ctx), failed)
}

// close takes away what was made on a real cluster.
func (c *cluster) close(ctx context.Context) {
	if c.cl != nil {
		adm := kadm.NewClient(c.cl)
		_, _ = adm.DeleteGroups(ctx, c.groups...) // it is only tidier so
		_, _ = adm.DeleteTopics(ctx, c.topic)
		c.cl.Close()
	}
	if c.stop != nil {
		_ = c.stop() // it has served
	}
}

// sample is what one run of a peer took, and how much of it its group had
// committed at its end.
type sample struct {
	wall, cpu time.Duration
	committed float64
}

// measure gives all messages to a peer.
func (c *cluster) measure(ctx context.Context, p peer) (s sample, err error) {
	group := c.topic + "-" + strconv.Itoa(len(c.groups))
	c.groups = append(c.groups, group)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var start time.Time
	cpu := cputime.Process()
	err = p.run(ctx, consumer{brokers: c.brokers, topic: c.topic, group: group, done: ends(c.messages, func() { start = time.Now() }, func() {
		s.wall = time.Since(start)
		cancel()
	})})
	s.cpu = cputime.Process() - cpu
	if err == nil && s.wall == 0 {
		err = errors.New("it ended before it was done")
	}
	if err != nil {
		return s, err
	}
	offsets, err := kadm.NewClient(c.cl).FetchOffsets(context.WithoutCancel(ctx), group)
	offsets.Each(func(o kadm.OffsetResponse) { s.committed += float64(o.At) / float64(c.messages) })
	return s, err
}

func report(out io.Writer, samples [][]sample, n int) error {
	_, err := fmt.Fprintf(out, "%d messages of 200 bytes, medians of %d rounds; CPU is the client's, without the broker's; ratios above 1 are better than %s.\n\n"+
		"| | messages/s | ratio | CPU per message | ratio | committed at its end |\n|---|---|---|---|---|---|\n", n, len(samples[0]), peers[0].name)
	for i, p := range peers {
		rate := median(samples[i], func(_ int, s sample) float64 { return float64(n) / s.wall.Seconds() })
		ratio := median(samples[i], func(round int, s sample) float64 { return samples[0][round].wall.Seconds() / s.wall.Seconds() })
		cpu := median(samples[i], func(_ int, s sample) float64 { return float64(s.cpu.Nanoseconds()) / float64(n) / 1000 })
		cheaper := median(samples[i], func(round int, s sample) float64 { return float64(samples[0][round].cpu) / float64(max(1, s.cpu)) })
		committed := median(samples[i], func(_ int, s sample) float64 { return s.committed })
		if err == nil {
			_, err = fmt.Fprintf(out, "| %s | %.0f k | %.2f | %.2f µs | %.2f | %.0f %% |\n", p.name, rate/1000, ratio, cpu, cheaper, 100*committed)
		}
	}
	return err
}

func median(samples []sample, value func(round int, s sample) float64) float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = value(i, s)
	}
	slices.Sort(values)
	return values[len(values)/2]
}
