package fluxnats_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// boundless is a gate that is told of no bound of the server's.
type boundless struct{ stream.Intake[*fluxnats.Msg] }

func (b boundless) Window(int) int { return b.Intake.Window(1 << 30) }

// sourceFunc is a source that is a function.
type sourceFunc func(context.Context, stream.Intake[*fluxnats.Msg]) error

func (f sourceFunc) Run(ctx context.Context, in stream.Intake[*fluxnats.Msg]) error {
	return f(ctx, in)
}

// A consumer whose MaxAckPending is less than the gate's window, as that of a
// consumer made with the server's defaults is: the gate keeps room for others
// within what the server gives, so that tenants which fill their shares do not
// keep a quiet one waiting.
func TestMaxAckPendingBelowTheWindow(t *testing.T) {
	for _, told := range []bool{true, false} {
		bubble(t, func(e *env) {
			var log bytes.Buffer
			src := e.source(fluxnats.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}, fluxnats.Layout{MaxAckPending: 40})
			send := func(tenant string) {
				e.send(&nats.Msg{Subject: "in.x", Header: nats.Header{"Tenant": {tenant}}})
			}
			for i := range 10 * 40 {
				send(fmt.Sprint("noisy", i%10))
			}
			var mu sync.Mutex
			dwells := make(map[string]time.Duration)
			run := sourceFunc(src.Run)
			if !told {
				run = func(ctx context.Context, in stream.Intake[*fluxnats.Msg]) error { return src.Run(ctx, boundless{in}) }
			}
			g := e.gate(run, gcra.PerHour(1).WithBurst(1), stream.Config[*fluxnats.Msg]{
				Window: 64, Policy: stream.Policy{MaxWait: 1000 * time.Hour, MaxDeferrals: -1},
			}, func(ctx context.Context, m *fluxnats.Msg) error {
				mu.Lock()
				defer mu.Unlock()
				info, _ := stream.FromContext(ctx)
				dwells[info.Tenant] = time.Since(info.Published)
				return nil
			})
			time.Sleep(time.Minute)
			for i := range 5 {
				send(fmt.Sprint("quiet", i))
			}
			time.Sleep(10 * time.Second)
			window := g.gate.Snapshot(0).Window
			g.stop()
			slow := 0
			for i := range 5 {
				if dwell, ok := dwells[fmt.Sprint("quiet", i)]; !ok || dwell > time.Second {
					slow++
				}
			}
			switch warned := strings.Contains(log.String(), "window=64 max_ack_pending=40"); {
			case told && (slow > 0 || window != 40 || !warned):
				t.Errorf("%d of 5 quiet tenants were kept waiting, the window is %d: %s", slow, window, &log)
			case !told && slow < 5:
				t.Error("the test cannot fail")
			}
		})
	}
}

// One that is lowered while the source runs.
func TestMaxAckPendingIsLoweredInMidStream(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.source(fluxnats.Config{}, fluxnats.Layout{})
		g := e.gate(src, gcra.Unlimited(), stream.Config[*fluxnats.Msg]{Window: 64}, func(context.Context, *fluxnats.Msg) error { return nil })
		config := e.info().Config
		config.MaxAckPending = 48
		_, err := e.js.UpdateConsumer(e.Context(), "S", config)
		e.must(err)
		e.stop()
		e.start()
		time.Sleep(10 * time.Second)
		if got := g.gate.Snapshot(0).Window; got != 48 {
			t.Errorf("the window is %d", got)
		}
		g.stop()
		if got := g.gate.Snapshot(0).Window; got != 64 {
			t.Errorf("the window is %d after the run", got)
		}
	})
}

// A subscription of core NATS does not wait for room in the gate, which it would
// do outside of what Backlog bounds: nobody would have what is published meanwhile.
func TestCoreSubscribesBesideAFullGate(t *testing.T) {
	bubble(t, func(e *env) {
		js := e.source(fluxnats.Config{}, fluxnats.Layout{})
		message := func(subject string, i int) *nats.Msg {
			return &nats.Msg{Subject: subject, Header: nats.Header{"Tenant": {"a"}}, Data: fmt.Append(nil, i)}
		}
		for i := range 8 {
			e.send(message("in.x", i))
		}
		core := e.core(fluxnats.CoreConfig{Subject: "core.>"})
		late := sourceFunc(func(ctx context.Context, in stream.Intake[*fluxnats.Msg]) error {
			time.Sleep(time.Second)
			return core.Run(ctx, in)
		})
		var seen tally
		g := e.gate(stream.Join[*fluxnats.Msg](js, late), gcra.Unlimited(), stream.Config[*fluxnats.Msg]{
			Window: 8, Workers: 8, TenantWindow: 8,
		}, func(_ context.Context, m *fluxnats.Msg) error {
			seen.add(m)
			time.Sleep(10 * time.Second)
			return nil
		})
		time.Sleep(2 * time.Second)
		if held := g.gate.Stats().Held; held != 8 {
			t.Fatalf("%d messages are held", held)
		}
		for i := range 5 {
			e.must(e.nc.PublishMsg(message("core.x", 8+i)))
		}
		time.Sleep(time.Minute)
		g.stop()
		seen.exactly(e.T, 13)
	})
}
