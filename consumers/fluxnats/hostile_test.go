package fluxnats_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/stream"
)

// Whatever subject the server took a message under, the message is deferred and
// comes back once under that, and so does its dead letter say.
func TestOddSubjects(t *testing.T) {
	subjects := []string{
		"in.*", "in.>", "in.a.*.b", // which the server stores as they are
		"in.$JS.API.x", "in.-_~!", "in.{stream}", "in.%41%", "in.żółw", "in.\u202e", `in."'\`, "in." + strings.Repeat("x", 200), "in" + strings.Repeat(".x", 30),
	}
	bubble(t, func(e *env) {
		src := e.source(fluxnats.Config{}, fluxnats.Layout{})
		for _, subject := range subjects {
			e.send(&nats.Msg{Subject: subject, Data: []byte(subject)})
		}
		var mu sync.Mutex
		deferrals := make(map[string]int)
		r := e.run(src, newIntake(64, func(ctx context.Context, d delivery) {
			m := d.Message()
			mu.Lock()
			deferrals[m.Subject()] += d.Meta().Deferrals
			mu.Unlock()
			switch {
			case m.Subject() != string(m.Data()):
				t.Errorf("%q came under %q", m.Data(), m.Subject())
				e.must(d.Ack(ctx))
			case d.Meta().Deferrals == 0:
				e.orRelease(d, d.Defer(ctx, stream.Deferral{Until: time.Now().Add(time.Second), Deferrals: 1}))
			default:
				e.orRelease(d, d.DeadLetter(ctx, stream.Letter{Reason: stream.ReasonPermanent}))
			}
		}))
		time.Sleep(time.Minute)
		r.stop()
		var dead []string
		s, err := e.js.Stream(e.Context(), "DLQ_S")
		e.must(err)
		for seq := range s.CachedInfo().State.Msgs {
			m, err := s.GetMsg(e.Context(), seq+1)
			e.must(err)
			subject := fluxnats.Text(m.Header, "Flux-Subject")
			if dead = append(dead, subject); string(m.Data) != subject || deferrals[subject] != 1 {
				t.Errorf("%q says it was %q, and was deferred %d times", m.Data, subject, deferrals[subject])
			}
		}
		slices.Sort(dead)
		slices.Sort(subjects)
		if !slices.Equal(dead, subjects) {
			t.Errorf("dead letters of %q, want %q", dead, subjects)
		}
		if info := e.info(); info.NumAckPending != 0 || e.count("S", "flux.defer.>") != 0 {
			t.Errorf("ack pending %d", info.NumAckPending)
		}
	})
}

// A verdict whose time is over is not given, and does no harm when it is given again.
func TestVerdictsThatAreCancelled(t *testing.T) {
	for name, c := range verdicts {
		if name == "ack" || name == "release" {
			continue // they do not wait
		}
		t.Run(name, func(t *testing.T) {
			bubble(t, func(e *env) {
				src := e.source(c.cfg, fluxnats.Layout{AckWait: time.Second})
				e.publish(10)
				r := e.run(src, newIntake(10, func(ctx context.Context, d delivery) {
					over, cancel := context.WithCancel(ctx)
					cancel()
					if err := c.settle(over, d); !errors.Is(err, context.Canceled) {
						t.Errorf("settled with %v", err)
					}
					time.Sleep(10 * time.Second)
					e.orRelease(d, c.settle(ctx, d))
				}))
				time.Sleep(time.Minute)
				r.stop()
				info, copies := e.info(), e.count("S", "flux.defer.>")
				got := src.Stats()
				if dead := e.count("DLQ_S", ">"); dead != c.dead || int64(copies) != got.Copies || got.Received != 10 || info.NumAckPending != int(got.Naks) {
					t.Errorf("%d dead letters, %d copies, ack pending %d, %+v", dead, copies, info.NumAckPending, got)
				}
			})
		})
	}
}

// The server goes away while a source drains, and comes back before the handlers
// are done: what they have done is settled, and what is given up comes again.
func TestServerRestartsInADrain(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.source(fluxnats.Config{}, fluxnats.Layout{AckWait: 5 * time.Second})
		e.publish(40)
		var seen tally
		r := e.run(src, newIntake(40, func(ctx context.Context, d delivery) {
			n := number(d.Message().Data())
			<-ctx.Done()
			time.Sleep(time.Duration(n) * 250 * time.Millisecond) // before, while and after it is away
			switch n % 4 {
			case 0:
				d.Release()
			case 1:
				for d.DeadLetter(context.WithoutCancel(ctx), stream.Letter{Reason: stream.ReasonPermanent}) != nil {
					time.Sleep(100 * time.Millisecond)
				}
			default:
				seen.add(d.Message())
				e.must(d.Ack(context.WithoutCancel(ctx)))
			}
		}))
		time.Sleep(time.Second)
		r.cancel()
		time.Sleep(4 * time.Second)
		e.stop()
		time.Sleep(2 * time.Second)
		e.start()
		r.stop()
		next := e.run(e.newSource(fluxnats.Config{}), newIntake(64, e.acks(&seen)))
		time.Sleep(time.Minute)
		next.stop()
		if kinds, total := seen.sum(); kinds+e.count("DLQ_S", ">") != 40 || total != kinds {
			t.Errorf("handled %d messages, %d times, %d dead letters", kinds, total, e.count("DLQ_S", ">"))
		}
		if info := e.info(); info.NumAckPending != 0 {
			t.Errorf("ack pending %d", info.NumAckPending)
		}
	})
}
