package stream_test

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
	"github.com/fluxlimiter/flux/stream/streamtest"
)

func TestParksUntilItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, limits{"a": gcra.PerSecond(10).WithBurst(2)}, stream.Config[*parcel]{}, nil)
		r.deliver(named("a", 4)...)
		r.want("0s a0 run", "0s a0 ack", "0s a1 run", "0s a1 ack")
		if a := r.gate.Load("a"); a.Waiting != 2 || a.Running != 0 {
			t.Errorf("Load = %+v, want 2 waiting and none running", a)
		}
		time.Sleep(time.Second)
		r.want("100ms a2 run", "100ms a2 ack", "200ms a3 run", "200ms a3 ack")
		r.end()
	})
}

// TestDefersBeyondMaxWait shows the virtual schedule: what may not wait here
// comes back half of MaxWait before its turn, one after the other.
func TestDefersBeyondMaxWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, limits{"a": gcra.PerSecond(1)}, stream.Config[*parcel]{
			Policy: stream.Policy{MaxWait: 2 * time.Second},
		}, nil)
		r.deliver(named("a", 6)...)
		// Turns: a0 0s, a1 1s, a2 2s; a3 3s, a4 4s, a5 5s would wait too long.
		r.want(
			"0s a0 run", "0s a0 ack",
			"0s a3 defer quota_exceeded 2s",
			"0s a4 defer quota_exceeded 3s",
			"0s a5 defer quota_exceeded 4s",
		)
		time.Sleep(2*time.Second + time.Millisecond)
		r.want("1s a1 run", "1s a1 ack", "2s a2 run", "2s a2 ack")

		// They come back and are parked until their turns.
		back := named("a", 6)[3:]
		for _, p := range back {
			p.meta.Deferrals = 1
		}
		r.deliver(back[:2]...)
		time.Sleep(time.Second)
		r.deliver(back[2])
		time.Sleep(3 * time.Second)
		r.want("3s a3 run", "3s a3 ack", "4s a4 run", "4s a4 ack", "5s a5 run", "5s a5 ack")
		r.end()
	})
}

// TestNewcomersQueueBehindDeferred holds that messages that arrive while
// earlier ones are deferred come after them.
func TestNewcomersQueueBehindDeferred(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, limits{"a": gcra.PerSecond(1)}, stream.Config[*parcel]{
			Policy: stream.Policy{MaxWait: 2 * time.Second},
		}, nil)
		r.deliver(named("a", 5)...)
		time.Sleep(1500 * time.Millisecond)
		r.want("0s a0 run", "0s a0 ack", "1s a1 run", "1s a1 ack",
			"0s a3 defer quota_exceeded 2s", "0s a4 defer quota_exceeded 3s")
		// There is room to wait for 3s, but that is a3's turn, and 4s is a4's.
		r.deliver(&parcel{name: "b", tenant: "a"})
		r.want("1.5s b defer quota_exceeded 4s")
		// Nothing waits at 2s: a message is run rather than deferred.
		time.Sleep(1700 * time.Millisecond)
		r.want("2s a2 run", "2s a2 ack")
		r.deliver(&parcel{name: "c", tenant: "a"})
		r.want("3.2s c run", "3.2s c ack")
		r.end()
	})
}

// TestInfiniteBacklog runs a throttled tenant with all that its source can
// give: the limit is used to the full, and hardly a message is deferred twice.
func TestInfiniteBacklog(t *testing.T) {
	for _, limit := range []gcra.Limit{gcra.PerSecond(10).WithBurst(1), gcra.PerSecond(10), gcra.PerSecond(200).WithBurst(1)} {
		t.Run(limit.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const n = 1000
				perSecond, _ := limit.Rate()
				s := newScene(t, limits{"a": limit}, stream.Config[*message]{})
				s.publish("a", n)
				took := s.run()
				h := s.broker.History()
				s.check(h)
				// One late slot in a hundred may be lost.
				want := time.Duration(n-limit.Burst()) * time.Second / time.Duration(perSecond)
				if took < want || took > want*101/100 {
					t.Errorf("took %v, want %v at least, and no more than 1%% beyond", took, want)
				}
				if deferred := h.Count(streamtest.Deferred); deferred > n*11/10 {
					t.Errorf("%d deferrals of %d messages", deferred, n)
				}
			})
		})
	}
}

func TestMaxWaitNegative(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, limits{"a": gcra.PerSecond(1)}, stream.Config[*parcel]{Policy: stream.Policy{MaxWait: -1}}, nil)
		r.deliver(named("a", 3)...)
		r.want("0s a0 run", "0s a0 ack", "0s a1 defer quota_exceeded 1s", "0s a2 defer quota_exceeded 2s")
		r.end()
	})
}

func TestExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, limits{"a": gcra.PerSecond(1)}, stream.Config[*parcel]{
			Policy: stream.Policy{MaxWait: 2 * time.Second, MaxAge: 4 * time.Second},
		}, nil)
		old := named("a", 8)
		for _, p := range old {
			p.meta.Time = time.Now()
		}
		old[1].meta.Time = time.Now().Add(-3500 * time.Millisecond)
		old[2].meta.Time = time.Time{} // unknown: as old as its delivery
		r.deliver(old...)
		r.want(
			"0s a0 run", "0s a0 ack",
			"0s a1 dead expired", // its turn is in 1s, and then it is 4.5s old
			"0s a4 defer quota_exceeded 2s",
			"0s a5 defer quota_exceeded 3s",
			"0s a6 dead expired", "0s a7 dead expired",
		)
		r.end()
	})
}

func TestOnDenied(t *testing.T) {
	for outcome, want := range map[stream.Outcome]string{
		stream.DeadLetter: "0s a1 dead quota_exceeded",
		stream.Drop:       "0s a1 ack",
	} {
		synctest.Test(t, func(t *testing.T) {
			var settled []string
			r := start(t, limits{"a": gcra.PerSecond(1)}, stream.Config[*parcel]{
				Policy: stream.Policy{MaxWait: -1, OnDenied: outcome},
				Hooks: stream.Hooks{Settled: func(i stream.Info, o stream.Outcome, reason stream.Reason) {
					if o != stream.Process {
						settled = append(settled, o.String()+" "+reason.String())
					}
				}},
			}, nil)
			r.deliver(named("a", 2)...)
			r.want("0s a0 run", "0s a0 ack", want)
			if len(settled) != 1 || settled[0] != outcome.String()+" quota_exceeded" {
				t.Errorf("settled %q", settled)
			}
			s := r.gate.Stats()
			if s.Dropped+s.DeadLettered != 1 || (s.Dropped == 1) != (outcome == stream.Drop) {
				t.Errorf("Stats = %+v", s)
			}
			r.end()
		})
	}
}

// TestOnFull holds that a used-up share and a turn that is too far away have
// outcomes of their own.
func TestOnFull(t *testing.T) {
	for _, c := range []struct {
		denied, full stream.Outcome
		want         []string
	}{
		{0, 0, []string{"0s a2 defer share_exceeded 2s", "0s b1 defer quota_exceeded 1h0m0s"}},
		{0, stream.DeadLetter, []string{"0s a2 dead share_exceeded", "0s b1 defer quota_exceeded 1h0m0s"}},
		{stream.DeadLetter, 0, []string{"0s a2 dead share_exceeded", "0s b1 dead quota_exceeded"}},
		{stream.DeadLetter, stream.Defer, []string{"0s a2 defer share_exceeded 2s", "0s b1 dead quota_exceeded"}},
		{stream.Defer, stream.Drop, []string{"0s a2 ack", "0s b1 defer quota_exceeded 1h0m0s"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := start(t, limits{"a": gcra.PerSecond(1), "b": gcra.PerHour(1)}, stream.Config[*parcel]{
				Window: 8, TenantWindow: 1, Policy: stream.Policy{OnDenied: c.denied, OnFull: c.full},
			}, nil)
			r.deliver(named("a", 3)...)
			r.deliver(named("b", 2)...)
			r.want(append(c.want, "0s a0 run", "0s a0 ack", "0s b0 run", "0s b0 ack")...)
			r.end()
		})
	}
}

func TestNoTenant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, stream.Config[*parcel]{}, nil)
		r.deliver(&parcel{name: "x"})
		r.want("0s x dead no_tenant")
		r.end()
		r = start(t, nil, stream.Config[*parcel]{Policy: stream.Policy{OnNoTenant: stream.Drop}}, nil)
		r.deliver(&parcel{name: "x"})
		r.want("0s x ack")
		r.end()
	})
}

func TestOversize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, limits{"a": gcra.PerSecond(10)}, stream.Config[*parcel]{}, nil)
		r.deliver(&parcel{name: "x", tenant: "a", cost: 11}, &parcel{name: "y", tenant: "a", cost: 10})
		r.want("0s x dead oversize", "0s y run", "0s y ack")
		if l := r.letters[0]; l.Err == nil {
			t.Errorf("letter %+v, want the limiter's error", l)
		}
		r.end()
	})
}

// TestDenyAll holds that a tenant without any tokens harms nobody, and that its
// messages are not lost.
func TestDenyAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, limits{"a": gcra.DenyAll()}, stream.Config[*parcel]{Window: 4}, nil)
		r.deliver(named("a", 2)...)
		r.want("0s a0 defer quota_exceeded 1h0m0s", "0s a1 defer quota_exceeded 1h0m0s")
		r.deliver(named("b", 1)...)
		r.want("0s b0 run", "0s b0 ack")
		r.end()
	})
}

// TestLoweredLimit holds that messages that were to wait a little leave when
// the limit is cut so that they would wait for long, the newest first.
func TestLoweredLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, stream.Config[*parcel]{Policy: stream.Policy{MaxWait: 2 * time.Second}}, nil)
		if err := r.lim.SetDefault(gcra.PerSecond(10).WithBurst(1), 1); err != nil {
			t.Fatal(err)
		}
		r.deliver(named("a", 6)...)
		r.want("0s a0 run", "0s a0 ack")
		if err := r.lim.SetDefault(gcra.PerSecond(1).WithBurst(1), 2); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		// At 100ms the limiter says 1s for the first: the third would have to
		// wait for another 2s.
		r.want("1s a1 run", "1s a1 ack", "2s a2 run", "2s a2 ack",
			"100ms a3 defer quota_exceeded 2s", "100ms a4 defer quota_exceeded 3s", "100ms a5 defer quota_exceeded 4s")
		r.end()
	})
}

// TestOverload has a tenant with more than its limit, or than the workers, can
// take for a while, and handlers that become slower meanwhile: all is worked
// off as fast as it can be, and a message is deferred once or so.
func TestOverload(t *testing.T) {
	for _, tt := range []struct {
		name   string
		limits limits
		slow   time.Duration // of the handlers, after 5s
		want   time.Duration
	}{
		{"limit", limits{"busy": gcra.PerSecond(200).WithBurst(10)}, time.Millisecond, 20 * time.Second},
		{"workers", nil, 10 * time.Millisecond, 20500 * time.Millisecond},
		{"slower", nil, 20 * time.Millisecond, 36 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const rate, n = 400, 4000
				s := newScene(t, tt.limits, stream.Config[*message]{Window: 64, Workers: 2})
				begin := time.Now()
				s.handle = func(context.Context, *message) error {
					if work := min(tt.slow, 10*time.Millisecond); time.Since(begin) < 5*time.Second {
						time.Sleep(work)
					} else {
						time.Sleep(tt.slow)
					}
					return nil
				}
				go func() {
					for i := range n {
						if i%(rate/10) == 0 {
							s.broker.Publish(message{Tenant: "quiet"})
						}
						s.broker.Publish(message{Tenant: "busy"})
						time.Sleep(time.Second / rate)
					}
					s.broker.Close()
				}()
				if err := s.gate.Run(t.Context(), s.broker, s.broker.Record(s.handle)); err != nil {
					t.Error(err)
				}
				h := s.broker.History()
				s.check(h)
				if took := time.Since(begin); took > tt.want*104/100 {
					t.Errorf("took %v, want %v", took, tt.want)
				}
				if deferred := h.Count(streamtest.Deferred); deferred > n*5/4 {
					t.Errorf("%d deferrals of %d messages", deferred, n)
				}
				for _, dwell := range h.Dwells("quiet") {
					if dwell > 2*tt.slow {
						t.Errorf("a quiet message waited %v", dwell)
						break
					}
				}
			})
		})
	}
}

// TestExpiresInTurn holds that a message which the limiter refuses when it is
// asked goes if it would be too old at its turn.
func TestExpiresInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, limits{"a": gcra.PerSecond(1)}, stream.Config[*parcel]{Policy: stream.Policy{MaxWait: 3 * time.Second, MaxAge: 4 * time.Second}}, nil)
		// Somebody else has spent what there was.
		if _, err := r.lim.Check(t.Context(), "a", 1); err != nil {
			t.Fatal(err)
		}
		r.deliver(&parcel{name: "old", tenant: "a", meta: stream.Meta{Time: time.Now().Add(-3500 * time.Millisecond)}})
		r.want("0s old dead expired")
		r.end()
	})
}

// TestOversizeWhileLimited holds that a message which can never be admitted is
// known for that at once, and does not move the turns of others.
func TestOversizeWhileLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, limits{"a": gcra.PerSecond(10)}, stream.Config[*parcel]{}, nil)
		r.deliver(named("a", 12)...)
		r.forget()
		r.deliver(&parcel{name: "big", tenant: "a", cost: 1e9}, &parcel{name: "bigger", tenant: "a", cost: math.MaxInt64}, &parcel{name: "next", tenant: "a"})
		time.Sleep(10 * time.Second)
		r.want("0s big dead oversize", "0s bigger dead oversize",
			"100ms a10 run", "100ms a10 ack", "200ms a11 run", "200ms a11 ack", "300ms next run", "300ms next ack")
		r.end()
	})
}
