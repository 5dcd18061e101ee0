package stream_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// checkerFunc is a limiter that is a function, and so may block.
type checkerFunc func(ctx context.Context, key string, n int64) (flux.Decision, error)

func (f checkerFunc) Check(ctx context.Context, key string, n int64) (flux.Decision, error) {
	return f(ctx, key, n)
}

// TestBlockingLimiter holds that a limiter that blocks is asked once at a time
// per tenant, and keeps no other tenant.
func TestBlockingLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asking atomic.Int32
		lim, err := flux.New(flux.Config[string]{Limit: gcra.PerSecond(2).WithBurst(1)})
		if err != nil {
			t.Fatal(err)
		}
		slow := checkerFunc(func(ctx context.Context, key string, n int64) (flux.Decision, error) {
			if key == "slow" {
				if asking.Add(1) > 1 {
					t.Error("asked twice at once")
				}
				defer asking.Add(-1)
				time.Sleep(100 * time.Millisecond)
			}
			return lim.Check(ctx, key, n)
		})
		r := start(t, nil, stream.Config[*parcel]{Limiter: slow, Workers: 3}, nil)
		r.deliver(named("slow", 3)...)
		r.deliver(named("b", 2)...)
		r.want("0s b0 run", "0s b0 ack")
		time.Sleep(3 * time.Second)
		// Granted at 100ms; refused at 200ms for 400ms, granted at 700ms, and so on.
		r.want("500ms b1 run", "500ms b1 ack",
			"100ms slow0 run", "100ms slow0 ack", "700ms slow1 run", "700ms slow1 ack", "1.3s slow2 run", "1.3s slow2 ack")
		r.end()
	})
}

// TestBlockingLimiterDefers holds that what may not wait for a limiter that may
// block is deferred to its turn as well.
func TestBlockingLimiterDefers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim, err := flux.New(flux.Config[string]{Limit: gcra.PerSecond(1).WithBurst(1)})
		if err != nil {
			t.Fatal(err)
		}
		r := start(t, nil, stream.Config[*parcel]{Limiter: checkerFunc(lim.Check), Workers: 1, Policy: stream.Policy{MaxWait: 2 * time.Second}}, nil)
		r.deliver(named("a", 5)...)
		time.Sleep(10 * time.Second)
		r.want("0s a0 run", "0s a0 ack", "1s a1 run", "1s a1 ack", "2s a2 run", "2s a2 ack",
			"0s a3 defer quota_exceeded 2s", "0s a4 defer quota_exceeded 3s")
		r.end()
	})
}

// TestLimiterFails holds that messages wait for a limiter that cannot decide,
// for as long as they may wait, and are deferred then.
func TestLimiterFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failure := errors.New("no connection")
		var asked atomic.Int64
		r := start(t, nil, stream.Config[*parcel]{Limiter: checkerFunc(func(context.Context, string, int64) (flux.Decision, error) {
			asked.Add(1)
			if time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)) < 10*time.Second {
				return flux.Decision{}, failure
			}
			limit := gcra.Unlimited()
			return flux.NewDecision(limit, 0, 0, 0), nil
		})}, nil)
		r.deliver(named("a", 3)...)
		time.Sleep(3 * time.Second)
		r.want()
		r.deliver(&parcel{name: "later", tenant: "a"})
		time.Sleep(20 * time.Second)
		// It is asked again after 100ms, 200ms and so on. At 3.1s the next pause
		// would end after 6.3s.
		r.want("3.1s a0 defer limiter_error 6.044s", "3.1s a1 defer limiter_error 6.045s", "3.1s a2 defer limiter_error 6.046s",
			"6.3s later defer limiter_error 11.044s")
		if n := asked.Load(); n != 7 {
			t.Errorf("asked %d times, want 7", n)
		}
		r.deliver(&parcel{name: "x", tenant: "a"})
		r.want("23s x run", "23s x ack")
		r.end()
	})
}

// TestFailOpen holds that messages run without a grant while the limiter fails,
// and are counted, each of them asked about first.
func TestFailOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		var granted []bool
		fails := true
		r := start(t, nil, stream.Config[*parcel]{
			Policy: stream.Policy{OnLimiterError: stream.FailOpen},
			Limiter: checkerFunc(func(context.Context, string, int64) (flux.Decision, error) {
				asked.Add(1)
				if fails {
					return flux.Decision{}, errors.New("no connection")
				}
				limit := gcra.Unlimited()
				return flux.NewDecision(limit, 0, 0, 0), nil
			}),
		}, func(ctx context.Context, p *parcel) error {
			i, _ := stream.FromContext(ctx)
			granted = append(granted, !i.Granted.IsZero())
			return nil
		})
		r.deliver(named("a", 3)...)
		r.want("0s a0 run", "0s a0 ack", "0s a1 run", "0s a1 ack", "0s a2 run", "0s a2 ack")
		if s := r.gate.Stats(); s.FailedOpen != 3 || s.Processed != 3 || asked.Load() != 3 {
			t.Errorf("Stats = %+v, asked %d times; want 3 of each", s, asked.Load())
		}
		fails = false
		r.deliver(&parcel{name: "x", tenant: "a"})
		r.want("0s x run", "0s x ack")
		if s := r.gate.Stats(); s.FailedOpen != 3 {
			t.Errorf("Stats = %+v: what the limiter granted is counted", s)
		}
		if want := []bool{false, false, false, true}; !slices.Equal(granted, want) {
			t.Errorf("granted %v, want %v", granted, want)
		}
		r.end()
	})
}

// TestFailOpenOversize holds that a message that costs more than the burst is a
// decision, which no mode overrides.
func TestFailOpenOversize(t *testing.T) {
	for _, mode := range []stream.FailMode{stream.FailWait, stream.FailOpen, stream.FailClosed} {
		synctest.Test(t, func(t *testing.T) {
			lim, err := flux.New(flux.Config[string]{Limit: gcra.PerSecond(2)})
			if err != nil {
				t.Fatal(err)
			}
			r := start(t, nil, stream.Config[*parcel]{Policy: stream.Policy{OnLimiterError: mode}, Limiter: checkerFunc(lim.Check)}, nil)
			r.deliver(&parcel{name: "x", tenant: "a", cost: 3})
			r.want("0s x dead oversize")
			r.end()
		})
	}
}

// TestFailClosed holds that messages leave at once while the limiter fails, and
// come back after a pause that grows with each of their deferrals.
func TestFailClosed(t *testing.T) {
	for outcome, want := range map[stream.Outcome][]string{
		stream.Defer:      {"0s a0 defer limiter_error 100ms", "0s a1 defer limiter_error 800ms deferrals 4"},
		stream.DeadLetter: {"0s a0 dead limiter_error", "0s a1 dead limiter_error"},
		stream.Drop:       {"0s a0 ack", "0s a1 ack"},
	} {
		synctest.Test(t, func(t *testing.T) {
			fails := true
			r := start(t, nil, stream.Config[*parcel]{
				Policy: stream.Policy{OnLimiterError: stream.FailClosed, OnDenied: outcome},
				Limiter: checkerFunc(func(context.Context, string, int64) (flux.Decision, error) {
					if fails {
						return flux.Decision{}, errors.New("no connection")
					}
					limit := gcra.Unlimited()
					return flux.NewDecision(limit, 0, 0, 0), nil
				}),
			}, nil)
			r.deliver(&parcel{name: "a0", tenant: "a"}, &parcel{name: "a1", tenant: "a", meta: stream.Meta{Deferrals: 3}})
			r.want(want...)
			if s := r.gate.Stats(); s.Held != 0 || s.Deferred+s.DeadLettered+s.Dropped != 2 {
				t.Errorf("%v: Stats = %+v, want nothing held", outcome, s)
			}
			fails = false
			r.deliver(&parcel{name: "x", tenant: "a"})
			r.want("0s x run", "0s x ack")
			r.end()
		})
	}
}

// TestFailClosedOrder holds that later messages of an order key follow the one
// that was deferred because the limiter failed.
func TestFailClosedOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fails := 1
		r := start(t, nil, stream.Config[*parcel]{
			Policy:   stream.Policy{OnLimiterError: stream.FailClosed},
			OrderKey: func(p *parcel) string { return p.key },
			Limiter: checkerFunc(func(context.Context, string, int64) (flux.Decision, error) {
				if fails--; fails >= 0 {
					return flux.Decision{}, errors.New("no connection")
				}
				limit := gcra.Unlimited()
				return flux.NewDecision(limit, 0, 0, 0), nil
			}),
		}, nil)
		first := &parcel{name: "k1", tenant: "a", key: "k", meta: stream.Meta{Order: 1}}
		r.deliver(first, &parcel{name: "k2", tenant: "a", key: "k", meta: stream.Meta{Order: 2}})
		r.want("0s k1 defer limiter_error 100ms")
		time.Sleep(100 * time.Millisecond)
		first.meta.Deferrals = 1
		r.deliver(first)
		r.want("100ms k1 run", "100ms k1 ack", "100ms k2 run", "100ms k2 ack")
		r.end()
	})
}

// TestOtherTaker holds that someone else may spend from a tenant's limit: the
// gate waits for longer then, and no message waits for longer than it may.
func TestOtherTaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, limits{"a": gcra.PerSecond(1).WithBurst(1)}, stream.Config[*parcel]{Policy: stream.Policy{MaxWait: 3 * time.Second}}, nil)
		r.deliver(named("a", 3)...)
		r.want("0s a0 run", "0s a0 ack")
		time.Sleep(500 * time.Millisecond)
		if _, err := r.lim.Debt(t.Context(), "a", 1); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		r.want("2s a1 run", "2s a1 ack", "3s a2 run", "3s a2 ack")
		r.deliver(named("a", 3)...)
		if _, err := r.lim.Debt(t.Context(), "a", 100); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if s := r.gate.Stats(); s.Held != 0 || s.Deferred == 0 {
			t.Errorf("Stats = %+v: %q", s, r.log)
		}
		r.end()
	})
}

// TestRaisedLimit holds that a raise takes effect for those that are parked
// with the next arrival.
func TestRaisedLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, stream.Config[*parcel]{Policy: stream.Policy{MaxWait: time.Hour}}, nil)
		if err := r.lim.SetDefault(gcra.PerMinute(1), 1); err != nil {
			t.Fatal(err)
		}
		r.deliver(named("a", 2)...)
		r.want("0s a0 run", "0s a0 ack")
		time.Sleep(time.Second)
		if err := r.lim.SetDefault(gcra.Unlimited(), 2); err != nil {
			t.Fatal(err)
		}
		r.deliver(&parcel{name: "x", tenant: "a"})
		r.want("1s a1 run", "1s a1 ack", "1s x run", "1s x ack")
		r.end()
	})
}

// TestCatchUp holds that slots which are noticed late, here because the only
// worker is busy, are not lost: limits with a burst of 1 keep their rate.
func TestCatchUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const tenants, each, rate = 2, 1000, 100
		rng := rand.New(rand.NewPCG(1, 2))
		l := limits{}
		cfg := stream.Config[*message]{Workers: 1}
		s := newScene(t, l, cfg)
		for i := range tenants {
			l[fmt.Sprint(i)] = gcra.PerSecond(rate).WithBurst(1)
		}
		for range each {
			for i := range tenants {
				// Busy for 70% of the time.
				s.broker.Publish(message{Tenant: fmt.Sprint(i), Work: time.Duration(rng.IntN(8)) * time.Millisecond})
			}
		}
		took := s.run()
		s.check(s.broker.History())
		if want := each * time.Second / rate; took > want*101/100 {
			t.Errorf("took %v, want %v and 1%% at most", took, want)
		}
	})
}

// TestNotGrantedBeforeItCame holds that a slot which is noticed late is not used
// for a message that came after it.
func TestNotGrantedBeforeItCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var granted time.Duration
		var r *rig
		r = start(t, limits{"a": gcra.PerSecond(10).WithBurst(1)}, stream.Config[*parcel]{Workers: 1}, func(ctx context.Context, p *parcel) error {
			if p.tenant == "b" {
				time.Sleep(104 * time.Millisecond)
			}
			if p.name == "a3" {
				i, _ := stream.FromContext(ctx)
				granted = i.Granted.Sub(r.begin)
			}
			return nil
		})
		revoked := make(chan struct{})
		r.deliver(
			&parcel{name: "a1", tenant: "a"},
			&parcel{name: "a2", tenant: "a", revoked: revoked}, // its slot is at 100ms
			&parcel{name: "b", tenant: "b"},
		)
		time.Sleep(102 * time.Millisecond)
		close(revoked)
		r.deliver(&parcel{name: "a3", tenant: "a"})
		time.Sleep(time.Second)
		r.end()
		if granted != 104*time.Millisecond && granted != 102*time.Millisecond {
			t.Errorf("granted at %v, and it came at 102ms", granted)
		}
	})
}

// TestShareOfTheRefused holds that a tenant which took the whole window while
// nothing was known to hold it back gives up all but its share when its limiter
// refuses it.
func TestShareOfTheRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := gcra.PerMinute(1)
		r := start(t, nil, stream.Config[*parcel]{
			Window: 8, TenantWindow: 3, Policy: stream.Policy{MaxWait: time.Hour},
			Limiter: checkerFunc(func(context.Context, string, int64) (flux.Decision, error) {
				time.Sleep(time.Second)
				return flux.NewDecision(limit, 0, time.Minute, time.Minute), nil
			}),
		}, nil)
		r.deliver(named("a", 8)...)
		r.want()
		time.Sleep(2 * time.Second)
		if s := r.gate.Stats(); s.Waiting != 3 || s.Deferred != 5 {
			t.Errorf("Stats = %+v, want 3 parked and 5 deferred", s)
		}
		r.end()
	})
}

// TestRefusedForNoTime holds that a limiter which refuses and says that it would
// admit at once is not asked in a loop.
func TestRefusedForNoTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		r := start(t, nil, stream.Config[*parcel]{Limiter: checkerFunc(func(context.Context, string, int64) (flux.Decision, error) {
			asked.Add(1)
			return flux.Decision{}, nil
		})}, nil)
		r.deliver(&parcel{name: "x", tenant: "a"})
		time.Sleep(100*time.Millisecond - time.Microsecond)
		r.want()
		if n := asked.Load(); n != 100 {
			t.Errorf("asked %d times in 100ms, want 100", n)
		}
		time.Sleep(10 * time.Second)
		r.want("5s x defer quota_exceeded 5.001s")
		r.end()
	})
}

// TestLimiterFailsAfterWorkers holds that the time for which a message waited
// for a worker is not held against it when the limiter fails.
func TestLimiterFailsAfterWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fails := 2
		r := start(t, nil, stream.Config[*parcel]{Workers: 1, Limiter: checkerFunc(func(_ context.Context, key string, _ int64) (flux.Decision, error) {
			if key == "a" && fails > 0 {
				fails--
				return flux.Decision{}, errors.New("no connection")
			}
			limit := gcra.Unlimited()
			return flux.NewDecision(limit, 0, 0, 0), nil
		})}, func(_ context.Context, p *parcel) error {
			if p.tenant == "b" {
				time.Sleep(10 * time.Second)
			}
			return nil
		})
		r.deliver(named("b", 1)...)
		r.deliver(named("a", 1)...)
		time.Sleep(time.Minute)
		r.want("0s b0 run", "10s b0 ack", "10.3s a0 run", "10.3s a0 ack")
		r.end()
	})
}

// TestRaiseReachesTheParked holds that messages which wait for a limit notice
// within a second that they need not any more.
func TestRaiseReachesTheParked(t *testing.T) {
	for name, raise := range map[string]func(*flux.Limiter[string]) error{
		"limit":  func(l *flux.Limiter[string]) error { return l.SetDefault(gcra.PerSecond(1000), 2) },
		"refund": func(l *flux.Limiter[string]) error { return l.Refund(context.Background(), "a", 2) },
	} {
		synctest.Test(t, func(t *testing.T) {
			r := start(t, nil, stream.Config[*parcel]{Policy: stream.Policy{MaxWait: time.Hour}}, nil)
			if err := r.lim.SetDefault(gcra.Per(1, 10*time.Minute).WithBurst(2), 1); err != nil {
				t.Fatal(err)
			}
			r.deliver(named("a", 4)...)
			r.want("0s a0 run", "0s a0 ack", "0s a1 run", "0s a1 ack")
			time.Sleep(time.Minute + time.Millisecond)
			if err := raise(r.lim); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			r.want("1m1s a2 run", "1m1s a2 ack", "1m1s a3 run", "1m1s a3 ack")
			if t.Failed() {
				t.Log(name)
			}
			r.end()
		})
	}
}

// TestRaiseForgetsTheBacklog holds that messages which arrive after a raise do
// not queue behind those that were deferred at the old pace.
func TestRaiseForgetsTheBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, stream.Config[*parcel]{}, nil)
		if err := r.lim.SetDefault(gcra.PerMinute(1).WithBurst(1), 1); err != nil {
			t.Fatal(err)
		}
		r.deliver(named("a", 200)...)
		time.Sleep(time.Minute)
		if err := r.lim.SetDefault(gcra.PerSecond(10), 2); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		before := r.gate.Stats()
		r.deliver(named("a", 40)...) // 10 at once, 30 within 3s
		time.Sleep(10 * time.Second)
		if after := r.gate.Stats(); after.Processed-before.Processed != 40 {
			t.Errorf("%d of 40 processed after the raise, %d deferred", after.Processed-before.Processed, after.Deferred-before.Deferred)
		}
		r.end()
	})
}

// TestOversizeAnswerForAnother holds that a message is not refused for the size
// of one that was first when the limiter was asked.
func TestOversizeAnswerForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		check := checkerFunc(func(_ context.Context, _ string, n int64) (flux.Decision, error) {
			if n > 10 {
				time.Sleep(time.Second)
				return flux.Decision{}, gcra.ErrExceedsBurst
			}
			return flux.NewDecision(gcra.Unlimited(), 0, 0, 0), nil
		})
		failed := false
		r := start(t, nil, stream.Config[*parcel]{Limiter: check}, func(context.Context, *parcel) error {
			if !failed {
				failed = true
				return errors.New("once")
			}
			return nil
		})
		r.deliver(&parcel{name: "small", tenant: "a", cost: 1}, &parcel{name: "large", tenant: "a", cost: 11})
		time.Sleep(5 * time.Second) // small is tried again while the limiter thinks about large
		r.want("0s small run", "1s small run", "1s small ack", "2s large dead oversize")
		r.end()
	})
}
