package stream_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
	"github.com/fluxlimiter/flux/stream/streamtest"
)

// TestHeldTooLong holds that a message which waits in memory for long, and holds
// back the commits of all that is processed behind it, is let out: the oldest of
// a partition, after MaxHold, once fifty others were processed.
func TestHeldTooLong(t *testing.T) {
	const second = time.Second
	for name, tt := range map[string]struct {
		partition string
		maxHold   time.Duration
		others    int           // that are processed meanwhile
		every     time.Duration // one of them
		want      string
	}{
		"after fifty others":  {"p", 20 * second, 100, second, "50s held defer held_too_long 1m0s attempts 4"},
		"after MaxHold":       {"p", 20 * second, 10_000, 10 * time.Millisecond, "20s held defer held_too_long 30s attempts 2"},
		"by default":          {"p", 0, 10_000, 10 * time.Millisecond, "40s held defer held_too_long 45s attempts 3"},
		"too few others":      {"p", 20 * second, 49, second, ""},
		"settled out of turn": {"", 20 * second, 100, second, ""},
		"never":               {"p", -1, 100, second, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := stream.Config[*parcel]{Policy: stream.Policy{
					MaxWait: 20 * second, MaxHold: tt.maxHold, MaxAttempts: -1,
					Backoff: func(int) time.Duration { return 15 * second },
				}}
				r := start(t, nil, cfg, func(_ context.Context, p *parcel) error {
					if p.name == "held" {
						return errors.New("down")
					}
					return nil
				})
				var deferred []string
				r.deliver(&parcel{name: "held", tenant: "a", meta: stream.Meta{Partition: tt.partition}})
				for range tt.others {
					time.Sleep(tt.every)
					r.forget()
					r.deliver(&parcel{name: "other", tenant: "b", meta: stream.Meta{Partition: tt.partition}})
					r.mu.Lock()
					for _, line := range r.log {
						if strings.Contains(line, "defer") {
							deferred = append(deferred, line)
						}
					}
					r.mu.Unlock()
				}
				if got := strings.Join(deferred, ", "); got != tt.want {
					t.Errorf("got %q, want %q", got, tt.want)
				}
				r.stop()
				r.end()
			})
		})
	}
}

// TestHeldWhatIsRunning holds that a message which is processed for long is left
// alone, and so are those behind it.
func TestHeldWhatIsRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := stream.Config[*parcel]{Workers: 2, TenantWorkers: 1, Policy: stream.Policy{MaxHold: 5 * time.Second}}
		r := start(t, nil, cfg, func(_ context.Context, p *parcel) error {
			if p.tenant == "slow" {
				time.Sleep(time.Minute)
			}
			return nil
		})
		for i := range 3 {
			p := inPartition("p", fmt.Sprint("slow", i))
			p.tenant = "slow"
			r.deliver(p)
		}
		others := func() {
			for i := range 50 {
				time.Sleep(time.Second)
				r.deliver(inPartition("p", fmt.Sprint(i)))
			}
			r.forget()
		}
		others()
		if n := r.gate.Stats().Deferred; n != 0 {
			t.Errorf("%d deferred while the oldest was running", n)
		}
		// slow1 runs now, and so on.
		time.Sleep(15 * time.Second)
		others()
		if n := r.gate.Stats().Deferred; n != 0 {
			t.Errorf("%d deferred while the next was running", n)
		}
		time.Sleep(5 * time.Minute)
		r.forget()
		r.end()
	})
}

// TestLetOutKeepsLimitAndOrder has a key that waits for the others of its
// tenant for longer than was foretold: what is let out of it comes back in
// order, and is granted by the limit like anything else.
func TestLetOutKeepsLimitAndOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, limits{"a": gcra.PerSecond(10)}, stream.Config[*message]{
			OrderKey: func(m *message) string { return m.Key },
			Policy:   stream.Policy{MaxWait: 10 * time.Second, MaxHold: 15 * time.Second, MaxDeferrals: -1},
		})
		for range 20 {
			s.broker.Publish(message{Tenant: "a", Key: "k"})
		}
		for i := range 1500 {
			s.broker.Publish(message{Tenant: "a", Key: fmt.Sprint("x", i)})
		}
		s.run()
		h := s.broker.History()
		s.check(h)
		if err := h.KeyOrder(); err != nil {
			t.Error(err)
		}
		held, processed := 0, 0
		for _, e := range h {
			switch {
			case e.Kind == streamtest.Acked:
				processed++
			case e.Kind == streamtest.Deferred && e.Reason == stream.ReasonHeld:
				held++
			}
			if held > processed/50 {
				t.Fatalf("%d let out after %d processed", held, processed)
			}
		}
		if held == 0 {
			t.Error("none let out")
		}
	})
}
