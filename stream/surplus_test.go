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

// flood delivers surplus of a tenant from a goroutine of its own, as a source
// would from one partition, until the gate stops.
func flood(t *testing.T, r *rig, tenant string, settle func(context.Context, string) error) {
	t.Helper()
	go func() {
		for {
			p := &parcel{name: tenant, tenant: tenant, settle: settle, rig: r}
			if r.in.Deliver(t.Context(), p) != nil {
				return
			}
		}
	}()
	synctest.Wait()
}

// A broker that takes long to confirm deferrals holds back the tenant that they
// are of, and its partition, and nobody else.
func TestSlowDeferralsLeaveRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, limits{"noisy": gcra.PerHour(1)}, stream.Config[*parcel]{Window: 100}, nil)
		flood(t, r, "noisy", func(ctx context.Context, _ string) error {
			select {
			case <-time.After(3 * time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		for range 20 {
			if held := r.gate.Stats().Held; held > 75 {
				t.Fatalf("the noisy tenant holds %d of 100 places", held)
			}
			begin := time.Now()
			if err := r.in.Deliver(t.Context(), &parcel{name: "quiet", tenant: "quiet", rig: r}); err != nil {
				t.Fatal(err)
			}
			if wait := time.Since(begin); wait > 0 {
				t.Fatalf("the quiet tenant's message waited %v for a place", wait)
			}
			time.Sleep(time.Second)
		}
		if s := r.gate.Stats(); s.Released > 0 || s.Deferred < 100 {
			t.Errorf("%+v, want deferrals and nothing released", s)
		}
		r.end()
	})
}

// So it is when their sizes fill the window before their number does.
func TestSlowLargeDeferralsLeaveRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, limits{"noisy": gcra.DenyAll()}, stream.Config[*parcel]{Window: 1000, WindowBytes: 1000}, nil)
		slow := func(context.Context, string) error {
			time.Sleep(3 * time.Second)
			return nil
		}
		go func() {
			for {
				p := &parcel{name: "noisy", tenant: "noisy", settle: slow, rig: r, meta: stream.Meta{Bytes: 100}}
				if r.in.Deliver(t.Context(), p) != nil {
					return
				}
			}
		}()
		for range 20 {
			time.Sleep(time.Second)
			if s := r.gate.Stats(); s.Bytes > 400 {
				t.Fatalf("the noisy tenant holds %d of 1000 bytes", s.Bytes)
			}
		}
		if s := r.gate.Stats(); s.Released > 0 || s.Deferred < 15 {
			t.Errorf("%+v, want deferrals and nothing released", s)
		}
		r.end()
	})
}

// A broker that does not take dead letters at all costs those their delivery,
// and nobody else: also when all messages come from one goroutine.
func TestStuckDeadLettersAreReleased(t *testing.T) {
	for _, tenant := range []string{"", "noisy"} {
		t.Run("tenant "+tenant, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := start(t, limits{"noisy": gcra.DenyAll()}, stream.Config[*parcel]{
					Window: 64, Policy: stream.Policy{OnDenied: stream.DeadLetter},
				}, nil)
				down := func(context.Context, string) error { return errors.New("down") }
				begin := time.Now()
				for range 200 {
					for range 10 {
						if err := r.in.Deliver(t.Context(), &parcel{name: "lost", tenant: tenant, settle: down, rig: r}); err != nil {
							t.Fatal(err)
						}
					}
					if err := r.in.Deliver(t.Context(), &parcel{name: "quiet", tenant: "quiet", rig: r}); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
				}
				if took := time.Since(begin); took > 6*time.Second {
					t.Errorf("the quiet tenant's messages took %v, want no more than it takes to see that the broker is stuck", took)
				}
				s := r.gate.Stats()
				if s.Processed != 200 || s.Held > 17 || s.Released+int64(s.Held) != 2000 {
					t.Errorf("%+v, want 200 processed, and all others released but for a quarter of the window", s)
				}
				r.stop()
				if err := <-r.ended; !errors.Is(err, stream.ErrDrainTimeout) {
					t.Errorf("Run = %v", err)
				}
			})
		})
	}
}

// A broker that takes no deferrals, and redelivers at once what is released,
// does not keep the gate busy with nothing else.
func TestReleasedSurplusComesBackSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, limits{"noisy": gcra.PerHour(1)}, stream.Config[*parcel]{Window: 16, DrainTimeout: time.Second}, nil)
		down := func(context.Context, string) error { return errors.New("down") }
		begin := time.Now()
		go func() {
			for i := range 2000 {
				p := &parcel{name: "noisy", tenant: "noisy", settle: down, rig: r, meta: stream.Meta{Redelivered: i >= 100}}
				if r.in.Deliver(t.Context(), p) != nil {
					return
				}
			}
		}()
		for time.Since(begin) < 15*time.Second {
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if s := r.gate.Stats(); s.Released < 500 || s.Released > 1100 {
			t.Errorf("%d released in the 10s after it was seen that the broker is stuck, want about 100 a second", s.Released)
		}
		r.stop()
		if err := <-r.ended; !errors.Is(err, stream.ErrDrainTimeout) {
			t.Errorf("Run = %v", err)
		}
	})
}
