package stream

import (
	"context"
	"sync/atomic"
)

// watch waits for the revocation of messages that share a channel, with one
// goroutine for all of them.
type watch[M any] struct {
	revoked <-chan struct{}
	gone    atomic.Bool // revoked is closed, and that was seen

	recalled bool // what is parked is to be released

	// ctx is what the contexts of its messages' handlers end with.
	ctx    context.Context //nolint:containedctx // it belongs to the messages, not to a call
	cancel context.CancelCauseFunc

	first *entry[M] // its entries, linked by older and newer; nil once gone
	refs  int       // how many they are

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

// watchFor makes e leave when revoked is closed.
func (r *run[M]) watchFor(e *entry[M], revoked <-chan struct{}) {
	w := r.watches[revoked]
	if w == nil {
		w = &watch[M]{revoked: revoked}
		w.ctx, w.cancel = context.WithCancelCause(r.handling)
		r.watches[revoked] = w
		r.spawn(func() { r.awaitRevocation(w) })
	} else if w.lingers {
		r.lingering.remove(w)
	}
	w.refs++
	e.watch = w
	e.newer = w.first
	if w.first != nil {
		w.first.older = e
	}
	w.first = e
}

// unwatch is called when e leaves the window.
func (r *run[M]) unwatch(e *entry[M]) {
	w := e.watch
	w.refs--
	// It is in no list if the watch has made it leave.
	if e.older != nil {
		e.older.newer = e.newer
	} else if w.first == e {
		w.first = e.newer
	}
	if e.newer != nil {
		e.newer.older = e.older
	}
	if w.refs > 0 || w.gone.Load() {
		return
	}
	r.lingering.push(w)
	if r.lingering.n > maxLingering {
		ended := r.lingering.first
		r.lingering.remove(ended)
		delete(r.watches, ended.revoked)
		ended.cancel(nil)
	}
}

// awaitRevocation is the goroutine of w. It ends with the revocation, with the run, or
// when w is not needed any more.
func (r *run[M]) awaitRevocation(w *watch[M]) {
	defer w.cancel(nil)
	select {
	case <-w.revoked:
		r.revoke(w)
	case <-w.ctx.Done():
	}
}

// revoke makes the messages of w leave. Those with a worker or a settler leave
// when that is done with them.
func (r *run[M]) revoke(w *watch[M]) {
	r.mu.Lock()
	w.gone.Store(true)
	if r.watches[w.revoked] == w {
		delete(r.watches, w.revoked)
		if w.lingers {
			r.lingering.remove(w)
		}
	}
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
			w.first, e.newer = e.newer, nil
			if w.first != nil {
				w.first.older = nil
			}
			r.withdraw(e, now)
		}
		r.unlock(now)
	}
}
