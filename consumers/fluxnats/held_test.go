package fluxnats_test

import (
	"context"
	"testing"
	"time"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/stream"
)

func TestHeldMessageIsNotRedelivered(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.source(fluxnats.Config{}, fluxnats.Layout{AckWait: 500 * time.Millisecond})
		e.publish(20)
		var seen tally
		in := newIntake(20, func(ctx context.Context, d delivery) {
			seen.add(d.Message())
			time.Sleep(2 * time.Minute)
			if d.Meta().Redelivered {
				t.Error("delivered before")
			}
			e.must(d.Ack(ctx))
		})
		r := e.run(src, in)
		time.Sleep(time.Minute)
		if info := e.info(); info.NumRedelivered != 0 || info.NumAckPending != 20 {
			t.Errorf("redelivered %d, ack pending %d", info.NumRedelivered, info.NumAckPending)
		}
		r.stop() // the messages are kept while the drain lasts, too
		seen.exactly(e.T, 20)
		if info := e.info(); info.NumRedelivered != 0 || info.NumAckPending != 0 {
			t.Errorf("redelivered %d, ack pending %d", info.NumRedelivered, info.NumAckPending)
		}
		if got := src.Stats(); got.Received != 20 || got.KeepAlives < 20*120*5 || got.Swallowed != 0 {
			t.Errorf("%+v", got)
		}
	})
}

func TestKeepAliveEndsWithTheSettlement(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.source(fluxnats.Config{}, fluxnats.Layout{AckWait: time.Second})
		e.publish(3)
		in := newIntake(3, func(ctx context.Context, d delivery) {
			time.Sleep(10 * time.Second)
			switch string(d.Message().Data()) {
			case "0":
				e.must(d.Ack(ctx))
			case "1":
				e.must(d.Defer(ctx, stream.Deferral{Until: time.Now().Add(time.Hour)}))
			case "2":
				e.must(d.DeadLetter(ctx, stream.Letter{Reason: stream.ReasonPermanent}))
			}
		})
		r := e.run(src, in)
		time.Sleep(11 * time.Second)
		before := src.Stats().KeepAlives
		time.Sleep(time.Minute)
		if after := src.Stats().KeepAlives; before < 3*30 || after != before {
			t.Errorf("%d and then %d keep-alives", before, after)
		}
		r.stop()
	})
}

// A message that the server takes for lost while it is still held is not
// handled a second time.
func TestRedeliveryOfAHeldMessageIsSwallowed(t *testing.T) {
	bubble(t, func(e *env) {
		e.source(fluxnats.Config{}, fluxnats.Layout{AckWait: time.Second})
		e.publish(10)
		var l line
		src := e.sourceOver(&l, fluxnats.Config{})
		var seen tally
		in := newIntake(64, func(ctx context.Context, d delivery) {
			seen.add(d.Message())
			time.Sleep(20 * time.Second)
			e.must(d.Ack(ctx))
		})
		r := e.run(src, in)
		time.Sleep(5 * time.Second)
		l.down.Store(true)
		l.fail()
		time.Sleep(5 * time.Second)
		l.down.Store(false)
		time.Sleep(20 * time.Second)
		r.stop()
		seen.exactly(e.T, 10)
		if got := src.Stats(); got.Swallowed != 10 || got.Received != 10 {
			t.Errorf("%+v", got)
		}
		if info := e.info(); info.NumAckPending != 0 {
			t.Errorf("ack pending %d", info.NumAckPending)
		}
	})
}

// An acknowledgement that is lost on the way is sent again when the message
// comes again, and the message is not handled again.
func TestLostAcknowledgementIsSentAgain(t *testing.T) {
	bubble(t, func(e *env) {
		e.source(fluxnats.Config{}, fluxnats.Layout{AckWait: time.Second})
		e.publish(100)
		var l line
		l.lose("+ACK")
		src := e.sourceOver(&l, fluxnats.Config{})
		var seen tally
		r := e.run(src, newIntake(64, e.acks(&seen)))
		time.Sleep(500 * time.Millisecond)
		l.lose()
		time.Sleep(10 * time.Second)
		r.stop()
		seen.exactly(e.T, 100)
		if got, info := src.Stats(), e.info(); got.Swallowed == 0 || info.NumAckPending != 0 {
			t.Errorf("%+v, ack pending %d", got, info.NumAckPending)
		}
	})
}
