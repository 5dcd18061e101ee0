package stream_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// told returns hooks that write all they are told into the rig's log.
func told(r **rig) stream.Hooks {
	return stream.Hooks{
		Parked: func(i stream.Info, delay time.Duration) { (*r).note("%s parked for %v", i.Tenant, delay) },
		Admitted: func(i stream.Info) {
			(*r).note("%s admitted, attempt %d, after %v", i.Tenant, i.Attempt, i.Granted.Sub(i.Delivered))
		},
		Failed: func(i stream.Info, err error, next stream.Outcome, delay time.Duration) {
			(*r).note("%s failed attempt %d: %v, %v after %v", i.Tenant, i.Attempt, err, next, delay)
		},
		Settled: func(i stream.Info, outcome stream.Outcome, reason stream.Reason) {
			until := ""
			if !i.Until.IsZero() {
				until = fmt.Sprintf(" until %v", i.Until.Sub((*r).begin))
			}
			(*r).note("%s settled %v %v%s, age %v", i.Tenant, outcome, reason, until, i.Dwell(time.Now()))
		},
		SettleFailed: func(i stream.Info, outcome stream.Outcome, err error, pause time.Duration) {
			(*r).note("%s settle %v failed: %v, again after %v", i.Tenant, outcome, err, pause)
		},
		Released:      func(i stream.Info, revoked bool) { (*r).note("%s hook released, revoked %v", i.Tenant, revoked) },
		LimiterFailed: func(tenant string, err error) { (*r).note("%s limiter failed: %v", tenant, err) },
	}
}

// TestHooks tells of one message after the other what the hooks say of it.
func TestHooks(t *testing.T) {
	failure := errors.New("oh")
	once := func(err error) func(context.Context, string) error {
		return func(context.Context, string) (failed error) { failed, err = err, nil; return failed }
	}
	for _, test := range []struct {
		name    string
		parcels []*parcel
		handled error
		after   time.Duration // after which the gate is told to stop
		want    []string
	}{
		{
			name: "processed", parcels: named("free", 1),
			want: []string{
				"0s free admitted, attempt 1, after 0s", "0s free0 run", "0s free0 ack",
				"0s free settled process none, age 0s",
			},
		},
		{
			name: "parked", parcels: named("slow", 2), after: time.Second,
			want: []string{
				"0s slow admitted, attempt 1, after 0s", "0s slow0 run", "0s slow0 ack", "0s slow settled process none, age 0s",
				"0s slow parked for 1s",
				"1s slow admitted, attempt 1, after 1s", "1s slow1 run", "1s slow1 ack", "1s slow settled process none, age 1s",
			},
		},
		{
			name: "deferred", parcels: []*parcel{{name: "n", tenant: "never"}},
			want: []string{"0s n defer quota_exceeded 1h0m0s", "0s never settled defer quota_exceeded until 1h0m0s, age 0s"},
		},
		{
			name: "dead", parcels: []*parcel{{name: "d", cost: 100, tenant: "slow"}},
			want: []string{"0s d dead oversize", "0s slow settled dead_letter oversize, age 0s"},
		},
		{
			name: "without a tenant", parcels: []*parcel{{name: "w"}},
			want: []string{"0s w ack", "0s  settled drop no_tenant, age 0s"},
		},
		{
			name: "tried again", parcels: named("free", 1), handled: failure, after: 150 * time.Millisecond,
			want: []string{
				"0s free admitted, attempt 1, after 0s", "0s free0 run",
				"0s free failed attempt 1: oh, wait after 100ms",
				"100ms free admitted, attempt 2, after 100ms", "100ms free0 run",
				"100ms free failed attempt 2: oh, defer after 1m0s",
				"100ms free0 defer retry 1m0.1s attempts 2",
				"100ms free settled defer retry until 1m0.1s, age 100ms",
			},
		},
		{
			name: "failed for good", parcels: named("free", 1), handled: stream.Permanent(failure),
			want: []string{
				"0s free admitted, attempt 1, after 0s", "0s free0 run",
				"0s free failed attempt 1: oh, dead_letter after 0s",
				"0s free0 dead handler_permanent", "0s free settled dead_letter handler_permanent, age 0s",
			},
		},
		{
			name: "later", parcels: named("free", 1), handled: stream.RetryLater(time.Minute, failure),
			want: []string{
				"0s free admitted, attempt 1, after 0s", "0s free0 run",
				"0s free0 defer retry_later 1m0s", "0s free settled defer retry_later until 1m0s, age 0s",
			},
		},
		{
			name: "settled again", parcels: []*parcel{{name: "s", tenant: "free", settle: once(failure)}}, after: time.Second,
			want: []string{
				"0s free admitted, attempt 1, after 0s", "0s s run", "0s s ack failed",
				"0s free settle process failed: oh, again after 50ms",
				"50ms s ack", "50ms free settled process none, age 50ms",
			},
		},
		{
			name: "settled in vain", parcels: []*parcel{{name: "v", tenant: "free", settle: once(stream.ErrRevoked)}},
			want: []string{
				"0s free admitted, attempt 1, after 0s", "0s v run", "0s v ack failed",
				"0s free hook released, revoked true",
			},
		},
		{
			name: "released", parcels: named("slow", 2),
			want: []string{
				"0s slow admitted, attempt 1, after 0s", "0s slow0 run", "0s slow0 ack", "0s slow settled process none, age 0s",
				"0s slow parked for 1s", "0s slow1 released", "0s slow hook released, revoked false",
			},
		},
		{
			name: "limiter", parcels: []*parcel{{name: "l", tenant: "broken"}}, after: 50 * time.Millisecond,
			want: []string{"0s broken limiter failed: no idea", "50ms l released", "50ms broken hook released, revoked false"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var r *rig
				cfg := stream.Config[*parcel]{
					Hooks: told(&r),
					Policy: stream.Policy{
						OnNoTenant: stream.Drop,
						Backoff: func(failed int) time.Duration {
							return []time.Duration{0, 100 * time.Millisecond, time.Minute}[failed]
						},
					},
				}
				if test.name == "limiter" {
					cfg.Limiter = clueless{}
				}
				handle := func(context.Context, *parcel) error { return test.handled }
				r = start(t, limits{"slow": gcra.PerSecond(1).WithBurst(1), "never": gcra.DenyAll()}, cfg, handle)
				r.deliver(test.parcels...)
				time.Sleep(test.after)
				synctest.Wait() // what is due at this moment comes before the end
				r.end()
				r.want(test.want...)
			})
		})
	}
}

// clueless is a limiter that always fails.
type clueless struct{}

func (clueless) Check(context.Context, string, int64) (flux.Decision, error) {
	return flux.Decision{}, errors.New("no idea")
}
