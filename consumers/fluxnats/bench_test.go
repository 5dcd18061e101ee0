package fluxnats_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// The benchmarks compare with a bare loop of Consume and Ack in one run, in turns,
// as both depend on the machine's mood: each takes the same stored messages to
// their end. The metric "ratio" is the median of the throughput over that of the
// loop in the same turn.

// BenchmarkSource is a source with the smallest gate there is.
func BenchmarkSource(b *testing.B) {
	compare(b, func(ctx context.Context, cancel func(), src *fluxnats.Source, n int) (time.Time, error) {
		in := newWorkers(1024, 16, n, cancel)
		defer close(in.ch)
		err := src.Run(ctx, in)
		return in.end, err
	})
}

// BenchmarkGate is a source with a gate, a limiter that limits nobody, a
// thousand tenants, and a handler that does nothing.
func BenchmarkGate(b *testing.B) {
	compare(b, func(ctx context.Context, cancel func(), src *fluxnats.Source, n int) (time.Time, error) {
		lim, err := flux.New(flux.Config[string]{Limit: gcra.Unlimited()})
		if err != nil {
			return time.Time{}, err
		}
		gate, err := stream.New(stream.Config[*fluxnats.Msg]{Limiter: lim, Tenant: (*fluxnats.Msg).Subject})
		if err != nil {
			return time.Time{}, err
		}
		var left atomic.Int64
		left.Store(int64(n))
		var end time.Time
		err = gate.Run(ctx, src, func(context.Context, *fluxnats.Msg) error {
			if left.Add(-1) == 0 {
				end = time.Now()
				cancel()
			}
			return nil
		})
		return end, err
	})
}

// through takes n messages through src, calls cancel, and returns when it was
// done with the last one.
type through func(ctx context.Context, cancel func(), src *fluxnats.Source, n int) (time.Time, error)

func compare(b *testing.B, f through) {
	b.Helper()
	for _, tcp := range []bool{false, true} {
		name := "inprocess"
		if tcp {
			name = "tcp"
		}
		b.Run(name, func(b *testing.B) { compareOver(b, tcp, f) })
	}
}

func compareOver(b *testing.B, tcp bool, f through) {
	b.Helper()
	const messages = 50_000
	srv, err := server.NewServer(&server.Options{
		ServerName: "b", JetStream: true, StoreDir: b.TempDir(), Host: "127.0.0.1", Port: server.RANDOM_PORT,
		DontListen: !tcp, NoSigs: true, NoLog: true,
	})
	if err != nil {
		b.Fatal(err)
	}
	srv.Start()
	defer func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	}()
	if !srv.ReadyForConnections(10 * time.Second) {
		b.Fatal("server is not ready")
	}
	url, opts := "", []nats.Option{nats.InProcessServer(srv)}
	if tcp {
		url, opts = srv.ClientURL(), nil
	}
	nc, err := nats.Connect(url, opts...)
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		b.Fatal(err)
	}
	cfg := fluxnats.Config{Stream: "B", Consumer: "source"}
	src, err := fluxnats.New(js, cfg)
	if err != nil {
		b.Fatal(err)
	}
	layout := fluxnats.Layout{Subjects: []string{"in.*"}, Storage: jetstream.MemoryStorage, MaxAckPending: 8192}
	if _, err := src.Provision(b.Context(), layout); err != nil {
		b.Fatal(err)
	}
	payload := make([]byte, 200)
	for i := range messages {
		if _, err := js.PublishAsync(fmt.Sprintf("in.%d", i%1000), payload, jetstream.WithStallWait(10*time.Second)); err != nil {
			b.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()

	// Both begin with a fresh consumer each time.
	fresh := func() jetstream.Consumer {
		_ = js.DeleteConsumer(b.Context(), "B", "source")
		c, err := js.CreateConsumer(b.Context(), "B", jetstream.ConsumerConfig{
			Durable: "source", FilterSubject: "in.*", AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: -1, MaxAckPending: 8192,
		})
		if err != nil {
			b.Fatal(err)
		}
		return c
	}
	bare := func() time.Duration {
		c := fresh()
		var n atomic.Int64
		done := make(chan struct{})
		start := time.Now()
		cc, err := c.Consume(func(m jetstream.Msg) {
			if err := m.Ack(); err != nil {
				b.Error(err)
			}
			if n.Add(1) == messages {
				close(done)
			}
		})
		if err != nil {
			b.Fatal(err)
		}
		<-done
		took := time.Since(start)
		cc.Stop()
		<-cc.Closed()
		return took
	}
	ours := func() time.Duration {
		fresh()
		ctx, cancel := context.WithCancel(b.Context())
		defer cancel()
		start := time.Now()
		end, err := f(ctx, cancel, src, messages)
		if err != nil {
			b.Fatal(err)
		}
		return end.Sub(start)
	}
	bare()
	ours()
	var ratios, bares, throughs []float64
	for b.Loop() {
		x := bare()
		y := ours()
		ratios = append(ratios, x.Seconds()/y.Seconds())
		bares = append(bares, messages/x.Seconds())
		throughs = append(throughs, messages/y.Seconds())
	}
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(median(bares), "bare-msgs/s")
	b.ReportMetric(median(throughs), "msgs/s")
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// workers is a gate with a window and sixteen workers, which acknowledge what they
// are given.
type workers struct {
	mu   sync.Mutex
	cond *sync.Cond
	room int
	ch   chan stream.Delivery[*fluxnats.Msg]
	left int
	done func()
	end  time.Time
}

func newWorkers(window, n, left int, done func()) *workers {
	w := &workers{room: window, ch: make(chan stream.Delivery[*fluxnats.Msg], window), left: left, done: done}
	w.cond = sync.NewCond(&w.mu)
	for range n {
		go func() {
			for d := range w.ch {
				if err := d.Ack(context.Background()); err != nil {
					panic(err)
				}
				w.mu.Lock()
				w.room++
				if w.left--; w.left == 0 {
					w.end = time.Now()
					w.done()
				}
				if w.room == 1 || w.left == 0 {
					w.cond.Broadcast()
				}
				w.mu.Unlock()
			}
		}()
	}
	return w
}

func (w *workers) Recall(<-chan struct{}) {}

func (w *workers) Window(most int) int { return min(most, cap(w.ch)) }

func (w *workers) Room(ctx context.Context, most int) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.room == 0 && ctx.Err() == nil {
		w.cond.Wait()
	}
	return max(1, min(w.room, most)), ctx.Err()
}

func (w *workers) Deliver(ctx context.Context, deliveries ...stream.Delivery[*fluxnats.Msg]) error {
	for i, d := range deliveries {
		w.mu.Lock()
		for w.room == 0 && ctx.Err() == nil {
			w.cond.Wait()
		}
		if err := ctx.Err(); err != nil {
			w.mu.Unlock()
			releaseAll(deliveries[i:])
			return err
		}
		w.room--
		w.mu.Unlock()
		w.ch <- d
	}
	return nil
}
