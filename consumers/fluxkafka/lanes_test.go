package fluxkafka_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/fluxlimiter/flux/consumers/fluxkafka"
	"github.com/fluxlimiter/flux/stream"
)

func TestDeferComesBackWhole(t *testing.T) {
	for _, tt := range []struct {
		delay time.Duration
		late  time.Duration // at most, after its time
	}{
		{0, 100 * time.Millisecond},
		{time.Millisecond, 100 * time.Millisecond},
		{2 * time.Second, 100 * time.Millisecond},
		{2*time.Second + 1, 100 * time.Millisecond},
		{2 * time.Minute, 200 * time.Millisecond},
		// Through the longest lane again and again, and through all the others.
		{time.Hour + 77*time.Second, time.Second},
	} {
		t.Run(tt.delay.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, 1, kfake.SeedTopics(3, "t"))
				defer c.close()
				published := time.Now().Add(-time.Hour).Truncate(time.Millisecond)
				record := &kgo.Record{
					Topic: "t", Partition: 2, Key: []byte("key"), Value: []byte("value"), Timestamp: published,
					Headers: []kgo.RecordHeader{{Key: "traceparent", Value: []byte("00-1")}, {Key: "twice", Value: nil}, {Key: "twice", Value: []byte("")}},
				}
				c.produceOther("t", 2, 5)
				if err := c.cl.ProduceSync(t.Context(), record).FirstErr(); err != nil {
					t.Fatal(err)
				}
				var until time.Time
				var order int64
				back := make(chan struct{})
				handle := func(ctx context.Context, d delivery) error {
					m, meta := d.Message(), d.Meta()
					if string(m.Key) != "key" {
						return d.Ack(ctx)
					}
					if meta.Deferrals == 0 {
						until, order = time.Now().Add(tt.delay), meta.Order
						return d.Defer(ctx, stream.Deferral{Until: until, Reason: stream.ReasonQuota, Tenant: "acme", Attempts: 2, Deferrals: 7, Order: order})
					}
					if late := time.Since(until); late < 0 || late > tt.late {
						t.Errorf("came back %v after its time", late)
					}
					if meta.Deferrals != 7 || meta.Attempts != 2 || meta.Order != order || order == 0 || !meta.Time.Equal(published) {
						t.Errorf("meta = %+v", meta)
					}
					if m.Topic != "t" || m.Partition != 2 || m.Offset != 5 || !m.Time.Equal(published) || string(m.Value) != "value" {
						t.Errorf("message = %+v", m)
					}
					if len(m.Headers) != 3 || m.Headers[0].Key != "traceparent" || string(m.Headers[0].Value) != "00-1" || m.Headers[1].Value != nil || m.Headers[2].Value == nil {
						t.Errorf("headers = %+v", m.Headers)
					}
					close(back)
					return d.Ack(ctx)
				}
				cfg := c.config("t")
				cfg.FetchWait = 20 * time.Second // less to simulate
				m := c.start(cfg, handle)
				select {
				case <-back:
				case <-time.After(tt.delay + time.Hour):
					t.Error("did not come back")
				}
				for topic := range c.GroupInfo(groupName).Commits {
					c.allCommitted(topic, 5*time.Second)
				}
				m.stop()
			})
		})
	}
}

// produceOther publishes messages with another key.
func (c *cluster) produceOther(topic string, partition int32, n int) {
	c.t.Helper()
	for range n {
		c.put(topic, partition, "other", "")
	}
}

// Deferred messages survive whatever happens to the members and to the
// requests, and are never early.
func TestDeferSurvives(t *testing.T) {
	const messages = 200
	for seed := range 4 {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, 3, kfake.SeedTopics(4, "t"))
				defer c.close()
				var mu sync.Mutex
				until := make(map[string]time.Time)
				h := newHistory()
				handle := func(ctx context.Context, d delivery) error {
					v := string(d.Message().Value)
					if n := d.Meta().Deferrals; n < 2 {
						at := time.Now().Add(time.Duration(len(v)*(n+1)) * time.Second)
						mu.Lock()
						until[v] = at
						mu.Unlock()
						return d.Defer(ctx, stream.Deferral{Until: at, Deferrals: n + 1, Tenant: "acme"})
					}
					mu.Lock()
					early := time.Until(until[v])
					mu.Unlock()
					if early > 0 && seed == 0 {
						t.Errorf("%s is %v early", v, early)
					}
					h.add(d.Message())
					return d.Ack(ctx)
				}
				c.produce("t", 0, messages, 20, 4)
				if seed >= 1 {
					c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotEnoughReplicas, Count: 40})
				}
				members := []*member{c.start(c.config("t"), handle), c.start(c.config("t"), handle)}
				time.Sleep(4 * time.Second)
				if seed >= 2 {
					members[0].crash()
					c.ShufflePartitionLeaders()
					members = append(members[1:], c.start(c.config("t"), handle))
				}
				time.Sleep(20 * time.Second)
				if seed >= 3 {
					members[0].stop()
					members = append(members[1:], c.start(c.config("t"), handle))
				}
				c.handled(h, messages, 5*time.Minute)
				time.Sleep(10 * time.Second)
				for topic := range c.GroupInfo(groupName).Commits {
					c.allCommitted(topic, 30*time.Second)
				}
				for _, m := range members {
					m.stop()
				}
				if seed == 0 && h.duplicates() > 0 {
					t.Errorf("%d duplicates with nothing wrong", h.duplicates())
				}
			})
		})
	}
}

// A message keeps its place among those of its key however it comes again, and
// no other has it: not even one of another topic with the same key and offset.
func TestOrderOfRedeliveries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, kfake.SeedTopics(1, "t", "u"))
		defer c.close()
		const messages = 20
		var mu sync.Mutex
		orders, taken := make(map[string]int64), make(map[int64]string)
		seen := make(map[string]int)
		handle := func(ctx context.Context, d delivery) error {
			m, meta := d.Message(), d.Meta()
			id := fmt.Sprint(m.Topic, m.Offset)
			mu.Lock()
			if before, ok := orders[id]; ok && before != meta.Order {
				t.Errorf("%s had the order %d, and now has %d", id, before, meta.Order)
			}
			if other := taken[meta.Order]; meta.Order == 0 || other != "" && other != id {
				t.Errorf("%s and %q have the order %d", id, other, meta.Order)
			}
			if prev, ok := orders[fmt.Sprint(m.Topic, m.Offset-1)]; ok && prev >= meta.Order {
				t.Errorf("%s has the order %d, the one before it %d", id, meta.Order, prev)
			}
			orders[id], taken[meta.Order] = meta.Order, id
			seen[id]++
			times := seen[id]
			mu.Unlock()
			switch times {
			case 1:
				return errors.New("to be released")
			case 2:
				if !meta.Redelivered {
					t.Errorf("%s was released, and is not known to come again", id)
				}
				return d.Defer(ctx, stream.Deferral{Until: time.Now().Add(time.Second), Deferrals: 1, Order: meta.Order})
			}
			return d.Ack(ctx)
		}
		c.produceOther("t", 0, messages)
		c.produceOther("u", 0, messages)
		m := c.start(c.config("t", "u"), handle)
		c.eventually(time.Minute, func() error {
			mu.Lock()
			defer mu.Unlock()
			for id, n := range seen {
				if n < 3 {
					return fmt.Errorf("%s came %d times", id, n)
				}
			}
			if len(seen) != 2*messages {
				return fmt.Errorf("%d messages came", len(seen))
			}
			return nil
		})
		m.stop()
	})
}

// A partition and its lanes are always with the same member.
func TestLanesFollowTheirPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, kfake.SeedTopics(7, "t", "u"))
		defer c.close()
		var members []*member
		for range 3 {
			members = append(members, c.start(c.config("t", "u"), ack))
			info, err := c.WaitGroupStable(t.Context(), groupName, len(members))
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range info.Members {
				for topic, partitions := range m.Assignment {
					base, _, _ := strings.Cut(topic, ".")
					if slices.Sort(partitions); !slices.Equal(partitions, slices.Sorted(slices.Values(m.Assignment[base]))) {
						t.Errorf("%s has %v of %s and %v of %s", m.MemberID, partitions, topic, m.Assignment[base], base)
					}
				}
				if n := len(m.Assignment["t"]) + len(m.Assignment["u"]); n < 14/len(members) || n > 14/len(members)+1 {
					t.Errorf("%d partitions of 14 for one of %d members", n, len(members))
				}
			}
		}
		for _, m := range members {
			m.stop()
		}
	})
}

func TestTurnedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, kfake.SeedTopics(1, "t"))
		defer c.close()
		c.produce("t", 0, 1, 1, 1)
		cfg := c.config("t")
		cfg.Lanes, cfg.DeadLetters, cfg.CreateTopics = []time.Duration{}, fluxkafka.NoDeadLetters, false
		m := c.start(cfg, func(ctx context.Context, d delivery) error {
			if err := d.Defer(ctx, stream.Deferral{}); !errors.Is(err, fluxkafka.ErrNoLanes) {
				t.Errorf("Defer: %v", err)
			}
			if err := d.DeadLetter(ctx, stream.Letter{}); !errors.Is(err, fluxkafka.ErrNoDeadLetters) {
				t.Errorf("DeadLetter: %v", err)
			}
			return d.Ack(ctx)
		})
		c.allCommitted("t", 10*time.Second)
		m.stop()
	})
}

// A message that goes through several lanes is deferred for the same reason in each
// of them, and one that cannot go on to the next is logged, and waits until it can.
func TestFromLaneToLane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, kfake.SeedTopics(1, "t"))
		defer c.close()
		var log bytes.Buffer
		cfg := c.config("t")
		cfg.Lanes = []time.Duration{time.Second, 4 * time.Second}
		cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
		var until, back time.Time
		m := c.start(cfg, func(ctx context.Context, d delivery) error {
			if d.Meta().Deferrals > 0 {
				back = time.Now()
				return d.Ack(ctx)
			}
			until = time.Now().Add(6 * time.Second)
			return d.Defer(ctx, stream.Deferral{Until: until, Reason: stream.ReasonRetryLater, Tenant: "acme", Deferrals: 1})
		})
		c.produce("t", 0, 1, 1, 1)
		c.allCommitted("t", 10*time.Second)
		fault := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "t.g.defer-1s", Err: kerr.TopicAuthorizationFailed, Count: -1})
		time.Sleep(30 * time.Second)
		fault.Remove()
		c.allCommitted("t.g.defer-4s", 10*time.Second)
		c.allCommitted("t.g.defer-1s", 10*time.Second)
		m.stop()
		if late := back.Sub(until); late < 24*time.Second || late > 30*time.Second {
			t.Errorf("came back %v after its time", late)
		}
		if n := strings.Count(log.String(), "cannot move to the next lane"); n < 2 || n > 5 || !strings.Contains(log.String(), "source.topic=t.g.defer-4s") {
			t.Errorf("logged %d times:\n%s", n, log.String())
		}
		for _, lane := range []string{"t.g.defer-4s", "t.g.defer-1s"} {
			for _, r := range c.consume(lane, 0) {
				if i := slices.IndexFunc(r.Headers, func(h kgo.RecordHeader) bool { return h.Key == "flux-reason" }); i < 0 || string(r.Headers[i].Value) != "retry_later" {
					t.Errorf("in lane %s: %v", lane, r.Headers)
				}
			}
		}
	})
}

// A deferred message whose due time another member's clock set, an hour ahead of
// ours, does not keep those behind it in the lane for an hour.
func TestLaneOfAFastClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, kfake.SeedTopics(1, "t", "t.g.defer-2s", "t.g.defer-10s"))
		defer c.close()
		ahead := time.Now().Add(time.Hour)
		for i := range 20 {
			at := ahead
			if i%5 == 4 {
				at = time.Now()
			}
			text := func(n int64) []byte { return strconv.AppendInt(nil, n, 10) }
			if err := c.cl.ProduceSync(t.Context(), &kgo.Record{
				Topic: "t.g.defer-2s", Value: text(int64(i)), Timestamp: at,
				Headers: []kgo.RecordHeader{
					{Key: "flux-origin-topic", Value: []byte("t")},
					{Key: "flux-origin-partition", Value: text(0)},
					{Key: "flux-origin-offset", Value: text(int64(i))},
					{Key: "flux-origin-time", Value: text(at.UnixMilli())},
					{Key: "flux-due", Value: text(at.Add(2 * time.Second).UnixMilli())},
					{Key: "flux-until", Value: text(at.Add(2 * time.Second).UnixMilli())},
					{Key: "flux-attempts", Value: text(0)},
					{Key: "flux-deferrals", Value: text(1)},
				},
			}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		var own, others atomic.Int64
		cfg := c.config("t")
		cfg.Lanes = []time.Duration{2 * time.Second, 10 * time.Second}
		m := c.start(cfg, func(ctx context.Context, d delivery) error {
			v, _ := strconv.Atoi(string(d.Message().Value))
			switch took := time.Since(began); {
			case v%5 != 4:
				others.Add(1)
				if took < time.Hour {
					t.Errorf("message %d came back after %v", v, took)
				}
			case took > 10*time.Second:
				t.Errorf("message %d came back after %v", v, took)
			default:
				own.Add(1)
			}
			return d.Ack(ctx)
		})
		time.Sleep(time.Hour + time.Minute)
		m.stop()
		if own.Load() != 4 || others.Load() != 16 {
			t.Errorf("%d and %d messages came back, want 4 and 16", own.Load(), others.Load())
		}
	})
}

// Lanes that may not grow keep their partitions when the topic gets more: what is
// deferred of the new ones is folded onto them.
func TestLanesThatMayNotGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, kfake.SeedTopics(2, "t", "t.g.defer-1s", "dlq.t.g"))
		defer c.close()
		h := newHistory()
		cfg := c.config("t")
		cfg.CreateTopics, cfg.Lanes, cfg.WatchInterval = false, []time.Duration{time.Second}, time.Second
		m := c.start(cfg, func(ctx context.Context, d delivery) error {
			if d.Meta().Deferrals == 0 {
				return d.Defer(ctx, stream.Deferral{Until: time.Now().Add(time.Second), Deferrals: 1})
			}
			return h.handle(ctx, d)
		})
		time.Sleep(5 * time.Second)
		if _, err := kadm.NewClient(c.cl).CreatePartitions(t.Context(), 3, "t"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		c.cl.ForceMetadataRefresh()
		time.Sleep(10 * time.Second)
		c.produce("t", 0, 50, 50, 5)
		c.handled(h, 50, 30*time.Second)
		c.allCommitted("t", 10*time.Second)
		c.allCommitted("t.g.defer-1s", 10*time.Second)
		m.stop()
		h.exactly(t, 50)
		if n := len(c.PartitionInfos("t.g.defer-1s")); n != 2 {
			t.Errorf("the lane has %d partitions", n)
		}
		if n := m.src.Stats().Generations; n > 3 {
			t.Errorf("it joined %d times", n)
		}
	})
}

// Lanes and dead letters that somebody deletes are made again.
func TestTopicsOfOursDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, kfake.SeedTopics(2, "t"))
		defer c.close()
		h := newHistory()
		cfg := c.config("t")
		cfg.Lanes = []time.Duration{time.Second}
		m := c.start(cfg, func(ctx context.Context, d delivery) error {
			v, _ := strconv.Atoi(string(d.Message().Value))
			var err error
			switch {
			case v%2 == 0 && d.Meta().Deferrals == 0:
				err = d.Defer(ctx, stream.Deferral{Until: time.Now().Add(time.Second), Deferrals: 1})
			case v%3 == 0:
				err = d.DeadLetter(ctx, stream.Letter{Reason: stream.ReasonPermanent})
			default:
				err = d.Ack(ctx)
			}
			if err != nil {
				time.Sleep(time.Second) // before it is released and comes again
			} else if v%2 != 0 || d.Meta().Deferrals > 0 {
				h.add(d.Message())
			}
			return err
		})
		c.produce("t", 0, 30, 10, 2)
		c.allCommitted("t", 30*time.Second)
		c.allCommitted("t.g.defer-1s", 30*time.Second)
		c.must(c.DeleteTopic("t.g.defer-1s"))
		c.must(c.DeleteTopic("dlq.t.g"))
		time.Sleep(time.Second)
		c.produce("t", 30, 60, 10, 2)
		c.handled(h, 60, 2*time.Minute)
		c.allCommitted("t", 10*time.Second)
		m.stop()
		if n := len(c.PartitionInfos("dlq.t.g")); n != 2 {
			t.Errorf("the dead letters have %d partitions", n)
		}
	})
}

// A lane that comes again is another log: nothing of it is skipped, even if it is
// as long as the one that was deleted when it is first seen.
func TestLaneComesAgainAsLong(t *testing.T) {
	// Wherever a topic is gone on with: what was deferred was never handled.
	for _, where := range []fluxkafka.Offset{fluxkafka.First, fluxkafka.Last} {
		testLaneComesAgainAsLong(t, where)
	}
}

func testLaneComesAgainAsLong(t *testing.T, where fluxkafka.Offset) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, kfake.SeedTopics(1, "t"))
		defer c.close()
		h := newHistory()
		cfg := c.config("t")
		cfg.Lanes, cfg.OutOfRange = []time.Duration{time.Second}, where
		const lane, n = "t.g.defer-1s", 10
		m := c.start(cfg, func(ctx context.Context, d delivery) error {
			if d.Message().Topic == "t" && d.Meta().Deferrals == 0 {
				return d.Defer(ctx, stream.Deferral{Until: time.Now().Add(time.Second), Deferrals: 1})
			}
			h.add(d.Message())
			return d.Ack(ctx)
		})
		c.produce("t", 0, n, 1, 1)
		c.allCommitted("t", 30*time.Second)
		c.allCommitted(lane, 30*time.Second)
		c.must(c.DeleteTopic(lane))
		time.Sleep(35 * time.Second) // it is known to be gone, and not yet made again
		if c.TopicInfo(lane) != nil {
			t.Error("the lane was made again too soon")
		}
		c.must(c.CreateTopic(lane, 1, nil))
		c.produce(lane, n, 2*n+5, 1, 1)
		c.handled(h, 2*n+5, time.Minute)
		c.allCommitted(lane, 10*time.Second)
		if h.duplicates() > 0 {
			t.Errorf("%d duplicates", h.duplicates())
		}
		m.stop()
	})
}
