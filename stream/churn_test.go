package stream_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
	"github.com/fluxlimiter/flux/stream/streamtest"
)

// TestKeyedBacklogOfASmallShare holds that a backlog in order gets on, and at
// its limit, however few places it has: those that wait for another to come back
// leave it room to, and none becomes a dead letter because of those it follows.
func TestKeyedBacklogOfASmallShare(t *testing.T) {
	for _, tt := range []struct {
		n, share, partition, partitions, keys int
		rate                                  int64
		work, within                          time.Duration
		deliveries                            int // per message, at most
		denied                                int // MaxDeferrals
	}{
		{60, 4, 0, 1, 2, 20, 0, 3150 * time.Millisecond, 4, 0},
		{400, 2, 0, 1, 5, 20, 0, 21 * time.Second, 4, 0},
		{400, 8, 0, 1, 2, 20, 0, 21 * time.Second, 4, 0},
		{400, 1, 0, 1, 5, 20, 0, 21 * time.Second, 4, 0},
		// Those that are first of their keys may be denied any number of times here.
		// The places of the partitions are fewer than those of the tenant.
		{400, 20, 5, 4, 12, 20, 0, 21 * time.Second, 8, -1},
		// Keys are slower than the limit: what is foretold of their turns is wrong.
		{400, 2, 0, 1, 5, 1000, 10 * time.Millisecond, 4 * time.Second, 8, -1},
		{400, 18, 0, 1, 5, 1000, 10 * time.Millisecond, 4 * time.Second, 8, -1},
	} {
		t.Run(fmt.Sprintf("%d places, %d keys at %d per second", tt.share, tt.keys, tt.rate), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, limits{"a": gcra.PerSecond(tt.rate).WithBurst(4)}, inOrder(stream.Config[*message]{
					Window: 37, TenantWindow: tt.share, PartitionWindow: tt.partition, Policy: stream.Policy{MaxDeferrals: tt.denied},
				}))
				s.broker = streamtest.NewBroker(streamtest.Config{Partitions: tt.partitions})
				rng := rand.New(rand.NewPCG(1, 1))
				for range tt.n {
					key := rng.IntN(tt.keys)
					s.broker.Publish(message{Tenant: "a", Key: fmt.Sprint(key), Partition: key % tt.partitions, Work: tt.work})
				}
				took := s.run()
				h := s.broker.History()
				s.check(h)
				if err := h.KeyOrder(); err != nil {
					t.Error(err)
				}
				if took > tt.within {
					t.Errorf("took %v, want %v", took, tt.within)
				}
				if n := h.Count(streamtest.DeadLettered); n > 0 {
					t.Errorf("%d dead letters", n)
				}
				if n := h.Count(streamtest.Delivered); n > tt.n*tt.deliveries {
					t.Errorf("%d deliveries of %d messages, want %d per message at most", n, tt.n, tt.deliveries)
				}
			})
		})
	}
}

// TestKeyedBacklogOfFewKeys holds that a message of a key which loses its place to
// one that it follows does not go to the end of the line: all those of its key that
// are deferred to earlier times would have to follow it there, and the limit would
// be left to the other keys.
func TestKeyedBacklogOfFewKeys(t *testing.T) {
	for seed := range uint64(5) {
		synctest.Test(t, func(t *testing.T) {
			const n, rate = 800, 20
			s := newScene(t, limits{"a": gcra.PerSecond(rate).WithBurst(rate)}, inOrder(stream.Config[*message]{Window: 64}))
			rng := rand.New(rand.NewPCG(seed, 2))
			for range n {
				s.broker.Publish(message{Tenant: "a", Key: fmt.Sprint(rng.IntN(3))})
			}
			took := s.run()
			h := s.broker.History()
			s.check(h)
			if err := h.KeyOrder(); err != nil {
				t.Error(err)
			}
			if want := n * time.Second / rate; took > want*102/100 {
				t.Errorf("seed %d: took %v, want %v", seed, took, want)
			}
		})
	}
}

// TestAwaitedIsNotDeferredForThoseThatWait holds that a message that others wait for
// comes before them when it is back: what they cost must not keep it away.
func TestAwaitedIsNotDeferredForThoseThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tried := false
		policy := stream.Policy{MaxWait: time.Second - 1}
		r := start(t, limits{"a": gcra.PerSecond(1)}, byKey(stream.Config[*parcel]{Policy: policy}), func(_ context.Context, p *parcel) error {
			if p.name == "k1" && !tried {
				tried = true
				return stream.RetryLater(500*time.Millisecond, nil)
			}
			return nil
		})
		slow := func(context.Context, string) error {
			time.Sleep(10 * time.Millisecond)
			return nil
		}
		parcelOf := func(name string, order int64) *parcel {
			p := keyed(name, "k", order)
			p.settle = slow
			return p
		}
		r.deliver(parcelOf("k1", 1))
		time.Sleep(300 * time.Millisecond)
		r.deliver(parcelOf("k2", 2))
		r.want("0s k1 run", "10ms k1 defer retry_later 500ms")
		time.Sleep(4700 * time.Millisecond) // it is late, and the limit is unused meanwhile
		back := parcelOf("k1", 1)
		back.meta.Deferrals = 1
		r.deliver(back)
		time.Sleep(2 * time.Second)
		r.want("5s k1 run", "5.01s k1 ack", "6s k2 run", "6.01s k2 ack")
		r.end()
	})
}

// TestFollowingIsNotCounted holds that a message may follow others of its key
// for as long as they are away, and be deferred for it any number of times.
func TestFollowingIsNotCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, byKey(stream.Config[*parcel]{Policy: stream.Policy{MaxDeferrals: 1, MaxAttempts: -1}}), func(_ context.Context, p *parcel) error {
			if p.name == "k1" {
				return stream.RetryLater(10*time.Second, nil)
			}
			return nil
		})
		r.deliver(keyed("k1", "k", 1), keyed("k2", "k", 2))
		r.want("0s k1 run", "0s k1 defer retry_later 10s", "0s k2 defer behind_deferred 10.001s")
		for range 3 {
			back := keyed("k2", "k", 2)
			back.meta.Deferrals = 1
			r.deliver(back)
			r.want("0s k2 defer behind_deferred 10.001s")
		}
		r.end()
	})
}

// TestRestartInABacklog holds that a gate which does not know of the messages that
// were deferred before it was started neither gives those up that it foretells too
// early a turn, nor leaves the limit unused.
func TestRestartInABacklog(t *testing.T) {
	for _, keys := range []int{0, 5} {
		t.Run(fmt.Sprint(keys, " keys"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const n, rate = 400, 2
				cfg := stream.Config[*message]{}
				if keys > 0 {
					cfg.OrderKey = func(m *message) string { return m.Key }
				}
				s := newScene(t, limits{"a": gcra.PerSecond(rate)}, cfg)
				publish := func() {
					for i := range n {
						s.broker.Publish(message{Tenant: "a", Key: fmt.Sprint(i % max(1, keys))})
					}
				}
				begin := time.Now()
				publish()
				ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
				defer stop()
				if err := s.gate.Run(ctx, s.broker, s.broker.Record(s.handle)); err != nil {
					t.Error(err)
				}
				publish()
				s.run()
				h := s.broker.History()
				s.check(h)
				if took, want := time.Since(begin), 2*n*time.Second/rate; took > want*105/100 {
					t.Errorf("took %v, want %v", took, want)
				}
				if dead := h.Count(streamtest.DeadLettered); dead > 0 {
					t.Errorf("%d dead letters", dead)
				}
				if deliveries := h.Count(streamtest.Delivered); deliveries > 2*n*12 {
					t.Errorf("%d deliveries of %d messages", deliveries, 2*n)
				}
			})
		})
	}
}

// TestDisturbedBacklog holds that a backlog in order that is revoked or delivered twice,
// or whose handlers put messages off, gets on all the same: at its limit, where nothing
// but order keeps it, and without coming and going all the time.
func TestDisturbedBacklog(t *testing.T) {
	for name, tt := range map[string]struct {
		window, share, keys int
		n, rate, cost       int64 // cost: at most
		revoke, copies      bool
		later               int     // one of so many
		used                float64 // of the limit, at least
		deliveries          int64   // per message, at most
	}{
		"revoked":                  {window: 1024, keys: 50, n: 5000, rate: 100, cost: 1, revoke: true, used: 0.98, deliveries: 4},
		"revoked, in few places":   {window: 41, share: 8, keys: 5, n: 2000, rate: 50, cost: 4, revoke: true, used: 0.88, deliveries: 6},
		"doubled":                  {window: 1024, keys: 50, n: 5000, rate: 100, cost: 1, copies: true, used: 0.98, deliveries: 5},
		"doubled, in few places":   {window: 41, share: 8, keys: 5, n: 2000, rate: 50, cost: 4, copies: true, used: 0.88, deliveries: 6},
		"put off, in few places":   {window: 41, share: 8, keys: 5, n: 2000, rate: 50, cost: 4, later: 50, used: 0.6, deliveries: 8},
		"put off, in usual places": {window: 1024, keys: 50, n: 5000, rate: 100, cost: 1, later: 50, used: 0.7, deliveries: 4},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rng, random := rand.New(rand.NewPCG(1, 3)), streamtest.NewRand(1)
				limit := gcra.PerSecond(tt.rate).WithBurst(tt.cost)
				s := newScene(t, limits{"a": limit}, stream.Config[*message]{
					OrderKey: func(m *message) string { return m.Key },
					Window:   tt.window, TenantWindow: tt.share,
				})
				broker := streamtest.Config{}
				if tt.copies {
					broker.Duplicate = func(*message) bool { return random.Chance(10) }
				}
				s.broker = streamtest.NewBroker(broker)
				for range tt.n {
					s.broker.Publish(message{Tenant: "a", Key: fmt.Sprint(rng.IntN(tt.keys)), Cost: 1 + rng.Int64N(tt.cost)})
				}
				s.handle = func(context.Context, *message) error {
					time.Sleep(random.UpTo(10 * time.Millisecond))
					if tt.later > 0 && random.Chance(tt.later) {
						return stream.RetryLater(random.UpTo(10*time.Second), nil)
					}
					return nil
				}
				var revoking sync.WaitGroup
				if tt.revoke {
					revoking.Go(func() {
						for s.broker.Unsettled() > 0 {
							time.Sleep(3 * time.Second)
							s.broker.Revoke(0)
						}
					})
				}
				took := s.run()
				revoking.Wait()
				h := s.broker.History()
				if err := errors.Join(h.Lost(nil), h.SettledOnce(), h.Rate(s.limit)); err != nil {
					t.Error(err)
				}
				var cost int64
				for _, e := range h {
					if e.Kind == streamtest.Started {
						cost += e.Message.Cost
					}
				}
				want := time.Duration(cost) * time.Second / time.Duration(tt.rate)
				if used := want.Seconds() / took.Seconds(); used < tt.used {
					t.Errorf("took %v, want %v: %.2f of the limit, want %.2f", took, want, used, tt.used)
				}
				if dead := h.Count(streamtest.DeadLettered); dead > 0 {
					t.Errorf("%d dead letters", dead)
				}
				if n := int64(h.Count(streamtest.Delivered)); n > tt.deliveries*tt.n {
					t.Errorf("%d deliveries of %d messages", n, tt.n)
				}
			})
		})
	}
}
