package fluxnats_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// core returns a source of in.> with a connection of its own.
func (e *env) core(cfg fluxnats.CoreConfig, opts ...nats.Option) *fluxnats.Core {
	e.Helper()
	nc := e.connect(append(e.admin(), opts...)...)
	e.Cleanup(nc.Close)
	if cfg.Subject == "" {
		cfg.Subject = "in.>"
	}
	src, err := fluxnats.NewCore(nc, cfg)
	if err != nil {
		e.Fatal(err)
	}
	return src
}

// tell publishes n messages of a tenant without JetStream.
func (e *env) tell(tenant string, n int) {
	e.Helper()
	for i := range n {
		e.must(e.nc.PublishMsg(&nats.Msg{Subject: "in.x", Header: nats.Header{"Tenant": {tenant}}, Data: fmt.Append(nil, tenant, " ", i)}))
	}
	e.must(e.nc.Flush())
}

func (e *env) deadLetters() {
	e.Helper()
	_, err := e.js.CreateStream(e.Context(), jetstream.StreamConfig{Name: "DEAD", Subjects: []string{"dead.>"}})
	e.must(err)
}

// gated is a gate that runs.
type gated struct {
	*running
	gate *stream.Gate[*fluxnats.Msg]
}

func (e *env) gate(src stream.Source[*fluxnats.Msg], limit gcra.Limit, cfg stream.Config[*fluxnats.Msg], handle stream.Handler[*fluxnats.Msg]) *gated {
	e.Helper()
	lim, err := flux.New(flux.Config[string]{Limit: limit})
	if err != nil {
		e.Fatal(err)
	}
	cfg.Limiter = lim
	cfg.Tenant = func(m *fluxnats.Msg) string { return m.Headers().Get("Tenant") }
	gate, err := stream.New(cfg)
	if err != nil {
		e.Fatal(err)
	}
	g := &gated{e.begin(func(ctx context.Context) error { return gate.Run(ctx, src, handle) }), gate}
	time.Sleep(time.Millisecond) // it has subscribed
	return g
}

// What is denied waits as the policy allows and is dropped beyond that; nothing
// is deferred, and everything is accounted for.
func TestCoreThroughTheGate(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.core(fluxnats.CoreConfig{Queue: "q"})
		var seen tally
		g := e.gate(src, gcra.PerSecond(10).WithBurst(5), stream.Config[*fluxnats.Msg]{
			Policy: stream.Policy{MaxWait: time.Second, OnDenied: stream.Drop, OnNoTenant: stream.Drop}, Window: 128,
		}, func(_ context.Context, m *fluxnats.Msg) error {
			seen.add(m)
			return nil
		})
		e.tell("noisy", 100)
		e.tell("quiet", 5)
		e.tell("", 3)
		time.Sleep(10 * time.Second)
		stats := g.gate.Stats()
		g.stop()
		// Noisy: 5 at once, and 10 within the second that a message may wait.
		seen.exactly(e.T, 20)
		if stats.Processed != 20 || stats.Dropped != 88 || stats.Deferred != 0 || stats.Held != 0 {
			t.Errorf("%+v", stats)
		}
		if got := src.Stats(); got != (fluxnats.CoreStats{Received: 108}) {
			t.Errorf("%+v", got)
		}
	})
}

// The default policy defers, so the gate refuses it.
func TestCoreRefusesToDefer(t *testing.T) {
	bubble(t, func(e *env) {
		g := e.gate(e.core(fluxnats.CoreConfig{}), gcra.Unlimited(), stream.Config[*fluxnats.Msg]{}, nil)
		<-g.done
		if !errors.Is(g.err, stream.ErrInvalidConfig) {
			t.Error(g.err)
		}
	})
}

// A request that is denied is told when it would have had its turn; sent again
// then, it is served.
func TestRequestsThatAreRefused(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.core(fluxnats.CoreConfig{Queue: "q", AnswerRefused: true, DeadLetterSubject: "dead.core"})
		dead, err := e.nc.SubscribeSync("dead.core")
		e.must(err)
		g := e.gate(src, gcra.PerSecond(2).WithBurst(1), stream.Config[*fluxnats.Msg]{
			Cost:   func(m *fluxnats.Msg) int64 { return int64(len(m.Headers()["Cost"])) },
			Policy: stream.Policy{MaxWait: -1, OnDenied: stream.DeadLetter, MaxAttempts: 1},
		}, func(_ context.Context, m *fluxnats.Msg) error {
			if string(m.Data()) == "late failure" {
				e.must(m.Respond(nil, []byte("done")))
			}
			if strings.HasSuffix(string(m.Data()), "failure") {
				return errors.New("failed")
			}
			return m.Respond(nats.Header{"X": {"y"}}, m.Data())
		})
		ask := func(tenant, data string, cost int) (*nats.Msg, fluxnats.Refusal, bool) {
			t.Helper()
			m := &nats.Msg{Subject: "in.x", Header: nats.Header{"Tenant": {tenant}, "Cost": make([]string, cost)}, Data: []byte(data)}
			answer, err := e.nc.RequestMsg(m, time.Second)
			if err != nil {
				t.Fatal(err)
			}
			r, refused := fluxnats.ReadRefusal(answer)
			return answer, r, refused
		}
		if m, _, refused := ask("a", "one", 1); refused || string(m.Data) != "one" || m.Header.Get("X") != "y" {
			t.Errorf("first: %v", m)
		}
		time.Sleep(100*time.Millisecond + time.Microsecond)
		m, r, refused := ask("a", "two", 1)
		if want := (fluxnats.Refusal{Code: 429, Reason: "quota_exceeded", RetryAfter: 400 * time.Millisecond}); !refused || r != want || m.Header.Get("Retry-After") != "1" {
			t.Errorf("second: %+v, %v", r, m.Header)
		}
		time.Sleep(r.RetryAfter)
		if m, _, refused := ask("a", "two", 1); refused || string(m.Data) != "two" {
			t.Errorf("second again: %v", m)
		}
		for _, c := range []struct {
			tenant, data string
			cost         int
			want         fluxnats.Refusal
		}{
			{"", "none", 1, fluxnats.Refusal{Code: 400, Reason: "no_tenant"}},
			{"b", "large", 3, fluxnats.Refusal{Code: 413, Reason: "oversize"}},
			{"c", "failure", 1, fluxnats.Refusal{Code: 500, Reason: "max_attempts"}},
		} {
			if _, r, refused := ask(c.tenant, c.data, c.cost); !refused || r != c.want {
				t.Errorf("%s: %+v", c.data, r)
			}
		}
		// One that was answered is not refused as well, and becomes a dead letter.
		if m, _, refused := ask("d", "late failure", 1); refused || string(m.Data) != "done" {
			t.Errorf("%v", m)
		}
		if m, err := dead.NextMsg(time.Second); err != nil || string(m.Data) != "late failure" || m.Header.Get("Flux-Reason") != "max_attempts" || m.Header.Get("Flux-Subject") != "in.x" {
			t.Errorf("dead letter %v, %v", m, err)
		}
		g.stop()
		if got := src.Stats(); got != (fluxnats.CoreStats{Received: 7, Refused: 4, DeadLetters: 1}) {
			t.Errorf("%+v", got)
		}
	})
}

// A message that is published is no request, and neither is one of JetStream.
func TestRespondToNobody(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.source(fluxnats.Config{}, fluxnats.Layout{})
		var n atomic.Int32
		g := e.gate(stream.Join[*fluxnats.Msg](src, e.core(fluxnats.CoreConfig{Subject: "out.>", Queue: "q"})), gcra.Unlimited(),
			stream.Config[*fluxnats.Msg]{Policy: stream.Policy{OnDenied: stream.DeadLetter}},
			func(_ context.Context, m *fluxnats.Msg) error {
				n.Add(1)
				if err := m.Respond(nil, nil); !errors.Is(err, fluxnats.ErrNoRequest) {
					t.Errorf("%s: %v", m.Subject(), err)
				}
				if want := map[string]string{"in.x": "S:1", "out.x": "mine"}[m.Subject()]; m.ID() != want {
					t.Errorf("%s: ID %q", m.Subject(), m.ID())
				}
				return nil
			})
		h := nats.Header{"Tenant": {"a"}, "Nats-Msg-Id": {"mine"}}
		e.send(&nats.Msg{Subject: "in.x", Header: h})
		e.must(e.nc.PublishMsg(&nats.Msg{Subject: "out.x", Header: h}))
		time.Sleep(time.Second)
		g.stop()
		if n.Load() != 2 {
			t.Errorf("%d messages of two sources in one gate", n.Load())
		}
	})
}

// Dead letters are confirmed by their stream, and one whose confirmation is lost
// is stored once.
func TestCoreDeadLetters(t *testing.T) {
	bubble(t, func(e *env) {
		e.deadLetters()
		var lost atomic.Int32
		l := line{after: func(b []byte) bool {
			return bytes.Contains(b, []byte("HPUB dead.")) && lost.Add(1) == 1
		}}
		nc := e.dial(&l)
		defer nc.Close()
		src, err := fluxnats.NewCore(nc, fluxnats.CoreConfig{Subject: "in.>", DeadLetterSubject: "dead.core", DeadLetterStream: "DEAD"})
		e.must(err)
		g := e.gate(src, gcra.Unlimited(), stream.Config[*fluxnats.Msg]{
			Policy: stream.Policy{OnDenied: stream.DeadLetter},
		}, func(context.Context, *fluxnats.Msg) error {
			time.Sleep(time.Second) // all have arrived when the line breaks
			return stream.Permanent(errors.New("bad"))
		})
		e.tell("a", 10)
		time.Sleep(time.Minute)
		stats := g.gate.Stats()
		g.stop()
		if stats.DeadLettered != 10 || stats.SettleErrors == 0 || e.count("DEAD", ">") != 10 {
			t.Errorf("%+v, stored %d", stats, e.count("DEAD", ">"))
		}
		m := e.last("DEAD", "dead.core")
		if h := m.Header; h.Get("Flux-Reason") != "handler_permanent" || h.Get("Flux-Error") != "bad" || h.Get("Flux-Tenant") != "a" || h.Get("Tenant") != "a" || h.Get("Flux-Subject") != "in.x" {
			t.Errorf("%v", h)
		}
		if got := src.Stats(); got.DeadLetters != 10 || got.Discarded != 0 {
			t.Errorf("%+v", got)
		}
	})
}

// What the gate takes too slowly waits in the client, up to the backlog; the rest
// is dropped by the client, and counted.
func TestCoreDropsBeyondTheBacklog(t *testing.T) {
	for _, c := range []struct{ backlog, dropped int }{{0, 100 - 4 - 4}, {30, 100 - 4 - 30}} {
		bubble(t, func(e *env) {
			src := e.core(fluxnats.CoreConfig{Backlog: c.backlog})
			g := e.gate(src, gcra.Unlimited(), stream.Config[*fluxnats.Msg]{
				Policy: stream.Policy{OnDenied: stream.Drop}, Window: 4, TenantWindow: 4, Workers: 1,
			}, func(context.Context, *fluxnats.Msg) error {
				time.Sleep(5 * time.Second)
				return nil
			})
			for range 100 {
				e.tell("a", 1)
				time.Sleep(time.Millisecond)
			}
			time.Sleep(5 * time.Minute)
			stats := g.gate.Stats()
			g.stop()
			got := src.Stats()
			if got.Dropped != int64(c.dropped) || got.Received+got.Dropped != 100 || stats.Processed+stats.Dropped != got.Received {
				t.Errorf("backlog %d: %+v, %+v", c.backlog, got, stats)
			}
		})
	}
}

// A server that restarts costs what was published meanwhile, and no more.
func TestCoreSurvivesARestart(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.core(fluxnats.CoreConfig{Queue: "q"})
		var seen tally
		g := e.gate(src, gcra.Unlimited(), stream.Config[*fluxnats.Msg]{Policy: stream.Policy{OnDenied: stream.Drop}},
			func(_ context.Context, m *fluxnats.Msg) error {
				seen.add(m)
				return nil
			})
		for i := range 3 {
			e.tell(fmt.Sprint("tenant", i), 10)
			time.Sleep(time.Second)
			e.stop()
			time.Sleep(3 * time.Second)
			e.start()
			time.Sleep(3 * time.Second)
		}
		g.stop()
		seen.exactly(e.T, 30)
	})
}

// At the end of one member nothing that it has received is lost: what was not
// processed is a dead letter, or a refused request, and the rest goes to others.
func TestCoreDrain(t *testing.T) {
	bubble(t, func(e *env) {
		e.deadLetters()
		policy := stream.Policy{MaxWait: time.Minute, OnDenied: stream.DeadLetter}
		cfg := fluxnats.CoreConfig{Queue: "q", AnswerRefused: true, DeadLetterSubject: "dead.core", DeadLetterStream: "DEAD"}
		var seen tally
		handle := func(_ context.Context, m *fluxnats.Msg) error {
			time.Sleep(time.Second)
			seen.add(m)
			return nil
		}
		config := stream.Config[*fluxnats.Msg]{Policy: policy, Window: 1024}
		first, second := e.core(cfg), e.core(cfg)
		g := e.gate(first, gcra.PerSecond(10), config, handle)
		h := e.gate(second, gcra.Unlimited(), config, handle)
		e.tell("a", 50)
		inbox := e.nc.NewInbox()
		answers, err := e.nc.SubscribeSync(inbox)
		e.must(err)
		for i := range 20 {
			e.must(e.nc.PublishMsg(&nats.Msg{Subject: "in.x", Reply: inbox, Header: nats.Header{"Tenant": {"a"}}, Data: fmt.Append(nil, "request ", i)}))
		}
		e.must(e.nc.Flush())
		time.Sleep(100 * time.Millisecond)
		g.cancel()
		e.tell("b", 30)
		<-g.done
		time.Sleep(10 * time.Second)
		h.stop()
		if g.err != nil {
			t.Error(g.err)
		}
		refused := 0
		for {
			m, err := answers.NextMsg(time.Millisecond)
			if err != nil {
				break
			}
			if r, ok := fluxnats.ReadRefusal(m); !ok || r != (fluxnats.Refusal{Code: 503, Reason: "released"}) {
				t.Errorf("%+v", m.Header)
			}
			refused++
		}
		dead := e.count("DEAD", ">")
		_, handled := seen.sum()
		if handled+dead+refused != 100 || dead == 0 || refused == 0 {
			t.Errorf("handled %d, dead letters %d, refused %d of 100", handled, dead, refused)
		}
		if got := first.Stats(); int(got.Released) != dead+refused || got.Discarded+got.Dropped != 0 {
			t.Errorf("%+v, dead letters %d, refused %d", got, dead, refused)
		}
	})
}

// Without a place for dead letters they are counted.
func TestCoreDiscards(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.core(fluxnats.CoreConfig{AnswerRefused: true})
		g := e.gate(src, gcra.Unlimited(), stream.Config[*fluxnats.Msg]{Policy: stream.Policy{OnDenied: stream.DeadLetter}},
			func(context.Context, *fluxnats.Msg) error { return stream.Permanent(errors.New("bad")) })
		e.tell("a", 7)
		time.Sleep(time.Second)
		g.stop()
		if got := src.Stats(); got != (fluxnats.CoreStats{Received: 7, Discarded: 7}) {
			t.Errorf("%+v", got)
		}
	})
}

// A message that is given up after the connection is closed is lost, and counted
// and logged as such; who is told of it may settle others.
func TestCoreReleaseWithoutAConnection(t *testing.T) {
	bubble(t, func(e *env) {
		held := make(chan delivery, 2)
		told := handlerFunc(func() { e.must((<-held).Ack(e.Context())) })
		nc := e.connect()
		src, err := fluxnats.NewCore(nc, fluxnats.CoreConfig{Subject: "in.>", Logger: slog.New(told)})
		e.must(err)
		r := e.begin(func(ctx context.Context) error {
			return src.Run(ctx, newIntake(4, func(_ context.Context, d delivery) { held <- d }))
		})
		time.Sleep(time.Millisecond)
		e.tell("a", 2)
		time.Sleep(time.Second)
		nc.Close()
		if <-r.done; !errors.Is(r.err, nats.ErrConnectionClosed) {
			t.Errorf("Run: %v", r.err)
		}
		d := <-held
		d.Release()
		d.Release() // a second one is nothing
		if got := src.Stats(); got != (fluxnats.CoreStats{Received: 2, Released: 1, Discarded: 1}) || len(held) != 0 {
			t.Errorf("%+v, %d were not settled", got, len(held))
		}
	})
}

// handlerFunc is a log that calls a function for each record.
type handlerFunc func()

func (f handlerFunc) Enabled(context.Context, slog.Level) bool { return true }

func (f handlerFunc) Handle(context.Context, slog.Record) error {
	f()
	return nil
}

func (f handlerFunc) WithAttrs([]slog.Attr) slog.Handler { return f }

func (f handlerFunc) WithGroup(string) slog.Handler { return f }

func TestCoreRunRefuses(t *testing.T) {
	bubble(t, func(e *env) {
		e.deadLetters()
		run := func(src *fluxnats.Core) error { return src.Run(e.Context(), newIntake(4, nil)) }
		err := run(e.core(fluxnats.CoreConfig{DeadLetterSubject: "dead.core", DeadLetterStream: "NONE"}))
		if !errors.Is(err, fluxnats.ErrSetup) || !errors.Is(err, jetstream.ErrStreamNotFound) || !strings.Contains(err.Error(), "NONE") {
			t.Error(err)
		}
		err = run(e.core(fluxnats.CoreConfig{DeadLetterSubject: "other.core", DeadLetterStream: "DEAD"}))
		if !errors.Is(err, fluxnats.ErrSetup) || !strings.Contains(err.Error(), `"other.core"; add it`) {
			t.Error(err)
		}
		// It would confirm dead letters and throw them away.
		_, err = e.js.CreateStream(e.Context(), jetstream.StreamConfig{Name: "INTEREST", Subjects: []string{"interest.>"}, Retention: jetstream.InterestPolicy, NoAck: true})
		e.must(err)
		err = run(e.core(fluxnats.CoreConfig{DeadLetterSubject: "interest.core", DeadLetterStream: "INTEREST"}))
		if !errors.Is(err, fluxnats.ErrSetup) || !strings.Contains(err.Error(), "Retention is Interest") || !strings.Contains(err.Error(), "use Limits") || !strings.Contains(err.Error(), "NoAck is set") {
			t.Error(err)
		}
		nc := e.connect()
		src, err := fluxnats.NewCore(nc, fluxnats.CoreConfig{Subject: "in.>"})
		e.must(err)
		ended := make(chan error)
		go func() { ended <- run(src) }()
		time.Sleep(time.Second)
		if err := run(src); !errors.Is(err, fluxnats.ErrRunning) {
			t.Error(err)
		}
		nc.Close()
		if err := <-ended; !errors.Is(err, nats.ErrConnectionClosed) {
			t.Error(err)
		}
		if err := run(src); !errors.Is(err, nats.ErrConnectionClosed) {
			t.Error(err)
		}
	})
}

func TestNewCoreRefuses(t *testing.T) {
	nc := new(nats.Conn)
	if _, err := fluxnats.NewCore(nil, fluxnats.CoreConfig{Subject: "in"}); !errors.Is(err, fluxnats.ErrInvalidConfig) {
		t.Error(err)
	}
	for field, cfg := range map[string]fluxnats.CoreConfig{
		`Subject = ""`:                  {},
		`Subject = "in..x"`:             {Subject: "in..x"},
		`Subject = "in x"`:              {Subject: "in x"},
		`Queue = "a b"`:                 {Subject: "in", Queue: "a b"},
		`DeadLetterSubject = "dead.>"`:  {Subject: "in", DeadLetterSubject: "dead.>"},
		`DeadLetterSubject = "in.dead"`: {Subject: "in.>", DeadLetterSubject: "in.dead"},
		`DeadLetterSubject = ""`:        {Subject: "in", DeadLetterStream: "DEAD"},
		`DeadLetterStream = "a.b"`:      {Subject: "in", DeadLetterSubject: "dead", DeadLetterStream: "a.b"},
		`Backlog = -1`:                  {Subject: "in", Backlog: -1},
		`BacklogBytes = -1`:             {Subject: "in", BacklogBytes: -1},
	} {
		if _, err := fluxnats.NewCore(nc, cfg); !errors.Is(err, fluxnats.ErrInvalidConfig) || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// An answer may come from anybody, and say anything.
func FuzzReadRefusal(f *testing.F) {
	f.Add("429", "quota_exceeded", "1", "350")
	f.Add("x", "", "-1", "99999999999999999999")
	f.Add("", "", "18446744073709551615", "-1")
	f.Fuzz(func(t *testing.T, code, reason, after, ms string) {
		r, ok := fluxnats.ReadRefusal(&nats.Msg{Header: nats.Header{
			"Nats-Service-Error-Code": {code}, "Nats-Service-Error": {reason}, "Retry-After": {after}, "Retry-After-Ms": {ms},
		}})
		if !ok && r != (fluxnats.Refusal{}) || ok && (r.RetryAfter < 0 || r.Reason != reason) {
			t.Errorf("%+v, %t", r, ok)
		}
	})
	if _, ok := fluxnats.ReadRefusal(nil); ok {
		f.Error("nil is a refusal")
	}
}
