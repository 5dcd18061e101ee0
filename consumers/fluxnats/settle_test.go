package fluxnats_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
)

// A verdict that the server confirmed and then forgot, as one that is elected
// leader may have, is given again when the message comes again, however the
// message was settled; and the message is not handled again.
func TestConfirmedVerdictThatIsForgotten(t *testing.T) {
	for _, name := range []string{"confirmed ack", "defer", "dead letter"} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(e *env) {
				e.source(fluxnats.Config{}, fluxnats.Layout{AckWait: time.Second})
				e.publish(1)
				var forgetful atomic.Bool
				forgetful.Store(true)
				l := line{drop: func(b []byte) bool {
					line, _, _ := bytes.Cut(b, []byte("\r\n"))
					f := bytes.Fields(line)
					if !forgetful.Load() || len(f) < 4 || !bytes.HasPrefix(f[1], []byte("$JS.ACK.")) {
						return false
					}
					forgetful.Store(false)
					e.must(e.nc.Publish(string(f[2]), nil))
					return true
				}}
				src := e.sourceOver(&l, fluxnats.Config{ConfirmAcks: true})
				var handled atomic.Int32
				r := e.run(src, newIntake(4, func(ctx context.Context, d delivery) {
					handled.Add(1)
					e.must(verdicts[name].settle(ctx, d))
				}))
				time.Sleep(10 * time.Second)
				r.stop()
				if got := src.Stats(); handled.Load() != 1 || got.Swallowed != 1 || forgetful.Load() {
					t.Errorf("handled %d times, %+v", handled.Load(), got)
				}
				if info := e.info(); info.NumAckPending != 0 {
					t.Errorf("ack pending %d", info.NumAckPending)
				}
			})
		})
	}
}

// A consumer that was deleted and made again gives its first messages again, and
// says that they are new. Those that are held are not handled twice.
func TestConsumerMadeAnewWhileMessagesAreHeld(t *testing.T) {
	bubble(t, func(e *env) {
		e.source(fluxnats.Config{}, fluxnats.Layout{})
		e.publish(10)
		src, away := e.faraway(fluxnats.Config{})
		var seen tally
		r := e.run(src, newIntake(64, func(ctx context.Context, d delivery) {
			seen.add(d.Message())
			time.Sleep(20 * time.Second)
			e.must(d.Ack(ctx))
		}))
		time.Sleep(time.Second)
		config := e.info().Config
		away(func() {
			e.must(e.js.DeleteConsumer(e.Context(), "S", "c"))
			_, err := e.js.CreateConsumer(e.Context(), "S", config)
			e.must(err)
		})
		time.Sleep(30 * time.Second)
		r.stop()
		seen.exactly(e.T, 10)
		if got, info := src.Stats(), e.info(); got.Swallowed != 10 || info.NumAckPending != 0 {
			t.Errorf("%+v, ack pending %d", got, info.NumAckPending)
		}
	})
}

// A message of a stream that was deleted and made again is another one, although
// it has the sequence of one that was settled.
func TestSequencesOfAStreamMadeAnew(t *testing.T) {
	bubble(t, func(e *env) {
		e.source(fluxnats.Config{}, fluxnats.Layout{})
		e.publish(10)
		src, away := e.faraway(fluxnats.Config{})
		var seen tally
		r := e.run(src, newIntake(64, func(ctx context.Context, d delivery) {
			if !d.Meta().Redelivered {
				d.Release()
				return
			}
			seen.add(d.Message())
			e.must(d.Ack(ctx))
		}))
		time.Sleep(10 * time.Second)
		seen.exactly(e.T, 10)
		away(e.anew)
		for i := range 10 {
			e.send(&nats.Msg{Subject: "in.x", Data: fmt.Appendf(nil, "new %d", i)})
		}
		time.Sleep(20 * time.Second)
		r.stop()
		seen.exactly(e.T, 20)
	})
}

// faraway returns a source with a line of its own, and a function that calls
// another while that is cut.
func (e *env) faraway(cfg fluxnats.Config) (src *fluxnats.Source, away func(func())) {
	e.Helper()
	l := new(line)
	return e.sourceOver(l, cfg), func(f func()) {
		l.down.Store(true)
		l.fail()
		time.Sleep(time.Millisecond)
		f()
		l.down.Store(false)
	}
}

// A message that the gate gives up while it goes on is not lost, and does not
// come straight back.
func TestReleaseWhileTheSourceGoesOn(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.source(fluxnats.Config{}, fluxnats.Layout{})
		e.publish(5)
		var mu sync.Mutex
		var seen tally
		last, began := map[string]time.Time{}, time.Now()
		r := e.run(src, newIntake(64, func(ctx context.Context, d delivery) {
			mu.Lock()
			id := d.Message().ID()
			before, again := last[id]
			last[id] = time.Now()
			mu.Unlock()
			if again && time.Since(before) < time.Second {
				t.Errorf("%s came back after %v", id, time.Since(before))
			}
			seen.add(d.Message())
			if n := time.Since(began); n < 4*time.Second {
				d.Release()
				return
			}
			e.must(d.Ack(ctx))
		}))
		time.Sleep(time.Minute)
		r.stop()
		if kinds, total := seen.sum(); kinds != 5 || total < 20 || total > 25 {
			t.Errorf("%d messages came %d times", kinds, total)
		}
		if info := e.info(); info.NumAckPending != 0 {
			t.Errorf("ack pending %d", info.NumAckPending)
		}
	})
}

// failing is a gate that takes no more messages once it is broken.
type failing struct {
	*intake
	broken atomic.Bool
}

var errBroken = errors.New("broken")

func (f *failing) Deliver(ctx context.Context, deliveries ...delivery) error {
	if f.broken.Load() {
		releaseAll(deliveries)
		return errBroken
	}
	return f.intake.Deliver(ctx, deliveries...)
}

// What was acknowledged before Run ends by an error is acknowledged at the
// server, also if the connection was down at that moment.
func TestAcknowledgementsBeforeAnError(t *testing.T) {
	for range 10 { // it depends on what is looked at first
		bubble(t, func(e *env) {
			e.source(fluxnats.Config{}, fluxnats.Layout{})
			e.publish(20)
			var l line
			src := e.sourceOver(&l, fluxnats.Config{}, nats.ReconnectBufSize(-1), nats.ReconnectWait(10*time.Millisecond))
			var seen tally
			in := &failing{intake: newIntake(30, func(ctx context.Context, d delivery) {
				time.Sleep(time.Second)
				seen.add(d.Message())
				e.must(d.Ack(ctx))
			})}
			done := make(chan error)
			go func() { done <- src.Run(e.Context(), in) }()
			time.Sleep(990 * time.Millisecond)
			l.down.Store(true)
			l.fail()
			in.broken.Store(true)
			time.Sleep(20 * time.Millisecond)
			l.down.Store(false)
			time.Sleep(30 * time.Millisecond)
			e.publish(1)
			if err := <-done; !errors.Is(err, errBroken) {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
			seen.exactly(e.T, 20)
			if info := e.info(); info.AckFloor.Stream != 20 {
				t.Errorf("acknowledged up to %d", info.AckFloor.Stream)
			}
		})
	}
}

// A publisher that has its message look like a deferred copy chooses its ID and
// counts, as documented, and never its subject; and nothing at all where copies
// have a subject of their own, or there are none.
func TestForgedCopy(t *testing.T) {
	for name, c := range map[string]struct {
		cfg    fluxnats.Config
		id     string
		counts int
	}{
		"copies":         {fluxnats.Config{}, "S:99", 7},
		"return subject": {fluxnats.Config{ReturnSubject: "flux.back"}, "S:1", 0},
		"no copies":      {fluxnats.Config{NakDeferrals: true}, "S:1", 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(e *env) {
				src := e.source(c.cfg, fluxnats.Layout{})
				if c.cfg.NakDeferrals {
					s, err := e.js.Stream(e.Context(), "S")
					e.must(err)
					config := s.CachedInfo().Config
					config.AllowMsgSchedules = true
					_, err = e.js.UpdateStream(e.Context(), config)
					e.must(err)
				}
				e.send(&nats.Msg{Subject: "in.mine", Header: nats.Header{
					"Nats-Scheduler": {"flux.defer.S.c.5"}, "Nats-Schedule-Next": {"purge"}, "Flux-Subject": {"in.victim"},
					"Flux-Origin": {"S:99"}, "Flux-Attempts": {"7"}, "Flux-Deferrals": {"7"},
				}})
				var seen tally
				r := e.run(src, newIntake(4, func(ctx context.Context, d delivery) {
					m, meta := d.Message(), d.Meta()
					seen.add(m)
					if m.Subject() != "in.mine" || m.ID() != c.id || meta.Attempts != c.counts || meta.Deferrals != c.counts {
						t.Errorf("%s, %s, %+v", m.Subject(), m.ID(), meta)
					}
					e.must(d.Ack(ctx))
				}))
				time.Sleep(time.Second)
				r.stop()
				seen.exactly(e.T, 1)
			})
		})
	}
}
