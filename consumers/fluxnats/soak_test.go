package fluxnats_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/stream"
)

// ledger is what happened to each message, by its number.
type ledger struct {
	mu      sync.Mutex
	inside  map[int]int // handlers that have it right now
	settled map[int]int // how often it was processed or dead-lettered
	due     map[int]time.Time
	errs    []string
}

func (l *ledger) note(format string, args ...any) {
	if len(l.errs) < 10 {
		l.errs = append(l.errs, fmt.Sprintf(format, args...))
	}
}

// TestSoak lets members of one consumer process, defer, dead-letter and release
// messages in random turns, while members come and go, lines break and the server
// restarts. The same number draws the same scenario, but the scheduler of
// goroutines does as it likes.
func TestSoak(t *testing.T) {
	for seed := range uint64(12) {
		faults := seed%3 != 0 // every third is graceful, and then nothing is done twice
		t.Run(fmt.Sprintf("seed %d faults %v", seed, faults), func(t *testing.T) {
			bubble(t, func(e *env) { soak(e, seed, faults) })
		})
	}
}

func soak(e *env, seed uint64, faults bool) {
	const messages, members, window = 400, 3, 24
	rng := rand.New(rand.NewPCG(seed, 0))
	cfg := fluxnats.Config{ConfirmAcks: seed%2 == 1}
	if seed%4 >= 2 {
		cfg.ReturnSubject = "back.{stream}"
	}
	retention := jetstream.LimitsPolicy
	if seed%5 == 0 {
		retention = jetstream.WorkQueuePolicy
	}
	e.source(cfg, fluxnats.Layout{AckWait: 3 * time.Second, Retention: retention})
	book := &ledger{inside: make(map[int]int), settled: make(map[int]int), due: make(map[int]time.Time)}

	handle := func(ctx context.Context, d delivery) {
		i, err := strconv.Atoi(string(d.Message().Data()))
		e.must(err)
		meta := d.Meta()
		book.mu.Lock()
		book.inside[i]++
		if book.inside[i] > 1 && !faults {
			book.note("%d is with two handlers", i)
		}
		if book.settled[i] > 0 && !faults {
			book.note("%d came again after it was settled", i)
		}
		if due := book.due[i]; meta.Deferrals > 0 && !meta.Redelivered && time.Now().Before(due) && !faults {
			book.note("%d came %v early", i, time.Until(due))
		}
		book.mu.Unlock()

		turn := rand.New(rand.NewPCG(seed, uint64(i*100+meta.Deferrals)))
		time.Sleep(time.Duration(turn.ExpFloat64() * float64(100*time.Millisecond)))
		if turn.IntN(20) == 0 {
			time.Sleep(10 * time.Second) // three times AckWait
		}
		out := turn.IntN(10)
		left := func() {
			book.mu.Lock()
			book.inside[i]--
			book.mu.Unlock()
		}
		if ctx.Err() != nil && out < 7 {
			left()
			d.Release()
			return
		}
		settle := func(ctx context.Context) error { return d.Ack(ctx) }
		switch {
		case out == 0 && meta.Deferrals < 5, out == 1 && meta.Deferrals < 5, out == 2:
			until := time.Now().Add(time.Duration(turn.Int64N(int64(20 * time.Second))))
			if out == 2 && meta.Deferrals >= 5 {
				settle = func(ctx context.Context) error {
					return d.DeadLetter(ctx, stream.Letter{Reason: stream.ReasonDeferrals})
				}
				break
			}
			book.mu.Lock()
			book.due[i] = until
			book.mu.Unlock()
			for range 20 {
				if err := d.Defer(context.Background(), stream.Deferral{Until: until, Deferrals: meta.Deferrals + 1}); err == nil {
					left()
					return
				}
				time.Sleep(time.Second)
			}
			left()
			d.Release()
			return
		case out == 3:
			settle = func(ctx context.Context) error {
				return d.DeadLetter(ctx, stream.Letter{Reason: stream.ReasonPermanent})
			}
		}
		book.mu.Lock()
		book.settled[i]++
		book.inside[i]--
		book.mu.Unlock()
		for range 20 {
			if settle(context.Background()) == nil {
				return
			}
			time.Sleep(time.Second)
		}
		d.Release()
	}

	type member struct {
		l   *line
		nc  *nats.Conn
		src *fluxnats.Source
		run *running
	}
	join := func() *member {
		m := &member{l: new(line)}
		m.nc = e.dial(m.l)
		js, err := jetstream.New(m.nc)
		if err != nil {
			e.Fatal(err)
		}
		m.src = e.sourceOn(js, cfg)
		m.run = e.run(m.src, newIntake(window, handle))
		return m
	}
	all := make([]*member, members)
	for i := range all {
		all[i] = join()
	}
	go func() {
		for i := range messages {
			for {
				_, err := e.js.Publish(context.Background(), fmt.Sprintf("in.%d", i%7), fmt.Append(nil, i), jetstream.WithMsgID(fmt.Sprint(i)))
				if time.Sleep(50 * time.Millisecond); err == nil {
					break
				}
			}
		}
	}()
	for range 12 {
		time.Sleep(time.Duration(rng.Int64N(int64(5 * time.Second))))
		i := rng.IntN(members)
		m := all[i]
		switch kind := rng.IntN(4); {
		case kind == 0 && faults:
			m.l.fail()
		case kind == 1 && faults:
			m.l.down.Store(true)
			m.l.fail()
			time.Sleep(time.Duration(rng.Int64N(int64(8 * time.Second))))
			m.l.down.Store(false)
		case kind == 2 && faults:
			e.stop()
			time.Sleep(time.Duration(rng.Int64N(int64(2 * time.Second))))
			e.start()
		default:
			m.run.stop()
			m.nc.Close()
			all[i] = join()
		}
	}
	time.Sleep(10 * time.Minute)
	for _, m := range all {
		m.run.stop()
		m.nc.Close()
	}

	book.mu.Lock()
	defer book.mu.Unlock()
	lost, twice := 0, 0
	for i := range messages {
		switch n := book.settled[i]; {
		case n == 0:
			lost++
		case n > 1:
			twice++
		}
		if book.inside[i] != 0 {
			book.note("%d is still with a handler", i)
		}
	}
	if info := e.info(); info.NumPending != 0 || info.NumAckPending != 0 || e.count("S", "flux.defer.>") != 0 {
		book.note("pending %d, ack pending %d, copies %d", info.NumPending, info.NumAckPending, e.count("S", "flux.defer.>"))
	}
	if lost > 0 || twice > 0 && !faults {
		book.note("%d lost, %d settled more than once", lost, twice)
	}
	if budget := 12 * members * window; twice > budget {
		book.note("%d settled more than once, more than were held when something failed", twice)
	}
	for _, err := range book.errs {
		e.Error(err)
	}
	e.Logf("%d settled more than once", twice)
}
