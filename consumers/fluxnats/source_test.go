package fluxnats_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/stream"
)

type delivery = stream.Delivery[*fluxnats.Msg]

func TestEveryMessageIsDeliveredOnce(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.source(fluxnats.Config{}, fluxnats.Layout{})
		const n = 2000
		e.publish(n)
		var seen tally
		in := newIntake(64, func(ctx context.Context, d delivery) {
			seen.add(d.Message())
			e.must(d.Ack(ctx))
		})
		r := e.run(src, in)
		time.Sleep(time.Minute)
		r.stop()
		seen.exactly(e.T, n)
		if info := e.info(); info.NumAckPending != 0 || info.NumRedelivered != 0 {
			t.Errorf("ack pending %d, redelivered %d", info.NumAckPending, info.NumRedelivered)
		}
	})
}

func TestHeldMessageIsNotRedelivered(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.source(fluxnats.Config{}, fluxnats.Layout{AckWait: 500 * time.Millisecond})
		e.publish(20)
		var seen tally
		in := newIntake(20, func(ctx context.Context, d delivery) {
			seen.add(d.Message())
			time.Sleep(10 * time.Minute)
			if d.Meta().Redelivered {
				t.Error("delivered before")
			}
			e.must(d.Ack(ctx))
		})
		r := e.run(src, in)
		time.Sleep(5 * time.Minute)
		if info := e.info(); info.NumRedelivered != 0 || info.NumAckPending != 20 {
			t.Errorf("redelivered %d, ack pending %d", info.NumRedelivered, info.NumAckPending)
		}
		r.cancel() // the messages are kept while the drain lasts, too
		<-r.done
		seen.exactly(e.T, 20)
		if info := e.info(); info.NumRedelivered != 0 || info.NumAckPending != 0 {
			t.Errorf("redelivered %d, ack pending %d", info.NumRedelivered, info.NumAckPending)
		}
		if got := src.Stats(); got.Received != 20 || got.KeepAlives < 20*600 || got.Swallowed != 0 {
			t.Errorf("%+v", got)
		}
		synctest.Wait()
	})
}
