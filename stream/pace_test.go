package stream_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// TestPaceOfWhatWaitsForAnother holds that the time for which messages of a key
// wait for one of them to come back is not taken for the pace of the workers: by
// that pace other messages are spaced out that have to come back, and then wait
// for each other ever longer.
func TestPaceOfWhatWaitsForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, limits{"a": gcra.PerSecond(1)}, byKey(stream.Config[*parcel]{
			Window: 8, TenantWindow: 4, Policy: stream.Policy{MaxWait: 30 * time.Second},
		}), func(_ context.Context, p *parcel) error {
			if p.name == "k0" {
				time.Sleep(time.Millisecond)
			}
			if p.name == "k1" && p.meta.Deferrals == 0 {
				return stream.RetryLater(10*time.Second, nil)
			}
			return nil
		})
		for i := range 3 {
			r.deliver(&parcel{name: fmt.Sprint("k", i), tenant: "a", key: "k", meta: stream.Meta{Order: int64(i + 1)}})
		}
		time.Sleep(11 * time.Second) // k1 was deferred after one
		r.deliver(&parcel{name: "k1", tenant: "a", key: "k", meta: stream.Meta{Order: 2, Deferrals: 1}})
		time.Sleep(5 * time.Second)
		r.forget()
		for i := range 8 {
			r.deliver(&parcel{name: fmt.Sprint("m", i), tenant: "a"})
		}
		// Their turns are a second apart, and they come back two places early.
		r.want("16s m0 run", "16s m0 ack", "16s m5 defer share_exceeded 19s", "16s m6 defer share_exceeded 20s", "16s m7 defer share_exceeded 21s")
		r.end()
	})
}
