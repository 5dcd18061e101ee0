package fluxnats_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// through runs src through a gate for as long as f takes.
func (e *env) through(cfg stream.Config[*fluxnats.Msg], src stream.Source[*fluxnats.Msg], handle stream.Handler[*fluxnats.Msg], f func()) {
	e.Helper()
	if cfg.Limiter == nil {
		lim, err := flux.New(flux.Config[string]{Limit: gcra.Unlimited()})
		if err != nil {
			e.Fatal(err)
		}
		cfg.Limiter = lim
	}
	gate, err := stream.New(cfg)
	if err != nil {
		e.Fatal(err)
	}
	ctx, cancel := context.WithCancel(e.Context())
	done := make(chan error, 1)
	go func() { done <- gate.Run(ctx, src, handle) }()
	f()
	cancel()
	if err := <-done; err != nil {
		e.Errorf("Run: %v", err)
	}
	time.Sleep(10 * time.Millisecond) // the server has the last acknowledgements, but may not have looked at them
}

// With the subject as the order key the messages of a subject are processed in the
// order of the stream, whatever fails and is deferred, beside those of others.
func TestOrderBySubject(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.source(fluxnats.Config{}, fluxnats.Layout{})
		const subjects, each = 5, 60
		for i := range each {
			for s := range subjects {
				e.send(&nats.Msg{Subject: fmt.Sprintf("in.%d", s), Data: fmt.Append(nil, i)})
			}
		}
		var mu sync.Mutex
		order := make(map[string][]int)
		tries := make(map[string]int)
		cfg := stream.Config[*fluxnats.Msg]{
			Tenant: func(*fluxnats.Msg) string { return "t" }, OrderKey: (*fluxnats.Msg).Subject, TenantWindow: 256, Window: 256,
			Policy: stream.Policy{MaxWait: time.Second, MaxDeferrals: -1},
		}
		e.through(cfg, src, func(_ context.Context, m *fluxnats.Msg) error {
			time.Sleep(10 * time.Millisecond)
			i := number(m.Data())
			mu.Lock()
			defer mu.Unlock()
			tries[m.ID()]++
			if tries[m.ID()] == 1 {
				switch i % 10 {
				case 3:
					return errors.New("fails")
				case 7:
					return stream.RetryLater(5*time.Second, errors.New("later"))
				}
			}
			order[m.Subject()] = append(order[m.Subject()], i)
			return nil
		}, func() { time.Sleep(10 * time.Minute) })
		for s, got := range order {
			if !slices.IsSorted(got) || len(got) != each {
				t.Errorf("%s: %v", s, got)
			}
		}
		if len(order) != subjects || src.Stats().Copies == 0 {
			t.Errorf("%d subjects, %+v", len(order), src.Stats())
		}
	})
}

// Several consumers share a gate, and with it the limit of a tenant.
func TestSeveralConsumersInOneGate(t *testing.T) {
	bubble(t, func(e *env) {
		one := e.source(fluxnats.Config{}, fluxnats.Layout{})
		two := e.source(fluxnats.Config{Stream: "T"}, fluxnats.Layout{Subjects: []string{"other.>"}})
		const each = 100
		for i := range each {
			e.send(&nats.Msg{Subject: "in.a", Data: fmt.Append(nil, i)})
			e.send(&nats.Msg{Subject: "other.a", Data: fmt.Append(nil, each+i)})
		}
		lim, err := flux.New(flux.Config[string]{Limit: gcra.PerSecond(10).WithBurst(1)})
		if err != nil {
			t.Fatal(err)
		}
		var seen tally
		start := time.Now()
		var last time.Duration
		cfg := stream.Config[*fluxnats.Msg]{
			Limiter: lim, Tenant: func(*fluxnats.Msg) string { return "t" }, Window: 64, Policy: stream.Policy{MaxDeferrals: -1},
		}
		e.through(cfg, stream.Join[*fluxnats.Msg](one, two), func(_ context.Context, m *fluxnats.Msg) error {
			seen.add(m)
			last = time.Since(start)
			return nil
		}, func() { time.Sleep(10 * time.Minute) })
		seen.exactly(e.T, 2*each)
		if want := (2*each - 1) * 100 * time.Millisecond; last < want {
			t.Errorf("done after %v, want at least %v", last, want)
		}
	})
}
