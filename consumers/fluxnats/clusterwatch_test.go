package fluxnats_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/gcra"
)

// TestClusterWatchAndRedrive kills the server that leads the dead-letter stream
// while Watch makes dead letters of messages that the servers have abandoned, and
// once more while Redrive brings them back. None is lost and none is there twice.
func TestClusterWatchAndRedrive(t *testing.T) {
	c := startCluster(t)
	const n = 1000
	_, js := c.connect(c.nodes[0])
	src, err := fluxnats.New(js, fluxnats.Config{Stream: "S", Consumer: "c", Logger: slog.New(slog.NewTextHandler(c.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	c.until("provision", func(ctx context.Context) error {
		_, err := src.Provision(ctx, fluxnats.Layout{Subjects: []string{"in.>"}, Retention: jetstream.WorkQueuePolicy, Replicas: 3, AckWait: time.Second})
		return err
	})
	watch := func() (stop func()) {
		ctx, cancel := context.WithCancel(c.Context())
		done := make(chan error, 1)
		go func() { done <- src.Watch(ctx, fluxnats.WatchConfig{Create: true}) }()
		return func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Watch: %v", err)
			}
		}
	}

	// The servers abandon all messages while nobody watches.
	stop := watch()
	c.until("a place for advisories", func(ctx context.Context) error {
		_, err := js.Consumer(ctx, "ADVISORIES_S_c", "S-c")
		return err
	})
	stop()
	con, err := js.Consumer(c.Context(), "S", "c")
	if err != nil {
		t.Fatal(err)
	}
	config := con.CachedInfo().Config
	config.MaxDeliver = 1
	if con, err = js.UpdateConsumer(c.Context(), "S", config); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if _, err := js.Publish(c.Context(), fmt.Sprintf("in.%d", i), fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	c.until("the end of all messages", func(ctx context.Context) error {
		batch, err := con.FetchNoWait(n)
		if err != nil {
			return err
		}
		for range batch.Messages() {
		}
		return errors.Join(batch.Error(), c.has(ctx, js, "ADVISORIES_S_c", n))
	})

	defer watch()()
	c.strike(js, func(letters uint64) bool { return letters > n/4 })
	c.until("a dead letter of each", func(ctx context.Context) error {
		return errors.Join(c.has(ctx, js, "DLQ_S", n), c.has(ctx, js, "S", 0), c.has(ctx, js, "ADVISORIES_S_c", 0))
	})

	done := make(chan error, 1)
	go func() {
		cfg := fluxnats.RedriveConfig{Stream: "DLQ_S", Limit: gcra.PerSecond(2000).WithBurst(1)}
		got, err := fluxnats.Redrive(c.Context(), js, cfg)
		if err == nil && got.Failed > 0 {
			// While stream S has no leader it looks like none: what was published to it
			// then has failed, and stays for another call.
			var rest fluxnats.Redriven
			rest, err = fluxnats.Redrive(c.Context(), js, cfg)
			got.Redriven, got.Failed = got.Redriven+rest.Redriven, rest.Failed
		}
		if err == nil && (got.Redriven != n || got.Failed != 0) {
			err = fmt.Errorf("%+v", got)
		}
		done <- err
	}()
	c.strike(js, func(letters uint64) bool { return letters < n*3/4 })
	if err := <-done; err != nil {
		t.Errorf("Redrive: %v", err)
	}
	c.until("all are back", func(ctx context.Context) error {
		return errors.Join(c.has(ctx, js, "S", n), c.has(ctx, js, "DLQ_S", 0))
	})
}

// has returns an error unless a stream has so many messages.
func (c *cluster) has(ctx context.Context, js jetstream.JetStream, name string, n uint64) error {
	s, err := js.Stream(ctx, name)
	if err == nil && s.CachedInfo().State.Msgs != n {
		err = fmt.Errorf("stream %s has %d messages, want %d", name, s.CachedInfo().State.Msgs, n)
	}
	return err
}

// strike kills the server that leads the dead-letter stream when that has so many
// dead letters, and starts it again.
func (c *cluster) strike(js jetstream.JetStream, when func(letters uint64) bool) {
	c.Helper()
	var leader *node
	c.until("dead letters on their way", func(ctx context.Context) error {
		s, err := js.Stream(ctx, "DLQ_S")
		if err != nil {
			return err
		}
		info := s.CachedInfo()
		if info.Cluster == nil || info.Cluster.Leader == "" || !when(info.State.Msgs) {
			return fmt.Errorf("%d dead letters, %+v", info.State.Msgs, info.Cluster)
		}
		leader = c.node(info.Cluster.Leader)
		return nil
	})
	c.end(false, leader)
	time.Sleep(time.Second)
	c.start(leader)
}
