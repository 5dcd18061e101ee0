package fluxnats_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/stream"
)

type delivery = stream.Delivery[*fluxnats.Msg]

func TestNewRefuses(t *testing.T) {
	bubble(t, func(e *env) {
		good := fluxnats.Config{Stream: "S", Consumer: "c"}
		for want, change := range map[string]func(c *fluxnats.Config){
			`Stream = ""`:                     func(c *fluxnats.Config) { c.Stream = "" },
			`Stream = "a.b"`:                  func(c *fluxnats.Config) { c.Stream = "a.b" },
			`Consumer = "a b"`:                func(c *fluxnats.Config) { c.Consumer = "a b" },
			`Batch = -1`:                      func(c *fluxnats.Config) { c.Batch = -1 },
			`Heartbeat = "1ms"`:               func(c *fluxnats.Config) { c.Heartbeat = time.Millisecond },
			`Heartbeat = "-1s"`:               func(c *fluxnats.Config) { c.Heartbeat = -time.Second },
			`DeferSubject = "a.*"`:            func(c *fluxnats.Config) { c.DeferSubject = "a.*" },
			`DeferSubject = "a..{x}"`:         func(c *fluxnats.Config) { c.DeferSubject = "a..{x}" },
			`ReturnSubject = ">"`:             func(c *fluxnats.Config) { c.ReturnSubject = ">" },
			`ReturnSubject = "flux.defer.S.c`: func(c *fluxnats.Config) { c.ReturnSubject = "flux.defer.{stream}.c" },
			`ReturnSubject = "r": has no use`: func(c *fluxnats.Config) { c.ReturnSubject = "r"; c.NakDeferrals = true },
			`DeadLetterStream = "a/b"`:        func(c *fluxnats.Config) { c.DeadLetterStream = "a/b" },
			`DeadLetterStream = "S"`:          func(c *fluxnats.Config) { c.DeadLetterStream = "{stream}" },
			`DeadLetterSubject = "a b"`:       func(c *fluxnats.Config) { c.DeadLetterSubject = "a b" },
		} {
			cfg := good
			change(&cfg)
			if _, err := fluxnats.New(e.js, cfg); !errors.Is(err, fluxnats.ErrInvalidConfig) || !strings.Contains(err.Error(), want) {
				t.Errorf("want %s, got %v", want, err)
			}
		}
		if _, err := fluxnats.New(nil, good); !errors.Is(err, fluxnats.ErrInvalidConfig) {
			t.Error(err)
		}
		if _, err := fluxnats.New(e.js, good); err != nil {
			t.Error(err)
		}
		synctest.Wait()
	})
}

func TestEveryMessageIsDeliveredOnce(t *testing.T) {
	for _, confirm := range []bool{false, true} {
		bubble(t, func(e *env) {
			src := e.source(fluxnats.Config{ConfirmAcks: confirm}, fluxnats.Layout{})
			const n = 2000
			e.publish(n)
			var seen tally
			in := newIntake(64, e.acks(&seen))
			r := e.run(src, in)
			time.Sleep(time.Minute)
			r.stop()
			seen.exactly(e.T, n)
			if info := e.info(); info.NumAckPending != 0 || info.NumRedelivered != 0 || info.NumPending != 0 {
				t.Errorf("ack pending %d, redelivered %d, pending %d", info.NumAckPending, info.NumRedelivered, info.NumPending)
			}
		})
	}
}

func TestRunTwiceAtOnce(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.source(fluxnats.Config{}, fluxnats.Layout{})
		r := e.run(src, newIntake(64, nil))
		time.Sleep(time.Second)
		if err := src.Run(e.Context(), newIntake(64, nil)); !errors.Is(err, fluxnats.ErrRunning) {
			t.Errorf("second Run: %v", err)
		}
		r.stop()
		e.run(src, newIntake(64, nil)).stop() // one after the other is fine
	})
}

// JetStream may be reached by another prefix: that of a domain, or one by which
// another account exports it.
func TestOtherPrefixes(t *testing.T) {
	const domain = "hub"
	for name, open := range map[string]func(*nats.Conn) (jetstream.JetStream, error){
		"domain": func(nc *nats.Conn) (jetstream.JetStream, error) { return jetstream.NewWithDomain(nc, domain) },
		"prefix": func(nc *nats.Conn) (jetstream.JetStream, error) { return jetstream.NewWithAPIPrefix(nc, "$JS.hub.API") },
		"prefix with dot": func(nc *nats.Conn) (jetstream.JetStream, error) {
			return jetstream.NewWithAPIPrefix(nc, "$JS.hub.API.")
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(e *env) {
				var l line
				l.lose("PUB $JS.API.")
				nc := e.dial(&l)
				defer nc.Close()
				js, err := open(nc)
				e.must(err)
				src := e.sourceOn(js, fluxnats.Config{})
				_, err = src.Provision(e.Context(), fluxnats.Layout{Subjects: []string{"in.>"}, AckWait: time.Second})
				e.must(err)
				e.publish(3)
				var seen tally
				r := e.run(src, newIntake(4, func(ctx context.Context, d delivery) {
					if string(d.Message().Data()) == "0" && d.Meta().Deferrals == 0 {
						e.must(d.Defer(ctx, stream.Deferral{Until: time.Now().Add(time.Second), Deferrals: 1}))
						return
					}
					seen.add(d.Message())
					time.Sleep(10 * time.Second)
					if string(d.Message().Data()) == "1" {
						e.must(d.DeadLetter(ctx, stream.Letter{Reason: stream.ReasonPermanent}))
						return
					}
					e.must(d.Ack(ctx))
				}))
				time.Sleep(time.Minute)
				r.stop()
				seen.exactly(e.T, 3)
				if info := e.info(); info.NumAckPending != 0 || info.NumRedelivered != 0 || e.count("DLQ_S", ">") != 1 {
					t.Errorf("ack pending %d, redelivered %d, dead letters %d", info.NumAckPending, info.NumRedelivered, e.count("DLQ_S", ">"))
				}
			}, func(o *server.Options) { o.JetStreamDomain = domain })
		})
	}
}
