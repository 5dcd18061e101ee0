package stream_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
	"github.com/fluxlimiter/flux/stream/streamtest"
)

// TestKeyedBacklog holds that a backlog is worked off at its tenant's limit
// also if the messages are ordered by keys: one that comes back to no place
// must not take all those that follow it to the end of the line, and a tenant
// that waits for messages to come back must not be taken for a slow one.
func TestKeyedBacklog(t *testing.T) {
	for _, tt := range []struct {
		rate   int64
		window int
		slowly bool // the limiter answers
	}{{100, 64, false}, {100, 64, true}, {500, 1024, false}} {
		synctest.Test(t, func(t *testing.T) {
			const span = 40
			rate := tt.rate
			s := newScene(t, limits{"a": gcra.PerSecond(rate).WithBurst(20)}, inOrder(stream.Config[*message]{Window: tt.window}))
			if tt.slowly {
				s.use(inOrder(stream.Config[*message]{Limiter: slowly{s.lim}, Window: tt.window}))
			}
			s.broker = streamtest.NewBroker(streamtest.Config{Partitions: 2, Fault: slowDeferrals})
			n, rng := rate*span, rand.New(rand.NewPCG(1, 1))
			for range n {
				key := rng.IntN(50)
				s.broker.Publish(message{Tenant: "a", Key: fmt.Sprint(key), Partition: key % 2})
			}
			took := s.run()
			h := s.broker.History()
			s.check(h)
			if want := span * time.Second; took > want*105/100 {
				t.Errorf("%d/s: took %v, want %v", rate, took, want)
			}
			if deferred := h.Count(streamtest.Deferred); deferred > int(n)*2 {
				t.Errorf("%d/s: %d deferrals of %d messages", rate, deferred, n)
			}
		})
	}
}

// TestKeyedBacklogAfterARaise holds that messages which came back to no place
// under a low limit do not keep those waiting that come back under a higher one.
func TestKeyedBacklogAfterARaise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, byKey(stream.Config[*parcel]{Window: 8, TenantWindow: 2}), nil)
		limit := func(l gcra.Limit, version uint64) {
			t.Helper()
			if err := r.lim.SetDefault(l, version); err != nil {
				t.Fatal(err)
			}
		}
		back := func(name string) *parcel {
			return &parcel{name: name, tenant: "a", key: name, meta: stream.Meta{Deferrals: 1}}
		}
		limit(gcra.PerHour(1), 1)
		r.deliver(back("k0"), back("k1"), back("k2"), back("k3"))
		r.forget()
		limit(gcra.PerSecond(1), 2)
		r.deliver(back("l1"), back("l2"), back("l3"))
		time.Sleep(10 * time.Second)
		r.want("1s l1 run", "1s l1 ack", "2s l2 run", "2s l2 ack", "0s l3 defer share_exceeded 2s")
		r.end()
	})
}

// TestBacklogOfMixedCosts holds that a backlog of messages of all costs is worked
// off at its tenant's limit: a cheap one that is deferred does not take the time
// of a dear one.
func TestBacklogOfMixedCosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, span = 100, 60
		s := newScene(t, limits{"a": gcra.PerSecond(rate).WithBurst(4)}, stream.Config[*message]{Window: 37})
		s.broker = streamtest.NewBroker(streamtest.Config{Partitions: 4, Fault: slowDeferrals})
		rng := rand.New(rand.NewPCG(1, 1))
		for spent := int64(0); spent < rate*span; {
			m := message{Tenant: "a", Cost: 1 + rng.Int64N(4), Partition: rng.IntN(4)}
			s.broker.Publish(m)
			spent += m.Cost
		}
		took := s.run()
		s.check(s.broker.History())
		if want := span * time.Second; took > want*102/100 {
			t.Errorf("took %v, want %v", took, want)
		}
	})
}

// TestNoPlaceBeforeThen holds that a message which finds no place because others
// have them is not handed back to come again at once, however many places its
// tenant may have.
func TestNoPlaceBeforeThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limits{"a": gcra.PerMinute(1), "b": gcra.PerMinute(1)}
		r := start(t, l, stream.Config[*parcel]{Window: 16, TenantWindow: 12, Policy: stream.Policy{MaxWait: time.Hour}}, nil)
		r.deliver(named("b", 10)...)
		r.deliver(named("a", 5)...)
		r.forget()
		r.deliver(&parcel{name: "back", tenant: "a", meta: stream.Meta{Deferrals: 1}})
		r.want("0s back defer share_exceeded 2m30s")
		r.end()
	})
}

// TestBacklogOfASlowLimiter holds that a backlog that was parked before its
// tenant's limit was known is worked off at that limit.
func TestBacklogOfASlowLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, rate = 1000, 10
		s := newScene(t, limits{"a": gcra.PerSecond(rate)}, stream.Config[*message]{})
		s.use(stream.Config[*message]{Limiter: slowly{s.lim}, Window: 512})
		s.publish("a", n)
		if took, want := s.run(), n*time.Second/rate; took > want*105/100 {
			t.Errorf("took %v, want %v", took, want)
		}
	})
}

// slowDeferrals makes each deferral take a while.
func slowDeferrals(op streamtest.Kind, _ *message, _ int) error {
	if op == streamtest.Deferred {
		time.Sleep(2 * time.Millisecond)
	}
	return nil
}

// slowly is a limiter that takes a while to answer.
type slowly struct{ lim *flux.Limiter[string] }

func (s slowly) Check(ctx context.Context, key string, n int64) (flux.Decision, error) {
	time.Sleep(time.Millisecond)
	return s.lim.Check(ctx, key, n)
}
