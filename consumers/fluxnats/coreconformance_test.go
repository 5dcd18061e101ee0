package fluxnats_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/stream"
	"github.com/fluxlimiter/flux/stream/streamtest"
)

// TestCoreConformance holds that the source without JetStream keeps what part of
// the contract a source can keep that nobody can ask for a message again.
func TestCoreConformance(t *testing.T) {
	cannot := map[string]string{
		"keeps_what_the_gate_refuses":       "the server has forgotten what the gate refuses: it becomes a dead letter",
		"redelivers_what_is_released":       "what is released becomes a dead letter",
		"ends_when_all_it_delivered_is_let": "it goes on with a message that was published between two runs, and one that was released",
	}
	streamtest.TestSource(t, func(t *testing.T, test func(*testing.T, streamtest.Fixture[*fluxnats.Msg])) {
		t.Helper()
		_, name, _ := strings.Cut(t.Name(), "/")
		for prefix, why := range cannot {
			if strings.HasPrefix(name, prefix) {
				t.Skip("core NATS cannot: " + why)
			}
		}
		bubble(t, func(e *env) {
			e.source(fluxnats.Config{}, fluxnats.Layout{}) // for its dead-letter stream
			src, err := fluxnats.NewCore(e.nc, fluxnats.CoreConfig{
				Subject: "core.x", DeadLetterSubject: "dlq.S.c", DeadLetterStream: "DLQ_S",
				Backlog: 100, // or what is published at once may be more than the client keeps, which drops the rest
			})
			e.must(err)
			late := &publishing{Core: src, nc: e.nc}
			test(e.T, streamtest.Fixture[*fluxnats.Msg]{
				Source: late, Publish: late.publish,
				Body:        func(m *fluxnats.Msg) string { return string(m.Data()) },
				DeadLetters: e.deadBodies,
			})
		})
	})
}

// publishing publishes to a source once that runs: what is published before
// nobody would have.
type publishing struct {
	*fluxnats.Core
	nc *nats.Conn

	mu      sync.Mutex
	running bool
	waiting []string
}

func (p *publishing) Run(ctx context.Context, in stream.Intake[*fluxnats.Msg]) error {
	begin := time.AfterFunc(time.Second, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.running = true
		for _, body := range p.waiting {
			_ = p.nc.Publish("core.x", []byte(body))
		}
		p.waiting = nil
	})
	defer begin.Stop()
	err := p.Core.Run(ctx, in)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = false
	return err
}

func (p *publishing) publish(body string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running {
		p.waiting = append(p.waiting, body)
		return nil
	}
	return p.nc.Publish("core.x", []byte(body))
}
