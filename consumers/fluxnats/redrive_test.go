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
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// die makes n dead letters of tenants a and b, through a source, and returns it.
func (e *env) die(n int) *fluxnats.Source {
	e.Helper()
	src := e.source(fluxnats.Config{}, fluxnats.Layout{Retention: jetstream.WorkQueuePolicy})
	for i := range n {
		e.send(&nats.Msg{Subject: fmt.Sprint("in.", i), Data: fmt.Append(nil, i), Header: nats.Header{"X": {"1", "2"}, "Nats-Msg-Id": {fmt.Sprint("mine", i)}}})
	}
	r := e.run(src, newIntake(1, func(ctx context.Context, d delivery) { // one at a time: in order
		tenant := "b"
		if d.Message().Data()[0]%2 == 0 {
			tenant = "a"
		}
		e.must(d.DeadLetter(ctx, stream.Letter{Reason: stream.ReasonAttempts, Tenant: tenant, Attempts: 5, Err: errors.New("a\nb")}))
	}))
	time.Sleep(time.Minute)
	r.stop()
	if got := e.count("DLQ_S", ">"); got != n {
		e.Fatalf("%d dead letters", got)
	}
	return src
}

func TestRedrive(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.die(10)
		cfg := fluxnats.RedriveConfig{
			Stream: "DLQ_S", Limit: gcra.PerSecond(2).WithBurst(1),
			Filter: func(l *fluxnats.DeadLetter) bool { return l.Tenant == "a" },
		}
		// A dry run changes nothing, and takes no time.
		dry := cfg
		dry.DryRun = true
		begin := time.Now()
		got, err := fluxnats.Redrive(e.Context(), e.js, dry)
		want := fluxnats.Redriven{Read: 10, Redriven: 5, Skipped: 5}
		if err != nil || got != want || e.count("DLQ_S", ">") != 10 || e.count("S", ">") != 0 || time.Since(begin) > 100*time.Millisecond {
			t.Errorf("%+v, %v, after %v", got, err, time.Since(begin))
		}
		// Within the duplicate window, in order, and at the limit.
		var progress []fluxnats.Redriven
		cfg.Progress = func(r fluxnats.Redriven) { progress = append(progress, r) }
		begin = time.Now()
		got, err = fluxnats.Redrive(e.Context(), e.js, cfg)
		if err != nil || got != want || e.count("DLQ_S", ">") != 5 || e.count("S", "in.>") != 5 {
			t.Errorf("%+v, %v", got, err)
		}
		if took := time.Since(begin).Round(time.Millisecond); took < 2*time.Second || took > 2100*time.Millisecond {
			t.Errorf("took %v", took)
		}
		if len(progress) != 10 || progress[9] != want || progress[0] != (fluxnats.Redriven{Read: 1, Redriven: 1}) {
			t.Errorf("%+v", progress)
		}
		var order []string
		r := e.run(src, newIntake(1, func(ctx context.Context, d delivery) {
			m := d.Message()
			order = append(order, m.Subject()+" "+string(m.Data()))
			if h := m.Headers(); len(h["X"]) != 2 || h.Get("Flux-Msg-Id") != "mine"+string(m.Data()) || h.Get("Flux-Reason") != "" || h.Get("Flux-Error") != "" {
				t.Errorf("%v", h)
			}
			if meta := d.Meta(); meta.Attempts+meta.Deferrals != 0 {
				t.Errorf("%+v", meta)
			}
			e.must(d.Ack(ctx))
		}))
		time.Sleep(time.Minute)
		r.stop()
		if got := fmt.Sprint(order); got != "[in.0 0 in.2 2 in.4 4 in.6 6 in.8 8]" {
			t.Error(got)
		}
		// The rest, with another filter: what was skipped is not forgotten.
		cfg.Filter, cfg.Subject = nil, "dlq.S.*"
		if got, err := fluxnats.Redrive(e.Context(), e.js, cfg); err != nil || got != (fluxnats.Redriven{Read: 5, Redriven: 5}) || e.count("DLQ_S", ">") != 0 {
			t.Errorf("%+v, %v", got, err)
		}
		cfg.Subject = "other"
		if got, err := fluxnats.Redrive(e.Context(), e.js, cfg); err != nil || got != (fluxnats.Redriven{}) {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

// What dies again while a redrive goes on is left for the next.
func TestRedriveEnds(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.die(20)
		r := e.run(src, newIntake(4, func(ctx context.Context, d delivery) {
			e.must(d.DeadLetter(ctx, stream.Letter{Reason: stream.ReasonAttempts}))
		}))
		got, err := fluxnats.Redrive(e.Context(), e.js, fluxnats.RedriveConfig{Stream: "DLQ_S"})
		if err != nil || got.Redriven != 20 {
			t.Errorf("%+v, %v", got, err)
		}
		time.Sleep(time.Minute)
		r.stop()
		if n := e.count("DLQ_S", ">"); n != 20 {
			t.Errorf("%d dead letters", n)
		}
	})
}

// A process that dies between the publication and the deletion of a dead letter
// leaves it where it is; redriven again, it is stored once.
func TestRedriveCrashesBeforeTheDeletion(t *testing.T) {
	bubble(t, func(e *env) {
		e.die(5)
		for crash := range 5 {
			var deletes atomic.Int32
			ctx, cancel := context.WithCancel(e.Context())
			l := line{drop: func(b []byte) bool {
				if bytes.Contains(b, []byte("STREAM.MSG.DELETE.DLQ_S")) && deletes.Add(1) > int32(crash)/2 {
					cancel()
					return true
				}
				return false
			}}
			nc := e.dial(&l)
			js, err := jetstream.New(nc)
			e.must(err)
			got, err := fluxnats.Redrive(ctx, js, fluxnats.RedriveConfig{Stream: "DLQ_S"})
			if !errors.Is(err, context.Canceled) || got.Redriven != int64(crash/2) {
				t.Errorf("crash %d: %+v, %v", crash, got, err)
			}
			nc.Close()
		}
		if got, err := fluxnats.Redrive(e.Context(), e.js, fluxnats.RedriveConfig{Stream: "DLQ_S"}); err != nil || got.Redriven != 1 {
			t.Errorf("%+v, %v", got, err)
		}
		if n := e.count("S", "in.>"); n != 5 || e.count("DLQ_S", ">") != 0 {
			t.Errorf("%d messages of 5", n)
		}
	})
}

// A confirmation that is lost, a server that restarts, and two that redrive at
// the same time: nothing is lost, and nothing stored twice.
func TestRedriveThroughFaults(t *testing.T) {
	bubble(t, func(e *env) {
		e.die(50)
		var lost atomic.Int32
		l := line{after: func(b []byte) bool {
			return bytes.Contains(b, []byte("HPUB in.")) && lost.Add(1)%10 == 3
		}}
		js := e.jetStream(e.dial(&l))
		cfg := fluxnats.RedriveConfig{Stream: "DLQ_S", Limit: gcra.PerSecond(10).WithBurst(1)}
		done := make(chan fluxnats.Redriven)
		go func() {
			got, err := fluxnats.Redrive(e.Context(), e.js, cfg)
			e.must(err)
			done <- got
		}()
		go func() {
			got, err := fluxnats.Redrive(e.Context(), js, cfg)
			e.must(err)
			done <- got
		}()
		time.Sleep(2 * time.Second)
		e.stop()
		time.Sleep(2 * time.Second)
		e.start()
		one, other := <-done, <-done
		if one.Redriven+other.Redriven < 50 || one.Failed+other.Failed > 0 {
			t.Errorf("%+v, %+v", one, other)
		}
		if n := e.count("S", "in.>"); n != 50 || e.count("DLQ_S", ">") != 0 {
			t.Errorf("%d messages of 50, %d dead letters left", n, e.count("DLQ_S", ">"))
		}
	})
}

// A dead letter that cannot be redriven stays, and is in nobody's way.
func TestRedriveOddLetters(t *testing.T) {
	bubble(t, func(e *env) {
		e.die(1)
		letter := func(h nats.Header) {
			e.send(&nats.Msg{Subject: "dlq.S.c", Header: h, Data: []byte("odd")})
		}
		letter(nil)
		letter(nats.Header{"Flux-Subject": {"in.*"}})
		letter(nats.Header{"Flux-Subject": {"in..x"}})
		letter(nats.Header{"Flux-Subject": {"dlq.S.c"}})
		letter(nats.Header{"Flux-Subject": {"in.x"}, "Flux-Stream": {"a.b"}})
		letter(nats.Header{"Flux-Subject": {"in.x"}, "Flux-Stream": {"OTHER"}})
		letter(nats.Header{"Flux-Subject": {"nobody.listens"}})
		letter(nats.Header{"Flux-Subject": {"in.x%"}})
		letter(nats.Header{"Flux-Subject": {"in.good"}, "Flux-Attempts": {"x"}, "Nats-Rollup": nil})
		begin := time.Now()
		got, err := fluxnats.Redrive(e.Context(), e.js, fluxnats.RedriveConfig{Stream: "DLQ_S"})
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("took %v", took)
		}
		if err != nil || got.Redriven != 2 || got.Failed != 8 || got.Read != 10 || got.LastError == nil {
			t.Errorf("%+v, %v", got, err)
		}
		if n := e.count("S", ">"); n != 2 || e.count("DLQ_S", ">") != 8 {
			t.Errorf("%d messages, %d dead letters", n, e.count("DLQ_S", ">"))
		}
		if m := e.last("S", "in.good"); string(m.Data) != "odd" {
			t.Errorf("%v", m)
		}
	})
}

func TestRedriveRefuses(t *testing.T) {
	bubble(t, func(e *env) {
		for field, cfg := range map[string]fluxnats.RedriveConfig{
			`Stream = ""`:        {},
			`Stream = "a b"`:     {Stream: "a b"},
			`Subject = "a..b"`:   {Stream: "DLQ_S", Subject: "a..b"},
			`Limit = "deny all"`: {Stream: "DLQ_S", Limit: gcra.DenyAll()},
			`Limit = "`:          {Stream: "DLQ_S", Limit: gcra.PerSecond(-1)},
		} {
			if _, err := fluxnats.Redrive(e.Context(), e.js, cfg); !errors.Is(err, fluxnats.ErrInvalidConfig) || !strings.Contains(err.Error(), field) {
				t.Errorf("%s: %v", field, err)
			}
		}
		cfg := fluxnats.RedriveConfig{Stream: "DLQ_S"}
		if _, err := fluxnats.Redrive(e.Context(), nil, cfg); !errors.Is(err, fluxnats.ErrInvalidConfig) {
			t.Error(err)
		}
		if _, err := fluxnats.Redrive(e.Context(), e.js, cfg); !errors.Is(err, fluxnats.ErrSetup) || !errors.Is(err, jetstream.ErrStreamNotFound) {
			t.Error(err)
		}
		_, err := e.js.CreateStream(e.Context(), jetstream.StreamConfig{Name: "DLQ_S", Subjects: []string{"dlq.>"}, DenyDelete: true})
		e.must(err)
		_, err = e.js.CreateStream(e.Context(), jetstream.StreamConfig{Name: "M", Mirror: &jetstream.StreamSource{Name: "DLQ_S"}})
		e.must(err)
		if _, err := fluxnats.Redrive(e.Context(), e.js, cfg); !errors.Is(err, fluxnats.ErrSetup) || !strings.Contains(err.Error(), "DenyDelete") {
			t.Error(err)
		}
		cfg.Stream = "M"
		if _, err := fluxnats.Redrive(e.Context(), e.js, cfg); !errors.Is(err, fluxnats.ErrSetup) || !strings.Contains(err.Error(), "mirror") {
			t.Error(err)
		}
		cfg.DryRun = true
		if got, err := fluxnats.Redrive(e.Context(), e.js, cfg); err != nil || got != (fluxnats.Redriven{}) {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

// A server that stays away ends it, with nothing lost.
func TestRedriveWithoutAServer(t *testing.T) {
	bubble(t, func(e *env) {
		e.die(10)
		cfg := fluxnats.RedriveConfig{Stream: "DLQ_S", Limit: gcra.PerSecond(1)}
		cfg.Progress = func(r fluxnats.Redriven) {
			if r.Read == 3 {
				e.stop()
			}
		}
		begin := time.Now()
		got, err := fluxnats.Redrive(e.Context(), e.js, cfg)
		if err == nil || got.Redriven != 3 || time.Since(begin) > 5*time.Minute {
			t.Errorf("%+v, %v after %v", got, err, time.Since(begin))
		}
		e.start()
		time.Sleep(time.Second)
		cfg.Progress = nil
		if got, err := fluxnats.Redrive(e.Context(), e.js, cfg); err != nil || got.Redriven != 7 || e.count("S", "in.>") != 10 {
			t.Errorf("%+v, %v", got, err)
		}
	})
}
