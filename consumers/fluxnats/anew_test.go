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

// verdicts are the ways to settle a message.
var verdicts = map[string]struct {
	cfg    fluxnats.Config
	settle func(context.Context, delivery) error
	dead   int // letters, of ten messages
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
}

func acked(ctx context.Context, d delivery) error { return d.Ack(ctx) }

func deferred(ctx context.Context, d delivery) error {
	return d.Defer(ctx, stream.Deferral{Deferrals: 1, Until: time.Now().Add(time.Hour)})
}

// untouched fails the test unless the ten messages of the new stream are with the
// member that took them, and there are so many dead letters of the old ones.
func (e *env) untouched(dead int) {
	e.Helper()
	if info := e.info(); info.NumAckPending != 10 || info.NumRedelivered != 0 {
		e.Errorf("ack pending %d, redelivered %d", info.NumAckPending, info.NumRedelivered)
	}
	if n, copies := e.count("S", "in.>"), e.count("S", "flux.defer.>"); n != 10 || copies != 0 {
		e.Errorf("%d messages of 10 and %d copies are in the new stream", n, copies)
	}
	if n := e.count("DLQ_S", ">"); n != dead {
		e.Errorf("%d dead letters, want %d", n, dead)
	}
}

// However a message is settled whose stream was deleted and made again while it
// was held: that settles no message of the new stream, which has its sequence and
// is with another member. With a full gate nobody tells the source of the deletion.
func TestVerdictsOnAStreamThatIsGone(t *testing.T) {
	for name, c := range verdicts {
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
					e.untouched(c.dead)
					other.Stop()
					close(end)
					r.stop()
				})
			})
		}
	}
}

// The same while the connection is lost. The client library would keep what is
// sent meanwhile, and settle messages of the new stream with it.
func TestVerdictsWhileTheStreamIsMadeAnewFarAway(t *testing.T) {
	for name, c := range verdicts {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(e *env) {
				e.source(c.cfg, fluxnats.Layout{Retention: jetstream.WorkQueuePolicy, AckWait: time.Minute})
				e.publish(10)
				src, away := e.faraway(c.cfg)
				hold := make(chan struct{})
				r := e.run(src, newIntake(10, func(ctx context.Context, d delivery) {
					<-hold
					for c.settle(ctx, d) != nil {
						time.Sleep(100 * time.Millisecond)
					}
				}))
				time.Sleep(time.Second)
				away(func() {
					e.anew()
					con, err := e.js.Consumer(e.Context(), "S", "c")
					e.must(err)
					for i := range 10 {
						e.send(&nats.Msg{Subject: "in.x", Data: fmt.Appendf(nil, "new %d", i)})
					}
					taken, err := con.Fetch(10)
					e.must(err)
					for range taken.Messages() {
					}
					close(hold)
					time.Sleep(time.Second)
				})
				time.Sleep(20 * time.Second)
				e.untouched(c.dead)
				r.stop()
			})
		})
	}
}
