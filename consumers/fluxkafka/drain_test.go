package fluxkafka_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

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
				gate := gateConfig(t, gcra.Unlimited())
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
				c.handled(h, 2, time.Minute)
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

// A member that ends is out of the group at once, although the coordinator does
// not hear it the first time, and not when its session has timed out.
func TestLeavesUntilItIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, kfake.SeedTopics(2, "t"))
		defer c.close()
		a, b := c.start(c.config("t"), ack), c.start(c.config("t"), ack)
		if _, err := c.WaitGroupStable(t.Context(), groupName, 2); err != nil {
			t.Fatal(err)
		}
		c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.LeaveGroup}, TopLevel: true, Err: kerr.CoordinatorNotAvailable, Count: 2})
		a.stop()
		if n := len(c.GroupInfo(groupName).Members); n != 1 {
			t.Errorf("%d members are left", n)
		}
		b.stop()
	})
}

// A rebalance does not wait for messages that wait for their limit: the next
// owner has them at once.
func TestRebalanceTakesWhatIsParked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const messages = 8
		c := newCluster(t, 1, kfake.SeedTopics(2, "t"))
		defer c.close()
		gate := gateConfig(t, gcra.PerMinute(2).WithBurst(1))
		gate.Policy.MaxWait = time.Hour
		h := newHistory()
		work := func(context.Context, *kafka.Message) error { return nil }
		c.produce("t", 0, messages, 2, 2)
		a := c.startGate(c.config("t"), gate, work, h.add)
		time.Sleep(time.Second)
		began := time.Now()
		b := c.startGate(c.config("t"), gate, work, h.add)
		if _, err := c.WaitGroupStable(t.Context(), groupName, 2); err != nil {
			t.Fatal(err)
		}
		// It takes a heartbeat to learn of it, and no drain timeout.
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("the rebalance took %v", took)
		}
		c.allCommitted("t", 5*time.Minute)
		if h.distinct() != messages || h.duplicates() > 0 || a.src.Stats().Abandoned > 0 {
			t.Errorf("handled %d of %d, %d twice, %d abandoned", h.distinct(), messages, h.duplicates(), a.src.Stats().Abandoned)
		}
		a.stop()
		b.stop()
	})
}

// A partition whose handlers hang fills its part of the gate's window and holds
// back no other.
func TestStuckPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const messages = 400
		c := newCluster(t, 1, kfake.SeedTopics(2, "t"))
		defer c.close()
		gate := gateConfig(t, gcra.Unlimited())
		gate.Window, gate.PartitionWindow, gate.Workers = 64, 32, 64
		gate.Tenant = func(m *kafka.Message) string { return string(m.Value) }
		var done atomic.Int64
		m := c.startGate(c.config("t"), gate, func(ctx context.Context, m *kafka.Message) error {
			if m.Partition == 0 {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}, func(*kafka.Message) { done.Add(1) })
		// As many tenants as messages, so that no share of a tenant helps.
		c.produce("t", 0, 2*messages, 2*messages, 2)
		c.eventually(10*time.Second, func() error {
			if n := done.Load(); n != messages {
				return fmt.Errorf("%d of %d messages of the other partition were handled", n, messages)
			}
			return nil
		})
		m.crash()
		<-m.done
	})
}

// A commit that is under way when a rebalance begins is waited for: cut off, it
// could reach the broker after the next one, and take the group back.
func TestRebalanceDuringACommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const messages = 400
		c := newCluster(t, 1, kfake.SeedTopics(1, "t"))
		defer c.close()
		h := newHistory()
		handle := func(ctx context.Context, d delivery) error {
			if d.Message().Offset%100 == 70 {
				time.Sleep(3 * time.Second) // the drain takes that long, and commits meanwhile
			}
			h.add(d.Message())
			return d.Ack(ctx)
		}
		a := c.start(c.config("t"), handle)
		c.allCommitted("t", 10*time.Second)
		went := watchCommitted(c)
		var slow atomic.Bool
		c.ControlKey(int16(kmsg.OffsetCommit), func(kmsg.Request) (kmsg.Response, error, bool) {
			if slow.CompareAndSwap(true, false) {
				c.SleepControl(func() { time.Sleep(1200 * time.Millisecond) })
			}
			return nil, nil, false
		})
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := range messages {
				c.produce("t", i, i+1, messages, 1)
				time.Sleep(20 * time.Millisecond)
			}
		})
		var members []*member
		for range 4 {
			time.Sleep(1500 * time.Millisecond)
			slow.Store(true)
			members = append(members, c.start(c.config("t"), handle))
		}
		wg.Wait()
		c.allCommitted("t", time.Minute)
		for _, m := range append(members, a) {
			m.stop()
		}
		if err := went(); err != nil {
			t.Error(err)
		}
		h.exactly(t, messages)
	})
}

// watchCommitted looks at the committed offset of t/0 until its result is called,
// which returns an error if it went back.
func watchCommitted(c *cluster) func() error {
	stop, done := make(chan struct{}), make(chan error)
	go func() {
		var fault error
		for last := int64(-1); ; time.Sleep(5 * time.Millisecond) {
			now := c.committed("t", 0)
			if now < last && fault == nil {
				fault = fmt.Errorf("the committed offset went back from %d to %d", last, now)
			}
			last = now
			select {
			case <-stop:
				done <- fault
				return
			default:
			}
		}
	}()
	return func() error {
		close(stop)
		return <-done
	}
}

// A message that waits in memory for its next attempt when a rebalance begins
// comes again with the attempts that it came with, as [stream.Policy] says.
func TestRebalanceForgetsAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, kfake.SeedTopics(1, "t"))
		defer c.close()
		gate := gateConfig(t, gcra.Unlimited())
		gate.Policy = stream.Policy{MaxWait: time.Hour, MaxAttempts: 3, Backoff: func(int) time.Duration { return 20 * time.Second }}
		var mu sync.Mutex
		var attempts []int
		work := func(ctx context.Context, _ *kafka.Message) error {
			info, _ := stream.FromContext(ctx)
			mu.Lock()
			defer mu.Unlock()
			attempts = append(attempts, info.Attempt)
			return errors.New("no")
		}
		c.produce("t", 0, 1, 1, 1)
		a := c.startGate(c.config("t"), gate, work, func(*kafka.Message) {})
		time.Sleep(15 * time.Second)
		b := c.startGate(c.config("t"), gate, work, func(*kafka.Message) {})
		c.allCommitted("t", 2*time.Minute)
		a.stop()
		b.stop()
		if got := fmt.Sprint(attempts); got != "[1 1 2 3]" {
			t.Errorf("attempts %v", got)
		}
		letters := c.consume("dlq.t.g", 0)
		if len(letters) != 1 {
			t.Errorf("%d dead letters", len(letters))
		}
	})
}
