package stream_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
	"github.com/fluxlimiter/flux/stream/streamtest"
)

// TestDrain holds what a drain does with each kind of message.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, limits{"a": gcra.PerMinute(1).WithBurst(1)}, byKey(stream.Config[*parcel]{Workers: 4, Policy: stream.Policy{MaxWait: time.Hour}}),
			func(ctx context.Context, p *parcel) error {
				switch p.name {
				case "retry":
					return errors.New("failed")
				case "late":
					time.Sleep(2 * time.Second)
					return errors.New("failed")
				}
				time.Sleep(time.Second)
				return ctx.Err() // which is nil until the drain times out
			})
		r.deliver(
			&parcel{name: "slow", tenant: "b"}, &parcel{name: "late", tenant: "b"}, &parcel{name: "retry", tenant: "b"},
		)
		r.deliver(keyed("k1", "k", 1), keyed("k2", "k", 2))
		r.deliver(named("a", 2)...)
		r.want("0s slow run", "0s late run", "0s retry run", "0s k1 run")
		r.stop()
		// The parked, the blocked and the one that was to be tried again.
		r.want("0s a0 released", "0s a1 released", "0s k2 released", "0s retry released")
		if err := r.in.Deliver(t.Context(), &parcel{name: "y", tenant: "a", rig: r}); !errors.Is(err, stream.ErrStopped) {
			t.Errorf("Deliver = %v while draining", err)
		}
		if _, err := r.in.Room(t.Context(), 1); !errors.Is(err, stream.ErrStopped) {
			t.Errorf("Room = %v while draining", err)
		}
		if err := <-r.ended; err != nil {
			t.Errorf("Run = %v", err)
		}
		r.want("0s y released", "1s slow ack", "1s k1 ack", "2s late released")
		if s := r.gate.Stats(); s.Released != 5 || s.Processed != 2 {
			t.Errorf("Stats = %+v", s)
		}
		if err := streamtest.Left(r.gate.Stats()); err != nil {
			t.Error(err)
		}
	})
}

func TestDrainTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var causes []error
		r := start(t, limits{"d": gcra.DenyAll()}, stream.Config[*parcel]{DrainTimeout: 3 * time.Second}, func(ctx context.Context, p *parcel) error {
			switch p.name {
			case "heeds":
				<-ctx.Done()
				causes = append(causes, context.Cause(ctx))
				return nil
			case "ignores":
				time.Sleep(time.Hour)
			}
			return nil
		})
		r.deliver(
			&parcel{name: "heeds", tenant: "a"}, &parcel{name: "ignores", tenant: "a"},
			&parcel{name: "fails", tenant: "a", settle: failing(1000)},
			&parcel{name: "hangs", tenant: "d", settle: func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }},
		)
		r.want("0s heeds run", "0s ignores run", "0s fails run", "0s fails ack failed")
		r.stop()
		err := <-r.ended
		if !errors.Is(err, stream.ErrDrainTimeout) {
			t.Errorf("Run = %v", err)
		}
		if took := time.Since(r.begin); took != 4*time.Second {
			t.Errorf("Run took %v, want 3s for the drain and 1s for the handler that ignores its context", took)
		}
		synctest.Wait()
		released := 0
		for _, line := range r.log {
			switch line {
			case "3s heeds released", "3s ignores released", "3s fails released", "3s hangs released":
				released++
			}
		}
		if s := r.gate.Stats(); released != 4 || s.Released != 4 || s.Processed != 0 {
			t.Errorf("%d released, Stats = %+v: %q", released, s, r.log)
		}
		if len(causes) != 1 || !errors.Is(causes[0], stream.ErrDrainTimeout) {
			t.Errorf("handlers' contexts ended with %v", causes)
		}
		time.Sleep(time.Hour) // the handler's goroutine ends when it returns
	})
}

// TestFiniteSource holds that all that an exhausted source delivered is
// processed, the parked included, before Run returns.
func TestFiniteSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, limits{"a": gcra.PerSecond(1)}, stream.Config[*message]{})
		begin := time.Now()
		var log []*parcel
		r := &rig{t: t, begin: begin}
		err := s.gateOf(func(p *parcel) string { return p.tenant }).Run(t.Context(), sourceFunc(func(ctx context.Context, in stream.Intake[*parcel]) error {
			for _, p := range named("a", 4) {
				p.rig = r
				log = append(log, p)
				if err := in.Deliver(ctx, p); err != nil {
					return err
				}
			}
			return nil
		}), succeed)
		if err != nil || time.Since(begin) != 3*time.Second {
			t.Errorf("Run = %v after %v, want nil after 3s", err, time.Since(begin))
		}
		r.want("0s a0 ack", "1s a1 ack", "2s a2 ack", "3s a3 ack")
	})
}

func TestSourceFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, limits{"a": gcra.PerSecond(1)}, stream.Config[*message]{})
		failure := errors.New("consumer deleted")
		r := &rig{t: t, begin: time.Now()}
		err := s.gateOf(func(p *parcel) string { return p.tenant }).Run(t.Context(), sourceFunc(func(ctx context.Context, in stream.Intake[*parcel]) error {
			for _, p := range named("a", 3) {
				p.rig = r
				if err := in.Deliver(ctx, p); err != nil {
					return err
				}
			}
			time.Sleep(time.Millisecond)
			return failure
		}), func(context.Context, *parcel) error { time.Sleep(time.Second); return nil })
		if !errors.Is(err, failure) || err.Error() != "stream: source: consumer deleted" {
			t.Errorf("Run = %v", err)
		}
		r.want("1ms a1 released", "1ms a2 released", "1s a0 ack")
	})
}

// TestSourceErrorAtTheEnd holds which errors of a source are no errors of a run
// that was told to end.
func TestSourceErrorAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := newScene(t, nil, stream.Config[*message]{}).gateOf(func(p *parcel) string { return p.tenant })
		failure := errors.New("cannot leave the group")
		for given, want := range map[error]error{nil: nil, context.Canceled: nil, stream.ErrStopped: nil, failure: failure} {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			err := gate.Run(ctx, sourceFunc(func(ctx context.Context, in stream.Intake[*parcel]) error {
				<-ctx.Done()
				return given
			}), succeed)
			if !errors.Is(err, want) || (want == nil) != (err == nil) {
				t.Errorf("source returns %v: Run = %v", given, err)
			}
		}
	})
}

func TestRunTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, stream.Config[*parcel]{}, nil)
		if err := r.gate.Run(t.Context(), supply(r, nil), succeed); !errors.Is(err, stream.ErrRunning) {
			t.Errorf("second Run = %v", err)
		}
		r.deliver(named("a", 2)...)
		synctest.Wait()
		r.end()
		// And again, once it has ended: the totals go on.
		ctx, cancel := context.WithCancel(t.Context())
		err := r.gate.Run(ctx, sourceFunc(func(ctx context.Context, in stream.Intake[*parcel]) error {
			p := &parcel{name: "x", tenant: "a", rig: r}
			defer cancel()
			return in.Deliver(ctx, p)
		}), succeed)
		if s := r.gate.Stats(); err != nil || s.Processed+s.Released != 3 {
			t.Errorf("Run = %v, Stats = %+v", err, s)
		}
		if a := r.gate.Load("a"); a.Waiting != 0 || a.Running != 0 {
			t.Errorf("Load = %+v", a)
		}
	})
}

// TestRevoked holds that revocation takes a message out at once, whatever state
// it is in.
func TestRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		revoked := make(chan struct{})
		var cause error
		r := start(t, limits{"a": gcra.PerMinute(1).WithBurst(1), "d": gcra.DenyAll()}, byKey(stream.Config[*parcel]{Policy: stream.Policy{MaxWait: time.Hour}}),
			func(ctx context.Context, p *parcel) error {
				switch p.name {
				case "k1", "other":
					select {
					case <-time.After(time.Second):
					case <-ctx.Done():
						cause = context.Cause(ctx)
						return nil // as if it had been in time
					}
				case "retry":
					return errors.New("failed")
				}
				return nil
			})
		parcels := []*parcel{
			{name: "retry", tenant: "b"},
			{name: "k1", tenant: "b", key: "k"},
			{name: "k2", tenant: "b", key: "k"},
			{name: "a1", tenant: "a"},
			{name: "a2", tenant: "a"},
			{name: "d", tenant: "d", settle: failing(1000)},
		}
		for _, p := range parcels {
			p.revoked = revoked
		}
		r.deliver(parcels...)
		r.deliver(&parcel{name: "kept", tenant: "a", revoked: make(chan struct{})}, &parcel{name: "other", tenant: "b"}, &parcel{name: "k3", tenant: "b", key: "k"})
		r.want("0s retry run", "0s k1 run", "0s other run", "0s a1 run", "0s a1 ack", "0s d defer failed")
		if s := r.gate.Stats(); s.Held != 8 || s.Running != 2 || s.Waiting != 5 {
			t.Errorf("Stats = %+v", s)
		}
		close(revoked)
		r.want("0s retry released", "0s k1 released", "0s k2 released", "0s a2 released", "0s d released", "0s k3 run", "0s k3 ack")
		if !errors.Is(cause, stream.ErrRevoked) {
			t.Errorf("the handler's context ended with %v", cause)
		}
		if s := r.gate.Stats(); s.Revoked != 5 || s.Held != 2 || s.Running != 1 || s.Waiting != 1 || s.Released != 0 {
			t.Errorf("Stats = %+v", s)
		}
		// One that arrives when its channel is closed already leaves as soon.
		r.deliver(&parcel{name: "stale", tenant: "c", revoked: revoked})
		r.want("0s stale released")
		time.Sleep(2 * time.Minute)
		r.want("1s other ack", "1m0s kept run", "1m0s kept ack")
		r.end()
	})
}

// TestWatchesEnd holds that sources which give each message a channel of its own
// leave no goroutine behind for those that are settled, but for a few.
func TestWatchesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, stream.Config[*parcel]{}, nil)
		synctest.Wait()
		before := runtime.NumGoroutine()
		for range 20 {
			for _, p := range named("a", 50) {
				p.revoked = make(chan struct{})
				r.deliver(p)
			}
			synctest.Wait()
		}
		if more := runtime.NumGoroutine() - before; more > 100 {
			t.Errorf("%d goroutines more after 1000 messages", more)
		}
		r.end()
	})
}

// TestRevokedWhileSettled holds that a message is not settled again once it is
// known to be another consumer's.
func TestRevokedWhileSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, limits{"d": gcra.DenyAll()}, stream.Config[*parcel]{}, nil)
		fails := func(context.Context, string) error {
			time.Sleep(time.Second)
			return errBroker
		}
		revoked := make(chan struct{})
		r.deliver(&parcel{name: "a", tenant: "a", settle: fails, revoked: revoked}, &parcel{name: "d", tenant: "d", settle: fails, revoked: revoked})
		time.Sleep(500 * time.Millisecond)
		close(revoked)
		time.Sleep(time.Minute)
		r.want("0s a run", "1s a ack failed", "1s a released", "1s d defer failed", "1s d released")
		if s := r.gate.Stats(); s.Revoked != 2 || s.Held != 0 {
			t.Errorf("Stats = %+v", s)
		}
		r.end()
	})
}

// TestRevokedBeforeBackoff holds that a message leaves which is revoked between
// the end of its handler and the wait for its next attempt.
func TestRevokedBeforeBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		revoked := make(chan struct{})
		policy := stream.Policy{MaxWait: time.Hour, Backoff: func(int) time.Duration {
			close(revoked)
			time.Sleep(time.Second)
			return time.Hour
		}}
		r := start(t, nil, stream.Config[*parcel]{Policy: policy}, func(context.Context, *parcel) error { return errBroker })
		r.deliver(&parcel{name: "a", tenant: "a", revoked: revoked})
		time.Sleep(time.Minute)
		r.want("0s a run", "1s a released")
		r.end()
	})
}

// TestNothingStartsAfterRevocation has a long queue of a key revoked while its
// first message is processed: the handler's end must not start the next.
func TestNothingStartsAfterRevocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 3000
		started := 0
		r := start(t, nil, byKey(stream.Config[*parcel]{Window: n, TenantWindow: n}), func(ctx context.Context, _ *parcel) error {
			started++
			<-ctx.Done()
			return nil
		})
		revoked := make(chan struct{})
		for i := range n {
			r.deliver(&parcel{name: "x", tenant: "a", key: "k", revoked: revoked, meta: stream.Meta{Order: int64(i + 1)}})
		}
		close(revoked)
		time.Sleep(time.Second)
		if s := r.gate.Stats(); started != 1 || s.Revoked != n || s.Held != 0 {
			t.Errorf("%d handlers started, Stats = %+v", started, s)
		}
		r.end()
	})
}

// TestSourceFailsWhileAsking holds that a limiter that takes long does not hold
// up the end.
func TestSourceFailsWhileAsking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate, err := stream.New(stream.Config[*parcel]{
			Tenant: func(p *parcel) string { return p.tenant },
			Limiter: checkerFunc(func(ctx context.Context, _ string, _ int64) (flux.Decision, error) {
				<-ctx.Done()
				return flux.Decision{}, ctx.Err()
			}),
		})
		if err != nil {
			t.Fatal(err)
		}
		r := &rig{t: t, begin: time.Now()}
		failure := errors.New("consumer deleted")
		err = gate.Run(t.Context(), sourceFunc(func(ctx context.Context, in stream.Intake[*parcel]) error {
			if err := in.Deliver(ctx, &parcel{name: "x", tenant: "a", rig: r}); err != nil {
				return err
			}
			time.Sleep(time.Second)
			return failure
		}), succeed)
		if !errors.Is(err, failure) || time.Since(r.begin) != time.Second {
			t.Errorf("Run = %v after %v", err, time.Since(r.begin))
		}
		r.want("1s x released")
	})
}

// TestNothingIsKeptAtTheEnd has handlers and settles end with their contexts in
// the instant in which the drain times out: each message is released once.
func TestNothingIsKeptAtTheEnd(t *testing.T) {
	for round := range 200 {
		synctest.Test(t, func(t *testing.T) {
			r := start(t, nil, stream.Config[*parcel]{DrainTimeout: time.Second, Policy: stream.Policy{
				MaxAttempts: 1 + round%2,
				Backoff:     func(int) time.Duration { time.Sleep(500 * time.Millisecond); return time.Minute },
			}}, func(ctx context.Context, p *parcel) error {
				if p.tenant == "b" {
					time.Sleep(900 * time.Millisecond) // and its backoff takes until 1.4s
				} else {
					<-ctx.Done()
				}
				return errors.New("failed")
			})
			parcels := append(named("a", 8), named("b", 8)...)
			for _, p := range parcels {
				p.settle = func(ctx context.Context, _ string) error { return ctx.Err() }
			}
			r.deliver(parcels...)
			r.stop()
			if err := <-r.ended; round%2 == 1 && !errors.Is(err, stream.ErrDrainTimeout) {
				t.Errorf("Run = %v", err)
			}
			time.Sleep(5 * time.Second)
			ends := 0
			for _, line := range r.log {
				if strings.HasSuffix(line, "released") || strings.Contains(line, "dead") && !strings.Contains(line, "failed") {
					ends++
				}
			}
			if ends != 16 {
				t.Errorf("round %d: %d of 16 messages settled or released: %q", round, ends, r.log)
			}
		})
		if t.Failed() {
			return
		}
	}
}

// TestLimiterHangs holds that a limiter which does not heed its context does not
// hold up the end for long.
func TestLimiterHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, stream.Config[*parcel]{DrainTimeout: 2 * time.Second, Limiter: checkerFunc(func(context.Context, string, int64) (flux.Decision, error) {
			time.Sleep(time.Hour)
			return flux.Decision{}, errBroker
		})}, nil)
		r.deliver(&parcel{name: "x", tenant: "a"})
		r.stop()
		if err := <-r.ended; !errors.Is(err, stream.ErrDrainTimeout) || time.Since(r.begin) > 3*time.Second {
			t.Errorf("Run = %v after %v", err, time.Since(r.begin))
		}
		time.Sleep(time.Hour)
		r.want("0s x released")
	})
}

// TestSourceGoexit holds that a source whose goroutine is ended, in one of the
// functions of the configuration for example, ends the run.
func TestSourceGoexit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := newScene(t, nil, stream.Config[*message]{}).gateOf(func(*parcel) string {
			runtime.Goexit()
			return ""
		})
		err := gate.Run(t.Context(), sourceFunc(func(ctx context.Context, in stream.Intake[*parcel]) error {
			return in.Deliver(ctx, &parcel{})
		}), nil)
		if err == nil {
			t.Error("Run = nil")
		}
	})
}

// TestStatsWhileStarting is for the race detector.
func TestStatsWhileStarting(t *testing.T) {
	gate := newScene(t, nil, stream.Config[*message]{}).gateOf(func(*parcel) string { return "a" })
	for range 50 {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for range 100 {
				gate.Stats()
				gate.Load("a")
			}
		}()
		if err := gate.Run(t.Context(), sourceFunc(func(context.Context, stream.Intake[*parcel]) error { return nil }), succeed); err != nil {
			t.Fatal(err)
		}
		<-ended
	}
}
