package fluxnats_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/stream"
)

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

// stopped is a gate that takes so many messages and then no more.
type stopped struct {
	*intake
	left int
}

func (s *stopped) Deliver(ctx context.Context, deliveries ...delivery) error {
	n := min(len(deliveries), s.left)
	s.left -= n
	if err := s.intake.Deliver(ctx, deliveries[:n]...); err != nil || n == len(deliveries) {
		return err
	}
	releaseAll(deliveries[n:])
	return stream.ErrStopped
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
		next := e.run(e.newSource(fluxnats.Config{}), newIntake(500, e.acks(&seen)))
		time.Sleep(100 * time.Millisecond)
		next.stop()
		if kinds, total := seen.sum(); kinds != 150 || total != 170 { // the numbers of the 20 are among the 150
			t.Errorf("%d, %d", kinds, total)
		}
	})
}
