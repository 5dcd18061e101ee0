package fluxnats_test

import (
	"errors"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/stream/streamtest"
)

// TestConformance holds that the source keeps the contract that the gate relies
// on.
func TestConformance(t *testing.T) {
	streamtest.TestSource(t, func(t *testing.T, test func(*testing.T, streamtest.Fixture[*fluxnats.Msg])) {
		t.Helper()
		bubble(t, func(e *env) {
			test(e.T, streamtest.Fixture[*fluxnats.Msg]{
				Source: e.source(fluxnats.Config{}, fluxnats.Layout{}),
				Publish: func(body string) error {
					_, err := e.js.PublishMsg(e.Context(), &nats.Msg{Subject: "in.x", Data: []byte(body)})
					return err
				},
				Body:        func(m *fluxnats.Msg) string { return string(m.Data()) },
				DeadLetters: e.deadBodies,
			})
		})
	})
}

// deadBodies returns the payloads of the dead letters.
func (e *env) deadBodies() (bodies []string, err error) {
	dead, err := e.js.Stream(e.Context(), "DLQ_S")
	if err != nil {
		return nil, err
	}
	for seq := uint64(1); ; seq++ {
		m, err := dead.GetMsg(e.Context(), seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return bodies, nil
		}
		if err != nil {
			return nil, err
		}
		bodies = append(bodies, string(m.Data))
	}
}
