package fluxnats_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// Members of a queue group come and go while messages are published. Every one of
// them is processed once, or becomes one dead letter: at most once does not mean
// that an orderly end may lose any.
func TestCoreSoak(t *testing.T) {
	for seed := range uint64(10) {
		bubble(t, func(e *env) {
			e.deadLetters()
			rnd := rand.New(rand.NewPCG(seed, 1))
			var seen tally
			member := func() *gated {
				src := e.core(fluxnats.CoreConfig{Queue: "q", Backlog: 1 << 20, DeadLetterSubject: "dead.core", DeadLetterStream: "DEAD"})
				return e.gate(src, gcra.PerSecond(100).WithBurst(10), stream.Config[*fluxnats.Msg]{
					Policy: stream.Policy{MaxWait: 200 * time.Millisecond, OnDenied: stream.DeadLetter}, Window: 32,
				}, func(_ context.Context, m *fluxnats.Msg) error {
					time.Sleep(time.Duration(len(m.Data())) * time.Millisecond)
					if m.Headers().Get("Bad") != "" {
						return stream.Permanent(errors.New("bad"))
					}
					seen.add(m)
					return nil
				})
			}
			members := []*gated{member(), member(), member()}
			const n = 1000
			bad := 0
			for i := range n {
				m := &nats.Msg{Subject: "in.x", Header: nats.Header{"Tenant": {fmt.Sprint(i % 3)}}, Data: fmt.Append(nil, i)}
				if rnd.IntN(20) == 0 {
					bad++
					m.Header.Set("Bad", "yes")
				}
				e.must(e.nc.PublishMsg(m))
				if rnd.IntN(20) == 0 {
					time.Sleep(time.Duration(rnd.IntN(200)) * time.Millisecond)
				}
				if rnd.IntN(100) == 0 {
					k := rnd.IntN(len(members))
					leaving := members[k]
					members[k] = member()
					leaving.stop()
				}
			}
			time.Sleep(time.Minute)
			for _, g := range members {
				g.stop()
			}
			kinds, handled := seen.sum()
			if dead := e.count("DEAD", ">"); kinds != handled || handled+dead != n || dead < bad || handled == 0 {
				t.Errorf("seed %d: handled %d, %d times in all, dead letters %d of %d", seed, kinds, handled, dead, n)
			}
		})
	}
}

// Several consumers share a gate: one limit holds for the messages of both, and
// each is settled where it came from.
func TestConsumersInOneGate(t *testing.T) {
	bubble(t, func(e *env) {
		one := e.source(fluxnats.Config{}, fluxnats.Layout{})
		two := e.source(fluxnats.Config{Stream: "T", Consumer: "d"}, fluxnats.Layout{Subjects: []string{"other.>"}})
		var seen tally
		g := e.gate(stream.Join[*fluxnats.Msg](one, two), gcra.PerSecond(10).WithBurst(1), stream.Config[*fluxnats.Msg]{
			Policy: stream.Policy{MaxDeferrals: -1}, Window: 32,
		}, func(_ context.Context, m *fluxnats.Msg) error {
			seen.add(m)
			return nil
		})
		for i := range 50 {
			for _, subject := range []string{"in.x", "other.x"} {
				e.send(&nats.Msg{Subject: subject, Header: nats.Header{"Tenant": {"a"}}, Data: fmt.Append(nil, subject, i)})
			}
		}
		time.Sleep(5 * time.Second)
		if _, n := seen.sum(); n < 45 || n > 52 {
			t.Errorf("%d in 5 seconds", n)
		}
		time.Sleep(time.Minute)
		g.stop()
		seen.exactly(e.T, 100)
		for str, name := range map[string]string{"S": "c", "T": "d"} {
			con, err := e.js.Consumer(e.Context(), str, name)
			e.must(err)
			if info := con.CachedInfo(); info.NumAckPending != 0 || info.NumPending != 0 || e.count(str, "flux.defer.>") != 0 {
				t.Errorf("%s: ack pending %d, pending %d", str, info.NumAckPending, info.NumPending)
			}
		}
	})
}

// A dead letter of core NATS that is too large with all that could be said of it
// says less, and keeps payload and headers.
func TestCoreDeadLetterOfALargeMessage(t *testing.T) {
	for name, c := range map[string]struct {
		header, payload int
		str             string
	}{
		"headers":            {60 << 10, 10, "DEAD"},
		"payload":            {10, 1<<20 - 2<<10, "DEAD"},
		"without confirming": {10, 1<<20 - 2<<10, ""},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(e *env) {
				e.deadLetters()
				src := e.core(fluxnats.CoreConfig{DeadLetterSubject: "dead.core", DeadLetterStream: c.str})
				g := e.gate(src, gcra.Unlimited(), stream.Config[*fluxnats.Msg]{Policy: stream.Policy{OnDenied: stream.Drop}},
					func(context.Context, *fluxnats.Msg) error {
						return stream.Permanent(errors.New(strings.Repeat("\n", 10<<10)))
					})
				e.must(e.nc.PublishMsg(&nats.Msg{
					Subject: "in.a", Data: bytes.Repeat([]byte("p"), c.payload),
					Header: nats.Header{"Tenant": {"a"}, "X": {strings.Repeat("x", c.header)}, "Nats-Rollup": {"all"}, "Flux-Reason": {"none"}},
				}))
				time.Sleep(time.Minute)
				g.stop()
				if e.count("DEAD", ">") != 1 {
					t.Fatal("no dead letter")
				}
				m := e.last("DEAD", "dead.core")
				if h := m.Header; len(m.Data) != c.payload || len(h.Get("X")) != c.header || h.Get("Flux-Reason") != "handler_permanent" || h.Get("Flux-Error") == "" || h.Get("Nats-Rollup") != "" {
					t.Errorf("payload of %d, header of %d, reason %q", len(m.Data), len(h.Get("X")), h.Get("Flux-Reason"))
				}
			})
		})
	}
}
