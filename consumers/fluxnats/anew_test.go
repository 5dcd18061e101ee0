package fluxnats_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/stream"
)

// anew deletes stream S and makes it again as it was, without messages.
func (e *env) anew() {
	e.Helper()
	s, err := e.js.Stream(e.Context(), "S")
	e.must(err)
	config, consumer := s.CachedInfo().Config, e.info().Config
	e.must(e.js.DeleteStream(e.Context(), "S"))
	time.Sleep(10 * time.Millisecond)
	_, err = e.js.CreateStream(e.Context(), config)
	e.must(err)
	_, err = e.js.CreateConsumer(e.Context(), "S", consumer)
	e.must(err)
}

// However a message is settled whose stream was deleted and made again while it
// was held: that settles no message of the new stream, which has its sequence and
// is with another member. With a full gate nobody tells the source of the deletion.
func TestVerdictsOnAStreamThatIsGone(t *testing.T) {
	later := stream.Deferral{Deferrals: 1}
	deferred := func(ctx context.Context, d delivery) error {
		f := later
		f.Until = time.Now().Add(time.Hour)
		return d.Defer(ctx, f)
	}
	acked := func(ctx context.Context, d delivery) error { return d.Ack(ctx) }
	for name, c := range map[string]struct {
		cfg    fluxnats.Config
		settle func(context.Context, delivery) error
		dead   int
	}{
		"ack":           {settle: acked},
		"confirmed ack": {cfg: fluxnats.Config{ConfirmAcks: true}, settle: acked},
		"defer":         {settle: deferred},
		"nak":           {cfg: fluxnats.Config{NakDeferrals: true}, settle: deferred},
		"dead letter": {dead: 10, settle: func(ctx context.Context, d delivery) error {
			return d.DeadLetter(ctx, stream.Letter{Reason: stream.ReasonPermanent})
		}},
		"release": {settle: func(_ context.Context, d delivery) error {
			d.Release()
			return nil
		}},
	} {
		for _, window := range []int{10, 64} {
			t.Run(fmt.Sprint(name, ", window ", window), func(t *testing.T) {
				bubble(t, func(e *env) {
					src := e.source(c.cfg, fluxnats.Layout{Retention: jetstream.WorkQueuePolicy, AckWait: time.Minute})
					e.publish(10)
					hold, end := make(chan struct{}), make(chan struct{})
					r := e.run(src, newIntake(window, func(ctx context.Context, d delivery) {
						if !bytes.HasPrefix(d.Message().Data(), []byte("new")) {
							<-hold
							if err := c.settle(ctx, d); err != nil {
								t.Error(err)
								d.Release()
							}
							return
						}
						<-end
						d.Release()
					}))
					time.Sleep(time.Second)
					e.anew()
					con, err := e.js.Consumer(e.Context(), "S", "c")
					e.must(err)
					other, err := con.Messages(jetstream.PullMaxMessages(10))
					e.must(err)
					for i := range 10 {
						e.send(&nats.Msg{Subject: "in.x", Data: fmt.Appendf(nil, "new %d", i)})
					}
					time.Sleep(5 * time.Second)
					close(hold)
					time.Sleep(10 * time.Second)
					if info := e.info(); info.NumAckPending != 10 || info.NumRedelivered != 0 {
						t.Errorf("ack pending %d, redelivered %d", info.NumAckPending, info.NumRedelivered)
					}
					if n, copies := e.count("S", "in.>"), e.count("S", "flux.defer.>"); n != 10 || copies != 0 {
						t.Errorf("%d messages of 10 and %d copies are in the new stream", n, copies)
					}
					if n := e.count("DLQ_S", ">"); n != c.dead {
						t.Errorf("%d dead letters, want %d", n, c.dead)
					}
					other.Stop()
					close(end)
					r.stop()
				})
			})
		}
	}
}
