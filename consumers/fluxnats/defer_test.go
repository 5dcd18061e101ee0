package fluxnats_test

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/stream"
)

// firesWithin is how late the server's scheduler may be: it fires at most every
// 250 milliseconds.
const firesWithin = 255 * time.Millisecond

func TestDeferredMessageComesBackInTime(t *testing.T) {
	for _, back := range []string{"", "back.{consumer}"} {
		bubble(t, func(e *env) {
			src := e.source(fluxnats.Config{ReturnSubject: back}, fluxnats.Layout{})
			e.send(&nats.Msg{
				Subject: "in.a", Data: []byte("payload"),
				Header: nats.Header{"Nats-Msg-Id": {"mine"}, "X-User": {"1", "2"}},
			})
			published := time.Now()
			delays := []time.Duration{
				300 * time.Millisecond, 1500*time.Millisecond + 7, 999 * time.Millisecond, 20*time.Minute + 123456789,
				10 * time.Millisecond, 0, -time.Minute,
			}
			var mu sync.Mutex
			var due time.Time
			turn, done := 0, make(chan struct{})
			in := newIntake(4, func(ctx context.Context, d delivery) {
				mu.Lock()
				defer mu.Unlock()
				m, meta := d.Message(), d.Meta()
				if late := time.Since(due); turn > 0 && delays[turn-1] > 0 && (late < 0 || late > firesWithin) {
					t.Errorf("turn %d: %v after it was due", turn, late)
				}
				if m.Subject() != "in.a" || string(m.Data()) != "payload" || m.ID() != "S:1" {
					t.Errorf("turn %d: %s %q %s", turn, m.Subject(), m.Data(), m.ID())
				}
				h := m.Headers()
				if len(h) != 2 || h.Get("Nats-Msg-Id") != "mine" || len(h.Values("X-User")) != 2 {
					t.Errorf("turn %d: %v", turn, h)
				}
				if meta.Deferrals != turn || meta.Attempts != 2*turn || meta.Order != -int64(turn)<<40 || meta.Redelivered || published.Sub(meta.Time).Abs() > time.Millisecond {
					t.Errorf("turn %d: %+v", turn, meta)
				}
				if turn == len(delays) {
					e.must(d.Ack(ctx))
					close(done)
					return
				}
				due = time.Now().Add(delays[turn])
				turn++
				e.must(d.Defer(ctx, stream.Deferral{Until: due, Reason: stream.ReasonQuota, Tenant: "a", Deferrals: turn, Attempts: 2 * turn, Order: -int64(turn) << 40}))
			})
			r := e.run(src, in)
			<-done
			r.stop()
			if n := e.count("S", "flux.defer.>"); n != 0 {
				t.Errorf("%d copies are left", n)
			}
			if got := src.Stats(); got.Copies != int64(len(delays)) || got.Naks != 0 {
				t.Errorf("%+v", got)
			}
		})
	}
}

// Schedules of any fraction of a second, many at a time, none early.
func TestDeferralsAreNeverEarly(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.source(fluxnats.Config{}, fluxnats.Layout{})
		const n = 500
		var mu sync.Mutex
		due := make(map[string]time.Time)
		back := 0
		var worst time.Duration
		in := newIntake(n, func(ctx context.Context, d delivery) {
			key := string(d.Message().Data())
			mu.Lock()
			at, again := due[key]
			mu.Unlock()
			if again {
				late := time.Since(at)
				mu.Lock()
				back++
				worst = max(worst, late)
				mu.Unlock()
				if late < 0 {
					t.Errorf("%s came %v early", key, -late)
				}
				e.must(d.Ack(ctx))
				return
			}
			i, err := strconv.Atoi(key)
			e.must(err)
			at = time.Now().Add(time.Duration(i)*7919*time.Microsecond + time.Duration(i*i))
			mu.Lock()
			due[key] = at
			mu.Unlock()
			e.must(d.Defer(ctx, stream.Deferral{Until: at, Deferrals: 1}))
		})
		e.publish(n)
		r := e.run(src, in)
		time.Sleep(time.Minute)
		r.stop()
		if back != n || worst > 2*firesWithin {
			t.Errorf("%d of %d came back, the last %v late", back, n, worst)
		}
	})
}

// A retry leaves Deferrals as it is, and a deferral Attempts. Neither may make
// the server take the next copy for the one before.
func TestDeferralsWithTheSameCountsAreNotTheSame(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.source(fluxnats.Config{}, fluxnats.Layout{})
		e.publish(1)
		var turns atomic.Int32
		r := e.run(src, newIntake(4, func(ctx context.Context, d delivery) {
			if turns.Add(1) == 6 {
				e.must(d.Ack(ctx))
				return
			}
			e.must(d.Defer(ctx, stream.Deferral{Until: time.Now().Add(time.Second), Deferrals: 1, Attempts: 1}))
		}))
		time.Sleep(time.Minute)
		r.stop()
		if n := turns.Load(); n != 6 {
			t.Errorf("the message came %d times", n)
		}
	})
}

// A tenant whose quota stays used up for a long while.
func TestFiftyDeferralsAndThenProcessedOnce(t *testing.T) {
	for _, nak := range []bool{false, true} {
		bubble(t, func(e *env) {
			src := e.source(fluxnats.Config{NakDeferrals: nak}, fluxnats.Layout{AckWait: time.Second})
			e.publish(3)
			var seen tally
			r := e.run(src, newIntake(4, func(ctx context.Context, d delivery) {
				n := d.Meta().Deferrals
				if d.Meta().Attempts != n%2 {
					t.Errorf("%+v", d.Meta())
				}
				if n == 50 {
					seen.add(d.Message())
					e.must(d.Ack(ctx))
					return
				}
				e.must(d.Defer(ctx, stream.Deferral{Until: time.Now().Add(3 * time.Second), Deferrals: n + 1, Attempts: (n + 1) % 2}))
			}))
			time.Sleep(10 * time.Minute)
			r.stop()
			seen.exactly(e.T, 3)
			if got := src.Stats(); got.Copies+got.Naks != 150 || (got.Naks > 0) != nak {
				t.Errorf("%+v", got)
			}
		})
	}
}

// The process fails after the copy is stored and before the original is
// acknowledged: the original comes again, and the second copy is the first one.
func TestCrashBetweenCopyAndAcknowledgement(t *testing.T) {
	bubble(t, func(e *env) {
		e.source(fluxnats.Config{}, fluxnats.Layout{AckWait: 2 * time.Second})
		e.publish(1)
		l := line{cut: func(b []byte) bool { return bytes.Contains(b, []byte("+ACK")) }}
		due := time.Now().Add(30 * time.Second)
		first := e.run(e.sourceOver(&l, fluxnats.Config{}, nats.NoReconnect()), newIntake(4, func(ctx context.Context, d delivery) {
			if err := d.Defer(ctx, stream.Deferral{Until: due, Deferrals: 1}); err == nil {
				t.Error("the acknowledgement got through")
			}
		}))
		<-first.done
		if first.err == nil || e.count("S", "flux.defer.>") != 1 || e.info().NumAckPending != 1 {
			t.Fatalf("%v: %d copies, %d unacknowledged", first.err, e.count("S", "flux.defer.>"), e.info().NumAckPending)
		}
		var mu sync.Mutex
		var came []string
		second := e.run(e.newSource(fluxnats.Config{}), newIntake(4, func(ctx context.Context, d delivery) {
			meta := d.Meta()
			mu.Lock()
			came = append(came, fmt.Sprintf("%s deferrals %d again %v", d.Message().ID(), meta.Deferrals, meta.Redelivered))
			mu.Unlock()
			if meta.Deferrals == 0 {
				// Another reason this time, and another time.
				e.must(d.Defer(ctx, stream.Deferral{Until: due.Add(time.Second), Attempts: 1}))
				return
			}
			if time.Now().Before(due) {
				t.Error("early")
			}
			e.must(d.Ack(ctx))
		}))
		time.Sleep(time.Minute)
		second.stop()
		if got := strings.Join(came, ", "); got != "S:1 deferrals 0 again true, S:1 deferrals 1 again false" {
			t.Errorf("came: %s", got)
		}
		if info := e.info(); info.NumAckPending != 0 || info.NumPending != 0 || e.count("S", "flux.defer.>") != 0 {
			t.Errorf("ack pending %d, pending %d, copies %d", info.NumAckPending, info.NumPending, e.count("S", "flux.defer.>"))
		}
	})
}

// Past the duplicate window, a copy that still waits is replaced and not doubled.
func TestSecondCopyReplacesTheFirst(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.source(fluxnats.Config{}, fluxnats.Layout{AckWait: 10 * time.Minute})
		e.publish(1)
		var came atomic.Int32
		held := make(chan delivery, 1)
		r := e.run(src, newIntake(4, func(ctx context.Context, d delivery) {
			came.Add(1)
			if d.Meta().Deferrals > 0 {
				e.must(d.Ack(ctx))
				return
			}
			held <- d
		}))
		d := <-held
		// What an earlier life of the process stored just before it ended.
		ctx, cancel := context.WithCancel(e.Context())
		cancel()
		at := time.Now().Add(20 * time.Minute)
		h := nats.Header{
			"Nats-Schedule": {"@at " + at.UTC().Format(time.RFC3339Nano)}, "Nats-Schedule-Target": {"in.0"}, "Nats-Msg-Id": {"S:1:d:c"},
			"Flux-Origin": {"S:1"}, "Flux-Deferrals": {"1"},
		}
		e.send(&nats.Msg{Subject: "flux.defer.S.c.1", Header: h})
		time.Sleep(10 * time.Minute) // the window is two
		if err := d.Defer(ctx, stream.Deferral{Until: at, Deferrals: 1}); err == nil {
			t.Error("deferred with a context that has ended")
		}
		e.must(d.Defer(e.Context(), stream.Deferral{Until: at, Deferrals: 1}))
		if n := e.count("S", "flux.defer.>"); n != 1 {
			t.Errorf("%d copies", n)
		}
		time.Sleep(20 * time.Minute)
		r.stop()
		if n := came.Load(); n != 2 {
			t.Errorf("came %d times", n)
		}
	})
}

// A message whose copy is stored must not be handed back at the end: it is
// acknowledged.
func TestReleaseAfterAHalfDoneDeferral(t *testing.T) {
	for _, again := range []bool{false, true} { // the acknowledgement is lost once more
		bubble(t, func(e *env) {
			e.source(fluxnats.Config{}, fluxnats.Layout{AckWait: time.Second})
			e.publish(1)
			var l line
			l.lose("+ACK")
			var seen tally
			r := e.run(e.sourceOver(&l, fluxnats.Config{}), newIntake(4, func(ctx context.Context, d delivery) {
				seen.add(d.Message())
				if err := d.Defer(ctx, stream.Deferral{Until: time.Now().Add(time.Hour), Deferrals: 1}); err == nil {
					t.Error("the acknowledgement got through")
				}
				if !again {
					l.lose()
				}
				d.Release()
				time.Sleep(time.Millisecond) // it is on its way
				l.lose()
			}))
			time.Sleep(10 * time.Second)
			r.stop()
			seen.exactly(e.T, 1)
			if info := e.info(); info.NumAckPending != 0 || info.NumPending != 0 || e.count("S", "flux.defer.>") != 1 {
				t.Errorf("ack pending %d, pending %d, copies %d", info.NumAckPending, info.NumPending, e.count("S", "flux.defer.>"))
			}
		})
	}
}

// So it is when the source ends before that: the next member is not given it.
func TestReleaseAfterAHalfDoneDeferralAtTheEnd(t *testing.T) {
	bubble(t, func(e *env) {
		e.source(fluxnats.Config{}, fluxnats.Layout{})
		e.publish(1)
		var l line
		l.lose("+ACK")
		r := e.run(e.sourceOver(&l, fluxnats.Config{}), newIntake(4, func(ctx context.Context, d delivery) {
			if err := d.Defer(ctx, stream.Deferral{Until: time.Now().Add(time.Hour), Deferrals: 1}); err == nil {
				t.Error("the acknowledgement got through")
			}
			<-ctx.Done()
			d.Release()
		}))
		time.Sleep(10 * time.Second)
		l.lose()
		r.stop()
		var seen tally
		r = e.run(e.newSource(fluxnats.Config{}), newIntake(4, e.acks(&seen)))
		time.Sleep(10 * time.Second)
		r.stop()
		seen.exactly(e.T, 0)
		if n := e.count("S", "flux.defer.>"); n != 1 {
			t.Errorf("%d copies", n)
		}
	})
}

// One tenant has any number of deferred messages, and MaxAckPending is small:
// the others are served as if it were not there.
func TestDeferredMessagesStarveNobody(t *testing.T) {
	for _, nak := range []bool{false, true} {
		bubble(t, func(e *env) {
			src := e.source(fluxnats.Config{NakDeferrals: nak}, fluxnats.Layout{MaxAckPending: 10})
			for i := range 100 {
				e.send(&nats.Msg{Subject: "in.noisy", Data: fmt.Append(nil, i)})
			}
			e.send(&nats.Msg{Subject: "in.quiet"})
			served := make(chan time.Duration, 1)
			r := e.run(src, newIntake(10, func(ctx context.Context, d delivery) {
				if d.Message().Subject() == "in.noisy" {
					e.must(d.Defer(ctx, stream.Deferral{Until: time.Now().Add(time.Hour), Deferrals: d.Meta().Deferrals + 1}))
					return
				}
				served <- time.Since(d.Meta().Time)
				e.must(d.Ack(ctx))
			}))
			time.Sleep(10 * time.Minute)
			r.stop()
			// A delayed negative acknowledgement holds its place: it fails here,
			// which is why it is not the default.
			select {
			case dwell := <-served:
				if nak || dwell > time.Second {
					t.Errorf("NakDeferrals %v: the quiet tenant was served after %v", nak, dwell)
				}
			default:
				if !nak {
					t.Error("the quiet tenant was not served")
				}
			}
		})
	}
}

func TestCountsOfNakDeferrals(t *testing.T) {
	bubble(t, func(e *env) {
		cfg := fluxnats.Config{NakDeferrals: true}
		src := e.source(cfg, fluxnats.Layout{})
		e.publish(1)
		var metas []stream.Meta
		var mu sync.Mutex
		handle := func(ctx context.Context, d delivery) {
			mu.Lock()
			metas = append(metas, d.Meta())
			mu.Unlock()
			e.must(d.Defer(ctx, stream.Deferral{Until: time.Now().Add(10 * time.Second), Deferrals: 1, Attempts: len(metas)}))
		}
		r := e.run(src, newIntake(4, handle))
		time.Sleep(25 * time.Second)
		r.stop()
		r = e.run(e.newSource(cfg), newIntake(4, handle))
		time.Sleep(10 * time.Second)
		r.stop()
		// Who deferred it knows both counts, who did not takes every delivery
		// for a deferral.
		var got []string
		for _, m := range metas {
			got = append(got, fmt.Sprintf("%d/%d %v", m.Attempts, m.Deferrals, m.Redelivered))
		}
		if s := strings.Join(got, ", "); s != "0/0 false, 1/1 true, 2/1 true, 0/3 true" {
			t.Error(s)
		}
	})
}

// A copy that the server will not take, for its size or for its subject, does
// not keep the message from being deferred.
func TestCopyThatIsRefused(t *testing.T) {
	for name, change := range map[string]func(e *env, c *jetstream.StreamConfig){
		"too large":     func(_ *env, c *jetstream.StreamConfig) { c.MaxMsgSize = 120 },
		"other subject": func(_ *env, c *jetstream.StreamConfig) { c.Subjects = []string{"other", "flux.defer.>"} },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(e *env) {
				src := e.source(fluxnats.Config{}, fluxnats.Layout{})
				e.publish(1)
				s, err := e.js.Stream(e.Context(), "S")
				if err != nil {
					t.Fatal(err)
				}
				var came atomic.Int32
				due := time.Now().Add(20 * time.Second)
				r := e.run(src, newIntake(4, func(ctx context.Context, d delivery) {
					if came.Add(1) == 1 {
						c := s.CachedInfo().Config
						change(e, &c)
						if _, err := e.js.UpdateStream(e.Context(), c); err != nil {
							t.Error(err)
						}
						e.must(d.Defer(ctx, stream.Deferral{Until: due, Deferrals: 1}))
						return
					}
					if late := time.Since(due); late < 0 || late > time.Second || d.Meta().Deferrals != 1 {
						t.Errorf("%v after it was due, %+v", late, d.Meta())
					}
					e.must(d.Ack(ctx))
				}))
				time.Sleep(time.Minute)
				r.stop()
				if got := src.Stats(); came.Load() != 2 || got.Naks != 1 || got.Copies != 0 {
					t.Errorf("came %d times, %+v", came.Load(), got)
				}
			})
		})
	}
}

// Messages older than MaxAge are deleted by the server. A deferral may be longer.
func TestDeferralBeyondMaxAge(t *testing.T) {
	bubble(t, func(e *env) {
		for _, name := range []string{"S", "DLQ_S"} {
			c := jetstream.StreamConfig{Name: name, Subjects: []string{"dlq.>"}, Storage: jetstream.MemoryStorage}
			if name == "S" {
				c.Subjects, c.MaxAge, c.AllowMsgSchedules, c.AllowMsgTTL = []string{"in.>", "flux.defer.S.c.>"}, time.Minute, true, true
			}
			if _, err := e.js.CreateStream(e.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := e.js.CreateConsumer(e.Context(), "S", jetstream.ConsumerConfig{
			Durable: "c", FilterSubject: "in.>", AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: -1,
		}); err != nil {
			t.Fatal(err)
		}
		e.publish(1)
		var seen tally
		r := e.run(e.newSource(fluxnats.Config{}), newIntake(4, func(ctx context.Context, d delivery) {
			if d.Meta().Deferrals == 0 {
				e.must(d.Defer(ctx, stream.Deferral{Until: time.Now().Add(10 * time.Minute), Deferrals: 1}))
				return
			}
			seen.add(d.Message())
			e.must(d.Ack(ctx))
		}))
		time.Sleep(11 * time.Minute)
		r.stop()
		seen.exactly(e.T, 1)
	})
}

// Whatever stands in a message's headers, it is deferred and comes back, and
// the counts are the gate's.
func TestHostileHeaders(t *testing.T) {
	hostile := nats.Header{
		"Nats-Expected-Last-Subject-Sequence": {"0"}, "Nats-Stream-Source": nil,
		"Flux-Attempts": {"99"}, "Flux-Deferrals": {"-7", "x"}, "Flux-First-Seen": {"1970-01-01T00:00:00Z"},
		"Flux-Origin": {"OTHER:99"}, "Flux-Tenant": {"someone else"}, "Flux-Due": {"never"}, "Flux-Subject": {"in.other"},
		"X-Empty": {""}, "X-Long": {strings.Repeat("x", 8<<10)}, "X-Many": {"a", "b", "a"}, "X-Utf8": {"żółw \u202e"},
		"X-Percent": {"100 % %zz %41"}, "nats-lower": {"dropped"}, "X-Quote": {`" ' : ; \ `},
	}
	bubble(t, func(e *env) {
		src := e.source(fluxnats.Config{}, fluxnats.Layout{})
		e.send(&nats.Msg{Subject: "in.a", Header: hostile})
		e.raw("in.b", "a/b: slash\r\nno blank:x\r\n: no key\r\nX-Good: kept\r\n")
		stored := time.Now()
		var turn atomic.Int32
		var odd tally
		r := e.run(src, newIntake(4, func(ctx context.Context, d delivery) {
			if d.Message().Subject() == "in.b" {
				if d.Meta().Deferrals > 0 {
					odd.add(d.Message())
					if d.Message().Headers().Get("X-Good") != "kept" {
						t.Error(d.Message().Headers())
					}
					e.must(d.Ack(ctx))
					return
				}
				e.must(d.Defer(ctx, stream.Deferral{Until: time.Now().Add(time.Second), Deferrals: 1}))
				return
			}
			n := int(turn.Add(1)) - 1
			meta, m := d.Meta(), d.Message()
			if meta.Attempts != 0 || meta.Deferrals != n || stored.Sub(meta.Time).Abs() > time.Second || m.ID() != "S:1" || m.Subject() != "in.a" {
				t.Errorf("turn %d: %+v, %s, %s", n, meta, m.ID(), m.Subject())
			}
			for _, key := range []string{"X-Empty", "X-Long", "X-Many", "X-Utf8", "X-Percent", "X-Quote"} {
				want := hostile[key]
				got := m.Headers()[key]
				if len(got) != len(want) || strings.TrimSpace(want[0]) != got[0] {
					t.Errorf("turn %d: %s is %q, was %q", n, key, got, want)
				}
			}
			if n == 3 {
				e.must(d.DeadLetter(ctx, stream.Letter{Reason: stream.ReasonDeferrals, Deferrals: 3, Tenant: "a\nFlux-Attempts: 1"}))
				return
			}
			e.must(d.Defer(ctx, stream.Deferral{Until: time.Now().Add(time.Second), Deferrals: n + 1, Tenant: "a\r\nNats-Rollup: all"}))
		}))
		time.Sleep(time.Minute)
		r.stop()
		odd.exactly(e.T, 1)
		if got := src.Stats(); turn.Load() != 4 || got.Copies != 4 || got.Naks != 0 {
			t.Errorf("came %d times, %+v", turn.Load(), src.Stats())
		}
		m := e.last("DLQ_S", "dlq.S.c")
		if got := m.Header.Get("Flux-Tenant"); got != "a%0AFlux-Attempts: 1" || m.Header.Get("Flux-Attempts") != "0" || m.Header.Get("Flux-Origin") != "S:1" {
			t.Errorf("dead letter: %v", m.Header)
		}
		for key := range m.Header {
			if strings.HasPrefix(strings.ToLower(key), "nats-") && key != "Nats-Msg-Id" && key != "Nats-Expected-Stream" {
				t.Errorf("dead letter has %s", key)
			}
		}
	})
}
