package fluxnats_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/stream"
)

func TestServerRestartsInMidStream(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.source(fluxnats.Config{}, fluxnats.Layout{AckWait: 5 * time.Second})
		const n = 600
		e.publish(n)
		var seen tally
		in := newIntake(20, func(ctx context.Context, d delivery) {
			seen.add(d.Message())
			time.Sleep(300 * time.Millisecond)
			for d.Ack(ctx) != nil {
				time.Sleep(time.Second)
			}
		})
		r := e.run(src, in)
		for range 3 {
			time.Sleep(2 * time.Second)
			e.stop()
			time.Sleep(2 * time.Second)
			e.start()
		}
		time.Sleep(time.Minute)
		r.stop()
		// Nothing is handled twice either: the acknowledgements of what was held
		// wait for the connection, and AckWait has not passed.
		seen.exactly(e.T, n)
		if got := src.Stats(); got.Renewals < 3 {
			t.Errorf("%+v", got)
		}
	})
}

// A new leader of a consumer may have heard nothing of the last deliveries and
// acknowledgements, and gives the messages once more as if for the first time. It
// takes a second server to see that; here the line acts it.
func TestDeliveryThatTheNewLeaderForgot(t *testing.T) {
	bubble(t, func(e *env) {
		e.source(fluxnats.Config{}, fluxnats.Layout{AckWait: time.Second})
		e.publish(10)
		l := line{rewrite: func(b []byte) []byte {
			return bytes.ReplaceAll(b, []byte(" $JS.ACK.S.c.2."), []byte(" $JS.ACK.S.c.1."))
		}}
		l.lose("+ACK", "+WPI")
		src := e.sourceOver(&l, fluxnats.Config{})
		var seen tally
		r := e.run(src, newIntake(64, func(ctx context.Context, d delivery) {
			seen.add(d.Message())
			if d.Meta().Redelivered {
				t.Error("the line does not act as it should")
			}
			if string(d.Message().Data()) == "9" {
				time.Sleep(5 * time.Second)
			}
			e.must(d.Ack(ctx))
		}))
		time.Sleep(1100 * time.Millisecond)
		l.lose()
		time.Sleep(10 * time.Second)
		r.stop()
		seen.exactly(e.T, 10)
		if got, info := src.Stats(), e.info(); got.Swallowed != 10+9 || got.Received != 10 || info.NumAckPending != 0 {
			t.Errorf("%+v, ack pending %d", got, info.NumAckPending)
		}
	})
}

// A message whose acknowledgement was lost comes again after AckWait, when a fast
// stream has gone far.
func TestLostAcknowledgementOfLongAgo(t *testing.T) {
	bubble(t, func(e *env) {
		e.source(fluxnats.Config{}, fluxnats.Layout{AckWait: 10 * time.Second})
		const early, late = 100, 10_000
		e.publish(early)
		var l line
		l.lose("+ACK")
		src := e.sourceOver(&l, fluxnats.Config{})
		var seen tally
		r := e.run(src, newIntake(200, e.acks(&seen)))
		time.Sleep(time.Second)
		l.lose()
		for i := range late {
			e.send(&nats.Msg{Subject: "in.x", Data: fmt.Append(nil, early+i)})
		}
		time.Sleep(20 * time.Second)
		r.stop()
		seen.exactly(e.T, early+late)
		if got, info := src.Stats(), e.info(); got.Swallowed == 0 || info.NumAckPending != 0 {
			t.Errorf("%+v, ack pending %d", got, info.NumAckPending)
		}
	})
}

func TestAcknowledgedSequencesAreRemembered(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var memory fluxnats.RecentAcks
	model := make(map[uint64]bool)
	top := uint64(0)
	for range 200_000 {
		seq := top + 1
		switch rng.IntN(20) {
		case 0:
			seq = top + rng.Uint64N(300)
		case 1:
			seq = top - min(top, rng.Uint64N(fluxnats.AckMemory))
		case 2:
			if rng.IntN(5000) == 0 {
				seq = top + rng.Uint64N(3*fluxnats.AckMemory)
			}
		}
		if rng.IntN(3) > 0 {
			memory.Add(seq)
			model[seq] = true
			top = max(top, seq)
		}
		probe := top - min(top, rng.Uint64N(fluxnats.AckMemory+1000))
		if got := memory.Has(probe); got && !model[probe] {
			t.Fatalf("%d of %d was never acknowledged", probe, top)
		} else if !got && model[probe] && top-probe < fluxnats.AckMemory-64 {
			t.Fatalf("%d of %d is forgotten", probe, top)
		}
	}
}

// A consumer that is deleted and made again gives what its maker wants it to give,
// and what is held all along is not handled twice.
func TestConsumerMadeAnewInMidStream(t *testing.T) {
	for name, c := range map[string]struct {
		gone  time.Duration
		apply func(c *consumerConfig)
		again int // messages that come a second time
	}{
		"at once, from the beginning":        {again: 10},
		"after a while, from the beginning":  {gone: 20 * time.Second, again: 10},
		"after a while, from where it ended": {gone: 20 * time.Second, apply: func(c *consumerConfig) { c.DeliverPolicy, c.OptStartSeq = jetstream.DeliverByStartSequencePolicy, 11 }},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(e *env) {
				src := e.source(fluxnats.Config{}, fluxnats.Layout{})
				e.publish(15)
				var seen tally
				hold := make(chan struct{})
				r := e.run(src, newIntake(64, func(ctx context.Context, d delivery) {
					seen.add(d.Message())
					if number(d.Message().Data()) >= 10 {
						<-hold
					}
					e.must(d.Ack(ctx))
				}))
				time.Sleep(time.Second)
				e.must(e.js.DeleteConsumer(e.Context(), "S", "c"))
				time.Sleep(c.gone)
				_, con, _ := setup()
				if c.apply != nil {
					c.apply(&con)
				}
				_, err := e.js.CreateConsumer(e.Context(), "S", con)
				e.must(err)
				e.publish(20)
				time.Sleep(10 * time.Second)
				close(hold)
				time.Sleep(10 * time.Second)
				r.stop()
				if kinds, total := seen.sum(); kinds != 20 || total != 15+c.again+20 {
					t.Errorf("handled %d of 20 messages, %d times", kinds, total)
				}
				if info := e.info(); info.NumPending != 0 || info.NumAckPending != 0 {
					t.Errorf("pending %d, ack pending %d", info.NumPending, info.NumAckPending)
				}
			})
		})
	}
}

// The messages of a stream that is deleted and made again have the sequences of
// those before, and are not taken for them.
func TestStreamMadeAnewInMidStream(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.source(fluxnats.Config{}, fluxnats.Layout{})
		e.publish(20)
		var seen tally
		r := e.run(src, newIntake(64, e.acks(&seen)))
		time.Sleep(time.Second)
		e.must(e.js.DeleteStream(e.Context(), "S"))
		time.Sleep(5 * time.Second)
		if _, err := src.Provision(e.Context(), fluxnats.Layout{Subjects: []string{"in.>"}}); err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			e.send(&nats.Msg{Subject: "in.x", Data: fmt.Append(nil, 20+i)})
		}
		time.Sleep(10 * time.Second)
		r.stop()
		seen.exactly(e.T, 40)
	})
}

// A server that was started again remembers to the second when to give what was
// handed back.
func TestNakDeferralsAreNotEarlyAfterARestart(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.source(fluxnats.Config{NakDeferrals: true}, fluxnats.Layout{AckWait: 5 * time.Second})
		e.publish(20)
		var seen tally
		due := time.Now().Truncate(time.Second).Add(time.Minute + 900*time.Millisecond)
		r := e.run(src, newIntake(64, func(ctx context.Context, d delivery) {
			if meta := d.Meta(); meta.Deferrals == 0 {
				e.must(d.Defer(ctx, stream.Deferral{Until: due, Deferrals: 1}))
				return
			} else if late := time.Since(due); late < 0 || late > 5*time.Second || meta.Deferrals != 1 {
				t.Errorf("came %v after it was due: %+v", late, meta)
			}
			seen.add(d.Message())
			e.must(d.Ack(ctx))
		}))
		for range 3 {
			time.Sleep(5 * time.Second)
			e.stop()
			time.Sleep(time.Second)
			e.start()
		}
		time.Sleep(2 * time.Minute)
		r.stop()
		seen.exactly(e.T, 20)
		if src.Stats().Swallowed == 0 {
			t.Error("the server does not act as it should")
		}
	})
}
