package fluxkafka_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// A key keeps its order through all deferrals as long as its partition stays
// with one member: limits far below the load, handlers that fail and handlers that
// ask for more time.
func TestOrderThroughDeferrals(t *testing.T) {
	for _, lanes := range [][]time.Duration{{time.Second}, {500 * time.Millisecond, 3 * time.Second}} {
		t.Run(fmt.Sprint(lanes), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const messages, keys, tenants, partitions = 300, 20, 5, 3
				c := newCluster(t, 1, kfake.SeedTopics(partitions, "t"))
				defer c.close()
				number := func(s []byte) int {
					n, _ := strconv.Atoi(string(s))
					return n
				}
				gate := gateConfig(t, gcra.PerSecond(3))
				gate.OrderKey, gate.Policy = gate.Tenant, stream.Policy{MaxWait: time.Second, MaxDeferrals: -1}
				gate.Tenant = func(m *kafka.Message) string { return strconv.Itoa(number(m.Key[1:]) % tenants) }
				cfg := c.config("t")
				cfg.Lanes, cfg.FetchWait = lanes, 5*time.Second
				var mu sync.Mutex
				tries := make(map[int]int)
				var deferred atomic.Int64
				h := newHistory()
				m := c.startGate(cfg, gate, func(ctx context.Context, m *kafka.Message) error {
					v := number(m.Value)
					mu.Lock()
					tries[v]++
					first := tries[v] == 1
					mu.Unlock()
					if info, _ := stream.FromContext(ctx); info.Deferrals > 0 {
						deferred.Add(1)
					}
					switch {
					case first && v%11 == 0:
						return errors.New("failed")
					case first && v%13 == 0:
						return stream.RetryLater(2*time.Second, nil)
					}
					return nil
				}, h.add)
				c.produce("t", 0, messages/2, keys, partitions)
				time.Sleep(4 * time.Second)
				c.produce("t", messages/2, messages, keys, partitions)
				c.handled(h, messages, 5*time.Minute)
				m.stop()
				if err := h.inOrder(); err != nil {
					t.Error(err)
				}
				if n := deferred.Load(); h.duplicates() > 0 || n < messages/4 {
					t.Errorf("%d were handled twice, %d were deferred", h.duplicates(), n)
				}
			})
		})
	}
}
