// Command kafka measures a gate on a Kafka consumer group beside the ways to
// consume one without flux, in turns in one run, and prints what it finds as
// markdown.
//
//	go -C bench run ./kafka                         # on a Kafka in memory, in a process of its own
//	go -C bench run ./kafka -brokers localhost:9092 # on a real one
//	go -C bench run ./kafka -quick                  # once and small, to see that it works
//
// Each peer takes the same messages, of 200 bytes without compression and 1,000 keys
// in 8 partitions, as the only member of a fresh group, asks for up to 1 MiB of a
// partition at once, which is what flux, Sarama and franz-go do by default and what
// the Reader is told, and commits every quarter of a second and at its end. franz-go
// and Sarama ask for several partitions in one request, the others for one. Throughput
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
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fluxlimiter/flux/bench/internal/cputime"
	"github.com/fluxlimiter/flux/bench/internal/rounds"
)

const (
	partitions = 8
	keys       = 1000
)

func main() {
	if serve() {
		return
	}
	if err := run(os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "kafka:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("kafka", flag.ContinueOnError)
	brokers := flags.String("brokers", "", "addresses of a Kafka cluster, with commas between (default: one in memory)")
	size := rounds.Size{Rounds: 5, Messages: 500_000}
	if err := size.Parse(flags, args); err != nil {
		return err
	}
	ctx := context.Background()
	c, err := open(ctx, *brokers, size.Messages)
	if err != nil {
		return err
	}
	defer c.close(ctx)
	samples, err := rounds.Run(size.Rounds, peers, func(p peer) (sample, error) {
		s, err := c.measure(ctx, p)
		if err != nil {
			return s, fmt.Errorf("%s: %w", p.name, err)
		}
		return s, nil
	})
	if err != nil {
		return err
	}
	return report(out, samples, size.Messages)
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
		rate := rounds.Median(samples[i], func(_ int, s sample) float64 { return float64(n) / s.wall.Seconds() })
		ratio := rounds.Median(samples[i], func(round int, s sample) float64 { return samples[0][round].wall.Seconds() / s.wall.Seconds() })
		cpu := rounds.Median(samples[i], func(_ int, s sample) float64 { return float64(s.cpu.Nanoseconds()) / float64(n) / 1000 })
		cheaper := rounds.Median(samples[i], func(round int, s sample) float64 { return float64(samples[0][round].cpu) / float64(max(1, s.cpu)) })
		committed := rounds.Median(samples[i], func(_ int, s sample) float64 { return s.committed })
		if err == nil {
			_, err = fmt.Fprintf(out, "| %s | %.0f k | %.2f | %.2f µs | %.2f | %.0f %% |\n", p.name, rate/1000, ratio, cpu, cheaper, 100*committed)
		}
	}
	return err
}
