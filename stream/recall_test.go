package stream_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// TestRecall holds that a source gets back at once what is parked, in whatever
// way, that handlers and settles go on, and that nobody else notices.
func TestRecall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		revoked := make(chan struct{})
		cfg := byKey(stream.Config[*parcel]{Policy: stream.Policy{MaxWait: time.Hour, Backoff: func(int) time.Duration { return time.Minute }}})
		r := start(t, limits{"a": gcra.PerMinute(1).WithBurst(1), "d": gcra.DenyAll()}, cfg,
			func(_ context.Context, p *parcel) error {
				switch p.name {
				case "k1", "late":
					time.Sleep(time.Second)
				}
				if p.name == "retry" || p.name == "late" {
					return errors.New("failed")
				}
				return nil
			})
		parcels := []*parcel{
			{name: "retry", tenant: "b"},
			{name: "late", tenant: "b"},
			{name: "k1", tenant: "b", key: "k"},
			{name: "k2", tenant: "b", key: "k"},
			{name: "a1", tenant: "a"},
			{name: "a2", tenant: "a"},
			{name: "d", tenant: "d", settle: failing(3)},
		}
		for _, p := range parcels {
			p.revoked = revoked
		}
		r.deliver(parcels...)
		r.deliver(&parcel{name: "kept", tenant: "a", revoked: make(chan struct{})}, &parcel{name: "k3", tenant: "b", key: "k"})
		r.forget()
		r.in.Recall(revoked)
		// The limit is of use to the one that stays.
		r.want("0s retry released", "0s k2 released", "0s a2 released")
		r.deliver(&parcel{name: "more", tenant: "c", revoked: revoked})
		r.want("0s more released")
		time.Sleep(time.Second)
		r.want("50ms d defer failed", "150ms d defer failed", "350ms d defer quota_exceeded 1h0m0s", "1s k1 ack", "1s late released", "1s k3 run", "1s k3 ack")
		if s := r.gate.Stats(); s.Held != 1 || s.Waiting != 1 || s.Released != 5 || s.Revoked != 0 {
			t.Errorf("Stats = %+v", s)
		}
		close(revoked)
		r.in.Recall(revoked)
		r.in.Recall(nil)
		time.Sleep(time.Minute)
		r.want("1m0s kept run", "1m0s kept ack")
		r.end()
	})
}

// TestRecallOfWhatIsNotThereYet holds that messages of a channel are released too
// that come after it was recalled, or have waited for room then, whether or not
// the gate has held others of it.
func TestRecallOfWhatIsNotThereYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, limits{"a": gcra.PerSecond(1).WithBurst(1), "c": gcra.PerMinute(1).WithBurst(1)}, stream.Config[*parcel]{Window: 2, Policy: stream.Policy{MaxWait: time.Hour}}, nil)
		revoked := make(chan struct{})
		r.deliver(&parcel{name: "a0", tenant: "a"}, &parcel{name: "c0", tenant: "c"}, &parcel{name: "a1", tenant: "a"}, &parcel{name: "c1", tenant: "c"})
		r.forget()
		delivered := make(chan error)
		go func() {
			delivered <- r.in.Deliver(t.Context(), &parcel{name: "waits", tenant: "b", revoked: revoked, rig: r})
		}()
		synctest.Wait()
		r.in.Recall(revoked)
		time.Sleep(time.Second)
		if err := <-delivered; err != nil {
			t.Error(err)
		}
		r.want("1s a1 run", "1s a1 ack", "1s waits released")
		r.deliver(&parcel{name: "comes", tenant: "b", revoked: revoked}, &parcel{name: "other", tenant: "b", revoked: make(chan struct{})})
		r.want("1s comes released", "1s other run", "1s other ack")
		r.end()
	})
}
