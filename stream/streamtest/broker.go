// Package streamtest helps to test what is built on package stream: a broker in
// memory that can be made to fail in all the ways that brokers do, a history of
// what happened, and oracles that say whether a history keeps the promises of
// the gate.
//
// It is meant to run in a testing/synctest bubble, where time is virtual.
package streamtest

import (
	"cmp"
	"context"
	"errors"
	"slices"
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
	Bytes     int // defaults to 100

	// Work is for handlers: how long to work on it, say.
	Work time.Duration
}

// Config configures a [Broker].
type Config struct {
	// Partitions is how many partitions there are. Each delivers its messages
	// in order, with a goroutine of its own, and is revoked by itself.
	// Defaults to 1.
	Partitions int

	// Fault is called before each settle: op is Acked, Deferred or DeadLettered,
	// try counts from 1 per message and op. It may sleep, and a settle whose
	// Fault is not nil fails with it: without effect, unless it is
	// ErrAnswerLost.
	// Defaults to none.
	Fault func(op Kind, m *Message, try int) error

	// Duplicate is asked with each delivery of a message, until it has said yes,
	// whether there is to be a copy of it from now on, as after a publisher or a
	// broker that was not sure: delivered, deferred and redelivered by itself. The
	// first final settlement of the two counts, and neither is delivered after it.
	// Defaults to none.
	Duplicate func(m *Message) bool

	// Clock is the broker's clock, by which messages are published and come
	// due. It may be another than the gate's, and be set forward and back.
	// Defaults to time.Now.
	Clock func() time.Time

	// Tail makes deferred messages come back behind everything that waits by
	// then, as a copy that is appended to a log does, instead of before it.
	// Defaults to false.
	Tail bool

	// Order says what Meta.Order is.
	// Defaults to Position.
	Order Order

	// Eager makes the source deliver without asking for room first.
	// Defaults to false.
	Eager bool
}

// ErrAnswerLost is what a Config.Fault returns for a settle that takes effect
// while whoever asked for it is told that it failed.
var ErrAnswerLost = errors.New("streamtest: answer lost")

// Order says what a [Broker] tells of the order of its messages.
type Order uint8

// What a [Broker] may tell of the order of its messages.
const (
	Position Order = iota // the position in the log
	Kept                  // what it was given with a deferral
	Unknown               // nothing
)

// Broker is a broker in memory: messages wait in partitions, are delivered, and
// are settled, redelivered, deferred or dead-lettered. Its methods may be called
// by any number of goroutines at once. It is a [stream.Source]; several gates
// may consume it at the same time, and then each partition belongs to whoever
// came last, until that one's context ends.
type Broker struct {
	cfg Config

	mu         sync.Mutex
	history    []History // in pieces
	published  int64
	position   int64
	partitions []*partition
	unsettled  int           // messages without a final fate
	closed     bool          // nothing more will be published
	done       chan struct{} // closed once closed and unsettled is 0
}

// partition is a log of messages to be delivered.
type partition struct {
	waiting  []*record     // in order of position
	deferred []*record     // in order of due
	wake     chan struct{} // closed and replaced when these or the owner change
	owner    *epoch
}

// epoch is the ownership of a partition by a consumer.
type epoch struct {
	revoked chan struct{}
	ended   bool
	held    map[*delivery]bool // not settled or released
	free    chan struct{}      // closed once ended and nothing is held
}

// record is a message in its partition, or a copy of one.
type record struct {
	*story
	position  int64
	order     int64
	due       time.Time // when it may be delivered, if it was deferred
	attempts  int
	deferrals int
}

// story is what the broker knows of a message, whichever copy of it that concerns.
type story struct {
	message   *Message
	published time.Time
	delivered int // how often
	tries     map[Kind]int
	doubled   bool // there is a copy
	final     bool
}

// NewBroker returns a broker without messages.
func NewBroker(cfg Config) *Broker {
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	b := &Broker{cfg: cfg, done: make(chan struct{})}
	for range max(1, cfg.Partitions) {
		b.partitions = append(b.partitions, &partition{wake: make(chan struct{})})
	}
	return b
}

// Publish appends messages to their partitions.
func (b *Broker) Publish(messages ...Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range messages {
		b.published++
		m.ID = b.published
		m.Cost = max(1, m.Cost)
		if m.Bytes == 0 {
			m.Bytes = 100
		}
		r := &record{
			story:    &story{message: &m, published: b.cfg.Clock(), tries: make(map[Kind]int)},
			position: b.next(),
		}
		p := b.partitions[m.Partition]
		p.waiting = append(p.waiting, r)
		p.notify()
		b.unsettled++
		b.record(Event{Kind: Published, Message: r.message})
	}
}

// next returns the next position of a log.
func (b *Broker) next() int64 {
	b.position++
	return b.position
}

// Close says that nothing more will be published: Run returns once all that was
// has been settled for good.
func (b *Broker) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.settleLast()
}

// settleLast closes done if everything is settled.
func (b *Broker) settleLast() {
	if b.closed && b.unsettled == 0 {
		select {
		case <-b.done:
		default:
			close(b.done)
		}
	}
}

// Revoke takes a partition away from whoever owns it, as a rebalance does, and
// gives it back at once. What was not settled is delivered again, whether or
// not the gate has let go of it.
func (b *Broker) Revoke(partition int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.partitions[partition]
	if p.owner == nil || p.owner.ended {
		return
	}
	b.record(Event{Kind: Revoked, Partition: partition})
	old := p.owner
	p.end()
	for d := range old.held {
		if !d.over {
			d.lost = true
			p.back(d.record)
		}
	}
	p.owner = newEpoch()
	p.notify()
}

func newEpoch() *epoch {
	return &epoch{revoked: make(chan struct{}), free: make(chan struct{}), held: make(map[*delivery]bool)}
}

// let takes d, which the gate is done with, from what e holds.
func (e *epoch) let(d *delivery) {
	delete(e.held, d)
	if e.ended && len(e.held) == 0 {
		close(e.free)
	}
}

// end ends the ownership of p.
func (p *partition) end() {
	if e := p.owner; e != nil && !e.ended {
		e.ended = true
		close(e.revoked)
		if len(e.held) == 0 {
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
		room := 16
		if !b.cfg.Eager {
			var err error
			if room, err = in.Room(ctx, room); err != nil {
				b.retire(p, &epochs)
				return ignore(err)
			}
		}
		// All that is there, if it has room.
		var batch []stream.Delivery[*Message]
		for len(batch) < room {
			d := b.take(ctx, p, len(batch) == 0)
			if d == nil {
				break
			}
			if len(epochs) == 0 || epochs[len(epochs)-1] != d.epoch {
				epochs = append(epochs, d.epoch)
			}
			batch = append(batch, d)
		}
		if len(batch) == 0 {
			b.retire(p, &epochs)
			return nil
		}
		if err := in.Deliver(ctx, batch...); err != nil {
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
	if len(e.held) == 0 {
		close(e.free)
	}
}

// clockCheck is how soon the broker notices that its clock was set.
const clockCheck = time.Second

// take returns the next message of p that is due. If it is to wait for one, it
// returns nil only when ctx has ended, or everything has been settled.
func (b *Broker) take(ctx context.Context, p *partition, wait bool) *delivery {
	for {
		b.mu.Lock()
		left := time.Duration(-1)
		for len(p.deferred) > 0 && left <= 0 {
			r := p.deferred[0]
			if left = r.due.Sub(b.cfg.Clock()); left <= 0 {
				p.deferred = p.deferred[1:]
				r.due = time.Time{}
				if b.cfg.Tail {
					r.position = b.next()
				}
				p.back(r)
			}
		}
		for len(p.waiting) > 0 && p.waiting[0].final {
			p.waiting = p.waiting[1:] // its copy was settled
		}
		if len(p.waiting) > 0 {
			r := p.waiting[0]
			p.waiting = p.waiting[1:]
			if b.cfg.Duplicate != nil && !r.doubled && b.cfg.Duplicate(r.message) {
				r.doubled = true
				twin := *r
				p.back(&twin)
			}
			r.delivered++
			d := &delivery{broker: b, record: r, epoch: p.owner, partition: p}
			d.epoch.held[d] = true
			b.record(Event{Kind: Delivered, Message: r.message, Count: r.delivered})
			b.mu.Unlock()
			return d
		}
		wake := p.wake
		b.mu.Unlock()
		if !wait {
			return nil
		}

		var due <-chan time.Time
		var timer *time.Timer
		if left > 0 {
			timer = time.NewTimer(min(left, clockCheck))
			due = timer.C
		}
		select {
		case <-ctx.Done():
			return nil
		case <-b.done:
			return nil
		case <-due:
		case <-wake:
		}
		if timer != nil {
			timer.Stop()
		}
	}
}

// back puts r back to be delivered.
func (p *partition) back(r *record) {
	log := &p.waiting
	if !r.due.IsZero() {
		log = &p.deferred
	}
	i, _ := slices.BinarySearchFunc(*log, r, func(a, b *record) int {
		return cmp.Or(a.due.Compare(b.due), cmp.Compare(a.position, b.position))
	})
	*log = slices.Insert(*log, i, r)
	p.notify()
}

// Partitions returns how many partitions there are.
func (b *Broker) Partitions() int { return len(b.partitions) }

// Waiting returns how many messages wait in the broker, deferred ones included.
func (b *Broker) Waiting() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.partitions {
		n += len(p.waiting) + len(p.deferred)
	}
	return n
}

// Done is closed once nothing more will be published and all that was has been
// settled for good.
func (b *Broker) Done() <-chan struct{} { return b.done }

// Unsettled returns how many messages have not been acknowledged, dropped or
// dead-lettered.
func (b *Broker) Unsettled() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.unsettled
}

var _ stream.Source[*Message] = (*Broker)(nil)
