package fluxnats_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// The whole of it: a flooding tenant, quiet ones, a poisoned message and one of
// no tenant, through a gate with a limit per tenant.
func TestThroughTheGate(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.source(fluxnats.Config{}, fluxnats.Layout{})
		lim, err := flux.New(flux.Config[string]{Limit: gcra.PerSecond(10).WithBurst(5)})
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		admitted := make(map[string][]time.Time)
		gate, err := stream.New(stream.Config[*fluxnats.Msg]{
			Limiter: lim,
			Tenant:  func(m *fluxnats.Msg) string { return m.Headers().Get("Tenant") },
			Policy:  stream.Policy{MaxWait: time.Second, MaxDeferrals: -1, MaxAttempts: 3},
			Window:  64,
			Hooks: stream.Hooks{Admitted: func(i stream.Info) {
				mu.Lock()
				defer mu.Unlock()
				admitted[i.Tenant] = append(admitted[i.Tenant], i.Granted)
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
		const noisy, quiet = 400, 20
		want := 0
		for i := range noisy {
			e.send(&nats.Msg{Subject: "in.x", Header: nats.Header{"Tenant": {"noisy"}}, Data: fmt.Append(nil, "noisy ", i)})
			want++
		}
		for i := range quiet {
			for _, tenant := range []string{"a", "b"} {
				e.send(&nats.Msg{Subject: "in.x", Header: nats.Header{"Tenant": {tenant}}, Data: fmt.Append(nil, tenant, " ", i)})
				want++
			}
		}
		e.send(&nats.Msg{Subject: "in.x", Header: nats.Header{"Tenant": {"a"}}, Data: []byte("poison")})
		e.send(&nats.Msg{Subject: "in.x", Data: []byte("stray")})

		var seen tally
		ctx, cancel := context.WithCancel(e.Context())
		done := make(chan error, 1)
		go func() {
			done <- gate.Run(ctx, src, func(_ context.Context, m *fluxnats.Msg) error {
				if string(m.Data()) == "poison" {
					panic("poison")
				}
				if strings.HasPrefix(string(m.Data()), "noisy") {
					time.Sleep(time.Millisecond)
				}
				seen.add(m)
				return nil
			})
		}()
		time.Sleep(10 * time.Minute)
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
		seen.exactly(e.T, want)
		if n := e.count("DLQ_S", ">"); n != 2 {
			t.Errorf("%d dead letters", n)
		}
		if info := e.info(); info.NumAckPending != 0 || info.NumPending != 0 || info.NumRedelivered != 0 || e.count("S", "flux.defer.>") != 0 {
			t.Errorf("ack pending %d, pending %d, redelivered %d", info.NumAckPending, info.NumPending, info.NumRedelivered)
		}
		if got := src.Stats(); got.Copies == 0 || got.Naks != 0 {
			t.Errorf("%+v", got)
		}
		for tenant, times := range admitted {
			for i := range times {
				for j := i + 1; j < len(times); j++ {
					if n, w := j-i+1, times[j].Sub(times[i]); time.Duration(n-5)*100*time.Millisecond > w {
						t.Fatalf("%s: %d admitted within %v", tenant, n, w)
					}
				}
			}
		}
	})
}
