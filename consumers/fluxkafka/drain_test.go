package fluxkafka_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// A rebalance waits for handlers up to the drain timeout, and cuts off and
// repeats what takes longer.
func TestRebalanceWaitsForHandlers(t *testing.T) {
	for _, tt := range []struct {
		work time.Duration
		cut  int64
	}{{3 * time.Second, 0}, {9 * time.Second, 2}} {
		t.Run(tt.work.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, 1, kfake.SeedTopics(2, "t"))
				defer c.close()
				limiter, err := flux.New(flux.Config[string]{Limit: gcra.Unlimited()})
				if err != nil {
					t.Fatal(err)
				}
				gate := stream.Config[*kafka.Message]{Limiter: limiter, Tenant: func(m *kafka.Message) string { return string(m.Key) }}
				h := newHistory()
				var cut atomic.Int64
				work := func(ctx context.Context, _ *kafka.Message) error {
					select {
					case <-time.After(tt.work):
						return nil
					case <-ctx.Done():
						if errors.Is(context.Cause(ctx), stream.ErrRevoked) {
							cut.Add(1)
						}
						return ctx.Err()
					}
				}
				c.produce("t", 0, 2, 2, 2)
				a := c.startGate(c.config("t"), gate, work, h.add)
				time.Sleep(time.Second)
				b := c.startGate(c.config("t"), gate, work, h.add)
				c.eventually(time.Minute, func() error {
					if h.distinct() < 2 {
						return fmt.Errorf("handled %d", h.distinct())
					}
					return nil
				})
				c.allCommitted("t", 10*time.Second)
				if cut.Load() != tt.cut || h.total != 2 {
					t.Errorf("%d handlers were cut off, want %d; %d messages handled", cut.Load(), tt.cut, h.total)
				}
				a.stop()
				b.stop()
			})
		})
	}
}
