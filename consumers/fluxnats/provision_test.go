package fluxnats_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
)

func TestProvisionMakesWhatRunNeeds(t *testing.T) {
	for _, cfg := range []fluxnats.Config{
		{},
		{ReturnSubject: "back.{stream}.{consumer}"},
		{NakDeferrals: true},
		{DeferSubject: "later", DeadLetterStream: "DEAD", DeadLetterSubject: "dead.{consumer}"},
	} {
		for _, l := range []fluxnats.Layout{
			{Subjects: []string{"in.>"}},
			{Subjects: []string{"in.a", "in.b.*"}, Retention: jetstream.WorkQueuePolicy, Storage: jetstream.MemoryStorage, AckWait: time.Minute, MaxAckPending: -1},
		} {
			bubble(t, func(e *env) {
				src := e.newSource(cfg)
				created, err := src.Provision(e.Context(), l)
				if want := (fluxnats.Created{Stream: true, Consumer: true, DeadLetters: true}); err != nil || created != want {
					t.Fatalf("%+v, %v", created, err)
				}
				created, err = src.Provision(e.Context(), l)
				if want := (fluxnats.Created{}); err != nil || created != want {
					t.Errorf("again: %+v, %v", created, err)
				}
				r := e.run(src, newIntake(64, nil))
				time.Sleep(time.Second)
				r.stop()
			})
		}
	}
}

func TestProvisionRefusesWhatIsOtherwise(t *testing.T) {
	for _, c := range []struct {
		was  fluxnats.Layout
		cfg  fluxnats.Config
		want string
	}{
		{fluxnats.Layout{Subjects: []string{"other.>"}}, fluxnats.Config{}, "stream S: Subjects is flux.defer.S.c.*, other.>, wanted flux.defer.S.c.*, in.>"},
		{fluxnats.Layout{Retention: jetstream.WorkQueuePolicy}, fluxnats.Config{}, "stream S: Retention is WorkQueue, wanted Limits"},
		{fluxnats.Layout{Storage: jetstream.MemoryStorage}, fluxnats.Config{}, "stream S: Storage is Memory, wanted File"},
		{fluxnats.Layout{AckWait: time.Second}, fluxnats.Config{}, "consumer c: AckWait is 1s, wanted 30s"},
		{fluxnats.Layout{MaxAckPending: 7}, fluxnats.Config{}, "consumer c: MaxAckPending is 7, wanted 8192"},
		{fluxnats.Layout{}, fluxnats.Config{DeadLetterSubject: "else"}, "stream DLQ_S: Subjects is dlq.S.c, wanted else"},
	} {
		bubble(t, func(e *env) {
			e.source(fluxnats.Config{}, c.was)
			_, err := e.newSource(c.cfg).Provision(e.Context(), fluxnats.Layout{Subjects: []string{"in.>"}})
			if !errors.Is(err, fluxnats.ErrExists) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("want %s, got %v", c.want, err)
			}
		})
	}
}

func TestProvisionLeavesNothingHalfMade(t *testing.T) {
	for name, c := range map[string]struct {
		dead    string // what the stream for dead letters takes in
		options func(*server.Options)
	}{
		"dead letters": {"dlq.>", func(*server.Options) {}},
		"consumer":     {"dlq.S.c", func(o *server.Options) { o.JetStreamLimits.MaxAckPending = 10 }},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(e *env) {
				if _, err := e.js.CreateStream(e.Context(), jetstream.StreamConfig{Name: "DLQ_S", Subjects: []string{c.dead}}); err != nil {
					t.Fatal(err)
				}
				created, err := e.newSource(fluxnats.Config{}).Provision(e.Context(), fluxnats.Layout{Subjects: []string{"in.>"}})
				if err == nil || created != (fluxnats.Created{}) {
					t.Fatalf("%+v, %v", created, err)
				}
				if _, err := e.js.Stream(e.Context(), "S"); !errors.Is(err, jetstream.ErrStreamNotFound) {
					t.Errorf("stream S is left, %v", err)
				}
				if _, err := e.js.Stream(e.Context(), "DLQ_S"); err != nil {
					t.Errorf("what was there is gone: %v", err)
				}
			}, c.options)
		})
	}
}

// Of two that provision at once each may believe that it created the stream. One
// that fails after that does not delete it with what is in it, or is read from it.
func TestProvisionSparesWhatIsUsed(t *testing.T) {
	for name, use := range map[string]func(e *env){
		"messages":  func(e *env) { e.publish(1) },
		"consumers": func(e *env) { e.source(fluxnats.Config{}, fluxnats.Layout{}) },
		"":          func(*env) {},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(e *env) {
				var l line
				l.lose("STREAM.INFO.DLQ_S")
				src := e.sourceOver(&l, fluxnats.Config{})
				failed := make(chan error)
				go func() {
					_, err := src.Provision(e.Context(), fluxnats.Layout{Subjects: []string{"in.>"}})
					failed <- err
				}()
				time.Sleep(time.Second)
				use(e)
				if err := <-failed; err == nil {
					t.Error("no error")
				}
				if _, err := e.js.Stream(e.Context(), "S"); errors.Is(err, jetstream.ErrStreamNotFound) != (name == "") {
					t.Errorf("the stream: %v", err)
				}
			})
		})
	}
}

func TestProvisionRefusesALayout(t *testing.T) {
	for want, l := range map[string]fluxnats.Layout{
		`Layout.Subjects = []`:             {},
		`Layout.Subjects[1] = "a b"`:       {Subjects: []string{"a", "a b"}},
		`Layout.Subjects[0] = "a.>.b"`:     {Subjects: []string{"a.>.b"}},
		`must not take in "flux.defer.S.c`: {Subjects: []string{">"}},
		`must not take in "dlq.S.c"`:       {Subjects: []string{"dlq.*.*"}},
		`Layout.Retention = Interest`:      {Subjects: []string{"a"}, Retention: jetstream.InterestPolicy},
		`Layout.Replicas = -1`:             {Subjects: []string{"a"}, Replicas: -1},
		`Layout.AckWait = -1s`:             {Subjects: []string{"a"}, AckWait: -time.Second},
		`Layout.AckWait = 1ms`:             {Subjects: []string{"a"}, AckWait: time.Millisecond},
		`Layout.MaxAckPending = -2`:        {Subjects: []string{"a"}, MaxAckPending: -2},
	} {
		bubble(t, func(e *env) {
			_, err := e.newSource(fluxnats.Config{}).Provision(e.Context(), l)
			if !errors.Is(err, fluxnats.ErrInvalidConfig) || !strings.Contains(err.Error(), want) {
				t.Errorf("want %s, got %v", want, err)
			}
		})
	}
}

func TestProvisionWithoutAServer(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.newSource(fluxnats.Config{})
		e.stop()
		start := time.Now()
		ctx, cancel := context.WithTimeout(e.Context(), time.Hour)
		defer cancel()
		if _, err := src.Provision(ctx, fluxnats.Layout{Subjects: []string{"in.>"}}); err == nil {
			t.Error("no error")
		}
		if took := time.Since(start); took > 30*time.Second {
			t.Errorf("took %v", took)
		}
		e.start()
	})
}
