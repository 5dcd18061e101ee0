// Package streamtest helps to test what is built on package stream: a broker in
// memory that can be made to fail in all the ways that brokers do, a history of
// what happened, and oracles that say whether a history keeps the promises of
// the gate.
//
// It is meant to run in a testing/synctest bubble, where time is virtual.
package streamtest

import (
	"context"
	"errors"
	"sort"
	"sync"
	"time"

	"github.com/fluxlimiter/flux/stream"
)

// Message is a message of the [Broker].
type Message struct {
	ID        int64 // given by Publish, counted from 1
	Tenant    string
	Key       string
	Cost      int64
	Partition int

	// Work is for handlers: how long to work on it, say.
	Work time.Duration
}

// Config configures a [Broker].
type Config struct {
	// Partitions is how many partitions there are. Each delivers its messages
	// in order, with a goroutine of its own, and is revoked by itself.
	// Defaults to 1.
	Partitions int

	// Fault is called before each settle and each return of a deferred message;
	// op is Ack, Defer, DeadLetter or Return, try counts from 1 per message and
	// op. It may sleep, and a settle whose Fault is not nil fails with it.
	// Defaults to none.
	Fault func(op Kind, m *Message, try int) error

	// Finite makes the source's Run return once all that was published has been
	// settled for good.
	Finite bool

	// Forgetful makes deferred messages come back without their Order.
	Forgetful bool

	// Eager makes the source deliver without asking for room first.
	Eager bool
}

// Broker is a broker in memory: messages wait in partitions, are delivered, and
// are settled, redelivered, deferred or dead-lettered. Its methods may be called
// by any number of goroutines at once. It is a [stream.Source]; several gates
// may consume it at the same time, and then each partition belongs to whoever
// came last, until that one's context ends.
type Broker struct {
	cfg Config

	mu         sync.Mutex
	history    []Event
	published  int64
	partitions []*partition
	unsettled  int           // messages without a final fate
	done       chan struct{} // closed once unsettled is 0, with Finite
}

// partition is a log of messages to be delivered, in order of due and then of
// position.
type partition struct {
	waiting []*record
	wake    chan struct{} // closed and replaced when waiting or the owner changes
	owner   *epoch
}

// epoch is the ownership of a partition by a consumer.
type epoch struct {
	revoked chan struct{}
	ended   bool
	held    int           // delivered, and not settled or released
	free    chan struct{} // closed once ended and held is 0
}

// record is a message and what the broker knows of it.
type record struct {
	message   *Message
	published time.Time
	due       time.Time // when it may be delivered, if it was deferred
	attempts  int
	deferrals int
	order     int64
	delivered int // how often
	tries     map[Kind]int
	final     bool
}

// NewBroker returns a broker without messages.
func NewBroker(cfg Config) *Broker {
	b := &Broker{cfg: cfg, done: make(chan struct{})}
	for range max(1, cfg.Partitions) {
		b.partitions = append(b.partitions, &partition{wake: make(chan struct{})})
	}
	return b
}

// Publish appends messages to their partitions. Everything of a finite broker
// must be published before it is run.
func (b *Broker) Publish(messages ...Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range messages {
		b.published++
		m.ID = b.published
		m.Cost = max(1, m.Cost)
		r := &record{message: &m, published: time.Now(), tries: make(map[Kind]int)}
		p := b.partitions[m.Partition]
		p.waiting = append(p.waiting, r)
		p.notify()
		b.unsettled++
		b.record(Event{Kind: Published, Message: r.message})
	}
}

// Revoke takes a partition away from whoever owns it, as a rebalance does, and
// gives it back at once. What was not settled is delivered again.
func (b *Broker) Revoke(partition int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.partitions[partition]
	if p.owner == nil || p.owner.ended {
		return
	}
	p.end()
	p.owner = newEpoch()
	p.notify()
	b.record(Event{Kind: Revoked, Partition: partition})
}

func newEpoch() *epoch { return &epoch{revoked: make(chan struct{}), free: make(chan struct{})} }

// end ends the ownership of p.
func (p *partition) end() {
	if e := p.owner; e != nil && !e.ended {
		e.ended = true
		close(e.revoked)
		if e.held == 0 {
			close(e.free)
		}
	}
}

func (p *partition) notify() {
	close(p.wake)
	p.wake = make(chan struct{})
}

// Run implements [stream.Source].
func (b *Broker) Run(ctx context.Context, in stream.Intake[*Message]) error {
	var wg sync.WaitGroup
	errs := make([]error, len(b.partitions))
	for i := range b.partitions {
		wg.Go(func() { errs[i] = b.consume(ctx, in, i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// consume delivers a partition until ctx ends and nothing of it is held.
func (b *Broker) consume(ctx context.Context, in stream.Intake[*Message], i int) error {
	p := b.partitions[i]
	b.mu.Lock()
	p.end()
	first := newEpoch()
	p.owner = first
	b.mu.Unlock()
	var epochs []*epoch
	defer func() {
		for _, e := range epochs {
			<-e.free
		}
	}()

	for {
		if !b.cfg.Eager {
			if _, err := in.Room(ctx, 16); err != nil {
				b.retire(p, &epochs)
				return ignore(err)
			}
		}
		r, e := b.take(ctx, p)
		if r == nil {
			b.retire(p, &epochs)
			return nil
		}
		if len(epochs) == 0 || epochs[len(epochs)-1] != e {
			epochs = append(epochs, e)
		}
		if err := in.Deliver(ctx, &delivery{broker: b, record: r, epoch: e, partition: p}); err != nil {
			b.mu.Lock()
			b.back(p, r, e)
			b.mu.Unlock()
			b.retire(p, &epochs)
			return ignore(err)
		}
	}
}

// ignore returns nil for the ends that a source is told of.
func ignore(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, stream.ErrStopped) {
		return nil
	}
	return err
}

// retire ends the current ownership without revoking what is held.
func (b *Broker) retire(p *partition, epochs *[]*epoch) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := p.owner
	if e == nil || e.ended {
		return
	}
	if len(*epochs) == 0 || (*epochs)[len(*epochs)-1] != e {
		*epochs = append(*epochs, e)
	}
	e.ended = true
	if e.held == 0 {
		close(e.free)
	}
}

// take waits for the next message of p that is due. It returns nil when ctx has
// ended, or everything has been settled.
func (b *Broker) take(ctx context.Context, p *partition) (*record, *epoch) {
	for {
		b.mu.Lock()
		wake, wait := p.wake, time.Duration(-1)
		if n := len(p.waiting); n > 0 {
			r := p.waiting[0]
			if wait = time.Until(r.due); wait <= 0 {
				p.waiting = p.waiting[1:]
				r.delivered++
				p.owner.held++
				e := p.owner
				b.record(Event{Kind: Delivered, Message: r.message, Count: r.delivered})
				b.mu.Unlock()
				return r, e
			}
		}
		b.mu.Unlock()

		var due <-chan time.Time
		var timer *time.Timer
		if wait > 0 {
			timer = time.NewTimer(wait)
			due = timer.C
		}
		var done <-chan struct{}
		if b.cfg.Finite {
			done = b.done
		}
		select {
		case <-ctx.Done():
			return nil, nil
		case <-done:
			return nil, nil
		case <-due:
		case <-wake:
		}
		if timer != nil {
			timer.Stop()
		}
	}
}

// back puts r, which e held, back to be delivered.
func (b *Broker) back(p *partition, r *record, e *epoch) {
	e.held--
	if e.ended && e.held == 0 {
		close(e.free)
	}
	if r.final {
		return
	}
	i := sort.Search(len(p.waiting), func(i int) bool { return r.before(p.waiting[i]) })
	p.waiting = append(p.waiting, nil)
	copy(p.waiting[i+1:], p.waiting[i:])
	p.waiting[i] = r
	p.notify()
}

func (r *record) before(o *record) bool {
	if !r.due.Equal(o.due) {
		return r.due.Before(o.due)
	}
	return r.message.ID < o.message.ID
}

// Waiting returns how many messages wait in the broker, deferred ones included.
func (b *Broker) Waiting() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.partitions {
		n += len(p.waiting)
	}
	return n
}

// Unsettled returns how many messages have not been acknowledged, dropped or
// dead-lettered.
func (b *Broker) Unsettled() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.unsettled
}

var _ stream.Source[*Message] = (*Broker)(nil)
