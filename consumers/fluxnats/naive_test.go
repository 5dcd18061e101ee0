package fluxnats_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
)

// The obvious ways to do what this package does, and what becomes of them. They
// show that the tests of the source could fail, and why it does what it does.

// naive returns a stream S with a consumer c and n messages.
func (e *env) naive(n int, s streamConfig, c consumerConfig) jetstream.Consumer {
	e.Helper()
	s.Name, s.Subjects = "S", []string{"in.>", "later.>"}
	if _, err := e.js.CreateStream(e.Context(), s); err != nil {
		e.Fatal(err)
	}
	c.Durable, c.FilterSubject, c.AckPolicy = "c", "in.>", jetstream.AckExplicitPolicy
	con, err := e.js.CreateConsumer(e.Context(), "S", c)
	if err != nil {
		e.Fatal(err)
	}
	e.publish(n)
	return con
}

// Consume fetches ahead, and AckWait runs while a message waits for its turn.
func TestNaivePrefetch(t *testing.T) {
	handle := func() { time.Sleep(100 * time.Millisecond) }
	bubble(t, func(e *env) {
		e.naive(20, streamConfig{}, consumerConfig{AckWait: 500 * time.Millisecond})
		handled := e.consume(e.nc, func(m jetstream.Msg) {
			handle()
			_ = m.Ack()
		}, func() { time.Sleep(time.Minute) })
		if handled < 40 {
			t.Errorf("handled %d times, expected more than twice as often as there are messages", handled)
		}
	})
	bubble(t, func(e *env) {
		src := e.source(fluxnats.Config{}, fluxnats.Layout{AckWait: 500 * time.Millisecond})
		e.publish(20)
		var seen tally
		one := make(chan struct{}, 1) // one worker
		r := e.run(src, newIntake(20, func(ctx context.Context, d delivery) {
			one <- struct{}{}
			defer func() { <-one }()
			handle()
			seen.add(d.Message())
			e.must(d.Ack(ctx))
		}))
		time.Sleep(time.Minute)
		r.stop()
		seen.exactly(e.T, 20)
	})
}

// A negative acknowledgement counts as a delivery, and at MaxDeliver the message
// is abandoned: it stays in the stream and never comes again.
func TestNaiveMaxDeliver(t *testing.T) {
	bubble(t, func(e *env) {
		e.naive(1, streamConfig{}, consumerConfig{MaxDeliver: 5})
		throttled := 0
		came := e.consume(e.nc, func(m jetstream.Msg) {
			if throttled < 50 {
				throttled++
				_ = m.NakWithDelay(time.Second)
				return
			}
			_ = m.Ack()
		}, func() { time.Sleep(10 * time.Minute) })
		if throttled != 5 || came != 5 {
			t.Errorf("throttled %d times and came %d times", throttled, came)
		}
		if info := e.info(); info.NumPending != 0 || info.NumAckPending != 0 || e.count("S", "in.>") != 1 {
			t.Errorf("pending %d, ack pending %d", info.NumPending, info.NumAckPending)
		}
	})
}

// With a BackOff a delayed negative acknowledgement takes as long as the two say
// together, less AckWait.
func TestNaiveBackOff(t *testing.T) {
	bubble(t, func(e *env) {
		e.naive(1, streamConfig{}, consumerConfig{BackOff: []time.Duration{200 * time.Millisecond, 2 * time.Second}, MaxDeliver: 10})
		var deliveries []time.Time
		e.consume(e.nc, func(m jetstream.Msg) {
			deliveries = append(deliveries, time.Now())
			if len(deliveries) < 3 {
				_ = m.NakWithDelay(500 * time.Millisecond)
				return
			}
			_ = m.Ack()
		}, func() { time.Sleep(time.Minute) })
		if len(deliveries) != 3 {
			t.Fatalf("delivered %d times", len(deliveries))
		}
		if took := deliveries[2].Sub(deliveries[1]); took < 2*time.Second {
			t.Errorf("asked for 500ms, took %v", took)
		}
	})
}

// What is handed back lets the next one overtake it.
func TestNaiveOrder(t *testing.T) {
	bubble(t, func(e *env) {
		e.naive(3, streamConfig{}, consumerConfig{})
		var order []string
		failed := false
		e.consume(e.nc, func(m jetstream.Msg) {
			if !failed {
				failed = true
				time.Sleep(time.Millisecond) // the others are there
				_ = m.Nak()
				return
			}
			order = append(order, string(m.Data()))
			_ = m.Ack()
		}, func() { time.Sleep(time.Minute) })
		if slices.IsSorted(order) || len(order) != 3 {
			t.Errorf("handled in the order %q", order)
		}
	})
}

// An acknowledgement is a message that nobody confirms: when it is lost, the
// message is handled again.
func TestNaiveAcknowledgement(t *testing.T) {
	bubble(t, func(e *env) {
		e.naive(10, streamConfig{}, consumerConfig{AckWait: time.Second})
		var l line
		l.lose("+ACK")
		nc := e.dial(&l)
		defer nc.Close()
		handled := e.consume(nc, func(m jetstream.Msg) {
			_ = m.Ack()
		}, func() {
			time.Sleep(500 * time.Millisecond)
			l.lose()
			time.Sleep(time.Minute)
		})
		if handled != 20 {
			t.Errorf("handled %d times", handled)
		}
	})
}

// consume handles messages of consumer c while f runs, and returns how many.
func (e *env) consume(nc *nats.Conn, handle func(jetstream.Msg), f func()) int {
	e.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		e.Fatal(err)
	}
	c, err := js.Consumer(e.Context(), "S", "c")
	if err != nil {
		e.Fatal(err)
	}
	var handled atomic.Int32
	cc, err := c.Consume(func(m jetstream.Msg) {
		handled.Add(1)
		handle(m)
	})
	if err != nil {
		e.Fatal(err)
	}
	f()
	cc.Stop()
	<-cc.Closed()
	return int(handled.Load())
}

// A request that is lost stands for half a minute in the eyes of the library.
func TestNaiveLostRequest(t *testing.T) {
	bubble(t, func(e *env) {
		e.naive(0, streamConfig{}, consumerConfig{})
		var l line
		nc := e.dial(&l)
		defer nc.Close()
		var sent time.Time
		var dwell atomic.Int64
		handled := e.consume(nc, func(m jetstream.Msg) {
			dwell.Store(int64(time.Since(sent)))
			_ = m.Ack()
		}, func() {
			time.Sleep(29 * time.Second)
			l.lose("CONSUMER.MSG.NEXT") // the second request is lost
			time.Sleep(2 * time.Second)
			l.lose()
			sent = time.Now()
			e.publish(1)
			time.Sleep(2 * time.Minute)
		})
		if took := time.Duration(dwell.Load()); handled != 1 || took < 25*time.Second {
			t.Errorf("handled %d, after %v", handled, took)
		}
	})
}

// A consumer that is deleted and made again is lost to the loop that read it.
func TestNaiveConsumerMadeAnew(t *testing.T) {
	bubble(t, func(e *env) {
		e.naive(0, streamConfig{}, consumerConfig{})
		handled := e.consume(e.nc, func(m jetstream.Msg) { _ = m.Ack() }, func() {
			time.Sleep(time.Second)
			e.must(e.js.DeleteConsumer(e.Context(), "S", "c"))
			_, con, _ := setup()
			_, err := e.js.CreateConsumer(e.Context(), "S", con)
			e.must(err)
			e.publish(10)
			time.Sleep(10 * time.Minute)
		})
		if handled != 0 {
			t.Errorf("handled %d", handled)
		}
	})
}

// The copy that the scheduler makes has lost its message id: what is made of it
// cannot be recognised by that.
func TestNaiveScheduleStripsMsgID(t *testing.T) {
	bubble(t, func(e *env) {
		c := e.naive(0, streamConfig{AllowMsgSchedules: true}, consumerConfig{})
		e.send(schedule(time.Now().Add(time.Second)))
		m, err := c.Next(jetstream.FetchMaxWait(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		if id := m.Headers().Get("Nats-Msg-Id"); id != "" {
			t.Errorf("it is %q", id)
		}
	})
}

// schedule is a message that comes under in.a when it is due.
func schedule(due time.Time) *nats.Msg {
	return &nats.Msg{Subject: "later.1", Header: nats.Header{
		"Nats-Schedule": {"@at " + due.UTC().Format(time.RFC3339Nano)}, "Nats-Schedule-Target": {"in.a"}, "Nats-Msg-Id": {"mine"},
	}}
}

// Who reads a whole work queue takes what is scheduled in it for a message, and
// deletes it.
func TestNaiveScheduleInAWorkQueue(t *testing.T) {
	bubble(t, func(e *env) {
		if _, err := e.js.CreateStream(e.Context(), streamConfig{
			Name: "S", Subjects: []string{"in.>", "later.>"}, AllowMsgSchedules: true, Retention: jetstream.WorkQueuePolicy,
		}); err != nil {
			t.Fatal(err)
		}
		_, err := e.js.CreateConsumer(e.Context(), "S", consumerConfig{Durable: "c", AckPolicy: jetstream.AckExplicitPolicy})
		e.must(err)
		e.send(schedule(time.Now().Add(time.Hour)))
		var mu sync.Mutex
		var subjects []string
		e.consume(e.nc, func(m jetstream.Msg) {
			mu.Lock()
			defer mu.Unlock()
			subjects = append(subjects, m.Subject())
			_ = m.Ack()
		}, func() { time.Sleep(2 * time.Hour) })
		if !slices.Equal(subjects, []string{"later.1"}) {
			t.Errorf("came as %q", subjects)
		}
	})
}

// A schedule for a time beyond the stream's MaxAge is deleted before that.
func TestNaiveScheduleBeyondMaxAge(t *testing.T) {
	bubble(t, func(e *env) {
		c := e.naive(0, streamConfig{AllowMsgSchedules: true, MaxAge: time.Hour, Storage: jetstream.MemoryStorage}, consumerConfig{})
		e.send(schedule(time.Now().Add(2 * time.Hour)))
		time.Sleep(3 * time.Hour)
		if _, err := c.Next(jetstream.FetchMaxWait(time.Minute)); err == nil {
			t.Error("it came")
		}
	})
}

// The library's option for schedules cuts the time down to the second.
func TestNaiveSchedule(t *testing.T) {
	bubble(t, func(e *env) {
		c := e.naive(0, streamConfig{AllowMsgSchedules: true}, consumerConfig{})
		time.Sleep(100 * time.Millisecond)
		due := time.Now().Add(1800 * time.Millisecond)
		if _, err := e.js.Publish(e.Context(), "later.1", nil, jetstream.WithScheduleAt(due), jetstream.WithScheduleTarget("in.a")); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Next(jetstream.FetchMaxWait(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if early := time.Until(due); early < 500*time.Millisecond {
			t.Errorf("came %v early", early)
		}
	})
}

// A stream that keeps what consumers want does not keep a schedule, although it
// confirms it.
func TestNaiveScheduleWithInterest(t *testing.T) {
	bubble(t, func(e *env) {
		c := e.naive(0, streamConfig{AllowMsgSchedules: true, Retention: jetstream.InterestPolicy}, consumerConfig{})
		e.send(schedule(time.Now().Add(time.Second)))
		if _, err := c.Next(jetstream.FetchMaxWait(time.Minute)); err == nil {
			t.Error("it came")
		}
	})
}

// Headers that are copied as they are undo the stream, or are refused.
func TestNaiveCopyOfHeaders(t *testing.T) {
	bubble(t, func(e *env) {
		c := e.naive(5, streamConfig{AllowMsgSchedules: true, AllowRollup: true}, consumerConfig{})
		e.send(&nats.Msg{Subject: "in.x", Header: nats.Header{"Nats-Rollup": {"all"}}})
		e.publish(5)
		batch, err := c.Fetch(1)
		if err != nil {
			t.Fatal(err)
		}
		m := <-batch.Messages()
		e.send(&nats.Msg{Subject: "in.copy", Header: m.Headers()})
		if n := e.count("S", ">"); n != 1 {
			t.Errorf("%d messages are left", n)
		}
	})
}

// The library takes a message of no payload with a header Status for a word of
// the server, and the consumer for deleted.
func TestNaiveStatus(t *testing.T) {
	bubble(t, func(e *env) {
		e.naive(0, streamConfig{}, consumerConfig{})
		e.send(&nats.Msg{Subject: "in.x", Header: nats.Header{"Status": {"409"}, "Description": {"Consumer Deleted"}}})
		handled := e.consume(e.nc, func(m jetstream.Msg) { _ = m.Ack() }, func() {
			time.Sleep(time.Second)
			e.publish(10)
			time.Sleep(time.Minute)
		})
		if handled != 0 {
			t.Errorf("handled %d", handled)
		}
	})
}

// A confirmed acknowledgement does not tell the one who was given up on from the
// one who has the message now: both are confirmed.
func TestLateAcknowledgementIsConfirmed(t *testing.T) {
	bubble(t, func(e *env) {
		c := e.naive(1, streamConfig{}, consumerConfig{AckWait: time.Second})
		first, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		second, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range []jetstream.Msg{first, second} {
			if err := m.DoubleAck(e.Context()); err != nil {
				t.Error(err)
			}
		}
	})
}

// Who terminates a message and then stores its dead letter has neither if the
// process ends in between: a work queue deletes what is terminated.
func TestNaiveTermination(t *testing.T) {
	bubble(t, func(e *env) {
		c := e.naive(1, streamConfig{Retention: jetstream.WorkQueuePolicy}, consumerConfig{AckWait: time.Second})
		m, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		e.must(m.TermWithReason("poison"))
		time.Sleep(time.Minute)
		if n := e.count("S", ">"); n != 0 {
			t.Errorf("%d messages are left", n)
		}
	})
}

// The server says once that it abandons a message, to those who listen just then.
func TestNaiveAdvisory(t *testing.T) {
	bubble(t, func(e *env) {
		c := e.naive(1, streamConfig{}, consumerConfig{AckWait: time.Second, MaxDeliver: 1})
		if _, err := c.Next(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		sub, err := e.nc.SubscribeSync("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.S.c")
		e.must(err)
		if m, err := sub.NextMsg(time.Hour); err == nil {
			t.Errorf("%s", m.Data)
		}
	})
}

// A copy that is published twice, because nobody knows whether the first got
// through, comes twice, unless it has a message id.
func TestNaiveCopyTwice(t *testing.T) {
	for id, want := range map[string]int{"": 2, "S:1:d:c": 1} {
		bubble(t, func(e *env) {
			c := e.naive(0, streamConfig{AllowMsgSchedules: true}, consumerConfig{})
			for i := range 2 {
				m := schedule(time.Now().Add(time.Second))
				m.Subject = fmt.Sprint("later.", i) // one schedule replaces another under the same
				m.Header.Del("Nats-Msg-Id")
				if id != "" {
					m.Header.Set("Nats-Msg-Id", id)
				}
				e.send(m)
			}
			batch, err := c.Fetch(10, jetstream.FetchMaxWait(time.Minute))
			e.must(err)
			n := 0
			for m := range batch.Messages() {
				n++
				e.must(m.Ack())
			}
			if n != want {
				t.Errorf("id %q: came %d times", id, n)
			}
		})
	}
}
