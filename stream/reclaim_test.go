package stream_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux/stream"
)

// TestStuckHandlers holds that a tenant whose handlers hang, and which has taken
// the whole window while it was alone, gives up what is beyond its share: at
// once when another tenant's message waits for a place, and after a while when
// its own are all that can be seen of the source.
func TestStuckHandlers(t *testing.T) {
	for _, key := range []string{"", "k"} {
		for _, blind := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				r := start(t, nil, byKey(stream.Config[*parcel]{Window: 8, TenantWindow: 4, Workers: 4, TenantWorkers: 2, DrainTimeout: time.Second}),
					func(ctx context.Context, p *parcel) error {
						if p.tenant == "a" {
							<-ctx.Done()
						}
						return nil
					})
				stuck := named("a", 8)
				for i, p := range stuck {
					p.key, p.meta.Order = key, int64(i+1)
				}
				r.deliver(stuck...)
				if s := r.gate.Stats(); s.Held != 8 || s.Deferred != 0 {
					t.Fatalf("Stats = %+v, want a full window", s)
				}
				r.forget()
				begin := time.Now()
				if blind {
					if err := r.in.Deliver(t.Context(), &parcel{name: "a8", tenant: "a", key: key, rig: r, meta: stream.Meta{Order: 9}}); err != nil {
						t.Fatal(err)
					}
				}
				if err := r.in.Deliver(t.Context(), &parcel{name: "b", tenant: "b", rig: r}); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				want := time.Duration(0)
				if blind {
					want = 5 * time.Second
				}
				if waited := time.Since(begin); waited != want {
					t.Errorf("key %q: the other tenant's message waited %v, want %v", key, waited, want)
				}
				if a := r.gate.Load("a"); a.Waiting+a.Running != 4 {
					t.Errorf("key %q: %+v, want 4 together", key, a)
				}
				if s := r.gate.Stats(); s.Processed != 1 {
					t.Errorf("key %q: Stats = %+v, want the other tenant's message processed", key, s)
				}
				r.stop()
				if err := <-r.ended; !errors.Is(err, stream.ErrDrainTimeout) {
					t.Errorf("Run = %v", err)
				}
			})
		}
	}
}
