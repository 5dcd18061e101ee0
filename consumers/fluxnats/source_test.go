package fluxnats_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/stream"
)

type delivery = stream.Delivery[*fluxnats.Msg]

func TestEveryMessageIsDeliveredOnce(t *testing.T) {
	for _, confirm := range []bool{false, true} {
		bubble(t, func(e *env) {
			src := e.source(fluxnats.Config{ConfirmAcks: confirm}, fluxnats.Layout{})
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
			if info := e.info(); info.NumAckPending != 0 || info.NumRedelivered != 0 || info.NumPending != 0 {
				t.Errorf("ack pending %d, redelivered %d, pending %d", info.NumAckPending, info.NumRedelivered, info.NumPending)
			}
		})
	}
}

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

// A message that the server takes for lost while it is still held is not
// handled a second time.
func TestRedeliveryOfAHeldMessageIsSwallowed(t *testing.T) {
	bubble(t, func(e *env) {
		e.source(fluxnats.Config{}, fluxnats.Layout{AckWait: time.Second})
		e.publish(10)
		var l line
		nc := e.dial(&l)
		defer nc.Close()
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		src := e.sourceOn(js, fluxnats.Config{})
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
		var lossy atomic.Bool
		lossy.Store(true)
		l := line{drop: func(b []byte) bool { return lossy.Load() && bytes.Contains(b, []byte("+ACK")) }}
		nc := e.dial(&l)
		defer nc.Close()
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		src := e.sourceOn(js, fluxnats.Config{})
		var seen tally
		r := e.run(src, newIntake(64, func(ctx context.Context, d delivery) {
			seen.add(d.Message())
			e.must(d.Ack(ctx))
		}))
		time.Sleep(500 * time.Millisecond)
		lossy.Store(false)
		time.Sleep(10 * time.Second)
		r.stop()
		seen.exactly(e.T, 100)
		if got, info := src.Stats(), e.info(); got.Swallowed == 0 || info.NumAckPending != 0 {
			t.Errorf("%+v, ack pending %d", got, info.NumAckPending)
		}
	})
}

// A request that the server forgot, or never heard, is made again after two
// heartbeats.
func TestLostRequestIsRenewed(t *testing.T) {
	bubble(t, func(e *env) {
		e.source(fluxnats.Config{}, fluxnats.Layout{})
		var l line
		deaf := false
		var mu sync.Mutex
		l.drop = func(b []byte) bool {
			mu.Lock()
			defer mu.Unlock()
			return deaf && bytes.Contains(b, []byte("CONSUMER.MSG.NEXT"))
		}
		nc := e.dial(&l)
		defer nc.Close()
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		src := e.sourceOn(js, fluxnats.Config{})
		var seen tally
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
		mu.Lock()
		deaf = true // the request of the third second is lost
		mu.Unlock()
		time.Sleep(200 * time.Millisecond)
		mu.Lock()
		deaf = false
		mu.Unlock()
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
		deaf.Store(true)
		nc := e.dial(&line{drop: func(b []byte) bool {
			if !deaf.Load() || !bytes.Contains(b, []byte("CONSUMER.MSG.NEXT")) {
				return false
			}
			fields := strings.Fields(string(b[bytes.Index(b, []byte("CONSUMER.MSG.NEXT")):]))
			reply.Store(&fields[1])
			return true
		}})
		defer nc.Close()
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		src := e.sourceOn(js, fluxnats.Config{})
		var seen tally
		var came time.Duration
		start := time.Now()
		r := e.run(src, newIntake(64, func(ctx context.Context, d delivery) {
			came = time.Since(start)
			seen.add(d.Message())
			e.must(d.Ack(ctx))
		}))
		e.publish(1)
		for range 20 {
			time.Sleep(500 * time.Millisecond)
			deaf.Store(false)
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
		r := e.run(src, newIntake(64, func(ctx context.Context, d delivery) {
			seen.add(d.Message())
			e.must(d.Ack(ctx))
		}))
		time.Sleep(10 * time.Second)
		r.stop()
		seen.exactly(e.T, 100)
		if got := src.Stats(); got.Renewals != 0 || got.Pulls < 100/7 {
			t.Errorf("%+v", got)
		}
	})
}

func TestRunEndsWhenTheConsumerIsGone(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.source(fluxnats.Config{}, fluxnats.Layout{})
		e.publish(1)
		held := make(chan delivery, 1)
		r := e.run(src, newIntake(64, func(_ context.Context, d delivery) { held <- d }))
		d := <-held
		time.Sleep(time.Second)
		if err := e.js.DeleteConsumer(e.Context(), "S", "c"); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		<-r.done
		if !errors.Is(r.err, jetstream.ErrConsumerNotFound) {
			t.Errorf("Run: %v", r.err)
		}
		if took := time.Since(start); took < 30*time.Second || took > 35*time.Second {
			t.Errorf("took %v", took)
		}
		e.must(d.Ack(e.Context())) // no use, but no harm
	})
}

func TestRunEndsWhenTheConnectionIsClosed(t *testing.T) {
	bubble(t, func(e *env) {
		e.source(fluxnats.Config{}, fluxnats.Layout{})
		nc := e.connect()
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		r := e.run(e.sourceOn(js, fluxnats.Config{}), newIntake(64, nil))
		time.Sleep(time.Second)
		nc.Close()
		<-r.done
		if !errors.Is(r.err, nats.ErrConnectionClosed) {
			t.Errorf("Run: %v", r.err)
		}
	})
}

// What the source may not do is found before the first message is taken, if the
// server answers the question, and else as soon as it is tried.
func TestRunEndsWhenTheServerDenies(t *testing.T) {
	const ask = "$SYS.REQ.USER.INFO"
	for name, c := range map[string]struct {
		pub, sub []string // denied
		want     string   // that is refused at the start, and what for
	}{
		"requests":                {pub: []string{"$JS.API.CONSUMER.MSG.NEXT.>"}, want: `"$JS.API.CONSUMER.MSG.NEXT.S.c"; allow it`},
		"acks":                    {pub: []string{"$JS.ACK.>"}, want: `"$JS.ACK.S.c.>"; allow it`},
		"deferred copies":         {pub: []string{"flux.>"}, want: `"flux.defer.S.c.*"; allow it`},
		"dead letters":            {pub: []string{"dlq.*.c"}, want: `"dlq.S.c"; allow it`},
		"info":                    {pub: []string{"$JS.API.CONSUMER.INFO.>"}},
		"the inbox":               {sub: []string{"_INBOX.>"}},
		"requests, and no answer": {pub: []string{ask, "$JS.API.CONSUMER.MSG.NEXT.>"}},
		"acks, and no answer":     {pub: []string{ask, "$JS.ACK.>"}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(e *env) {
				e.source(fluxnats.Config{}, fluxnats.Layout{AckWait: time.Second})
				e.publish(1)
				nc := e.connect(nats.UserInfo("u", "u"))
				defer nc.Close()
				js, err := jetstream.New(nc)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(e.Context(), time.Minute)
				defer cancel()
				start := time.Now()
				src := e.sourceOn(js, fluxnats.Config{})
				err = src.Run(ctx, newIntake(64, func(ctx context.Context, d delivery) {
					e.must(d.Ack(ctx))
				}))
				if !errors.Is(err, nats.ErrPermissionViolation) {
					t.Errorf("Run: %v", err)
				}
				if took := time.Since(start); took > 20*time.Second {
					t.Errorf("took %v", took)
				}
				if c.want != "" && (!errors.Is(err, fluxnats.ErrSetup) || !strings.Contains(err.Error(), "user u may not publish to "+c.want) || src.Stats().Pulls != 0) {
					t.Errorf("no word of %s in: %v", c.want, err)
				}
			}, func(o *server.Options) {
				o.Users = []*server.User{
					{Username: "admin", Password: "admin"},
					{Username: "u", Password: "u", Permissions: &server.Permissions{
						Publish:   &server.SubjectPermission{Allow: []string{">"}, Deny: c.pub},
						Subscribe: &server.SubjectPermission{Allow: []string{">"}, Deny: c.sub},
					}},
				}
			})
		})
	}
}

func TestRunTwiceAtOnce(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.source(fluxnats.Config{}, fluxnats.Layout{})
		r := e.run(src, newIntake(64, nil))
		time.Sleep(time.Second)
		if err := src.Run(e.Context(), newIntake(64, nil)); !errors.Is(err, fluxnats.ErrRunning) {
			t.Errorf("second Run: %v", err)
		}
		r.stop()
		e.run(src, newIntake(64, nil)).stop() // one after the other is fine
	})
}

// stopped is a gate that takes so many messages and then no more.
type stopped struct {
	*intake
	left int
}

func (s *stopped) Deliver(ctx context.Context, d delivery) error {
	if s.left == 0 {
		return stream.ErrStopped
	}
	s.left--
	return s.intake.Deliver(ctx, d)
}

func TestGateStops(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.source(fluxnats.Config{}, fluxnats.Layout{})
		e.publish(50)
		var seen tally
		in := newIntake(20, func(ctx context.Context, d delivery) {
			time.Sleep(time.Minute)
			seen.add(d.Message())
			e.must(d.Ack(ctx))
		})
		start := time.Now()
		if err := src.Run(e.Context(), &stopped{in, 5}); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took < time.Minute {
			t.Errorf("Run returned after %v, with messages in handlers", took)
		}
		seen.exactly(e.T, 5)
		time.Sleep(10 * time.Millisecond)
		if info := e.info(); info.NumAckPending+int(info.NumPending) != 45 {
			t.Errorf("ack pending %d, pending %d", info.NumAckPending, info.NumPending)
		}
	})
}

func TestReleasedMessagesGoToTheNextMemberAtOnce(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.source(fluxnats.Config{}, fluxnats.Layout{})
		const n = 300
		e.publish(n)
		in := newIntake(100, func(ctx context.Context, d delivery) {
			<-ctx.Done()
			d.Release()
			d.Release() // a second one is nothing
		})
		r := e.run(src, in)
		time.Sleep(10 * time.Second)
		r.stop()
		if got := src.Stats(); got.Received != 100 || got.Returned != 100 {
			t.Errorf("%+v", got)
		}
		var seen tally
		var mu sync.Mutex
		redelivered := 0
		next := e.run(e.newSource(fluxnats.Config{}), newIntake(500, func(ctx context.Context, d delivery) {
			seen.add(d.Message())
			if meta := d.Meta(); meta.Redelivered {
				mu.Lock()
				redelivered++
				mu.Unlock()
				if meta.Attempts+meta.Deferrals != 0 {
					t.Errorf("%+v", meta)
				}
			}
			e.must(d.Ack(ctx))
		}))
		time.Sleep(100 * time.Millisecond) // AckWait is 30 seconds
		next.stop()
		seen.exactly(e.T, n)
		if redelivered != 100 {
			t.Errorf("%d messages came for the second time", redelivered)
		}
	})
}

// What a source hands back at its end does not come back to itself, although it
// has asked for more.
func TestReleasedMessagesDoNotComeStraightBack(t *testing.T) {
	bubble(t, func(e *env) {
		e.source(fluxnats.Config{}, fluxnats.Layout{})
		e.publish(50)
		for range 20 {
			src := e.newSource(fluxnats.Config{})
			r := e.run(src, newIntake(100, func(ctx context.Context, d delivery) {
				<-ctx.Done()
				d.Release()
			}))
			time.Sleep(time.Second)
			r.stop()
			if got := src.Stats(); got.Received != 50 || got.Returned != 50 {
				t.Fatalf("%+v", got)
			}
		}
	})
}

// Messages that arrive while the source ends are handed back as well, and what
// one member hands back never comes to another that ends at the same time.
func TestEndWhileMessagesArrive(t *testing.T) {
	bubble(t, func(e *env) {
		e.source(fluxnats.Config{}, fluxnats.Layout{})
		var sources []*fluxnats.Source
		var runs []*running
		for range 4 {
			src := e.newSource(fluxnats.Config{})
			sources = append(sources, src)
			runs = append(runs, e.run(src, newIntake(50, func(ctx context.Context, d delivery) {
				<-ctx.Done()
				d.Release()
			})))
		}
		e.publish(150)
		time.Sleep(time.Second)
		for _, r := range runs {
			r.cancel()
		}
		e.publish(20)
		for _, r := range runs {
			r.stop()
		}
		var received, returned int64
		for _, src := range sources {
			got := src.Stats()
			received += got.Received
			returned += got.Returned
		}
		if received != returned || received > 4*170 {
			t.Errorf("received %d, returned %d", received, returned)
		}
		var seen tally
		next := e.run(e.newSource(fluxnats.Config{}), newIntake(500, func(ctx context.Context, d delivery) {
			seen.add(d.Message())
			e.must(d.Ack(ctx))
		}))
		time.Sleep(100 * time.Millisecond)
		next.stop()
		if kinds, total := seen.sum(); kinds != 150 || total != 170 { // the numbers of the 20 are among the 150
			t.Errorf("%d, %d", kinds, total)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	bubble(t, func(e *env) {
		good := fluxnats.Config{Stream: "S", Consumer: "c"}
		for want, change := range map[string]func(c *fluxnats.Config){
			`Stream = ""`:                     func(c *fluxnats.Config) { c.Stream = "" },
			`Stream = "a.b"`:                  func(c *fluxnats.Config) { c.Stream = "a.b" },
			`Consumer = "a b"`:                func(c *fluxnats.Config) { c.Consumer = "a b" },
			`Batch = -1`:                      func(c *fluxnats.Config) { c.Batch = -1 },
			`Heartbeat = "1ms"`:               func(c *fluxnats.Config) { c.Heartbeat = time.Millisecond },
			`Heartbeat = "-1s"`:               func(c *fluxnats.Config) { c.Heartbeat = -time.Second },
			`DeferSubject = "a.*"`:            func(c *fluxnats.Config) { c.DeferSubject = "a.*" },
			`DeferSubject = "a..{x}"`:         func(c *fluxnats.Config) { c.DeferSubject = "a..{x}" },
			`ReturnSubject = ">"`:             func(c *fluxnats.Config) { c.ReturnSubject = ">" },
			`ReturnSubject = "flux.defer.S.c`: func(c *fluxnats.Config) { c.ReturnSubject = "flux.defer.{stream}.c" },
			`ReturnSubject = "r": has no use`: func(c *fluxnats.Config) { c.ReturnSubject = "r"; c.NakDeferrals = true },
			`DeadLetterStream = "a/b"`:        func(c *fluxnats.Config) { c.DeadLetterStream = "a/b" },
			`DeadLetterStream = "S"`:          func(c *fluxnats.Config) { c.DeadLetterStream = "{stream}" },
			`DeadLetterSubject = "a b"`:       func(c *fluxnats.Config) { c.DeadLetterSubject = "a b" },
		} {
			cfg := good
			change(&cfg)
			if _, err := fluxnats.New(e.js, cfg); !errors.Is(err, fluxnats.ErrInvalidConfig) || !strings.Contains(err.Error(), want) {
				t.Errorf("want %s, got %v", want, err)
			}
		}
		if _, err := fluxnats.New(nil, good); !errors.Is(err, fluxnats.ErrInvalidConfig) {
			t.Error(err)
		}
		if _, err := fluxnats.New(e.js, good); err != nil {
			t.Error(err)
		}
		synctest.Wait()
	})
}
