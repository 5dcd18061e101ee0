package stream_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
	"github.com/fluxlimiter/flux/stream/streamtest"
)

// The gates in this file are what one would write in an afternoon. Each breaks
// a promise, and an oracle must see it: one that cannot is worth nothing.

// runner runs a gate until its source is exhausted.
type runner func(ctx context.Context, lim *flux.Limiter[string], src stream.Source[*message], handle stream.Handler[*message]) error

const (
	trialWindow  = 64
	trialWorkers = 4
)

// realGate is the gate that the controls are compared with.
func realGate(ctx context.Context, lim *flux.Limiter[string], src stream.Source[*message], handle stream.Handler[*message]) error {
	gate, err := stream.New(stream.Config[*message]{
		Limiter:  lim,
		Tenant:   func(m *message) string { return m.Tenant },
		OrderKey: func(m *message) string { return m.Key },
		Window:   trialWindow, Workers: trialWorkers,
	})
	if err != nil {
		return err
	}
	return gate.Run(ctx, src, handle)
}

// naive is a gate made of a channel and some goroutines, with functions for
// what the controls do differently.
type naive struct {
	queue  chan stream.Delivery[*message]
	lim    *flux.Limiter[string]
	handle stream.Handler[*message]
	settle context.Context //nolint:containedctx // of the run
}

func (n *naive) Room(context.Context, int) (int, error) { return 1, nil }

func (n *naive) Window(most int) int { return min(most, 1) }

func (n *naive) Deliver(ctx context.Context, deliveries ...stream.Delivery[*message]) error {
	for _, d := range deliveries {
		select {
		case n.queue <- d:
		case <-ctx.Done():
			d.Release()
		}
	}
	return ctx.Err()
}

func (n *naive) Recall(<-chan struct{}) {}

// must fails the trial: its broker has no faults.
func (n *naive) must(err error) {
	if err != nil {
		panic(err)
	}
}

// wait asks the limiter until it admits m.
func (n *naive) wait(m *message) {
	for {
		d, err := n.lim.Check(n.settle, m.Tenant, 1)
		if d.Allowed() || err != nil {
			return
		}
		time.Sleep(d.RetryAfter)
	}
}

// process runs the handler and settles.
func (n *naive) process(d stream.Delivery[*message]) {
	if err := n.handle(n.settle, d.Message()); err != nil {
		n.must(d.DeadLetter(n.settle, stream.Letter{Err: err}))
		return
	}
	n.must(d.Ack(n.settle))
}

// naively returns a gate whose workers do that for each message.
func naively(workers int, work func(*naive, stream.Delivery[*message])) runner {
	return func(ctx context.Context, lim *flux.Limiter[string], src stream.Source[*message], handle stream.Handler[*message]) error {
		n := &naive{queue: make(chan stream.Delivery[*message], trialWindow-workers), lim: lim, handle: handle, settle: ctx}
		var wg sync.WaitGroup
		for range workers {
			wg.Go(func() {
				for d := range n.queue {
					work(n, d)
				}
			})
		}
		err := src.Run(ctx, n)
		close(n.queue)
		wg.Wait()
		return err
	}
}

// fifoGate processes messages in their order, each as soon as its limit lets it:
// one throttled tenant holds up all the others.
func fifoGate() runner {
	return naively(trialWorkers, func(n *naive, d stream.Delivery[*message]) {
		n.wait(d.Message())
		n.process(d)
	})
}

// unsharedGate parks throttled messages beside the workers, but lets any tenant
// take the whole window.
func unsharedGate() runner {
	return naively(trialWindow-1, func(n *naive, d stream.Delivery[*message]) {
		n.wait(d.Message())
		n.process(d)
	})
}

// hastyGate acknowledges first, so that nothing can be delivered twice.
func hastyGate() runner {
	return naively(trialWorkers, func(n *naive, d stream.Delivery[*message]) {
		n.must(d.Ack(n.settle))
		_ = n.handle(n.settle, d.Message())
	})
}

// carelessGate lets go of a message before its dead letter is certain.
func carelessGate() runner {
	return naively(trialWorkers, func(n *naive, d stream.Delivery[*message]) {
		err := n.handle(n.settle, d.Message())
		n.must(d.Ack(n.settle))
		if err != nil {
			n.must(d.DeadLetter(n.settle, stream.Letter{Err: err}))
		}
	})
}

// eagerGate waits as long as the limiter said, and then does not ask again.
func eagerGate() runner {
	return naively(trialWorkers, func(n *naive, d stream.Delivery[*message]) {
		if answer, _ := n.lim.Check(n.settle, d.Message().Tenant, 1); !answer.Allowed() {
			time.Sleep(answer.RetryAfter)
		}
		n.process(d)
	})
}

// forgetfulGate counts a handler's failure as done.
func forgetfulGate() runner {
	return naively(trialWorkers, func(n *naive, d stream.Delivery[*message]) {
		_ = n.handle(n.settle, d.Message())
		n.must(d.Ack(n.settle))
	})
}

// trial runs a gate on messages and returns the history.
func trial(t *testing.T, run runner, l limits, publish func(*streamtest.Broker), handle stream.Handler[*message]) streamtest.History {
	t.Helper()
	var h streamtest.History
	synctest.Test(t, func(t *testing.T) {
		lim, err := flux.New(flux.Config[string]{Limit: gcra.Unlimited(), LimitFor: func(tenant string) gcra.Limit { return l[tenant] }})
		if err != nil {
			t.Fatal(err)
		}
		broker := streamtest.NewBroker(streamtest.Config{})
		publish(broker)
		if handle == nil {
			handle = func(_ context.Context, m *message) error { time.Sleep(m.Work); return nil }
		}
		// Naive gates tell no grant: it is when they start.
		started := func(ctx context.Context, m *message) error { return handle(ctx, m) }
		if err := run(t.Context(), lim, broker, broker.Record(started)); err != nil {
			t.Error(err)
		}
		h = broker.History()
	})
	for i := range h {
		if h[i].Kind == streamtest.Started && h[i].Info.Tenant == "" {
			h[i].Info.Granted, h[i].Info.Delivered = h[i].At, h[i].At
		}
	}
	return h
}

// judge fails unless the oracle accepts the real gate and objects to the others.
func judge(t *testing.T, controls map[string]runner, l limits, publish func(*streamtest.Broker), handle stream.Handler[*message], oracle func(streamtest.History) error) {
	t.Helper()
	if err := oracle(trial(t, realGate, l, publish, handle)); err != nil {
		t.Errorf("the gate: %v", err)
	}
	for name, run := range controls {
		if err := oracle(trial(t, run, l, publish, handle)); err == nil {
			t.Errorf("the oracle does not object to the %s gate", name)
		}
	}
}

// TestQuietBesideNoisy is the promise of the package: a tenant that is throttled
// and has an endless backlog costs a quiet one next to nothing.
func TestQuietBesideNoisy(t *testing.T) {
	traffic := func(noisy int) func(*streamtest.Broker) {
		return func(b *streamtest.Broker) {
			for range noisy {
				b.Publish(message{Tenant: "noisy", Work: 5 * time.Millisecond})
			}
			go func() {
				for range 100 {
					b.Publish(message{Tenant: "quiet", Work: 5 * time.Millisecond})
					time.Sleep(100 * time.Millisecond)
				}
				b.Close()
			}()
		}
	}
	l := limits{"noisy": gcra.PerSecond(10)}
	done := func(h streamtest.History) time.Duration {
		var longest time.Duration
		var begin time.Time
		for _, e := range h {
			switch {
			case e.Message == nil || e.Message.Tenant != "quiet":
			case e.Kind == streamtest.Published:
				begin = e.At
			case e.Kind == streamtest.Acked:
				longest = max(longest, e.At.Sub(begin))
			}
		}
		return longest
	}
	aloneFor := done(trial(t, realGate, l, traffic(0), nil))
	judge(t, map[string]runner{"first in first out": fifoGate(), "unshared": unsharedGate()}, l, traffic(2000), nil, func(h streamtest.History) error {
		if dwell := done(h); dwell > 2*aloneFor {
			return fmt.Errorf("a quiet message took %v, %v without the noise", dwell, aloneFor)
		}
		return nil
	})
}

// TestFairness has tenants with work all along: each gets its share, whatever
// the order in which the messages came.
func TestFairness(t *testing.T) {
	const each = 16
	tenants := []string{"a", "b", "c"}
	judge(t, map[string]runner{"first in first out": fifoGate()}, nil, func(b *streamtest.Broker) {
		// The others arrive while these keep the workers busy, and share one worker:
		// with several that are free at one moment, the order in which handlers
		// start is not that in which messages were chosen.
		b.Publish(message{Tenant: "first", Work: time.Second})
		for range trialWorkers - 1 {
			b.Publish(message{Tenant: "first", Work: time.Minute})
		}
		go func() {
			time.Sleep(time.Millisecond)
			for _, tenant := range tenants {
				for range each {
					b.Publish(message{Tenant: tenant, Work: time.Millisecond})
				}
			}
			b.Close()
		}()
	}, nil, func(h streamtest.History) error {
		h = slices.DeleteFunc(h, func(e streamtest.Event) bool { return e.Message.Tenant == "first" })
		return h.FairnessLag(each*len(tenants), func(string) int64 { return 1 })
	})
}

func TestNothingIsLost(t *testing.T) {
	failure := errors.New("failed")
	judge(t, map[string]runner{"hasty": hastyGate(), "forgetful": forgetfulGate()}, nil, func(b *streamtest.Broker) {
		for i := range 100 {
			b.Publish(message{Tenant: "a", Work: time.Duration(i)})
		}
		b.Close()
	}, func(_ context.Context, m *message) error {
		if m.Work%10 == 3 {
			return stream.Permanent(failure)
		}
		return nil
	}, func(h streamtest.History) error { return h.Lost(nil) })
}

func TestNothingIsSettledTwice(t *testing.T) {
	judge(t, map[string]runner{"careless": carelessGate()}, nil, func(b *streamtest.Broker) {
		b.Publish(message{Tenant: "a"}, message{Tenant: "a"})
		b.Close()
	}, func(context.Context, *message) error { return stream.Permanent(errors.New("failed")) },
		streamtest.History.SettledOnce)
}

func TestNothingExceedsTheLimit(t *testing.T) {
	l := limits{"a": gcra.PerSecond(10).WithBurst(1)}
	judge(t, map[string]runner{"eager": eagerGate()}, l, func(b *streamtest.Broker) {
		for range 50 {
			b.Publish(message{Tenant: "a"})
		}
		b.Close()
	}, nil, func(h streamtest.History) error {
		return h.Rate(func(tenant string) gcra.Limit { return l[tenant] })
	})
}

func TestNothingOvertakesItsKey(t *testing.T) {
	judge(t, map[string]runner{"first in first out": fifoGate()}, nil, func(b *streamtest.Broker) {
		for i := range 100 {
			b.Publish(message{Tenant: "a", Key: fmt.Sprint(i % 7), Work: time.Duration(i%13) * time.Millisecond})
		}
		b.Close()
	}, nil, streamtest.History.KeyOrder)
}
