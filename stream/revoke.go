package stream

import (
	"context"
	"sync/atomic"
)

// watchID says which messages have a watch in common: those of a partition that
// are revoked together.
type watchID struct {
	partition string          // "": no partition, just a channel
	revoked   <-chan struct{} // nil: they cannot be revoked
}

// watch keeps account of the messages of a partition, and waits for their
// revocation, with one goroutine for all of them.
type watch[M any] struct {
	id   watchID
	gone atomic.Bool // they are revoked, and that was seen

	// ctx is what the contexts of its messages' handlers end with.
	ctx    context.Context //nolint:containedctx // it belongs to the messages, not to a call
	cancel context.CancelCauseFunc

	first  *entry[M] // its entries, linked by newer and older; nil once gone
	refs   int       // how many they are
	oldest *entry[M] // the last of them
	earned int       // messages processed since one was let out, see valve.go
	bytes  int64     // of these

	awaiting int // messages blocked by nothing but a deferred one

	prev, next *watch[M] // among those that linger
	lingers    bool
}

// maxLingering is how many watches without messages are kept for those to come:
// enough for the partitions of a consumer at low load.
const maxLingering = 64

// lingering are the watches without messages, the first to be ended first.
type lingering[M any] struct {
	first, last *watch[M]
	n           int
}

func (l *lingering[M]) push(w *watch[M]) {
	w.prev, w.next, w.lingers = l.last, nil, true
	if l.last == nil {
		l.first = w
	} else {
		l.last.next = w
	}
	l.last = w
	l.n++
}

func (l *lingering[M]) remove(w *watch[M]) {
	if w.prev == nil {
		l.first = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		l.last = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.prev, w.next, w.lingers = nil, nil, false
	l.n--
}

// watchOf returns the watch of the messages that a is one of, nil if there are
// none.
func (r *run[M]) watchOf(a *arrival[M]) *watch[M] {
	id := watchID{a.meta.Partition, a.revoked}
	if id == (watchID{}) {
		return nil
	}
	if r.watched == nil || r.watched.id != id {
		r.watched = r.watches[id]
	}
	return r.watched
}

// forgetWatch is called when w is needed no more.
func (r *run[M]) forgetWatch(w *watch[M]) {
	if r.watches[w.id] == w {
		delete(r.watches, w.id)
	}
	if r.watched == w {
		r.watched = nil
	}
}

// watchFor counts e, and makes it leave when a says that it is revoked.
func (r *run[M]) watchFor(e *entry[M], a *arrival[M]) {
	w := r.watchOf(a)
	switch {
	case w != nil && w.lingers:
		r.lingering.remove(w)
	case w == nil:
		w = &watch[M]{id: watchID{a.meta.Partition, a.revoked}}
		w.ctx, w.cancel = r.handling, func(error) {}
		r.watches[w.id], r.watched = w, w
		if a.revoked != nil {
			w.ctx, w.cancel = context.WithCancelCause(r.handling)
			r.spawn(func() { r.awaitRevocation(w) })
		}
	}
	w.refs++
	w.bytes += e.bytes
	e.watch = w
	e.older = w.first
	if w.first != nil {
		w.first.newer = e
	} else {
		w.oldest = e
	}
	w.first = e
}

// unwatch is called when e leaves the window.
func (r *run[M]) unwatch(e *entry[M]) {
	w := e.watch
	wasFull := r.full(w)
	w.refs--
	w.bytes -= e.bytes
	enough := min(r.cfg.Workers, max(1, r.cfg.PartitionWindow/8))
	if places := r.cfg.PartitionWindow - w.refs; places == enough || wasFull && places > enough {
		r.reopened = true
	}
	if w.oldest == e {
		w.oldest = e.newer
	}
	// It is in no list if the watch has made it leave.
	if e.newer != nil {
		e.newer.older = e.older
	} else if w.first == e {
		w.first = e.older
	}
	if e.older != nil {
		e.older.newer = e.newer
	}
	if w.refs > 0 || w.gone.Load() {
		return
	}
	r.lingering.push(w)
	if r.lingering.n > maxLingering {
		ended := r.lingering.first
		r.lingering.remove(ended)
		r.forgetWatch(ended)
		ended.cancel(nil)
	}
}

// awaitRevocation is the goroutine of w. It ends with the revocation, with the run, or
// when w is not needed any more.
func (r *run[M]) awaitRevocation(w *watch[M]) {
	defer w.cancel(nil)
	select {
	case <-w.id.revoked:
		r.revoke(w)
	case <-w.ctx.Done():
	}
}

// revoke makes the messages of w leave. Those with a worker or a settler leave
// when that is done with them.
func (r *run[M]) revoke(w *watch[M]) {
	r.mu.Lock()
	w.gone.Store(true)
	r.forgetWatch(w)
	if w.lingers {
		r.lingering.remove(w)
	}
	r.reopened = true // for those of it that wait for room
	r.mu.Unlock()
	// Handlers learn of it first: they have the most to do.
	w.cancel(ErrRevoked)

	for more := true; more; {
		r.mu.Lock()
		now := r.clock.now()
		// A few at a time, so that nobody waits long for the mutex.
		for range 256 {
			e := w.first
			if more = e != nil; !more {
				break
			}
			w.first, e.older = e.older, nil
			if w.first != nil {
				w.first.newer = nil
			}
			r.withdraw(e, now)
		}
		r.unlock(now)
	}
}
