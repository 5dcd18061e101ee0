package fluxnats_test

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
)

// The server never counts more messages as given to the source than the gate
// has room for, and the gate's room is used.
func TestTakesNoMoreThanTheGateHasRoomFor(t *testing.T) {
	bubble(t, func(e *env) {
		const window = 37
		src := e.source(fluxnats.Config{}, fluxnats.Layout{})
		e.publish(1000)
		var seen tally
		in := newIntake(window, func(ctx context.Context, d delivery) {
			seen.add(d.Message())
			time.Sleep(time.Second)
			e.must(d.Ack(ctx))
		})
		r := e.run(src, in)
		most := 0
		time.Sleep(100 * time.Millisecond) // handlers end at whole seconds, and acknowledgements a millisecond later
		for range 25 * 4 {
			time.Sleep(250 * time.Millisecond)
			most = max(most, e.info().NumAckPending)
		}
		if most != window {
			t.Errorf("%d messages were given to a source with room for %d", most, window)
		}
		time.Sleep(10 * time.Second)
		r.stop()
		seen.exactly(e.T, 1000)
	})
}

func TestRequestLimitsOfTheConsumerAreKept(t *testing.T) {
	bubble(t, func(e *env) {
		e.source(fluxnats.Config{Consumer: "other"}, fluxnats.Layout{})
		if _, err := e.js.CreateConsumer(e.Context(), "S", jetstream.ConsumerConfig{
			Durable: "c", FilterSubject: "in.>", AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: -1, MaxAckPending: 5000,
			MaxRequestBatch: 7, MaxRequestExpires: 500 * time.Millisecond,
		}); err != nil {
			t.Fatal(err)
		}
		cfg := fluxnats.Config{DeferSubject: "flux.defer.S.other", DeadLetterSubject: "dlq.S.other", AllowSharedCopies: true}
		src := e.newSource(cfg)
		e.publish(100)
		var seen tally
		r := e.run(src, newIntake(64, e.acks(&seen)))
		time.Sleep(10 * time.Second)
		r.stop()
		seen.exactly(e.T, 100)
		if got := src.Stats(); got.Renewals != 0 || got.Pulls < 100/7 {
			t.Errorf("%+v", got)
		}
	})
}

// A request that the server forgot, or never heard, is made again after two
// heartbeats.
func TestLostRequestIsRenewed(t *testing.T) {
	bubble(t, func(e *env) {
		e.source(fluxnats.Config{}, fluxnats.Layout{})
		var l line
		src := e.sourceOver(&l, fluxnats.Config{})
		var seen tally
		var mu sync.Mutex
		var last time.Time
		in := newIntake(64, func(ctx context.Context, d delivery) {
			seen.add(d.Message())
			mu.Lock()
			last = time.Now()
			mu.Unlock()
			e.must(d.Ack(ctx))
		})
		r := e.run(src, in)
		time.Sleep(2900 * time.Millisecond)
		l.lose("CONSUMER.MSG.NEXT") // the request of the third second is lost
		time.Sleep(200 * time.Millisecond)
		l.lose()
		start := time.Now()
		e.publish(1)
		time.Sleep(10 * time.Second)
		r.stop()
		if took := last.Sub(start); took > 2*time.Second+100*time.Millisecond {
			t.Errorf("message came after %v", took)
		}
		seen.exactly(e.T, 1)
		if got := src.Stats(); got.Renewals == 0 {
			t.Errorf("%+v", got)
		}
	})
}

// A request that the server neither answers nor ends, while it goes on to say that
// it stands, is made again when it should have expired.
func TestRequestThatIsForgottenBesideHeartbeats(t *testing.T) {
	bubble(t, func(e *env) {
		e.source(fluxnats.Config{}, fluxnats.Layout{})
		var deaf atomic.Bool
		var reply atomic.Pointer[string]
		js := e.jetStream(e.dial(&line{drop: func(b []byte) bool {
			if !deaf.Load() || !bytes.Contains(b, []byte("CONSUMER.MSG.NEXT")) {
				return false
			}
			fields := strings.Fields(string(b[bytes.Index(b, []byte("CONSUMER.MSG.NEXT")):]))
			reply.Store(&fields[1])
			return true
		}}))
		src := e.sourceOn(js, fluxnats.Config{})
		var seen tally
		var came time.Duration
		var start time.Time
		r := e.run(src, newIntake(64, func(ctx context.Context, d delivery) {
			came = time.Since(start)
			seen.add(d.Message())
			e.must(d.Ack(ctx))
		}))
		time.Sleep(2900 * time.Millisecond)
		deaf.Store(true) // the request of the third second is lost
		time.Sleep(200 * time.Millisecond)
		deaf.Store(false)
		start = time.Now()
		e.publish(1)
		for range 20 {
			time.Sleep(500 * time.Millisecond)
			e.must(e.nc.PublishMsg(&nats.Msg{Subject: *reply.Load(), Header: nats.Header{"Status": {"100"}, "Description": {"Idle Heartbeat"}}}))
		}
		r.stop()
		seen.exactly(e.T, 1)
		if came > 4100*time.Millisecond || came < 3*time.Second {
			t.Errorf("message came after %v", came)
		}
	})
}

// A publisher cannot make a message look like a word of the server.
func TestMessageThatLooksLikeAStatus(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.source(fluxnats.Config{}, fluxnats.Layout{})
		for _, status := range []string{"100", "404", "408", "409", "503"} {
			e.send(&nats.Msg{Subject: "in.x", Header: nats.Header{
				"Status": {status}, "Description": {"Consumer Deleted"}, "Nats-Pending-Messages": {"-9"}, "X": {status},
			}})
		}
		e.publish(1)
		var mu sync.Mutex
		var got []string
		in := newIntake(64, func(ctx context.Context, d delivery) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, d.Message().Headers().Get("X")+string(d.Message().Data()))
			e.must(d.Ack(ctx))
		})
		r := e.run(src, in)
		time.Sleep(time.Second)
		r.stop()
		if len(got) != 6 || src.Stats().Renewals != 0 {
			t.Errorf("%q, %+v", got, src.Stats())
		}
	})
}
