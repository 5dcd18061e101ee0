package fluxkafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/fluxlimiter/flux/stream"
)

// partition is one partition for as long as this member owns it in one
// generation. One goroutine fetches and delivers; the gate settles from many.
type partition struct {
	gen   *generation
	topic string
	id    int
	name  string        // of it, for the gate
	base  string        // the topic that a lane belongs to, topic itself for a source
	mark  int64         // of base, see order
	delay time.Duration // of the lane, 0 for a source topic

	mu        sync.Mutex
	tracker   tracker
	out       int // messages with the gate
	outBytes  int
	again     []*record // released by the gate, to be delivered again
	ended     bool      // settles are too late
	dirty     bool      // there may be something new to commit
	committed int64     // -1 if nothing is
	lastMap   string
	tried     []committedOffset // commits that were sent since, unconfirmed
	stable    int64             // the log's end, as far as it can be read
	fault     error             // why the last fetch failed
	lost      bool              // the log was deleted: position is not in another, even if that is as long
	oldest    int64             // the first offset not done, as of the last look
	since     time.Time         // when it was first seen there
	waiting   bool              // the goroutine waits for wake
	wake      chan struct{}

	hops    chan struct{} // holds a value for each record under way to another lane
	hopping sync.WaitGroup

	// Of the goroutine alone.
	batches batches
	arena   arena
	pending []stream.Delivery[*kafka.Message] // counted into the window, and not handed over yet
	slab    []record
	buf     []byte
	fetched time.Time // when the last response came
}

const (
	slabSize    = 64
	pendingSize = 16
)

// run fetches and delivers until ctx ends or the gate takes no more. It returns
// an error for what must end the source.
func (p *partition) run(ctx context.Context, in stream.Intake[*kafka.Message]) error {
	defer p.hopping.Wait()
	failures := 0
	for p.room(ctx) && p.redeliver(ctx, in) {
		if _, err := in.Room(ctx, p.gen.session.cfg.Window); err != nil {
			return nil // the gate takes no more, or ctx ended
		}
		res, err := p.fetch(ctx)
		if err == nil {
			var more bool
			if more, err = p.deliver(ctx, in, res); !more && err == nil {
				return nil
			}
		}
		if gone, ok := errors.AsType[*outOfRangeError](err); ok {
			if err = p.relocate(ctx, gone); errors.Is(err, ErrOffset) {
				return err
			}
		}
		if errors.Is(err, ErrAffinity) {
			return err
		}
		if ctx.Err() != nil {
			return nil // of what was cut off by the end
		}
		p.report(err)
		if err == nil {
			failures = 0
			continue
		}
		failures++
		p.gen.session.stats.fetchErrors.Add(1)
		p.gen.session.log.LogAttrs(ctx, slog.LevelWarn, "fetch failed", p.attr(), slog.Int("failures", failures), slog.Any("error", err))
		sleep(ctx, backoff(failures))
	}
	return nil
}

// attr names the partition in the log.
func (p *partition) attr() slog.Attr {
	return slog.Group("source", slog.String("topic", p.topic), slog.Int("partition", p.id), slog.Int("generation", int(p.gen.id)))
}

// report records how the last fetch went.
func (p *partition) report(err error) {
	p.mu.Lock()
	p.fault = err
	p.mu.Unlock()
}

// room waits until the partition's window has room.
func (p *partition) room(ctx context.Context) bool {
	return p.await(ctx, p.roomy)
}

// roomy reports whether the window has room. The lock is held.
func (p *partition) roomy() bool {
	cfg := &p.gen.session.cfg
	return p.out < cfg.Window && p.outBytes < cfg.WindowBytes && !p.tracker.crowded()
}

// await waits until ok, which is called with the lock held, says yes.
func (p *partition) await(ctx context.Context, ok func() bool) bool {
	for {
		p.mu.Lock()
		if ok() {
			p.waiting = false
			p.mu.Unlock()
			return true
		}
		p.waiting = true
		p.mu.Unlock()
		select {
		case <-p.wake:
		case <-ctx.Done():
			return false
		}
	}
}

// fetch asks the leader for the records from the position on.
func (p *partition) fetch(ctx context.Context) (*fetchResponse, error) {
	s := p.gen.session
	p.mu.Lock()
	offset, lost := p.tracker.position, p.lost
	p.mu.Unlock()
	maxBytes := s.cfg.FetchBytes
	if cap(p.buf) > 2*maxBytes {
		p.buf = nil // it was for one large batch
	}
	for {
		res, err := s.fetch(ctx, p.topic, p.id, offset, maxBytes, p.buf)
		p.buf = nil
		if err != nil {
			return nil, err
		}
		p.buf, p.fetched = res.buf, time.Now()
		switch {
		case res.code == int16(kafka.OffsetOutOfRange), res.code == 0 && lost:
			return nil, &outOfRangeError{offset: offset, logStart: res.logStart}
		case res.code != 0:
			return nil, kafka.Error(res.code)
		}
		if !partial(res.records) || maxBytes >= maxResponse/2 {
			p.batches.reset(res)
			return res, nil
		}
		// Brokers send at least one whole batch; a proxy may not.
		maxBytes *= 2
	}
}

// deliver hands the records of a response to the gate. more is false when the
// gate takes nothing more.
func (p *partition) deliver(ctx context.Context, in stream.Intake[*kafka.Message], res *fetchResponse) (more bool, err error) {
	p.mu.Lock()
	p.stable = res.highWatermark
	if p.gen.session.cfg.committed() {
		p.stable = res.stable
	}
	if p.tracker.end() > res.highWatermark && len(p.tracker.ahead) > 0 {
		// What is said to be done is not even written: the log is another one
		// than the map is about.
		p.tracker.ahead = nil
		p.gen.session.stats.mapsDropped.Add(1)
	}
	p.mu.Unlock()
	more, err = p.decode(ctx, in)
	if (more || err != nil) && !p.flush(ctx, in) {
		return false, nil
	}
	return more, err
}

// decode is deliver without the last records, which are left in pending.
func (p *partition) decode(ctx context.Context, in stream.Intake[*kafka.Message]) (more bool, err error) {
	for {
		b, err := p.batches.next()
		if errors.Is(err, io.EOF) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		p.arena.reset(b.records)
		for i := 0; i < b.count && p.arena.more(); i++ {
			var raw rawRecord
			if err := p.arena.next(&raw); err != nil {
				return false, fmt.Errorf("the batch at offset %d: %w", b.base, err)
			}
			offset := b.base + raw.offsetDelta
			if offset < b.base || offset > b.last {
				return false, fmt.Errorf("%w: offset %d in the batch from %d to %d", errCorrupt, offset, b.base, b.last)
			}
			r, err := p.take(ctx, &b, &raw, offset)
			if err != nil {
				return false, err
			}
			if r != nil && !p.hand(ctx, in, r) {
				return false, nil
			}
		}
		p.mu.Lock()
		p.tracker.pass(b.last + 1)
		p.dirty = true
		p.mu.Unlock()
	}
}

// take makes a message of a raw record and holds it, and counts it into the
// window if that has room at once. It returns nil for one that needs no delivery.
func (p *partition) take(ctx context.Context, b *batch, raw *rawRecord, offset int64) (*record, error) {
	// What this goroutine alone writes it reads without the lock.
	if len(p.tracker.ahead) > 0 {
		p.mu.Lock()
		p.tracker.pass(offset)
		p.mu.Unlock()
	}
	if offset < p.tracker.position {
		return nil, nil
	}
	redelivered := offset < p.tracker.known
	headers, err := p.arena.parseHeaders(raw.headers)
	if err != nil {
		return nil, fmt.Errorf("offset %d: %w", offset, err)
	}
	if len(p.slab) == 0 {
		p.slab = make([]record, slabSize)
	}
	r := &p.slab[0]
	p.slab = p.slab[1:]
	// One by one, as a whole message would be made beside it and moved.
	r.part, r.offset, r.size, r.redelivered = p, offset, raw.size, redelivered
	m := &r.msg
	m.Topic, m.Partition, m.Offset, m.HighWaterMark = p.topic, p.id, offset, p.stable
	m.Key, m.Value, m.Headers, m.Time = raw.key, raw.value, headers, b.timestamp(raw)
	if p.delay > 0 {
		r.recall()
	} else if p.gen.session.affinity != nil {
		if err := p.belongs(ctx, &r.msg); err != nil {
			return nil, err
		}
	}
	p.mu.Lock()
	p.tracker.add(r)
	if p.delay == 0 && p.roomy() {
		p.enter(r)
	}
	p.mu.Unlock()
	return r, nil
}

// hand gives a held record to the gate, with some others or at the next flush. It
// returns false when the gate, or this partition's time, is at its end.
func (p *partition) hand(ctx context.Context, in stream.Intake[*kafka.Message], r *record) bool {
	if r.state != stateOut {
		// The others must not wait with it.
		if !p.flush(ctx, in) || !p.room(ctx) {
			return false
		}
		if r.stay != nil {
			hopped, ok := p.untilDue(ctx, in, r)
			if !ok || hopped {
				return ok
			}
		}
		p.mu.Lock()
		p.enter(r)
		p.mu.Unlock()
	}
	p.pending = append(p.pending, r)
	return len(p.pending) < pendingSize || p.flush(ctx, in)
}

// flush gives the pending records to the gate.
func (p *partition) flush(ctx context.Context, in stream.Intake[*kafka.Message]) bool {
	if len(p.pending) == 0 {
		return true
	}
	err := in.Deliver(ctx, p.pending...)
	clear(p.pending)
	p.pending = p.pending[:0]
	return err == nil
}

// enter counts r into the window. The lock is held.
func (p *partition) enter(r *record) {
	r.state = stateOut
	p.out++
	p.outBytes += int(r.size)
}

// redeliver hands out again what the gate gave up.
func (p *partition) redeliver(ctx context.Context, in stream.Intake[*kafka.Message]) bool {
	for {
		p.mu.Lock()
		if len(p.again) == 0 {
			p.mu.Unlock()
			return p.flush(ctx, in)
		}
		old := p.again[0]
		p.again = p.again[1:]
		r := &record{msg: old.msg, part: p, offset: old.offset, size: old.size, redelivered: true, stay: old.stay}
		p.tracker.replace(old, r)
		p.mu.Unlock()
		if !p.hand(ctx, in, r) {
			return false
		}
	}
}

// owned reports whether r can still be settled.
func (p *partition) owned(r *record) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ownedLocked(r)
}

func (p *partition) ownedLocked(r *record) error {
	if p.ended || p.gen.fenced.Load() {
		p.gen.session.stats.late.Add(1)
		return stream.ErrRevoked
	}
	if r.state != stateOut {
		return fmt.Errorf("%w: %s", errSettled, r.id())
	}
	return nil
}

// settle marks r done.
func (p *partition) settle(r *record) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.ownedLocked(r); err != nil {
		return err
	}
	r.state = stateDone
	p.tracker.remove(r)
	p.leave(r)
	p.dirty = true
	return nil
}

// pass marks r done, which the gate never had.
func (p *partition) pass(r *record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.state = stateDone
	p.tracker.remove(r)
	p.dirty = true
	p.rouse()
}

// rouse wakes the goroutine if it waits. The lock is held.
func (p *partition) rouse() {
	if p.waiting {
		p.waiting = false
		notify(p.wake)
	}
}

// release gives r up: it will be delivered again, here if this member keeps the
// partition.
func (p *partition) release(r *record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.state != stateOut {
		return
	}
	r.state = stateReleased
	p.leave(r)
	if !p.ended {
		p.again = append(p.again, r)
	}
}

// leave counts r out of the window. The lock is held.
func (p *partition) leave(r *record) {
	p.out--
	p.outBytes -= int(r.size)
	p.rouse()
	if p.out == 0 && p.gen.draining.Load() {
		notify(p.gen.settled)
	}
}

// notify wakes whoever waits on c, or will.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// backoff is how long to wait after so many failures in a row.
func backoff(failures int) time.Duration {
	return min(50*time.Millisecond<<min(failures-1, 10), 2*time.Second)
}
