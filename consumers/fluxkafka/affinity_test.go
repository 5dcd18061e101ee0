package fluxkafka_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fluxlimiter/flux/consumers/fluxkafka"
	"github.com/fluxlimiter/flux/stream"
)

// put publishes a message of a tenant to a partition.
func (c *cluster) put(topic string, partition int32, tenant, value string) {
	c.t.Helper()
	r := &kgo.Record{Topic: topic, Partition: partition, Key: []byte(tenant), Value: []byte(value)}
	if err := c.cl.ProduceSync(c.t.Context(), r).FirstErr(); err != nil {
		c.t.Fatal(err)
	}
}

func affine(c *cluster, how fluxkafka.Affinity, topics ...string) fluxkafka.Config {
	cfg := c.config(topics...)
	cfg.TenantAffinity = how
	cfg.Tenant = func(m *kafka.Message) string { return string(m.Key) }
	return cfg
}

// lockedBuffer is a log that may be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// A tenant in two partitions ends Run under RequireAffinity, and nothing from
// the message that shows it on is committed.
func TestAffinityRequired(t *testing.T) {
	for _, tt := range []struct {
		name      string
		topic     string
		partition int32
		tenant    string
		says      []string // nil: all is well
	}{
		{"same partition", "a", 1, "acme", nil},
		{"same partition of another topic", "b", 1, "acme", nil},
		{"no tenant", "a", 2, "", nil},
		{"other tenant", "a", 2, "other", nil},
		{"other partition", "a", 2, "acme", []string{`tenant "acme" is in a/2, at offset 0, and was in a/1 before`, "same partitioner", "as the key"}},
		{"other partition of another topic", "b", 0, "acme", []string{`tenant "acme" is in b/0, at offset 0, and was in a/1 before`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, 1, kfake.SeedTopics(3, "a", "b"))
				defer c.close()
				h := newHistory()
				cfg := affine(c, fluxkafka.RequireAffinity, "a", "b")
				m := c.start(cfg, h.handle)
				c.put("a", 1, "acme", "0")
				c.allCommitted("a", 10*time.Second)
				c.put(tt.topic, tt.partition, tt.tenant, "1")
				if tt.says == nil {
					c.allCommitted(tt.topic, 10*time.Second)
					if n := m.src.Stats().Strays; n != 0 {
						t.Errorf("%d strays", n)
					}
					m.stop()
					return
				}
				err := m.ends(time.Minute)
				if !errors.Is(err, fluxkafka.ErrAffinity) {
					t.Fatalf("Run = %v", err)
				}
				for _, s := range tt.says {
					if !strings.Contains(err.Error(), s) {
						t.Errorf("%q is not in: %v", s, err)
					}
				}
				if h.has(1) || c.committed(tt.topic, int(tt.partition)) > 0 {
					t.Errorf("the message was handled: %v, committed: %d", h.has(1), c.committed(tt.topic, int(tt.partition)))
				}
				if c.committed("a", 1) != 1 {
					t.Errorf("what was before it is committed to %d", c.committed("a", 1))
				}
				// It is there for whoever looks less closely.
				other := c.start(affine(c, fluxkafka.AnyPartition, "a", "b"), h.handle)
				c.allCommitted(tt.topic, 20*time.Second)
				other.stop()
				if !h.has(1) || h.duplicates() > 0 {
					t.Errorf("handled later: %v, %d twice", h.has(1), h.duplicates())
				}
			})
		})
	}
}

// Under WarnAffinity everything is delivered, each message that is astray is
// counted, and the log is not flooded.
func TestAffinityWarns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, kfake.SeedTopics(2, "a"))
		defer c.close()
		var log lockedBuffer
		h := newHistory()
		cfg := affine(c, fluxkafka.WarnAffinity, "a")
		cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
		m := c.start(cfg, h.handle)
		c.put("a", 0, "acme", "0")
		c.allCommitted("a", 10*time.Second)
		for i := range 20 {
			c.put("a", 1, "acme", fmt.Sprint(1+i))
		}
		c.allCommitted("a", 10*time.Second)
		s := m.src.Stats()
		m.stop()
		if s.Strays != 20 || h.distinct() != 21 {
			t.Errorf("%d strays, %d handled", s.Strays, h.distinct())
		}
		if n := strings.Count(log.String(), "a tenant is in two partitions"); n != 1 {
			t.Errorf("%d warnings in\n%s", n, log.String())
		}
	})
}

// Topics with different counts of partitions cannot hold a tenant in the same.
func TestAffinityOfUnlikeTopics(t *testing.T) {
	for _, tt := range []struct {
		how  fluxkafka.Affinity
		says string
	}{
		{fluxkafka.AnyPartition, ""},
		{fluxkafka.WarnAffinity, ""},
		{fluxkafka.RequireAffinity, `"b" has 2 partitions and "a" has 3`},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 1, kfake.SeedTopics(3, "a"), kfake.SeedTopics(2, "b"))
			defer c.close()
			var log lockedBuffer
			cfg := affine(c, tt.how, "a", "b")
			cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
			if tt.says != "" {
				took, err := refuses(c, cfg)
				if !errors.Is(err, fluxkafka.ErrTopic) || !strings.Contains(err.Error(), tt.says) || took > 10*time.Second {
					t.Errorf("after %v: %v", took, err)
				}
				return
			}
			m := c.start(cfg, ack)
			c.put("b", 1, "acme", "0")
			c.allCommitted("b", 10*time.Second)
			m.stop()
			if warned := strings.Contains(log.String(), "topics differ in partitions"); warned != (tt.how == fluxkafka.WarnAffinity) {
				t.Errorf("%v: warned: %v", tt.how, warned)
			}
		})
	}
}

// Members under TenantAffinity own the same numbers of all topics, through
// joins and leaves; without it they would not.
func TestAffinityAssignsNumbers(t *testing.T) {
	apart := func(t *testing.T, how fluxkafka.Affinity) (n int) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 1, kfake.SeedTopics(5, "a", "b", "c"))
			defer c.close()
			var members []*member
			for range 3 {
				members = append(members, c.start(affine(c, how, "a", "b", "c"), ack))
				time.Sleep(20 * time.Second)
				owned := 0
				for _, m := range members {
					topics := make(map[int]map[string]bool)
					for _, p := range m.src.Stats().Partitions {
						if topics[p.Partition] == nil {
							topics[p.Partition] = make(map[string]bool)
						}
						topics[p.Partition][p.Topic] = true
						owned++
					}
					for _, of := range topics {
						if len(of) != 3*5 { // with four lanes each
							n++
						}
					}
				}
				if owned != 3*5*5 {
					t.Errorf("%d members own %d partitions of %d", len(members), owned, 3*5*5)
				}
			}
			for _, m := range members {
				m.stop()
			}
		})
		return n
	}
	if n := apart(t, fluxkafka.RequireAffinity); n > 0 {
		t.Errorf("%d times a member had not all topics of a number", n)
	}
	if apart(t, fluxkafka.AnyPartition) == 0 {
		t.Error("it makes no difference")
	}
}

// Members that ask for other topics than one another, as in the middle of a
// deployment, share out what each asks for.
func TestAffinityOfUnlikeMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, kfake.SeedTopics(4, "a", "b"))
		defer c.close()
		h := newHistory()
		both := c.start(affine(c, fluxkafka.RequireAffinity, "a", "b"), h.handle)
		one := c.start(affine(c, fluxkafka.RequireAffinity, "a"), h.handle)
		time.Sleep(20 * time.Second)
		owned := make(map[string]int)
		for _, m := range []*member{both, one} {
			for _, p := range m.src.Stats().Partitions {
				owned[p.Topic]++
				if m == one && p.Topic == "b" {
					t.Error("it has a topic that it did not ask for")
				}
			}
		}
		if owned["a"] != 4 || owned["b"] != 4 || len(one.src.Stats().Partitions) == 0 {
			t.Errorf("owned: %v", owned)
		}
		c.put("a", 1, "acme", "0")
		c.put("b", 1, "acme", "1")
		c.allCommitted("a", 10*time.Second)
		c.allCommitted("b", 10*time.Second)
		both.stop()
		one.stop()
		h.exactly(t, 2)
	})
}

// A message that comes back through a lane is where it was.
func TestAffinityLeavesLanesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, kfake.SeedTopics(2, "a"))
		defer c.close()
		h := newHistory()
		m := c.start(affine(c, fluxkafka.RequireAffinity, "a"), func(ctx context.Context, d delivery) error {
			if d.Meta().Deferrals == 0 {
				return d.Defer(ctx, stream.Deferral{Until: time.Now().Add(3 * time.Second), Tenant: "acme", Deferrals: 1})
			}
			h.add(d.Message())
			return d.Ack(ctx)
		})
		for i := range 5 {
			c.put("a", 1, "acme", fmt.Sprint(i))
		}
		c.handled(h, 5, time.Minute)
		m.stop()
	})
}

// Partitions that are added move tenants, which is no fault of theirs.
func TestAffinityForgetsWhenPartitionsAreAdded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, kfake.SeedTopics(2, "a"))
		defer c.close()
		cfg := affine(c, fluxkafka.RequireAffinity, "a")
		cfg.WatchInterval = time.Second
		m := c.start(cfg, ack)
		c.put("a", 1, "acme", "0")
		c.allCommitted("a", 10*time.Second)
		if _, err := kadm.NewClient(c.cl).CreatePartitions(t.Context(), 1, "a"); err != nil {
			t.Fatal(err)
		}
		c.eventually(time.Minute, func() error {
			for _, p := range m.src.Stats().Partitions {
				if p.Topic == "a" && p.Partition == 2 {
					return nil
				}
			}
			return errors.New("it has not got the new partition")
		})
		c.cl.ForceMetadataRefresh()
		time.Sleep(10 * time.Second)
		c.put("a", 2, "acme", "1")
		c.allCommitted("a", 20*time.Second)
		m.stop()
	})
}

// The table holds what it says and no more, and sees what it holds.
func TestAffinityTable(t *testing.T) {
	a := fluxkafka.NewHomes()
	name := func(i int) string { return fmt.Sprint("tenant ", i) }
	for i := range 1000 {
		if _, strays := a.Visit(name(i), "a", i%7); strays {
			t.Fatalf("%s strays at its first message", name(i))
		}
	}
	for i := range 1000 {
		if _, strays := a.Visit(name(i), "b", i%7); strays {
			t.Errorf("%s strays where it was", name(i))
		}
		if first, strays := a.Visit(name(i), "a", i%7+1); !strays || first != fmt.Sprintf("a/%d", i%7) {
			t.Errorf("%s is said to be in %s first: %v", name(i), first, strays)
		}
	}
	// A hundred thousand others, and one that keeps coming, which stays.
	for i := 1000; i < 100_000; i++ {
		a.Visit(name(i), "a", 0)
		a.Visit(name(5), "a", 5)
	}
	if _, strays := a.Visit(name(5), "a", 6); !strays {
		t.Error("a tenant that kept coming was forgotten")
	}
	if n := a.Len(); n > 1<<15 || n < 1<<14 {
		t.Errorf("%d tenants are in the table, want most of its 32,768 places", n)
	}
	a.Forget()
	if n := a.Len(); n != 0 {
		t.Errorf("%d tenants are left", n)
	}
	if _, strays := a.Visit(name(5), "a", 6); strays {
		t.Error("a forgotten tenant strays")
	}
}
