package stream_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// What is denied is a dead letter that says when it could have run.
func TestTurnOfADeadLetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, limits{"a": gcra.PerSecond(1), "never": gcra.DenyAll()}, stream.Config[*parcel]{
			Policy: stream.Policy{MaxWait: -1, OnDenied: stream.DeadLetter},
		}, nil)
		r.deliver(&parcel{name: "1", tenant: "a"})
		synctest.Wait()
		r.deliver(&parcel{name: "2", tenant: "a"}, &parcel{name: "3", tenant: "never"}, &parcel{name: "4"})
		synctest.Wait()
		r.want("0s 1 run", "0s 1 ack", "0s 2 dead quota_exceeded", "0s 3 dead quota_exceeded", "0s 4 dead no_tenant")
		for i, want := range []time.Time{r.begin.Add(time.Second), {}, {}} {
			if got := r.letters[i].Turn; !got.Equal(want) {
				t.Errorf("letter %d: turn %v, want %v", i, got, want)
			}
		}
		r.end()
	})
}

// So is what was deferred as often as it may be, but not what a limiter that fails
// could not decide about.
func TestTurnOfTheLastDeferral(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, limits{"a": gcra.PerMinute(1).WithBurst(1)}, stream.Config[*parcel]{Policy: stream.Policy{MaxDeferrals: 1}}, nil)
		r.deliver(&parcel{name: "1", tenant: "a"}, &parcel{name: "2", tenant: "a", meta: stream.Meta{Deferrals: 1}})
		r.want("0s 1 run", "0s 1 ack", "0s 2 dead max_deferrals")
		if got := r.letters[0].Turn; !got.Equal(r.begin.Add(time.Minute)) {
			t.Errorf("turn %v, want a minute from %v", got, r.begin)
		}
		r.end()

		r = start(t, nil, stream.Config[*parcel]{
			Limiter: checkerFunc(func(context.Context, string, int64) (flux.Decision, error) {
				return flux.Decision{}, errors.New("down")
			}),
			Policy: stream.Policy{OnLimiterError: stream.FailClosed, OnDenied: stream.DeadLetter},
		}, nil)
		r.deliver(&parcel{name: "1", tenant: "a"})
		r.want("0s 1 dead limiter_error")
		if got := r.letters[0].Turn; !got.IsZero() {
			t.Errorf("turn %v of a message that nothing is known of", got)
		}
		r.end()
	})
}
