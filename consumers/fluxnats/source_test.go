package fluxnats_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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
