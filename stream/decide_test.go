package stream_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// TestDecide holds what the function is told, that it is not asked about messages
// that may run, and that its verdicts are carried out.
func TestDecide(t *testing.T) {
	verdicts := map[string]stream.Verdict{
		"wait": {}, "nonsense": {Outcome: stream.Process}, "more nonsense": {Outcome: 77}, "waits": {Outcome: stream.Wait},
		"dead": {Outcome: stream.DeadLetter}, "drop": {Outcome: stream.Drop},
		"turn": {Outcome: stream.Defer}, "later": {Outcome: stream.Defer, After: time.Hour},
	}
	for name, want := range map[string]string{
		"wait": "10s x run", "nonsense": "10s x run", "more nonsense": "10s x run", "waits": "10s x run",
		"dead": "0s x dead quota_exceeded", "drop": "0s x ack",
		"turn": "0s x defer quota_exceeded", "later": "0s x defer quota_exceeded 1h0m0s attempts 2 deferrals 4",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var told []stream.Situation
				r := start(t, limits{"a": gcra.Per(1, 10*time.Second)}, stream.Config[*parcel]{
					Window: 8, TenantWindow: 4,
					Policy: stream.Policy{MaxWait: 20 * time.Second, Decide: func(s stream.Situation) stream.Verdict {
						told = append(told, s)
						return verdicts[name]
					}},
				}, nil)
				r.deliver(&parcel{name: "first", tenant: "a"})
				r.want("0s first run", "0s first ack")
				if told != nil {
					t.Errorf("asked about a message that may run: %+v", told)
				}
				r.deliver(&parcel{name: "x", tenant: "a", meta: stream.Meta{Time: time.Now().Add(-time.Minute), Attempts: 2, Deferrals: 3}})
				if want := (stream.Situation{
					Tenant: "a", Cost: 1, Attempts: 2, Deferrals: 3, Age: time.Minute, Delay: 10 * time.Second, Share: 4,
				}); len(told) != 1 || told[0] != want {
					t.Errorf("told %+v, want %+v", told, want)
				}
				time.Sleep(15 * time.Second)
				got := r.taken()
				if name == "turn" { // about its turn, as without the function
					if len(got) != 1 || !strings.HasPrefix(got[0], want) {
						t.Errorf("got %q", got)
					}
				} else if len(got) == 0 || got[0] != want {
					t.Errorf("got %q, want %q", got, want)
				}
				r.end()
			})
		})
	}
}

// TestDecideReasons holds that the function is told why a message may not wait, and
// that it cannot make it wait.
func TestDecideReasons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		policy := stream.Policy{MaxWait: time.Second, MaxDeferrals: 1, Decide: func(s stream.Situation) stream.Verdict {
			told = append(told, fmt.Sprint(s.Tenant, " ", s.Reason))
			return stream.Verdict{Outcome: stream.Wait}
		}}
		r := start(t, limits{"a": gcra.PerMinute(1).WithBurst(1), "b": gcra.PerSecond(10).WithBurst(1)}, stream.Config[*parcel]{
			Window: 8, TenantWindow: 2, Policy: policy,
		}, nil)
		r.deliver(named("a", 2)...)
		r.deliver(named("b", 4)...)
		r.forget()
		if want := "[a quota_exceeded b none b none b share_exceeded]"; fmt.Sprint(told) != want {
			t.Errorf("told %v, want %v", told, want)
		}
		// Bounds hold whatever it says.
		told, policy.Decide = nil, nil
		r.deliver(&parcel{name: "x", tenant: "a", meta: stream.Meta{Deferrals: 1}})
		if got := r.taken(); len(got) != 1 || got[0] != "0s x dead max_deferrals" {
			t.Errorf("got %q", got)
		}
		r.end()
	})
}

// TestDecideLimiterError holds that the function may decide when the limiter fails.
func TestDecideLimiterError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, stream.Config[*parcel]{
			Limiter: checkerFunc(func(context.Context, string, int64) (flux.Decision, error) {
				return flux.Decision{}, errors.New("no connection")
			}),
			Policy: stream.Policy{OnLimiterError: stream.FailClosed, Decide: func(s stream.Situation) stream.Verdict {
				if s.Reason == stream.ReasonLimiter && s.Tenant == "a" {
					return stream.Verdict{Outcome: stream.Drop}
				}
				return stream.Verdict{}
			}},
		}, nil)
		r.deliver(named("a", 1)...)
		r.deliver(named("b", 1)...)
		r.want("0s a0 ack", "0s b0 defer limiter_error 100ms")
		if s := r.gate.Stats(); s.Dropped != 1 || s.Deferred != 1 {
			t.Errorf("Stats = %+v", s)
		}
		r.end()
	})
}

// TestDecideAllocations holds that asking costs no allocation.
func TestDecideAllocations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		decide := func(s stream.Situation) stream.Verdict {
			asked++
			return stream.Verdict{}
		}
		run := func(policy stream.Policy) float64 {
			policy.MaxWait = time.Hour
			r := start(t, limits{"a": gcra.Per(1, time.Minute)}, stream.Config[*parcel]{Window: 2000, TenantWindow: 1000, Policy: policy}, nil)
			r.deliver(named("a", 10)...)
			p := &parcel{name: "x", tenant: "a", rig: r}
			n := testing.AllocsPerRun(500, func() { _ = r.in.Deliver(t.Context(), p) })
			r.end()
			return n
		}
		without, with := run(stream.Policy{}), run(stream.Policy{Decide: decide})
		if with > without || asked < 500 {
			t.Errorf("%v allocations when it is asked, %v without, asked %d times", with, without, asked)
		}
	})
}
