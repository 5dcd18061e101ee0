package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// graveyard is a cluster with dead letters of the topic orders.
type graveyard struct {
	*kfake.Cluster
	net kfake.VirtualNetwork
	cl  *kgo.Client
	out bytes.Buffer
}

func newGraveyard(t *testing.T) *graveyard {
	t.Helper()
	g := &graveyard{}
	var err error
	if g.Cluster, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(9092), kfake.ListenFn(g.net.Listen), kfake.SeedTopics(3, "orders", "dlq")); err != nil {
		t.Fatal(err)
	}
	if g.cl, err = kgo.NewClient(kgo.SeedBrokers(g.ListenAddrs()...), kgo.Dialer(g.net.DialContext), kgo.RecordPartitioner(kgo.ManualPartitioner())); err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *graveyard) close() {
	g.cl.Close()
	g.Close()
}

// bury adds dead letters from..to-1: of tenant even or odd, of partition i%3.
func (g *graveyard) bury(t *testing.T, from, to int) {
	t.Helper()
	var letters []*kgo.Record
	for i := from; i < to; i++ {
		letters = append(letters, &kgo.Record{
			Topic: "dlq", Partition: int32(i % 3), Key: fmt.Append(nil, "k", i), Value: fmt.Append(nil, i),
			Headers: []kgo.RecordHeader{
				{Key: "traceparent", Value: []byte("00-1")},
				{Key: "__dlq.errors.topic", Value: []byte("orders")},
				{Key: "__dlq.errors.partition", Value: fmt.Append(nil, i%3)},
				{Key: "flux-tenant", Value: []byte([]string{"even", "odd"}[i%2])},
				{Key: "flux-reason", Value: []byte("max_attempts")},
			},
		})
	}
	if err := g.cl.ProduceSync(t.Context(), letters...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

func (g *graveyard) config() redriveConfig {
	return redriveConfig{
		brokers: g.ListenAddrs(), dialer: &kafka.Dialer{DialFunc: g.net.DialContext, Timeout: 5 * time.Second},
		from: "dlq", rate: 100, out: &g.out,
	}
}

// orders returns how many messages there are in each partition of orders.
func (g *graveyard) orders() (n [3]int64) {
	for _, p := range g.PartitionInfos("orders") {
		n[p.Partition] = p.HighWatermark
	}
	return n
}

func TestRedrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGraveyard(t)
		defer g.close()
		g.bury(t, 0, 600)

		dry := g.config()
		dry.dryRun, dry.tenant = true, "odd"
		if got, err := redrive(t.Context(), dry); err != nil || got != (result{300, 300}) {
			t.Fatalf("dry run: %+v, %v", got, err)
		}
		if n := g.orders(); n != [3]int64{} {
			t.Fatalf("a dry run published %v", n)
		}

		// The burst of 100 at once, the other 200 at 100 a second.
		began := time.Now()
		odd := g.config()
		odd.tenant = "odd"
		if got, err := redrive(t.Context(), odd); err != nil || got != (result{300, 300}) {
			t.Fatalf("%+v, %v", got, err)
		}
		if took := time.Since(began); took < 2*time.Second || took > 4*time.Second {
			t.Errorf("300 at 100 a second took %v", took)
		}
		if n := g.orders(); n != [3]int64{100, 100, 100} {
			t.Errorf("orders has %v", n)
		}
		if !strings.Contains(g.out.String(), "dlq: 300 of 600 would be redriven, 300 skipped\n") || !strings.Contains(g.out.String(), "dlq: 300 of 600 redriven, 300 skipped\n") {
			t.Errorf("output:\n%s", g.out.String())
		}

		// It goes on where it stopped.
		g.bury(t, 600, 620)
		again := g.config()
		again.key, again.reason = regexp.MustCompile("^k61"), "max_attempts"
		if got, err := redrive(t.Context(), again); err != nil || got != (result{10, 10}) {
			t.Errorf("the second time: %+v, %v", got, err)
		}
	})
}

func TestRedriveRestoresTheMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGraveyard(t)
		defer g.close()
		g.bury(t, 2, 3)
		if err := g.cl.ProduceSync(t.Context(), &kgo.Record{Topic: "dlq", Value: []byte("of unknown origin")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if got, err := redrive(t.Context(), g.config()); err != nil || got != (result{1, 1}) {
			t.Fatalf("%+v, %v", got, err)
		}
		cl, err := kgo.NewClient(kgo.SeedBrokers(g.ListenAddrs()...), kgo.Dialer(g.net.DialContext), kgo.ConsumeTopics("orders"))
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		r := cl.PollFetches(t.Context()).Records()[0]
		if r.Partition != 2 || string(r.Key) != "k2" || string(r.Value) != "2" || len(r.Headers) != 1 || r.Headers[0].Key != "traceparent" {
			t.Errorf("redrove %+v", r)
		}
	})
}

// A dead letter counts as redriven when the brokers have confirmed it.
func TestRedriveUnconfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGraveyard(t)
		defer g.close()
		g.bury(t, 0, 30)
		fault := g.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.InvalidRequiredAcks, Count: -1})
		if got, err := redrive(t.Context(), g.config()); err == nil {
			t.Fatalf("%+v without an error", got)
		}
		fault.Remove()
		if got, err := redrive(t.Context(), g.config()); err != nil || got.redriven != 30 {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

// A partition that gives nothing though there is something is left after a
// while, and said to be: what was read of it is redriven, the rest is there for
// the next run, and the other partitions are not held up.
func TestRedriveLeavesASilentPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGraveyard(t)
		defer g.close()
		g.bury(t, 0, 30)
		// One that is too large to be fetched with those before it.
		large := make([]byte, 999_750)
		_, _ = rand.NewChaCha8([32]byte{1}).Read(large) // or it would be compressed
		if err := g.cl.ProduceSync(t.Context(), &kgo.Record{
			Topic: "dlq", Partition: 1, Value: large,
			Headers: []kgo.RecordHeader{{Key: "__dlq.errors.topic", Value: []byte("orders")}, {Key: "__dlq.errors.partition", Value: []byte("1")}},
		}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		fault := g.Fault(kfake.Fault{
			Keys: []kmsg.Key{kmsg.Fetch}, Topic: "dlq", Partitions: []int32{1}, Err: kerr.NotLeaderForPartition, Count: -1,
			When: func(r kmsg.Request) bool {
				for _, topic := range r.(*kmsg.FetchRequest).Topics {
					for _, p := range topic.Partitions {
						if p.Partition == 1 && p.FetchOffset >= 10 {
							return true
						}
					}
				}
				return false
			},
		})
		began := time.Now()
		if got, err := redrive(t.Context(), g.config()); err != nil || got != (result{redriven: 30}) {
			t.Fatalf("%+v, %v", got, err)
		}
		if took := time.Since(began); took < quiet || took > quiet+2*time.Second {
			t.Errorf("it took %v", took)
		}
		if want := "dlq: partition 1 gave nothing for 5s: stopped at offset 10 of 11\n"; !strings.Contains(g.out.String(), want) {
			t.Errorf("%q is not in the output:\n%s", want, g.out.String())
		}
		if n := g.orders(); n != [3]int64{10, 10, 10} {
			t.Errorf("orders has %v", n)
		}
		fault.Remove()
		if got, err := redrive(t.Context(), g.config()); err != nil || got != (result{redriven: 1}) {
			t.Errorf("the next time: %+v, %v", got, err)
		}
	})
}

func TestRedriveRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGraveyard(t)
		defer g.close()
		for name, change := range map[string]func(*redriveConfig){
			"-rate":  func(c *redriveConfig) { c.rate = 0 },
			`"nope"`: func(c *redriveConfig) { c.from = "nope" },
		} {
			cfg := g.config()
			change(&cfg)
			if _, err := redrive(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%s: %v", name, err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		g.bury(t, 0, 3)
		if _, err := redrive(ctx, g.config()); err == nil {
			t.Error("no error from a cancelled redrive")
		}
	})
}
