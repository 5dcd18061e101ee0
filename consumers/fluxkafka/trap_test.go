package fluxkafka_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/fluxlimiter/flux/consumers/fluxkafka"
	"github.com/fluxlimiter/flux/stream"
)

// Each trap is one that consumers on this client fall into. The scenario runs
// with the source, which must not, and with the consumer that people write, which
// must: or else the scenario would show nothing.

// trap runs a scenario in a bubble each for the source and for the naive
// consumer. A scenario returns what went wrong.
func trap(t *testing.T, source, naive func(t *testing.T) error) {
	t.Helper()
	t.Run("source", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			if err := source(t); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("naive", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			if err := naive(t); err == nil {
				t.Error("the naive consumer passes: the scenario shows nothing")
			} else {
				t.Log("as expected: ", err)
			}
		})
	})
}

func (c *cluster) reader(cfg kafka.ReaderConfig) *kafka.Reader {
	cfg.Brokers, cfg.Dialer = c.ListenAddrs(), &kafka.Dialer{DialFunc: c.net.DialContext, Timeout: 5 * time.Second}
	cfg.Topic = "t"
	if cfg.Partition == 0 && cfg.GroupID == "" {
		cfg.GroupID = groupName
	}
	return kafka.NewReader(cfg)
}

// pitfall: segmentio/kafka-go#1308. A commit of a partition that went to
// another member rewinds what that member committed.
func TestTrapStaleCommit(t *testing.T) {
	// All messages of one partition are held by the first member when the second
	// one takes the partition over and finishes them.
	trap(t, func(t *testing.T) error {
		t.Helper()
		c := newCluster(t, 1, kfake.SeedTopics(2, "t"))
		defer c.close()
		c.produce("t", 0, 40, 2, 2)
		var mu sync.Mutex
		var held []delivery
		letGo := make(chan struct{})
		a := c.start(c.config("t"), func(ctx context.Context, d delivery) error {
			if d.Message().Offset < 3 {
				mu.Lock()
				held = append(held, d)
				mu.Unlock()
				<-letGo
				return d.Ack(ctx)
			}
			return d.Ack(ctx)
		})
		time.Sleep(3 * time.Second)
		b := c.start(c.config("t"), ack)
		time.Sleep(20 * time.Second)
		moved := -1
		for p := range 2 {
			if c.committed("t", p) == 20 {
				moved = p
			}
		}
		if moved < 0 {
			return errors.New("no partition was finished by the second member")
		}
		close(letGo)
		time.Sleep(5 * time.Second)
		defer a.stop()
		defer b.stop()
		if got := c.committed("t", moved); got != 20 {
			return fmt.Errorf("the committed offset went from 20 to %d", got)
		}
		a.gate.mu.Lock()
		defer a.gate.mu.Unlock()
		if !slices.ContainsFunc(a.gate.faults, func(err error) bool { return errors.Is(err, stream.ErrRevoked) }) || a.src.Stats().Late == 0 {
			return fmt.Errorf("the late settles gave %v, Late = %d", a.gate.faults, a.src.Stats().Late)
		}
		return nil
	}, func(t *testing.T) error {
		t.Helper()
		c := newCluster(t, 1, kfake.SeedTopics(2, "t"))
		defer c.close()
		c.produce("t", 0, 40, 2, 2)
		cfg := kafka.ReaderConfig{HeartbeatInterval: 500 * time.Millisecond, MaxWait: 250 * time.Millisecond, RebalanceTimeout: 10 * time.Second}
		a := c.reader(cfg)
		defer a.Close()
		held := make(map[int]kafka.Message)
		for len(held) < 2 {
			m, err := a.FetchMessage(t.Context())
			if err != nil {
				return nil
			}
			if m.Offset == 2 {
				held[m.Partition] = m
			}
		}
		b := c.reader(cfg)
		defer b.Close()
		var last kafka.Message
		for range 20 {
			var err error
			if last, err = b.FetchMessage(t.Context()); err != nil {
				return nil
			}
		}
		if err := b.CommitMessages(t.Context(), last); err != nil {
			return nil
		}
		before := c.committed("t", last.Partition)
		if err := a.CommitMessages(t.Context(), held[last.Partition]); err != nil {
			return nil
		}
		if got := c.committed("t", last.Partition); got != before {
			return fmt.Errorf("the committed offset went from %d to %d", before, got)
		}
		return nil
	})
}

// The client's own example commits one more than it read at each restart, even
// when it read nothing, and so skips what is published there.
func TestTrapIdleRestarts(t *testing.T) {
	scenario := func(t *testing.T, idle func(c *cluster)) error {
		t.Helper()
		c := newCluster(t, 1, kfake.SeedTopics(1, "t"))
		defer c.close()
		h := newHistory()
		c.produce("t", 0, 10, 1, 1)
		m := c.start(c.config("t"), h.handle)
		c.allCommitted("t", 10*time.Second)
		m.stop()
		for range 3 {
			idle(c)
		}
		c.produce("t", 10, 14, 1, 1)
		m = c.start(c.config("t"), h.handle)
		time.Sleep(10 * time.Second)
		m.stop()
		if !h.has(10) {
			return fmt.Errorf("lost the message at offset 10: the group is at %d", c.committed("t", 0))
		}
		return nil
	}
	trap(t, func(t *testing.T) error {
		t.Helper()
		return scenario(t, func(c *cluster) {
			m := c.start(c.config("t"), ack)
			time.Sleep(5 * time.Second)
			m.stop()
		})
	}, func(t *testing.T) error {
		t.Helper()
		return scenario(t, func(c *cluster) {
			group, err := kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{
				ID: groupName, Brokers: c.ListenAddrs(), Topics: []string{"t"},
				Dialer: &kafka.Dialer{DialFunc: c.net.DialContext, Timeout: 5 * time.Second},
			})
			if err != nil {
				t.Fatal(err)
			}
			gen, err := group.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, assignment := range gen.Assignments["t"] {
				gen.Start(func(ctx context.Context) {
					offset := assignment.Offset
					<-ctx.Done() // nothing to read
					_ = gen.CommitOffsets(map[string]map[int]int64{"t": {assignment.ID: offset + 1}})
				})
			}
			time.Sleep(5 * time.Second)
			group.Close()
		})
	})
}

// pitfall: segmentio/kafka-go#1248. A fetch that waits for data cannot be
// cancelled, so that a rebalance takes as long as the longest fetch.
func TestTrapSlowRebalance(t *testing.T) {
	const limit = time.Second
	trap(t, func(t *testing.T) error {
		t.Helper()
		c := newCluster(t, 1, kfake.SeedTopics(2, "t"))
		defer c.close()
		cfg := c.config("t")
		cfg.FetchWait, cfg.HeartbeatInterval = 10*time.Second, 250*time.Millisecond
		a := c.start(cfg, ack)
		time.Sleep(5 * time.Second)
		began := time.Now()
		b := c.start(cfg, ack)
		defer a.stop()
		defer b.stop()
		if _, err := c.WaitGroupStable(t.Context(), groupName, 2); err != nil {
			return err
		}
		if took := time.Since(began); took > limit {
			return fmt.Errorf("the second member was in after %v", took)
		}
		return nil
	}, func(t *testing.T) error {
		t.Helper()
		c := newCluster(t, 1, kfake.SeedTopics(2, "t"))
		defer c.close()
		cfg := kafka.ReaderConfig{HeartbeatInterval: 250 * time.Millisecond, MaxWait: 10 * time.Second}
		drain := func(r *kafka.Reader) {
			for {
				if _, err := r.ReadMessage(t.Context()); err != nil {
					return
				}
			}
		}
		a := c.reader(cfg)
		go drain(a)
		time.Sleep(5 * time.Second)
		began := time.Now()
		b := c.reader(cfg)
		go drain(b)
		defer a.Close()
		defer b.Close()
		if _, err := c.WaitGroupStable(t.Context(), groupName, 2); err != nil {
			return nil
		}
		if took := time.Since(began); took > limit {
			return fmt.Errorf("the second member was in after %v", took)
		}
		return nil
	})
}

// transactions publishes committed and aborted values, in turn.
func (c *cluster) transactions(n int, compression kgo.CompressionCodec) {
	c.t.Helper()
	cl := c.client(kgo.TransactionalID("tx"), kgo.ProducerBatchCompression(compression))
	defer cl.Close()
	for i := range n {
		if err := cl.BeginTransaction(); err != nil {
			c.t.Fatal(err)
		}
		name := "committed"
		end := kgo.TryCommit
		if i%2 == 1 {
			name, end = "aborted", kgo.TryAbort
		}
		for j := range 3 {
			r := &kgo.Record{Topic: "t", Key: []byte("k"), Value: fmt.Appendf(nil, "%s %d %d", name, i, j)}
			if err := cl.ProduceSync(c.t.Context(), r).FirstErr(); err != nil {
				c.t.Fatal(err)
			}
		}
		if err := cl.EndTransaction(c.t.Context(), end); err != nil {
			c.t.Fatal(err)
		}
	}
}

// pitfall: segmentio/kafka-go#1332. The client's reader delivers the markers of
// transactions, and the records of aborted ones even when told not to.
func TestTrapTransactions(t *testing.T) {
	const transactions = 10
	check := func(c *cluster, values []string) error {
		for _, v := range values {
			if len(v) < 9 || v[:9] != "committed" {
				return fmt.Errorf("delivered %q", v)
			}
		}
		if want := transactions / 2 * 3; len(values) != want {
			return fmt.Errorf("delivered %d values, want %d", len(values), want)
		}
		end := c.PartitionInfo("t", 0).HighWatermark
		if got := c.committed("t", 0); got != end {
			return fmt.Errorf("committed %d, the log ends at %d", got, end)
		}
		return nil
	}
	trap(t, func(t *testing.T) error {
		t.Helper()
		c := newCluster(t, 1, kfake.SeedTopics(1, "t"))
		defer c.close()
		c.transactions(transactions, kgo.NoCompression())
		var values []string
		m := c.start(c.config("t"), func(ctx context.Context, d delivery) error {
			values = append(values, string(d.Message().Value))
			return d.Ack(ctx)
		})
		time.Sleep(10 * time.Second)
		m.stop()
		return check(c, values)
	}, func(t *testing.T) error {
		t.Helper()
		c := newCluster(t, 1, kfake.SeedTopics(1, "t"))
		defer c.close()
		c.transactions(transactions, kgo.NoCompression())
		r := c.reader(kafka.ReaderConfig{IsolationLevel: kafka.ReadCommitted})
		defer r.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var values []string
		for {
			m, err := r.ReadMessage(ctx)
			if err != nil {
				break
			}
			values = append(values, string(m.Value))
		}
		return check(c, values)
	})
}

// A writer of this client that is made as a literal asks for no confirmation:
// a dead letter that the broker refused counts as written.
func TestTrapUnconfirmedDeadLetter(t *testing.T) {
	cleanup := func() {}
	scenario := func(t *testing.T, bury func(c *cluster) func(ctx context.Context, d delivery) error) error {
		t.Helper()
		c := newCluster(t, 1, kfake.SeedTopics(1, "t", "dlq.t.g"))
		defer c.close()
		defer func() { cleanup() }()
		c.produce("t", 0, 1, 1, 1)
		fault := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "dlq.t.g", Err: kerr.KafkaStorageError, Count: -1})
		handle := bury(c)
		tries := 0
		m := c.start(c.config("t"), func(ctx context.Context, d delivery) error {
			tries++
			if err := handle(ctx, d); err != nil {
				time.Sleep(time.Second)
				return err
			}
			return nil
		})
		defer m.stop()
		time.Sleep(20 * time.Second)
		if got := c.committed("t", 0); got > 0 {
			return fmt.Errorf("committed %d although no dead letter was written", got)
		}
		fault.Remove()
		c.allCommitted("t", 20*time.Second)
		if end := c.PartitionInfo("dlq.t.g", 0).HighWatermark; end != 1 || tries < 2 {
			return fmt.Errorf("%d dead letters after %d tries", end, tries)
		}
		return nil
	}
	trap(t, func(t *testing.T) error {
		t.Helper()
		return scenario(t, func(*cluster) func(context.Context, delivery) error {
			return func(ctx context.Context, d delivery) error {
				return d.DeadLetter(ctx, stream.Letter{Reason: stream.ReasonPermanent, Err: errors.New("no")})
			}
		})
	}, func(t *testing.T) error {
		t.Helper()
		return scenario(t, func(c *cluster) func(context.Context, delivery) error {
			tr := &kafka.Transport{Dial: c.net.DialContext}
			w := &kafka.Writer{Addr: kafka.TCP(c.ListenAddrs()...), Topic: "dlq.t.g", Transport: tr}
			cleanup = func() {
				w.Close()
				tr.CloseIdleConnections()
			}
			return func(ctx context.Context, d delivery) error {
				if err := w.WriteMessages(ctx, kafka.Message{Value: d.Message().Value}); err != nil {
					return err
				}
				return d.Ack(ctx)
			}
		})
	})
}

// pitfall: confluentinc/parallel-consumer#647. A consumer that commits what is
// done below a stuck message alone repeats all that is done above it, and one that
// names that without a bound has its commits refused.
func TestTrapStuckHead(t *testing.T) {
	for _, tt := range []stuckHead{
		{name: "one", messages: 50_000, stuck: func(v int) bool { return v == 0 }, window: 1000},
		// Every third message hangs: the map has a run for each, and must stop the
		// fetches before it is too large.
		{name: "many", messages: 30_000, stuck: func(v int) bool { return v%3 == 0 }, window: 20_000, named: true},
	} {
		t.Run(tt.name, func(t *testing.T) { trap(t, tt.source, tt.naive) })
	}
}

type stuckHead struct {
	name     string
	messages int
	stuck    func(v int) bool
	window   int
	named    bool // the naive consumer names what is done above the stuck message
}

// cluster returns a cluster with the messages, whose broker refuses as much
// metadata as a real one does.
func (s stuckHead) cluster(t *testing.T) *cluster {
	t.Helper()
	c := newCluster(t, 1, kfake.SeedTopics(1, "t"))
	var records []*kgo.Record
	for i := range s.messages {
		records = append(records, &kgo.Record{Topic: "t", Key: []byte(strconv.Itoa(i)), Value: []byte(strconv.Itoa(i))})
	}
	if err := c.cl.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Err: kerr.OffsetMetadataTooLarge, Count: -1, When: func(r kmsg.Request) bool {
		for _, topic := range r.(*kmsg.OffsetCommitRequest).Topics {
			for _, p := range topic.Partitions {
				if p.Metadata != nil && len(*p.Metadata) > fluxkafka.MaxMetadata {
					return true
				}
			}
		}
		return false
	}})
	return c
}

func (s stuckHead) source(t *testing.T) error {
	t.Helper()
	c := s.cluster(t)
	defer c.close()
	var done, stuck atomic.Int64
	letGo := make(chan struct{})
	cfg := c.config("t")
	cfg.Window = s.window
	m := c.start(cfg, func(ctx context.Context, d delivery) error {
		v, _ := strconv.Atoi(string(d.Message().Value))
		if s.stuck(v) {
			stuck.Add(1)
			<-letGo
		}
		done.Add(1)
		return d.Ack(ctx)
	})
	time.Sleep(20 * time.Second)
	commit := c.GroupInfo(groupName).Commits["t"][0]
	stats := m.src.Stats()
	t.Logf("%d done, %d stuck, committed %d with %d bytes of metadata", done.Load(), stuck.Load(), commit.Offset, len(commit.Metadata))
	if commit.Offset != 0 || len(commit.Metadata) == 0 || len(commit.Metadata) > fluxkafka.MaxMetadata || stats.CommitErrors > 0 {
		t.Errorf("committed %d with %d bytes, %d errors", commit.Offset, len(commit.Metadata), stats.CommitErrors)
	}
	if p := stats.Partitions[0]; p.Stuck < 10*time.Second || p.Oldest != 0 {
		t.Errorf("stats do not show what is stuck: %+v", p)
	}
	before := done.Load()
	if s.name == "one" && before != int64(s.messages-1) {
		t.Errorf("%d messages were done behind the stuck one", before)
	}
	// Whoever takes over repeats what was stuck and nothing else.
	m.crash()
	close(letGo)
	time.Sleep(15 * time.Second)
	done.Store(0)
	m2 := c.start(cfg, func(ctx context.Context, d delivery) error {
		done.Add(1)
		return d.Ack(ctx)
	})
	c.allCommitted("t", time.Minute)
	m2.stop()
	<-m.done
	if got, want := done.Load(), int64(s.messages)-before; got != want {
		return fmt.Errorf("the next owner handled %d messages, want %d", got, want)
	}
	return nil
}

// naive is a consumer that goes on behind the stuck messages and commits the
// first of them, with or without a list of what is done.
func (s stuckHead) naive(t *testing.T) error {
	t.Helper()
	c := s.cluster(t)
	defer c.close()
	done := make(map[int64]bool)
	var list []string
	for _, r := range c.consume("t", 0) {
		if v, _ := strconv.Atoi(string(r.Value)); !s.stuck(v) {
			done[r.Offset] = true
			list = append(list, strconv.FormatInt(r.Offset, 10))
		}
	}
	offset := kadm.Offset{Topic: "t"}
	if s.named {
		offset.Metadata = strings.Join(list, ",")
	}
	offsets := make(kadm.Offsets)
	offsets.Add(offset)
	if err := kadm.NewClient(c.cl).CommitAllOffsets(t.Context(), groupName, offsets); err != nil {
		return fmt.Errorf("the commit of %d bytes failed: %w", len(offset.Metadata), err)
	}
	repeated := 0
	for _, r := range c.consume("t", 0) {
		if r.Offset >= c.committed("t", 0) && done[r.Offset] && !s.named {
			repeated++
		}
	}
	if repeated > 0 {
		return fmt.Errorf("the next owner repeats %d messages that are done", repeated)
	}
	return nil
}
