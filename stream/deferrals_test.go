package stream_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
	"github.com/fluxlimiter/flux/stream/streamtest"
)

// TestHungTenant holds that what a tenant has beyond its share, while its
// handlers hang for minutes, neither becomes a dead letter for the deferrals that
// this takes nor keeps the broker busy, and that the tenant goes on soon when
// they do.
func TestHungTenant(t *testing.T) {
	for _, keys := range []int{0, 10} {
		t.Run(fmt.Sprint(keys, " keys"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := stream.Config[*message]{Window: 64, Workers: 8, TenantWorkers: 4}
				if keys > 0 {
					cfg.OrderKey = func(m *message) string { return m.Key }
				}
				s := newScene(t, nil, cfg)
				const backlog, hung = 1000, 10 * time.Minute
				begin := time.Now()
				s.handle = func(ctx context.Context, m *message) error {
					if m.Tenant == "hung" {
						time.Sleep(time.Until(begin.Add(hung)))
					}
					time.Sleep(10 * time.Millisecond)
					return nil
				}
				for i := range backlog {
					m := message{Tenant: "hung"}
					if keys > 0 {
						m.Key = fmt.Sprint(i % keys)
					}
					s.broker.Publish(m)
				}
				go func() {
					for time.Since(begin) < hung {
						s.publish("other", 1)
						time.Sleep(time.Second)
					}
					s.broker.Close()
				}()
				if err := s.gate.Run(t.Context(), s.broker, s.broker.Record(s.handle)); err != nil {
					t.Error(err)
				}
				h := s.broker.History()
				s.check(h)
				if keys > 0 {
					if err := h.KeyOrder(); err != nil {
						t.Error(err)
					}
				}
				if dead := h.Count(streamtest.DeadLettered); dead > 0 {
					t.Errorf("%d dead letters", dead)
				}
				// About twice a minute each.
				if deferrals := h.Count(streamtest.Deferred); deferrals > backlog*25 {
					t.Errorf("%d deferrals of %d messages", deferrals, backlog)
				}
				if over := time.Since(begin) - hung; over > 30*time.Second {
					t.Errorf("the backlog took %v after the end of the hang", over)
				}
			})
		})
	}
}

func TestMaxDeferrals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, limits{"a": gcra.PerSecond(1)}, stream.Config[*parcel]{
			Policy: stream.Policy{MaxWait: -1, MaxDeferrals: 3},
		}, nil)
		parcels := named("a", 3)
		parcels[1].meta.Deferrals = 2
		parcels[2].meta.Deferrals = 3
		r.deliver(parcels...)
		r.want("0s a0 run", "0s a0 ack", "0s a1 defer quota_exceeded 1s deferrals 3", "0s a2 dead max_deferrals")
		if l := r.letters[0]; l.Tenant != "a" || l.Deferrals != 3 || l.Attempts != 0 || l.Err != nil {
			t.Errorf("letter %+v", l)
		}
		r.end()
	})
}

// TestDeferralsForOthers holds that a message is given up for its own deferrals,
// and not for those that others are the reason of, unless it grows too old.
func TestDeferralsForOthers(t *testing.T) {
	for _, maxAge := range []time.Duration{0, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			r := start(t, limits{"a": gcra.PerSecond(1), "slow": gcra.PerHour(1)}, byKey(stream.Config[*parcel]{
				TenantWindow: 2, Policy: stream.Policy{MaxDeferrals: 3, MaxAge: maxAge},
			}), nil)
			old := func(tenant, name string) *parcel {
				return &parcel{name: name, tenant: tenant, key: name, meta: stream.Meta{Deferrals: 3, Time: r.begin.Add(-time.Minute)}}
			}
			r.deliver(append(named("a", 3), &parcel{name: "s0", tenant: "slow"})...)
			r.forget()
			r.deliver(old("a", "full"), old("slow", "limit"))
			want := []string{"0s full defer share_exceeded 2s deferrals 3", "0s limit dead max_deferrals"}
			if maxAge > 0 {
				want = []string{"0s full dead expired", "0s limit dead expired"}
			}
			r.want(want...)
			r.end()
		})
	}
}

// TestTokensOfOthers holds that a message is given up at last whose tokens are
// spent elsewhere before there are enough of them for it, while cheaper ones of its
// tenant get on.
func TestTokensOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most, span = 4, 10 * time.Minute
		s := newScene(t, limits{"a": gcra.PerSecond(10).WithBurst(20)}, stream.Config[*message]{
			Policy: stream.Policy{MaxDeferrals: most},
		})
		begin := time.Now()
		var elsewhere sync.WaitGroup
		elsewhere.Go(func() {
			for time.Since(begin) < span {
				time.Sleep(60 * time.Millisecond)
				if _, err := s.lim.Check(t.Context(), "a", 1); err != nil {
					t.Error(err)
				}
			}
		})
		elsewhere.Go(func() {
			defer s.broker.Close()
			for i := 0; time.Since(begin) < span; i++ {
				m := message{Tenant: "a"}
				if i == 100 {
					m.Cost = 20
				}
				s.broker.Publish(m)
				time.Sleep(300 * time.Millisecond)
			}
		})
		if err := s.gate.Run(t.Context(), s.broker, s.broker.Record(s.handle)); err != nil {
			t.Error(err)
		}
		elsewhere.Wait()
		h := s.broker.History()
		s.check(h)
		dead := 0
		for _, e := range h {
			if e.Kind == streamtest.DeadLettered && e.Message.Cost == 20 && e.Reason == stream.ReasonDeferrals {
				dead++
			}
		}
		if n := h.Count(streamtest.DeadLettered); n != 1 || dead != 1 {
			t.Errorf("%d dead letters, %d of them the dear one", n, dead)
		}
		if n := h.Count(streamtest.Deferred); n > 2*most {
			t.Errorf("%d deferrals", n)
		}
	})
}
