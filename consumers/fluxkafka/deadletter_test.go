package fluxkafka_test

import (
	"bytes"
	"context"
	cryptorand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
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

func TestDeadLetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, kfake.SeedTopics(2, "t"))
		defer c.close()
		published := time.Now().Add(-90 * 24 * time.Hour).Truncate(time.Millisecond)
		c.produceOther("t", 1, 4)
		err := c.cl.ProduceSync(t.Context(), &kgo.Record{
			Topic: "t", Partition: 1, Key: []byte("k"), Value: []byte("v"), Timestamp: published,
			Headers: []kgo.RecordHeader{
				{Key: "traceparent", Value: []byte("00-1")},
				// Left by an earlier death.
				{Key: "__dlq.errors.message", Value: []byte("old")},
				{Key: "flux-reason", Value: []byte("old")},
				{Key: "kafka_dlt-original-topic", Value: []byte("old")},
			},
		}).FirstErr()
		if err != nil {
			t.Fatal(err)
		}
		cfg := c.config("t")
		cfg.DeadLetterHeaders = fluxkafka.SpringHeaders | fluxkafka.ConnectHeaders
		tries := 0
		c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "dlq.t.g", Err: kerr.NotEnoughReplicas, Count: 5})
		m := c.start(cfg, func(ctx context.Context, d delivery) error {
			if string(d.Message().Key) != "k" {
				return d.Ack(ctx)
			}
			tries++
			return d.DeadLetter(ctx, stream.Letter{
				Reason: stream.ReasonAttempts, Err: errors.New("o" + strings.Repeat("ü", 2000)), Stack: []byte("main.go:1"),
				Tenant: "acme", Attempts: 5, Deferrals: 3,
			})
		})
		c.allCommitted("t", time.Minute)
		m.stop()

		fetches := c.consume("dlq.t.g", 1)
		if len(fetches) != 1 {
			t.Fatalf("%d dead letters", len(fetches))
		}
		letter := fetches[0]
		if string(letter.Key) != "k" || string(letter.Value) != "v" || !letter.Timestamp.Equal(published) || letter.Partition != 1 {
			t.Errorf("letter = %+v", letter)
		}
		got := make(map[string][]string)
		for _, h := range letter.Headers {
			got[h.Key] = append(got[h.Key], string(h.Value))
		}
		be32 := string(binary.BigEndian.AppendUint32(nil, 1))
		be64 := string(binary.BigEndian.AppendUint64(nil, 4))
		for name, want := range map[string]string{
			"traceparent":        "00-1",
			"__dlq.errors.topic": "t", "__dlq.errors.partition": "1", "__dlq.errors.offset": "4", "__dlq.errors.group": "g",
			"__dlq.errors.delivery.count": "5", "__dlq.errors.message": "o" + strings.Repeat("ü", 511), // no half of one
			"flux-id": "g/t/1/4/5/3", "flux-tenant": "acme", "flux-reason": "max_attempts", "flux-attempts": "5", "flux-deferrals": "3",
			"flux-origin-topic": "t", "flux-origin-partition": "1", "flux-origin-offset": "4",
			"flux-origin-time": fmt.Sprint(published.UnixMilli()), "flux-stack": "main.go:1",
			"kafka_dlt-original-topic": "t", "kafka_dlt-original-partition": be32, "kafka_dlt-original-offset": be64,
			"kafka_dlt-original-consumer-group": "g", "kafka_dlt-original-timestamp-type": "CreateTime",
			"__connect.errors.topic": "t", "__connect.errors.partition": "1", "__connect.errors.offset": "4",
		} {
			if !slices.Equal(got[name], []string{want}) {
				t.Errorf("%s = %q, want %q once", name, got[name], want)
			}
		}
	})
}

// consume returns the records of a partition.
func (c *cluster) consume(topic string, partition int32) []*kgo.Record {
	c.t.Helper()
	cl := c.client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {partition: kgo.NewOffset().AtStart()}}))
	defer cl.Close()
	var records []*kgo.Record
	for int64(len(records)) < c.PartitionInfo(topic, partition).HighWatermark {
		fetches := cl.PollFetches(c.t.Context())
		if err := fetches.Err(); err != nil {
			c.t.Fatal(err)
		}
		records = append(records, fetches.Records()...)
	}
	return records
}

// What fits the source topic fits the dead letters, with a word less said about
// it if need be.
func TestDeadLetterOfALargeMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, kfake.BrokerConfigs(map[string]string{"message.max.bytes": "2000000"}))
		defer c.close()
		c.createTopics(map[string]map[string]string{"t": nil, "dlq.t.g": {"max.message.bytes": "1501000"}})
		value := make([]byte, 1_500_000)
		_, _ = cryptorand.Read(value) // nothing to compress
		cl := c.client(kgo.ProducerBatchMaxBytes(1_600_000))
		defer cl.Close()
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "t", Value: value}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		m := c.start(c.config("t"), func(ctx context.Context, d delivery) error {
			return d.DeadLetter(ctx, stream.Letter{Err: errors.New(strings.Repeat("e", 4000)), Stack: bytes.Repeat([]byte("s"), 8000)})
		})
		c.allCommitted("t", time.Minute)
		m.stop()
		letters := c.consume("dlq.t.g", 0)
		if len(letters) != 1 || !bytes.Equal(letters[0].Value, value) {
			t.Errorf("%d dead letters", len(letters))
		}
	})
}

func (c *cluster) createTopics(topics map[string]map[string]string) {
	c.t.Helper()
	for _, topic := range slices.Sorted(maps.Keys(topics)) {
		if err := c.CreateTopic(topic, 1, topics[topic]); err != nil {
			c.t.Fatal(err)
		}
	}
}

// What the source topic took does not get stuck for the size or the time of its
// copy: a message that its producer compressed, many that make too large a batch
// together, one of a time that the topic of the copies refuses.
func TestCopiesFitTheirTopic(t *testing.T) {
	for _, tt := range []struct {
		name  string
		limit string // max.message.bytes of lanes and dead letters
		sizes []int
		fault error
	}{
		{"compressed", "300000", []int{1_200_000}, nil},
		{"compressed and small", "3000", []int{100_000}, nil},
		{"together", "5000", slices.Repeat([]int{1000}, 200), nil},
		{"time", "1000000", []int{10}, kerr.InvalidTimestamp},
	} {
		for _, how := range []string{"dlq.t.g", "t.g.defer-2s"} {
			if tt.fault != nil && how != "dlq.t.g" {
				continue // lanes have the time of the deferral
			}
			t.Run(tt.name+"/"+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := newCluster(t, 1)
					defer c.close()
					limit := map[string]string{"max.message.bytes": tt.limit}
					c.createTopics(map[string]map[string]string{"t": nil, "dlq.t.g": limit, "t.g.defer-2s": limit})
					cl := c.client(kgo.ProducerBatchCompression(kgo.GzipCompression()), kgo.ProducerBatchMaxBytes(2<<20))
					defer cl.Close()
					published := time.Now().Add(-time.Hour).Truncate(time.Millisecond)
					var records []*kgo.Record
					for i, size := range tt.sizes {
						records = append(records, &kgo.Record{
							Topic: "t", Key: strconv.AppendInt(nil, int64(i), 10), Value: bytes.Repeat([]byte("x"), size), Timestamp: published,
						})
					}
					if err := cl.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
						t.Fatal(err)
					}
					if tt.fault != nil {
						c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: how, Err: kerr.InvalidTimestamp, Count: 1})
					}
					var mu sync.Mutex
					var faults []error
					cfg := c.config("t")
					cfg.Lanes = []time.Duration{2 * time.Second}
					m := c.start(cfg, func(ctx context.Context, d delivery) (err error) {
						switch {
						case d.Meta().Deferrals > 0:
							return d.Ack(ctx)
						case how == "dlq.t.g":
							err = d.DeadLetter(ctx, stream.Letter{Reason: stream.ReasonPermanent})
						default:
							err = d.Defer(ctx, stream.Deferral{Until: time.Now().Add(time.Second), Deferrals: 1})
						}
						mu.Lock()
						defer mu.Unlock()
						faults = append(faults, err)
						return err
					})
					c.allCommitted("t", 10*time.Second)
					m.stop()
					if err := errors.Join(faults...); err != nil {
						t.Error(err)
					}
					copies := c.consume(how, 0)
					if len(copies) != len(tt.sizes) {
						t.Fatalf("%d copies of %d messages", len(copies), len(tt.sizes))
					}
					for _, r := range copies {
						i, _ := strconv.Atoi(string(r.Key))
						if len(r.Value) != tt.sizes[i] {
							t.Errorf("message %d: %d bytes, want %d", i, len(r.Value), tt.sizes[i])
						}
						if how == "dlq.t.g" && r.Timestamp.Equal(published) != (tt.fault == nil) {
							t.Errorf("message %d has the time %v", i, r.Timestamp)
						}
					}
				})
			})
		}
	}
}

// A deletion in a compacted topic, a message without a value, is one still when
// it comes back and among the dead letters.
func TestTombstones(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, kfake.SeedTopics(1, "t"))
		defer c.close()
		if err := c.cl.ProduceSync(t.Context(), &kgo.Record{Topic: "t", Key: []byte("k")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		m := c.start(c.config("t"), func(ctx context.Context, d delivery) error {
			if d.Message().Value != nil {
				t.Errorf("value %q after %d deferrals", d.Message().Value, d.Meta().Deferrals)
			}
			if d.Meta().Deferrals == 0 {
				return d.Defer(ctx, stream.Deferral{Until: time.Now().Add(3 * time.Second), Deferrals: 1})
			}
			return d.DeadLetter(ctx, stream.Letter{Reason: stream.ReasonPermanent})
		})
		c.eventually(time.Minute, func() error {
			if info := c.PartitionInfo("dlq.t.g", 0); info == nil || info.HighWatermark == 0 {
				return errors.New("no dead letter")
			}
			return nil
		})
		m.stop()
		if letters := c.consume("dlq.t.g", 0); len(letters) != 1 || letters[0].Value != nil || string(letters[0].Key) != "k" {
			t.Errorf("dead letters %+v", letters)
		}
	})
}
