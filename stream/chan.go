package stream

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// maxAway is how many deferred messages a ChanSource keeps before it stops to
// read its channel.
const maxAway = 4096

// ChanSource is a [Source] of the messages of a channel, for pipelines that have
// no broker: see [FromChan]. It keeps in memory what a broker would keep, so that
// nothing is lost but with the process.
type ChanSource[M any] struct {
	in   <-chan M
	dead func(context.Context, M, Letter) error

	mu      sync.Mutex
	running bool
	closed  bool // in is
	read    int64
	held    int                    // messages that the gate has
	away    heap[*chanDelivery[M]] // deferred ones, by when they are due
	back    heap[*chanDelivery[M]] // released ones, by order
	changed chan struct{}          // holds a token when held, away or back has changed
}

// FromChan returns a source that delivers what it receives from in. It is
// exhausted when in was closed and all is settled. It receives only when the gate
// has room, so the gate's window is all that it buffers, and whoever sends to in
// is held back.
//
// A message that is deferred waits in memory until it is due, and keeps its
// counts and its place among those of its order key. While 4096 of them wait,
// nothing more is received, whoever it belongs to: without a broker there is
// nowhere else to put it.
//
// A dead letter is given to dead, which is called again if it returns an error.
// Nil forgets dead letters; [Hooks.Settled] tells of them all the same.
//
// What was parked when Run's context ended, or waits to come back, is delivered
// by the next Run with the same source, before anything else. Only one of them
// may go on at a time: another fails with [ErrRunning].
//
// FromChan panics if in is nil, which would never be closed.
func FromChan[M any](in <-chan M, dead func(context.Context, M, Letter) error) *ChanSource[M] {
	require("FromChan", in == nil, "in")
	return &ChanSource[M]{in: in, dead: dead, changed: make(chan struct{}, 1)}
}

// Run implements [Source].
func (s *ChanSource[M]) Run(ctx context.Context, in Intake[M]) error {
	s.mu.Lock()
	if s.running {
		s.mu.Unlock()
		return fmt.Errorf("%w: the channel's source is used twice", ErrRunning)
	}
	s.running = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.running = false
		s.mu.Unlock()
	}()
	one := make([]Delivery[M], 1) // or each call would make another
	for {
		if _, err := in.Room(ctx, 1); err != nil {
			break
		}
		d := s.next(ctx)
		if d == nil {
			break
		}
		one[0] = d
		if err := in.Deliver(ctx, one...); err != nil {
			break
		}
		one[0] = nil // the next may be long in coming
	}
	// The end of ctx does not end what the gate still has to do.
	for s.holds() {
		<-s.changed
	}
	return nil
}

// holds reports whether the gate has messages.
func (s *ChanSource[M]) holds() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held > 0
}

// next waits for a message and returns it, nil if there will be none.
func (s *ChanSource[M]) next(ctx context.Context) *chanDelivery[M] {
	for ctx.Err() == nil {
		d, in, due, done := s.look()
		if d != nil || done {
			return d
		}
		var timer *time.Timer
		var fired <-chan time.Time
		if !due.IsZero() {
			timer = time.NewTimer(time.Until(due))
			fired = timer.C
		}
		select {
		case m, ok := <-in:
			d = s.received(m, ok)
		case <-fired:
		case <-s.changed:
		case <-ctx.Done():
		}
		if timer != nil {
			timer.Stop()
		}
		if d != nil {
			return d
		}
	}
	return nil
}

// look returns a message that is to be delivered now, or else what to wait for
// beside a change: the channel, if it is to be read, and a time, if that is not
// zero. It reports whether all is done.
func (s *ChanSource[M]) look() (d *chanDelivery[M], in <-chan M, due time.Time, done bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.back.len() > 0 {
		first, _ := s.back.top()
		s.back.remove(first.index)
		s.held++
		return first, nil, due, false
	}
	if s.away.len() > 0 {
		first, _ := s.away.top()
		if due = first.due; !due.After(time.Now()) {
			s.away.remove(first.index)
			s.held++
			return first, nil, due, false
		}
	}
	if !s.closed && s.away.len() < maxAway {
		in = s.in
	}
	return nil, in, due, s.closed && s.held == 0 && s.away.len() == 0
}

// received returns the delivery of m, nil if the channel was closed.
func (s *ChanSource[M]) received(m M, ok bool) *chanDelivery[M] {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !ok {
		s.closed = true
		return nil
	}
	s.read++
	s.held++
	return &chanDelivery[M]{source: s, message: m, meta: Meta{Time: time.Now(), Order: s.read}}
}

// chanDelivery is a message of a ChanSource. The gate, or the source, has it to
// itself.
type chanDelivery[M any] struct {
	source  *ChanSource[M]
	message M
	meta    Meta
	due     time.Time
	index   int32 // in ChanSource.away or back
}

func (d *chanDelivery[M]) setIndex(i int32) { d.index = i }

func (d *chanDelivery[M]) Message() M               { return d.message }
func (d *chanDelivery[M]) Meta() Meta               { return d.meta }
func (d *chanDelivery[M]) Revoked() <-chan struct{} { return nil }

func (d *chanDelivery[M]) Ack(context.Context) error {
	d.end(func() {})
	return nil
}

func (d *chanDelivery[M]) Defer(_ context.Context, to Deferral) error {
	d.meta.Attempts, d.meta.Deferrals = to.Attempts, to.Deferrals
	d.due = to.Until
	d.end(func() { d.source.away.push(d, unixNano(to.Until)) })
	return nil
}

func (d *chanDelivery[M]) DeadLetter(ctx context.Context, l Letter) error {
	if dead := d.source.dead; dead != nil {
		if err := dead(ctx, d.message, l); err != nil {
			return err
		}
	}
	d.end(func() {})
	return nil
}

func (d *chanDelivery[M]) Release() {
	d.meta.Redelivered = true
	d.end(func() { d.source.back.push(d, d.meta.Order) })
}

// end says that the gate does not have d any more, and calls keep with the
// source locked.
func (d *chanDelivery[M]) end(keep func()) {
	s := d.source
	s.mu.Lock()
	s.held--
	keep()
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
}
