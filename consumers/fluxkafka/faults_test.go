package fluxkafka_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/fluxlimiter/flux/consumers/fluxkafka"
	"github.com/fluxlimiter/flux/stream"
)

// The partition moves while a dead letter is on its way: the settle has no
// effect, and the next owner's dead letter has the same id.
func TestRevokedDuringADeadLetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, kfake.SeedTopics(1, "t", "dlq.t.g"))
		defer c.close()
		var slow atomic.Bool
		slow.Store(true)
		c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
			if r.(*kmsg.ProduceRequest).Topics[0].Topic == "dlq.t.g" && slow.CompareAndSwap(true, false) {
				c.SleepControl(func() { time.Sleep(12 * time.Second) })
			}
			return nil, nil, false
		})
		c.produce("t", 0, 1, 1, 1)
		bury := func(ctx context.Context, d delivery) error {
			return d.DeadLetter(ctx, stream.Letter{Reason: stream.ReasonPermanent, Attempts: 1})
		}
		cfg := c.config("t")
		cfg.RequestTimeout = 30 * time.Second // the publication is not given up
		a := c.start(cfg, bury)
		time.Sleep(2 * time.Second)
		// The group gives everything to another member, as a is not heard of.
		c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat}, Err: kerr.UnknownMemberID, Count: 1})
		b := c.start(c.config("t"), bury)
		c.allCommitted("t", time.Minute)
		time.Sleep(20 * time.Second)
		if s := a.src.Stats(); s.Abandoned != 1 || s.Late != 1 {
			t.Errorf("Abandoned = %d, Late = %d", s.Abandoned, s.Late)
		}
		a.gate.mu.Lock()
		if len(a.gate.faults) != 1 || !errors.Is(a.gate.faults[0], stream.ErrRevoked) {
			t.Errorf("the settle gave %v", a.gate.faults)
		}
		a.gate.mu.Unlock()
		a.stop()
		b.stop()
		ids := make(map[string]int)
		for _, letter := range c.consume("dlq.t.g", 0) {
			for _, h := range letter.Headers {
				if h.Key == "flux-id" {
					ids[string(h.Value)]++
				}
			}
		}
		if ids["g/t/0/0/1/0"] != 2 || len(ids) != 1 {
			t.Errorf("dead letters: %v", ids)
		}
	})
}

// A member that the group has given up learns of it from its commit, lets go of
// everything at once and joins again.
func TestFencedByACommit(t *testing.T) {
	for _, code := range []*kerr.Error{kerr.IllegalGeneration, kerr.UnknownMemberID, kerr.FencedInstanceID} {
		t.Run(code.Message, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, 1, kfake.SeedTopics(1, "t"))
				defer c.close()
				h := newHistory()
				var revoked atomic.Int64
				m := c.start(c.config("t"), func(ctx context.Context, d delivery) error {
					if d.Message().Offset == 5 && revoked.Load() == 0 {
						c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Err: code, Count: 1})
						<-d.Revoked()
						revoked.Add(1)
					}
					if err := d.Ack(ctx); err != nil {
						return err
					}
					h.add(d.Message())
					return nil
				})
				c.produce("t", 0, 10, 10, 1)
				c.allCommitted("t", 30*time.Second)
				if s := m.src.Stats(); s.Fenced != 1 || s.Late == 0 || revoked.Load() != 1 {
					t.Errorf("Fenced = %d, Late = %d, revoked %d", s.Fenced, s.Late, revoked.Load())
				}
				m.stop()
				// It had not committed what it had done, and remembers it.
				h.exactly(t, 10)
			})
		})
	}
}

// A broker that takes less metadata than by default has offsets without maps, or
// with such as fit.
func TestBrokerOfLittleMetadata(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit, messages = 100, 6000
		c := newCluster(t, 1, kfake.SeedTopics(1, "t"))
		defer c.close()
		c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Err: kerr.OffsetMetadataTooLarge, Count: -1, When: func(r kmsg.Request) bool {
			m := r.(*kmsg.OffsetCommitRequest).Topics[0].Partitions[0].Metadata
			return m != nil && len(*m) > limit
		}})
		letGo := make(chan struct{})
		cfg := c.config("t")
		cfg.Window = 10_000
		m := c.start(cfg, func(ctx context.Context, d delivery) error {
			if v := d.Message().Offset; v >= 100 && v%3 == 0 {
				<-letGo
			}
			return d.Ack(ctx)
		})
		c.produce("t", 0, messages, messages, 1)
		c.eventually(30*time.Second, func() error {
			if got := c.committed("t", 0); got != 102 {
				return fmt.Errorf("committed %d", got)
			}
			return nil
		})
		close(letGo)
		c.allCommitted("t", 30*time.Second)
		m.stop()
	})
}

// A commit that the broker refuses for good is tried on and on, and shown;
// messages flow meanwhile.
func TestCommitsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, kfake.SeedTopics(2, "t"))
		defer c.close()
		h := newHistory()
		m := c.start(c.config("t"), h.handle)
		fault := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Err: kerr.GroupAuthorizationFailed, Count: -1})
		c.produce("t", 0, 100, 10, 2)
		time.Sleep(time.Minute)
		if s := m.src.Stats(); h.distinct() != 100 || s.CommitErrors < 100 || s.Fenced != 0 || !s.Member {
			t.Errorf("handled %d of 100; %+v", h.distinct(), s)
		}
		fault.Remove()
		c.allCommitted("t", 10*time.Second)
		m.stop()
		if h.duplicates() > 0 {
			t.Errorf("%d handled twice", h.duplicates())
		}
	})
}

// Messages far larger than a fetch, or than the window, come through one by one.
func TestMessagesLargerThanAFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, kfake.SeedTopics(1, "t"))
		defer c.close()
		sizes := []int{10, 900_000, 0, 500_000, 500_000, 20}
		for i, size := range sizes {
			if err := c.cl.ProduceSync(t.Context(), &kgo.Record{Topic: "t", Key: strconv.AppendInt(nil, int64(i), 10), Value: bytes.Repeat([]byte("x"), size)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		cfg := c.config("t")
		cfg.FetchBytes, cfg.WindowBytes = 100, 1000
		var mu sync.Mutex
		var got []int
		m := c.start(cfg, func(ctx context.Context, d delivery) error {
			mu.Lock()
			got = append(got, len(d.Message().Value))
			mu.Unlock()
			time.Sleep(time.Second)
			if n := d.Meta().Bytes; n < len(d.Message().Value) {
				t.Errorf("%d bytes of a message of %d", n, len(d.Message().Value))
			}
			return d.Ack(ctx)
		})
		c.allCommitted("t", time.Minute)
		m.stop()
		slices.Sort(got) // a small one may be handled beside the large one after it
		slices.Sort(sizes)
		if !slices.Equal(got, sizes) {
			t.Errorf("came through: %v, want %v", got, sizes)
		}
	})
}

// Many partitions, most of them empty, are shared out and drained like few.
func TestManyPartitions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const partitions, messages = 150, 600
		c := newCluster(t, 3, kfake.SeedTopics(partitions, "t"), kfake.SeedTopics(1, "empty"))
		defer c.close()
		h := newHistory()
		cfg := c.config("t", "empty")
		cfg.Lanes, cfg.FetchWait = []time.Duration{time.Second}, 5*time.Second
		a := c.start(cfg, h.handle)
		c.produce("t", 0, messages/2, messages, partitions/2)
		c.allCommitted("t", 30*time.Second)
		b := c.start(cfg, h.handle)
		c.produce("t", messages/2, messages, messages, partitions/2)
		c.allCommitted("t", 30*time.Second)
		time.Sleep(20 * time.Second) // no offset of a partition that never had a message
		for _, m := range []*member{a, b} {
			// A partition and its lane, shared out evenly.
			if s := m.src.Stats(); len(s.Partitions)/2 < partitions/2 || len(s.Partitions)/2 > partitions/2+1 || s.CommitErrors+s.FetchErrors > 0 {
				t.Errorf("%d partitions, %d and %d errors", len(s.Partitions), s.CommitErrors, s.FetchErrors)
			}
		}
		b.stop()
		a.stop()
		if n := len(c.GroupInfo(groupName).Commits["t"]); n != partitions/2 {
			t.Errorf("offsets of %d partitions, want %d", n, partitions/2)
		}
		h.exactly(t, messages)
	})
}

// A rebalance goes through although a topic is gone: a lane is made again or done
// without, and a topic of the config that was deleted ends Run.
func TestRebalanceWithoutATopic(t *testing.T) {
	for _, tt := range []struct {
		name, topic string
		create      bool
		want        error
	}{
		{"lane", "t.g.defer-2s", true, nil},
		{"lane that may not be made", "t.g.defer-2s", false, nil},
		{"source", "u", true, fluxkafka.ErrTopic},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, 1, kfake.SeedTopics(2, "t", "u", "t.g.defer-2s", "u.g.defer-2s", "dlq.t.g", "dlq.u.g"))
				defer c.close()
				h := newHistory()
				cfg := c.config("t", "u")
				cfg.CreateTopics, cfg.Lanes = tt.create, []time.Duration{2 * time.Second}
				a, b := c.start(cfg, h.handle), c.start(cfg, h.handle)
				c.produce("t", 0, 50, 10, 2)
				c.allCommitted("t", 30*time.Second)
				c.must(c.DeleteTopic(tt.topic))
				time.Sleep(time.Second)
				b.stop()
				c.produce("t", 50, 100, 10, 2)
				if tt.want != nil {
					if err := a.ends(2 * time.Minute); !errors.Is(err, tt.want) {
						t.Errorf("Run: %v", err)
					}
					return
				}
				c.allCommitted("t", time.Minute)
				if s := a.src.Stats(); !s.Member || s.Fault != nil {
					t.Errorf("stats %+v", s)
				}
				c.eventually(time.Minute, func() error {
					if made := c.PartitionInfo(tt.topic, 0) != nil; made != tt.create {
						return fmt.Errorf("the topic exists: %v", made)
					}
					return nil
				})
				a.stop()
				h.exactly(t, 100)
			})
		})
	}
}
