package fluxnats_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
	"github.com/fluxlimiter/flux/stream/streamtest"
)

var (
	soakSeeds = flag.Int("soak.seeds", 10, "how many seeds the soak through the gate runs")
	soakFirst = flag.Uint64("soak.first", 1, "first seed of the soak through the gate")
)

// TestGateSoak takes messages of limited tenants through a gate, while the server
// restarts, the line breaks, is slow and loses what is sent, the consumer is
// deleted and made again and the gate is stopped and started, and asks the oracles
// of streamtest what came of it.
func TestGateSoak(t *testing.T) {
	for seed := *soakFirst; seed < *soakFirst+uint64(*soakSeeds); seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			bubble(t, func(e *env) { newGateSoak(e, seed).run() })
		})
	}
}

// gateSoak is one random scenario.
type gateSoak struct {
	*env
	*streamtest.Rand // of what runs concurrently

	rng    *rand.Rand // of the scenario
	limits map[string]gcra.Limit
	rec    *recorder
	src    *fluxnats.Source
	line   line
	gate   *stream.Gate[*fluxnats.Msg]

	restarts, breaks, slow, lossy, anew, stops, naks, keyed, failing bool
}

func newGateSoak(e *env, seed uint64) *gateSoak {
	e.Helper()
	s := &gateSoak{
		env: e, rng: rand.New(rand.NewPCG(seed, 3)), Rand: streamtest.NewRand(seed),
		limits: map[string]gcra.Limit{
			"a": gcra.Unlimited(), "b": gcra.PerSecond(20).WithBurst(5), "c": gcra.PerSecond(2).WithBurst(2), "d": gcra.PerMinute(60).WithBurst(10),
		},
	}
	one := func(n int) bool { return s.rng.IntN(n) == 0 }
	if !one(4) { // every fourth is without faults
		s.restarts, s.breaks, s.slow, s.lossy, s.anew, s.stops = one(3), one(3), one(3), one(3), one(6), one(3)
	}
	s.keyed, s.failing = one(2), one(2)
	s.naks = one(6)
	cfg := fluxnats.Config{ConfirmAcks: one(3), NakDeferrals: s.naks}
	if !cfg.NakDeferrals && one(3) {
		cfg.ReturnSubject = "back"
	}
	layout := fluxnats.Layout{AckWait: 5 * time.Second}
	if one(3) && !s.anew { // what is acknowledged is gone there, and need not come again
		layout.Retention = jetstream.WorkQueuePolicy
	}
	e.source(cfg, layout)
	s.src = e.sourceOver(&s.line, cfg)

	var messages []*streamtest.Message
	for i := range int64(150) {
		m := &streamtest.Message{ID: i + 1, Tenant: string(rune('a' + s.rng.IntN(4))), Cost: 1, Work: time.Duration(s.rng.IntN(20)) * time.Millisecond}
		if one(50) {
			m.Work = 12 * time.Second // more than twice AckWait
		}
		if s.keyed {
			m.Key = fmt.Sprintf("in.%s.%d", m.Tenant, s.rng.IntN(3))
		}
		messages = append(messages, m)
	}
	s.rec = newRecorder(messages)
	lim, err := flux.New(flux.Config[string]{LimitFor: func(k string) gcra.Limit { return s.limits[k] }, Limit: gcra.Unlimited()})
	if err != nil {
		e.Fatal(err)
	}
	gcfg := stream.Config[*fluxnats.Msg]{
		Limiter: lim, Tenant: func(m *fluxnats.Msg) string { return s.rec.message(m).Tenant },
		Window: 16 + s.rng.IntN(64), Workers: 1 + s.rng.IntN(8), DrainTimeout: 20 * time.Second,
		Policy: stream.Policy{MaxDeferrals: -1, MaxAttempts: -1, MaxWait: time.Duration(s.rng.IntN(3000)) * time.Millisecond},
	}
	if s.keyed {
		gcfg.OrderKey = (*fluxnats.Msg).Subject
	}
	if s.gate, err = stream.New(gcfg); err != nil {
		e.Fatal(err)
	}
	return s
}

// publish stores the messages one after another, through all restarts.
func (s *gateSoak) publish() {
	for _, m := range s.rec.messages {
		subject := "in.any"
		if m.Key != "" {
			subject = m.Key
		}
		s.rec.note(streamtest.Event{Kind: streamtest.Published, Message: m})
		for {
			_, err := s.js.PublishMsg(context.Background(), &nats.Msg{Subject: subject, Data: payload(m)}, jetstream.WithMsgID(fmt.Sprint(m.ID)))
			if err == nil {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		if m.ID%30 == 0 {
			time.Sleep(s.UpTo(4 * time.Second))
		}
	}
}

func (s *gateSoak) handle(ctx context.Context, m *streamtest.Message) error {
	select {
	case <-time.After(m.Work):
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.failing {
		switch {
		case s.Chance(30):
			return errors.New("failed")
		case s.Chance(60):
			return stream.RetryLater(s.UpTo(10*time.Second), errors.New("busy"))
		case s.Chance(60):
			return stream.Permanent(errors.New("broken"))
		}
	}
	return nil
}

// weaken makes settling slow, and the line lose acknowledgements and copies.
func (s *gateSoak) weaken() {
	s.rec.pause = func() {
		if s.slow && s.Chance(5) {
			time.Sleep(s.UpTo(8 * time.Second))
		}
	}
	s.line.drop = func(b []byte) bool {
		if !s.lossy {
			return false
		}
		for _, what := range []string{"+ACK", "PUB flux.defer.", "PUB dlq.", "+TERM", "-NAK", "MSG.NEXT"} {
			if bytes.Contains(b, []byte(what)) && !bytes.Contains(b, []byte("SUB _INBOX")) && s.Chance(8) {
				return true
			}
		}
		return false
	}
}

// trouble does what the scenario says until ctx ends.
func (s *gateSoak) trouble(ctx context.Context) {
	for range 6 {
		time.Sleep(s.UpTo(8 * time.Second))
		if ctx.Err() != nil {
			return
		}
		if s.restarts && s.Chance(2) {
			s.stop()
			time.Sleep(s.UpTo(2 * time.Second))
			s.start()
		}
		if s.breaks && s.Chance(2) {
			s.line.down.Store(true)
			s.line.fail()
			time.Sleep(s.UpTo(8 * time.Second))
			s.line.down.Store(false)
		}
		if s.anew && s.Chance(3) {
			con, err := s.js.Consumer(s.Context(), "S", "c")
			if err != nil {
				continue // the server has just come back, and has not found it yet
			}
			cfg := con.CachedInfo().Config
			s.must(s.js.DeleteConsumer(s.Context(), "S", "c"))
			time.Sleep(s.UpTo(10 * time.Second))
			_, err = s.js.CreateConsumer(s.Context(), "S", cfg)
			s.must(err)
		}
	}
}

// settled reports whether there is nothing left at the server.
func (s *gateSoak) settled() bool {
	con, err := s.js.Consumer(s.Context(), "S", "c")
	if err != nil || !s.rec.done() {
		return false
	}
	info := con.CachedInfo()
	return info.NumPending+uint64(info.NumAckPending) == 0 && s.count("S", "flux.defer.>") == 0
}

func (s *gateSoak) run() {
	ctx, cancel := context.WithCancel(s.Context())
	defer cancel()
	var helpers sync.WaitGroup
	helpers.Go(s.publish)
	s.weaken()
	calm := make(chan struct{})
	helpers.Go(func() {
		defer close(calm)
		s.trouble(ctx)
	})
	for runs, over := 0, false; !over; runs++ {
		runCtx, stop := context.WithCancel(ctx)
		if s.stops && runs < 5 {
			time.AfterFunc(time.Second+s.UpTo(15*time.Second), stop)
		} else {
			over = true
			helpers.Go(func() {
				<-calm
				for end := time.Now().Add(time.Hour); !s.settled() && time.Now().Before(end) && runCtx.Err() == nil; {
					time.Sleep(5 * time.Second)
				}
				stop()
			})
		}
		if err := s.gate.Run(runCtx, s.rec.source(s.src), s.rec.handler(s.handle)); err != nil {
			if s.restarts || s.breaks || s.lossy || s.anew {
				// The check at its beginning went to a server that is not there.
				over = false
				time.Sleep(time.Second)
			} else {
				s.Errorf("run %d: %v", runs, err)
			}
		}
		stop()
		if err := streamtest.Left(s.gate.Stats()); err != nil {
			s.Error(err)
		}
		if runs > 100 {
			s.Fatal("does not come to an end")
		}
	}
	cancel()
	helpers.Wait()
	s.check()
}

func (s *gateSoak) check() {
	h := s.rec.history
	lose := s.restarts || s.breaks || s.lossy || s.anew // something on its way, at least
	checks := map[string]error{
		"lost":     h.Lost(nil),
		"rate":     h.Rate(func(tenant string) gcra.Limit { return s.limits[tenant] }),
		"not over": nil,
	}
	if !s.settled() {
		checks["not over"] = fmt.Errorf("%+v", s.info())
	}
	if !s.anew && !s.lossy && (!s.naks || !s.stops) { // what was handed back is known to the run that did so
		checks["never early"] = h.NeverEarly()
	}
	// The source knows what it has given and settled, whatever is lost. But one whose
	// deferral went unconfirmed, and was given up for that, may live on as a copy too.
	if !s.anew && !s.stops && s.gate.Stats().Released == 0 {
		checks["processed twice"] = h.ProcessedOnce()
		if s.rec.again > 0 {
			checks["ended twice"] = fmt.Errorf("%d messages", s.rec.again)
		}
	}
	if s.keyed && !lose && s.gate.Stats().Released == 0 {
		checks["key order"] = h.KeyOrder()
	}
	for name, err := range checks {
		if err != nil {
			s.Errorf("%s: %v", name, err)
		}
	}
	if s.Failed() {
		s.Logf("restarts %v breaks %v slow %v lossy %v anew %v stops %v keyed %v failing %v; %+v; %+v",
			s.restarts, s.breaks, s.slow, s.lossy, s.anew, s.stops, s.keyed, s.failing, s.src.Stats(), s.gate.Stats())
	}
}
