package fluxnats_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/stream"
)

func TestDeadLetter(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.source(fluxnats.Config{}, fluxnats.Layout{Retention: jetstream.WorkQueuePolicy})
		e.send(&nats.Msg{
			Subject: "in.a", Data: []byte("payload"),
			Header: nats.Header{"Nats-Msg-Id": {"mine"}, "X-User": {"1", "2"}, "Nats-TTL": nil},
		})
		advisories := make(chan *nats.Msg, 10)
		sub, err := e.nc.ChanSubscribe("$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.S.c", advisories)
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Unsubscribe()
		r := e.run(src, newIntake(4, func(ctx context.Context, d delivery) {
			if d.Meta().Deferrals == 0 {
				e.must(d.Defer(ctx, stream.Deferral{Until: time.Now().Add(time.Minute), Deferrals: 1}))
				return
			}
			e.must(d.DeadLetter(ctx, stream.Letter{
				Reason: stream.ReasonAttempts, Err: errors.New("line 1\nline 2: 100 %"), Stack: []byte("goroutine 1\n\tmain.go:1"),
				Tenant: " tenant\r\n", Attempts: 5, Deferrals: 3,
			}))
		}))
		time.Sleep(2 * time.Minute)
		r.stop()
		m := e.last("DLQ_S", "dlq.S.c")
		if string(m.Data) != "payload" {
			t.Errorf("payload %q", m.Data)
		}
		for key, want := range map[string]string{
			"Flux-Reason": "max_attempts", "Flux-Error": "line 1%0Aline 2: 100 %25", "Flux-Stack": "goroutine 1%0A%09main.go:1",
			"Flux-Tenant": "%20tenant%0D%0A", "Flux-Attempts": "5", "Flux-Deferrals": "3", "Flux-Origin": "S:1",
			"Flux-First-Seen": "2000-01-01T00:00:00Z", "Flux-Stream": "S", "Flux-Consumer": "c", "Flux-Subject": "in.a", "Flux-Sequence": "3",
			"Flux-Msg-Id": "mine", "Nats-Msg-Id": "S:1:946684800000000000:dead:c",
		} {
			if got := m.Header.Get(key); got != want {
				t.Errorf("%s: got %q, want %q", key, got, want)
			}
		}
		if got := m.Header.Values("X-User"); len(got) != 2 {
			t.Errorf("X-User: %q", got)
		}
		if at, err := time.Parse(time.RFC3339Nano, m.Header.Get("Flux-Time")); err != nil || at.Before(time.Now().Add(-90*time.Second)) {
			t.Errorf("Flux-Time: %v, %v", at, err)
		}
		if info := e.info(); info.NumAckPending != 0 || e.count("S", ">") != 0 {
			t.Errorf("ack pending %d, left %d", info.NumAckPending, e.count("S", ">"))
		}
		if a := <-advisories; !bytes.Contains(a.Data, []byte(`"reason":"max_attempts"`)) {
			t.Errorf("advisory %s", a.Data)
		}
	})
}

// A message is not let go before its dead letter is stored.
func TestDeadLetterThatCannotBeStored(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.source(fluxnats.Config{}, fluxnats.Layout{AckWait: time.Second})
		e.publish(1)
		dead, err := e.js.Stream(e.Context(), "DLQ_S")
		if err != nil {
			t.Fatal(err)
		}
		config := dead.CachedInfo().Config
		var failed atomic.Int32
		r := e.run(src, newIntake(4, func(ctx context.Context, d delivery) {
			if err := e.js.DeleteStream(ctx, "DLQ_S"); err != nil {
				t.Error(err)
			}
			for d.DeadLetter(ctx, stream.Letter{Reason: stream.ReasonPermanent}) != nil {
				if info := e.info(); info.NumAckPending != 1 || info.NumRedelivered != 0 {
					t.Errorf("ack pending %d, redelivered %d", info.NumAckPending, info.NumRedelivered)
				}
				if failed.Add(1) == 5 {
					if _, err := e.js.CreateStream(ctx, config); err != nil {
						t.Error(err)
					}
				}
				time.Sleep(time.Second)
			}
		}))
		time.Sleep(time.Minute)
		r.stop()
		if failed.Load() < 5 || e.count("DLQ_S", ">") != 1 || e.info().NumAckPending != 0 {
			t.Errorf("failed %d times, %d dead letters, ack pending %d", failed.Load(), e.count("DLQ_S", ">"), e.info().NumAckPending)
		}
	})
}

// The confirmation of the dead letter is lost, or the termination: the second try
// stores no second letter.
func TestDeadLetterIsStoredOnce(t *testing.T) {
	for _, lost := range []string{"dlq.S.c", "+TERM"} {
		t.Run(lost, func(t *testing.T) {
			bubble(t, func(e *env) {
				e.source(fluxnats.Config{}, fluxnats.Layout{AckWait: time.Second})
				e.publish(1)
				var l line
				var broken atomic.Bool
				first := func(b []byte) bool { return bytes.Contains(b, []byte(lost)) && broken.CompareAndSwap(false, true) }
				if lost == "+TERM" {
					l.cut = first
				} else {
					l.after = first
				}
				var tries atomic.Int32
				r := e.run(e.sourceOver(&l, fluxnats.Config{}), newIntake(4, func(ctx context.Context, d delivery) {
					tries.Add(1)
					for d.DeadLetter(ctx, stream.Letter{Reason: stream.ReasonPermanent}) != nil {
						tries.Add(1)
						time.Sleep(time.Second)
					}
				}))
				time.Sleep(time.Minute)
				r.stop()
				if tries.Load() != 2 || e.count("DLQ_S", ">") != 1 || e.info().NumAckPending != 0 {
					t.Errorf("%d tries, %d dead letters, ack pending %d", tries.Load(), e.count("DLQ_S", ">"), e.info().NumAckPending)
				}
			})
		})
	}
}

// What the source adds must not make a message too large for its dead letter.
func TestDeadLetterOfALargeMessage(t *testing.T) {
	for name, c := range map[string]struct {
		header, payload int
	}{
		"headers": {60 << 10, 10},
		"payload": {10, 1<<20 - 2<<10},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(e *env) {
				src := e.source(fluxnats.Config{}, fluxnats.Layout{})
				e.send(&nats.Msg{
					Subject: "in.a", Data: bytes.Repeat([]byte("p"), c.payload), Header: nats.Header{"X": {strings.Repeat("x", c.header)}},
				})
				r := e.run(src, newIntake(4, func(ctx context.Context, d delivery) {
					e.must(d.DeadLetter(ctx, stream.Letter{
						Reason: stream.ReasonAttempts, Err: errors.New(strings.Repeat("\n", 10<<10)), Stack: bytes.Repeat([]byte("\n\t"), 100<<10),
					}))
				}))
				time.Sleep(time.Minute)
				r.stop()
				if e.count("DLQ_S", ">") != 1 {
					t.Fatal("no dead letter")
				}
				m := e.last("DLQ_S", "dlq.S.c")
				if len(m.Data) != c.payload || len(m.Header.Get("X")) != c.header || m.Header.Get("Flux-Reason") != "max_attempts" || m.Header.Get("Flux-Error") == "" {
					t.Errorf("payload of %d, header of %d, reason %q", len(m.Data), len(m.Header.Get("X")), m.Header.Get("Flux-Reason"))
				}
			})
		})
	}
}

// A stream that is deleted and made again counts from 1 again. Its first dead
// letter is not the one of its former life.
func TestDeadLetterOfAStreamMadeAnew(t *testing.T) {
	bubble(t, func(e *env) {
		for i := range 2 {
			src := e.source(fluxnats.Config{}, fluxnats.Layout{})
			time.Sleep(time.Second)
			e.send(&nats.Msg{Subject: "in.a", Data: fmt.Append(nil, i)})
			r := e.run(src, newIntake(4, func(ctx context.Context, d delivery) {
				e.must(d.DeadLetter(ctx, stream.Letter{Reason: stream.ReasonPermanent}))
			}))
			time.Sleep(time.Second)
			r.stop()
			if err := e.js.DeleteStream(e.Context(), "S"); err != nil {
				t.Fatal(err)
			}
		}
		if n := e.count("DLQ_S", ">"); n != 2 {
			t.Errorf("%d dead letters", n)
		}
	})
}
