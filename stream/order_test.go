package stream_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

func keyed(name, key string, order int64) *parcel {
	return &parcel{name: name, tenant: "a", key: key, meta: stream.Meta{Order: order}}
}

func byKey(cfg stream.Config[*parcel]) stream.Config[*parcel] {
	cfg.OrderKey = func(p *parcel) string { return p.key }
	return cfg
}

// TestOrderKey holds that a message in process holds back those of its key and
// no others, and that those go on in the order in which they came.
func TestOrderKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, byKey(stream.Config[*parcel]{Workers: 3}), func(_ context.Context, p *parcel) error {
			time.Sleep(time.Second)
			return nil
		})
		r.deliver(keyed("k1", "k", 1), keyed("k2", "k", 2), keyed("k3", "k", 3), keyed("l4", "l", 4), keyed("x5", "", 5), keyed("x6", "", 6))
		r.want("0s k1 run", "0s l4 run", "0s x5 run")
		if a := r.gate.Load("a"); a.Waiting != 3 || a.Running != 3 {
			t.Errorf("Load = %+v, want 3 waiting and 3 running", a)
		}
		time.Sleep(1500 * time.Millisecond)
		r.want("1s k1 ack", "1s l4 ack", "1s x5 ack", "1s k2 run", "1s x6 run")
		time.Sleep(5 * time.Second)
		r.want("2s k2 ack", "2s x6 ack", "2s k3 run", "3s k3 ack")
		r.end()
	})
}

// TestKeysTakeTurns holds that a key with many messages does not go before all
// that came later: each key of a tenant has its turn, whatever the backlogs.
func TestKeysTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := byKey(stream.Config[*parcel]{Policy: stream.Policy{MaxWait: time.Minute}})
		r := start(t, limits{"a": gcra.PerSecond(1).WithBurst(1)}, cfg, nil)
		for i := range 6 {
			r.deliver(keyed(fmt.Sprint("k", i), "k", 0))
		}
		r.deliver(keyed("l0", "l", 0), keyed("l1", "l", 0), keyed("x0", "", 0), keyed("m0", "m", 0), keyed("x1", "", 0))
		time.Sleep(time.Minute)
		var want []string
		for i, name := range []string{"k0", "k1", "l0", "x0", "m0", "x1", "k2", "l1", "k3", "k4", "k5"} {
			at := time.Duration(i) * time.Second
			want = append(want, fmt.Sprint(at, " ", name, " run"), fmt.Sprint(at, " ", name, " ack"))
		}
		r.want(want...)
		r.end()
	})
}

// TestOrderModes holds what may run at the same time: anything, messages of
// different keys, or of different tenants.
func TestOrderModes(t *testing.T) {
	for order, want := range map[stream.Order][]string{
		0:                {"0s k1 run", "0s k2 run", "0s l3 run", "0s o4 run"},
		stream.Unordered: {"0s k1 run", "0s k2 run", "0s l3 run", "0s o4 run"},
		stream.PerKey:    {"0s k1 run", "0s l3 run", "0s o4 run"},
		stream.PerTenant: {"0s k1 run", "0s o4 run"},
	} {
		synctest.Test(t, func(t *testing.T) {
			cfg := stream.Config[*parcel]{Order: order}
			if order == stream.PerKey {
				cfg = byKey(cfg)
			}
			r := start(t, nil, cfg, func(context.Context, *parcel) error {
				time.Sleep(time.Second)
				return nil
			})
			other := keyed("o4", "k", 4)
			other.tenant = "other"
			r.deliver(keyed("k1", "k", 1), keyed("k2", "k", 2), keyed("l3", "l", 3), other)
			r.want(want...)
			time.Sleep(time.Minute)
			r.forget()
			r.end()
		})
	}
}

// TestPerTenantFollowsDeferred holds that the order of a tenant survives a
// deferral, as that of a key does.
func TestPerTenantFollowsDeferred(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, stream.Config[*parcel]{Order: stream.PerTenant}, func(_ context.Context, p *parcel) error {
			if p.name == "a1" && p.meta.Deferrals == 0 {
				return stream.RetryLater(4*time.Second, nil)
			}
			return nil
		})
		r.deliver(keyed("a1", "", 1), keyed("a2", "", 2), &parcel{name: "b", tenant: "b"})
		time.Sleep(3 * time.Second)
		r.deliver(keyed("a3", "", 3))
		r.want("0s a1 run", "0s a1 defer retry_later 4s", "0s a2 defer behind_deferred 4.001s", "0s b run", "0s b ack")
		time.Sleep(time.Second)
		for i, name := range []string{"a2", "a1"} { // out of order
			back := keyed(name, "", int64(2-i))
			back.meta.Deferrals = 1
			r.deliver(back)
		}
		r.want("4s a1 run", "4s a1 ack", "4s a2 run", "4s a2 ack", "4s a3 run", "4s a3 ack")
		r.end()
	})
}

// TestRetryKeepsItsKey holds that the messages of a key wait for a retry of an
// earlier one.
func TestRetryKeepsItsKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := false
		r := start(t, nil, byKey(stream.Config[*parcel]{}), func(_ context.Context, p *parcel) error {
			if p.name == "k1" && !failed {
				failed = true
				return errors.New("once")
			}
			return nil
		})
		r.deliver(keyed("k1", "k", 1), keyed("k2", "k", 2), keyed("l3", "l", 3))
		r.want("0s k1 run", "0s l3 run", "0s l3 ack")
		time.Sleep(time.Second)
		r.want("100ms k1 run", "100ms k1 ack", "100ms k2 run", "100ms k2 ack")
		r.end()
	})
}

// TestFollowsDeferred holds the latch: while a message is deferred, later ones
// of its key are deferred behind it, or wait here if it is due back soon.
func TestFollowsDeferred(t *testing.T) {
	for _, order := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			later := 10 * time.Second
			r := start(t, nil, byKey(stream.Config[*parcel]{}), func(_ context.Context, p *parcel) error {
				if p.name == "k1" && p.meta.Deferrals == 0 {
					return stream.RetryLater(later, nil)
				}
				return nil
			})
			number := func(n int64) int64 {
				if order {
					return n
				}
				return 0
			}
			r.deliver(keyed("k1", "k", number(1)), keyed("k2", "k", number(2)), keyed("l3", "l", number(3)))
			r.want("0s k1 run", "0s k1 defer retry_later 10s", "0s l3 run", "0s l3 ack",
				"0s k2 defer behind_deferred 10.001s")
			// Nearly due: k4 waits here for k1 and k2.
			time.Sleep(8 * time.Second)
			r.deliver(keyed("k4", "k", number(4)))
			r.want()
			time.Sleep(2 * time.Second)
			back := keyed("k1", "k", number(1))
			back.meta.Deferrals = 1
			r.deliver(back)
			r.want("10s k1 run", "10s k1 ack")
			time.Sleep(time.Second)
			back = keyed("k2", "k", number(2))
			back.meta.Deferrals = 1
			r.deliver(back)
			r.want("11s k2 run", "11s k2 ack", "11s k4 run", "11s k4 ack")
			r.end()
		})
	}
}

// TestComesBackInAnyOrder holds that deferred messages of a key which come back
// in another order are processed in theirs, where the source tells it.
func TestComesBackInAnyOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, byKey(stream.Config[*parcel]{}), func(_ context.Context, p *parcel) error {
			if p.meta.Deferrals == 0 {
				return stream.RetryLater(10*time.Second, nil)
			}
			return nil
		})
		r.deliver(keyed("k1", "k", 1), keyed("k2", "k", 2), keyed("k3", "k", 3))
		r.want("0s k1 run", "0s k1 defer retry_later 10s",
			"0s k2 defer behind_deferred 10.001s", "0s k3 defer behind_deferred 10.002s")
		time.Sleep(10 * time.Second)
		for _, p := range []*parcel{keyed("k3", "k", 3), keyed("k2", "k", 2), keyed("k1", "k", 1)} {
			r.want()
			p.meta.Deferrals = 1
			r.deliver(p)
		}
		r.want("10s k1 run", "10s k1 ack", "10s k2 run", "10s k2 ack", "10s k3 run", "10s k3 ack")
		r.end()
	})
}

// TestLostDeferral holds that messages do not wait for ever for one of their
// key that does not come back.
func TestLostDeferral(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, byKey(stream.Config[*parcel]{}), func(_ context.Context, p *parcel) error {
			if p.name == "k1" {
				return stream.RetryLater(time.Second, nil)
			}
			return nil
		})
		r.deliver(keyed("k1", "k", 1), keyed("k2", "k", 2))
		r.want("0s k1 run", "0s k1 defer retry_later 1s")
		time.Sleep(time.Minute)
		r.want("31.000000001s k2 run", "31.000000001s k2 ack")
		r.end()
	})
}

// TestRedeliveredFirst holds that a message which is delivered again after a
// later one of its key goes before it.
func TestRedeliveredFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, limits{"a": gcra.PerSecond(1)}, byKey(stream.Config[*parcel]{}), nil)
		r.deliver(keyed("x", "", 1), keyed("k3", "k", 3), keyed("k2", "k", 2))
		time.Sleep(10 * time.Second)
		r.want("0s x run", "0s x ack", "1s k2 run", "1s k2 ack", "2s k3 run", "2s k3 ack")
		r.end()
	})
}

// TestFollowersLeaveRoom holds that messages which wait here for a deferred one
// to come back leave it room to do so.
func TestFollowersLeaveRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, byKey(stream.Config[*parcel]{Window: 8, TenantWindow: 8}), func(_ context.Context, p *parcel) error {
			if p.meta.Deferrals == 0 {
				return stream.RetryLater(2*time.Second, nil)
			}
			return nil
		})
		for i := range int64(6) {
			r.deliver(keyed(fmt.Sprint("k", i), "k", i+1))
		}
		r.want("0s k0 run", "0s k0 defer retry_later 2s",
			"0s k3 defer behind_deferred 2.001s", "0s k4 defer behind_deferred 2.002s", "0s k5 defer behind_deferred 2.003s")
		if s := r.gate.Stats(); s.Waiting != 2 {
			t.Errorf("Stats = %+v, want 2 parked", s)
		}
		r.end()
	})
}

// TestNotDeferredAfterAll holds that a deferral which did not take effect,
// because the message was another consumer's by then, holds up nobody.
func TestNotDeferredAfterAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, byKey(stream.Config[*parcel]{}), func(_ context.Context, p *parcel) error {
			if p.name == "k1" {
				return stream.RetryLater(time.Second, nil)
			}
			return nil
		})
		lost := keyed("k1", "k", 1)
		lost.settle = func(context.Context, string) error { return stream.ErrRevoked }
		r.deliver(lost, keyed("k2", "k", 2))
		r.want("0s k1 run", "0s k1 defer failed", "0s k2 run", "0s k2 ack")
		r.end()
	})
}

// TestOverdueIsForgotten holds that a deferred message which does not come back
// leaves nothing behind.
func TestOverdueIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, byKey(stream.Config[*parcel]{}), func(context.Context, *parcel) error {
			return stream.RetryLater(time.Second, nil)
		})
		for i := range 100 {
			r.deliver(keyed("x", fmt.Sprint(i), int64(i+1)))
		}
		if n := r.gate.Keys(); n != 100 {
			t.Errorf("%d keys known while their messages are deferred, want 100", n)
		}
		time.Sleep(time.Minute)
		if n := r.gate.Keys(); n != 0 {
			t.Errorf("%d keys known long after their messages were due, want none", n)
		}
		r.end()
	})
}

// TestCopyNeedNotComeBack holds that what follows a message does not wait for a
// copy of it that was deferred, once it is settled: brokers do not deliver it again.
func TestCopyNeedNotComeBack(t *testing.T) {
	for name, work := range map[string]time.Duration{"while it runs": time.Second, "after it": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := byKey(stream.Config[*parcel]{Policy: stream.Policy{MaxWait: -1}})
				r := start(t, limits{"a": gcra.PerSecond(1)}, cfg, func(context.Context, *parcel) error {
					time.Sleep(work)
					return nil
				})
				r.deliver(keyed("k1", "k", 1), keyed("copy", "k", 1))
				time.Sleep(time.Second)
				r.want("0s k1 run", fmt.Sprint(work, " k1 ack"), "0s copy defer quota_exceeded 1s")
				r.deliver(keyed("k2", "k", 2))
				time.Sleep(work)
				r.want("1s k2 run", fmt.Sprint(time.Second+work, " k2 ack"))
				r.end()
			})
		})
	}
}
