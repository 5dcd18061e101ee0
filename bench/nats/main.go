// Command nats measures a gate on a NATS JetStream consumer beside the ways to
// consume one without flux, in turns in one run, and prints what it finds as
// markdown.
//
//	go -C bench run ./nats           # a minute
//	go -C bench run ./nats -quick    # once and small, to see that it works
//	go -C bench run ./nats -memory   # with the stream in memory
//
// Each peer takes the same messages, of 200 bytes and 1,000 subjects, from a stream
// in files or in memory, through a fresh consumer with MaxAckPending 1,024, over
// TCP. Throughput hangs on how busy the machine is; the ratio is that of two
// neighbours in one round, and CPU time, client and server together, hardly hangs
// on it at all.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux/bench/internal/cputime"
	"github.com/fluxlimiter/flux/bench/internal/rounds"
)

const (
	streamName   = "BENCH"
	consumerName = "bench"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "nats:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("nats", flag.ContinueOnError)
	memory := flags.Bool("memory", false, "keep the streams in memory instead of files")
	size := rounds.Size{Rounds: 7, Messages: 50_000}
	if err := size.Parse(flags, args); err != nil {
		return err
	}
	storage := jetstream.FileStorage
	if *memory {
		storage = jetstream.MemoryStorage
	}
	b, err := open(size.Messages, storage)
	if err != nil {
		return err
	}
	defer b.close()
	ctx := context.Background()
	samples, err := rounds.Run(size.Rounds, peers, func(p peer) (sample, error) {
		s, err := b.measure(ctx, p)
		if err != nil {
			return s, fmt.Errorf("%s: %w", p.name, err)
		}
		return s, nil
	})
	if err != nil {
		return err
	}
	return report(out, samples, size.Messages, storage)
}

// broker is an embedded server with a stream of messages.
type broker struct {
	dir      string
	srv      *server.Server
	nc       *nats.Conn
	js       jetstream.JetStream
	messages int
	storage  jetstream.StorageType
}

func open(messages int, storage jetstream.StorageType) (b *broker, err error) {
	b = &broker{messages: messages, storage: storage}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if b.dir, err = os.MkdirTemp("", "flux-bench"); err != nil {
		return b, err
	}
	if b.srv, err = server.NewServer(&server.Options{
		ServerName: "bench", JetStream: true, StoreDir: b.dir, Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
	}); err != nil {
		return b, err
	}
	b.srv.Start()
	if !b.srv.ReadyForConnections(10 * time.Second) {
		return b, errors.New("the server does not start")
	}
	if b.nc, err = nats.Connect(b.srv.ClientURL()); err != nil {
		return b, err
	}
	if b.js, err = jetstream.New(b.nc); err != nil {
		return b, err
	}
	return b, b.store(context.Background())
}

func (b *broker) close() {
	if b.nc != nil {
		b.nc.Close()
	}
	if b.srv != nil {
		b.srv.Shutdown()
		b.srv.WaitForShutdown()
	}
	_ = os.RemoveAll(b.dir) // of the system's temporary files
}

// store makes the stream, and that for dead letters, and fills the first.
func (b *broker) store(ctx context.Context) error {
	for _, c := range []jetstream.StreamConfig{
		{Name: streamName, Subjects: []string{"in.*", "flux.defer." + streamName + "." + consumerName + ".*"}, AllowMsgSchedules: true},
		{Name: "DLQ_" + streamName, Subjects: []string{"dlq.>"}},
	} {
		c.Storage = b.storage
		if _, err := b.js.CreateStream(ctx, c); err != nil {
			return err
		}
	}
	payload := make([]byte, 200)
	for i := range b.messages {
		if _, err := b.js.PublishAsync(fmt.Sprintf("in.%d", i%1000), payload, jetstream.WithStallWait(10*time.Second)); err != nil {
			return err
		}
	}
	<-b.js.PublishAsyncComplete()
	return nil
}

// sample is what one run of a peer took.
type sample struct{ wall, cpu time.Duration }

// measure gives all messages to a peer.
func (b *broker) measure(ctx context.Context, p peer) (s sample, err error) {
	if err := b.js.DeleteConsumer(ctx, streamName, consumerName); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return s, err
	}
	if _, err := b.js.CreateConsumer(ctx, streamName, jetstream.ConsumerConfig{
		Durable: consumerName, FilterSubject: "in.*", AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: -1, MaxAckPending: 1024,
	}); err != nil {
		return s, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	start, cpu := time.Now(), cputime.Process()
	err = p.run(ctx, b.nc, b.messages, func() {
		s = sample{time.Since(start), cputime.Process() - cpu}
		cancel()
	})
	if err == nil && s.wall == 0 {
		err = errors.New("it ended before it was done")
	}
	return s, err
}

func report(out io.Writer, samples [][]sample, n int, storage jetstream.StorageType) error {
	_, err := fmt.Fprintf(out, "%d messages a sample, %s storage\n\n", n, strings.ToLower(storage.String()))
	if err == nil {
		_, err = fmt.Fprint(out, "| | messages/s | ratio | CPU per message |\n|---|---|---|---|\n")
	}
	for i, p := range peers {
		rate := rounds.Median(samples[i], func(_ int, s sample) float64 { return float64(n) / s.wall.Seconds() })
		ratio := rounds.Median(samples[i], func(round int, s sample) float64 { return samples[0][round].wall.Seconds() / s.wall.Seconds() })
		cpu := rounds.Median(samples[i], func(_ int, s sample) float64 { return float64(s.cpu.Nanoseconds()) / float64(n) / 1000 })
		if err == nil {
			_, err = fmt.Fprintf(out, "| %s | %.0f k | %.2f | %.1f µs |\n", p.name, rate/1000, ratio, cpu)
		}
	}
	return err
}
