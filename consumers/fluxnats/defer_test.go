package fluxnats_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/stream"
)

func TestDeferredMessageComesBackInTime(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.source(fluxnats.Config{}, fluxnats.Layout{})
		e.send(&nats.Msg{
			Subject: "in.a", Data: []byte("payload"),
			Header: nats.Header{"Nats-Msg-Id": {"mine"}, "X-User": {"1", "2"}},
		})
		published := time.Now()
		delays := []time.Duration{300 * time.Millisecond, 1500*time.Millisecond + 7, 999 * time.Millisecond, time.Hour + 123456789, 10 * time.Millisecond}
		var mu sync.Mutex
		var due time.Time
		turn, done := 0, make(chan struct{})
		in := newIntake(4, func(ctx context.Context, d delivery) {
			mu.Lock()
			defer mu.Unlock()
			m, meta := d.Message(), d.Meta()
			late := time.Since(due)
			if turn > 0 && (late < 0 || late > 260*time.Millisecond) {
				t.Errorf("turn %d: %v after it was due", turn, late)
			}
			if m.Subject() != "in.a" || string(m.Data()) != "payload" || m.ID() != "S:1" {
				t.Errorf("turn %d: %s %q %s", turn, m.Subject(), m.Data(), m.ID())
			}
			h := m.Headers()
			if len(h) != 2 || h.Get("Nats-Msg-Id") != "mine" || len(h.Values("X-User")) != 2 {
				t.Errorf("turn %d: %v", turn, h)
			}
			if meta.Deferrals != turn || meta.Attempts != 2*turn || meta.Redelivered || published.Sub(meta.Time).Abs() > time.Millisecond {
				t.Errorf("turn %d: %+v", turn, meta)
			}
			if turn == len(delays) {
				e.must(d.Ack(ctx))
				close(done)
				return
			}
			due = time.Now().Add(delays[turn])
			turn++
			e.must(d.Defer(ctx, stream.Deferral{Until: due, Reason: stream.ReasonQuota, Tenant: "a", Deferrals: turn, Attempts: 2 * turn}))
		})
		r := e.run(src, in)
		<-done
		r.stop()
		if n := e.count("S", "flux.defer.>"); n != 0 {
			t.Errorf("%d copies are left", n)
		}
		if got := src.Stats(); got.Copies != int64(len(delays)) || got.Naks != 0 {
			t.Errorf("%+v", got)
		}
	})
}

func TestDeadLetterIsStoredBeforeTheMessageIsLetGo(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.source(fluxnats.Config{}, fluxnats.Layout{})
		e.send(&nats.Msg{
			Subject: "in.a", Data: []byte("payload"), Header: nats.Header{"Nats-Msg-Id": {"mine"}, "X-User": {"1", "2"}},
		})
		done := make(chan struct{})
		in := newIntake(4, func(ctx context.Context, d delivery) {
			e.must(d.DeadLetter(ctx, stream.Letter{
				Reason: stream.ReasonAttempts, Err: errors.New("line 1\nline 2: 100 %"), Stack: []byte("goroutine 1\n\tmain.go:1"),
				Tenant: " tenant\r\n", Attempts: 5, Deferrals: 3,
			}))
			close(done)
		})
		r := e.run(src, in)
		<-done
		r.stop()
		m := e.last("DLQ_S", "dlq.S.c")
		if string(m.Data) != "payload" {
			t.Errorf("payload %q", m.Data)
		}
		for key, want := range map[string]string{
			"Flux-Reason": "max_attempts", "Flux-Error": "line 1%0Aline 2: 100 %25", "Flux-Stack": "goroutine 1%0A%09main.go:1",
			"Flux-Tenant": "%20tenant%0D%0A", "Flux-Attempts": "5", "Flux-Deferrals": "3", "Flux-Origin": "S:1",
			"Flux-Stream": "S", "Flux-Consumer": "c", "Flux-Subject": "in.a", "Flux-Sequence": "1",
			"Flux-Msg-Id": "mine", "X-User": "1",
		} {
			if got := m.Header.Get(key); got != want {
				t.Errorf("%s: got %q, want %q", key, got, want)
			}
		}
		if info := e.info(); info.NumAckPending != 0 {
			t.Errorf("ack pending %d", info.NumAckPending)
		}
	})
}

func TestReleasedMessagesGoToTheNextMemberAtOnce(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.source(fluxnats.Config{}, fluxnats.Layout{})
		const n = 300
		e.publish(n)
		in := newIntake(100, func(ctx context.Context, d delivery) {
			<-ctx.Done()
			d.Release()
		})
		r := e.run(src, in)
		time.Sleep(10 * time.Second)
		r.stop()
		if got := src.Stats(); got.Returned < 100 || got.Returned != got.Received {
			t.Errorf("%+v", got)
		}
		// Nothing of it went to a source that did not want it any more.
		var seen tally
		next := e.run(e.newSource(fluxnats.Config{}), newIntake(500, func(ctx context.Context, d delivery) {
			if seen.add(d.Message()); d.Meta().Redelivered && d.Meta().Attempts+d.Meta().Deferrals != 0 {
				t.Errorf("%+v", d.Meta())
			}
			e.must(d.Ack(ctx))
		}))
		time.Sleep(100 * time.Millisecond)
		next.stop()
		seen.exactly(e.T, n)
	})
}
