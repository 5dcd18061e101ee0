package fluxkafka_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fluxlimiter/flux/consumers/fluxkafka"
	"github.com/fluxlimiter/flux/stream/streamtest"
)

// TestConformance holds that the source keeps the contract that the gate relies
// on.
func TestConformance(t *testing.T) {
	streamtest.TestSource(t, func(t *testing.T, test func(*testing.T, streamtest.Fixture[*kafka.Message])) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 1, kfake.SeedTopics(1, "t"))
			// When all that the test has put off for its end is done.
			t.Cleanup(c.close)
			src, err := fluxkafka.New(c.config("t"))
			if err != nil {
				t.Fatal(err)
			}
			test(t, streamtest.Fixture[*kafka.Message]{
				Source: src,
				Publish: func(body string) error {
					return c.cl.ProduceSync(t.Context(), &kgo.Record{Topic: "t", Value: []byte(body)}).FirstErr()
				},
				Body:        func(m *kafka.Message) string { return string(m.Value) },
				DeadLetters: func() ([]string, error) { return c.bodies("dlq.t.g") },
				Revoke:      func() error { return c.rebalance("t") },
			})
		})
	})
}

// bodies returns the values of all records in a topic of one partition.
func (c *cluster) bodies(topic string) (values []string, err error) {
	if c.PartitionInfo(topic, 0) == nil {
		return nil, fmt.Errorf("no topic %q", topic)
	}
	for _, r := range c.consume(topic, 0) {
		values = append(values, string(r.Value))
	}
	return values, nil
}

// rebalance has another member join the group and leave it, and returns when
// whoever was in it has had more than its drain timeout to let go.
func (c *cluster) rebalance(topic string) error {
	src, err := fluxkafka.New(c.config(topic))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), 8*time.Second)
	defer cancel()
	return src.Run(ctx, shut{})
}

// shut is a gate that never has room.
type shut struct{}

func (shut) Room(ctx context.Context, _ int) (int, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

func (shut) Window(int) int { return 1 }

func (shut) Deliver(ctx context.Context, deliveries ...delivery) error {
	<-ctx.Done()
	for _, d := range deliveries {
		d.Release()
	}
	return ctx.Err()
}

func (shut) Recall(<-chan struct{}) {}
