package stream

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// worker runs handlers, one at a time. Its goroutine owns it, but for entry and
// granted, which are written with the run's mutex held so that others may read
// them then, and phase.
type worker[M any] struct {
	entry   *entry[M]
	granted int64

	// phase is changed by compare-and-swap: a message is settled by its worker
	// or released by the drain, never both.
	phase atomic.Uint32

	verdict verdict
	fate    *fate
	backoff time.Duration

	contexts []messageContext // to be used, see context
}

const (
	phaseHandling uint32 = iota + 1
	phaseSettling
	phaseAbandoned
)

// verdict is what a worker has to say of its message.
type verdict uint8

const (
	verdictDone    verdict = iota // acknowledged
	verdictRevoked                // another consumer's by now; released
	verdictRetry                  // to be handled again, after backoff
	verdictLater                  // to be deferred: after backoff at least
	verdictSettle                 // to be settled as fate says
	verdictGone                   // released by the drain, and not held any more
	verdictUnknown                // to be released: it is not known what became of it
)

// loop runs messages until the run is finished.
func (r *run[M]) loop(w *worker[M], handle Handler[M]) {
	for r.next(w) {
		r.process(w, handle)
	}
}

// next hands in the message that w has run, if any, and waits for another. It
// returns false when there will be none.
func (r *run[M]) next(w *worker[M]) bool {
	r.mu.Lock()
	now := r.clock.now()
	if w.entry != nil {
		r.handIn(w, now)
	}
	for {
		r.advance(now)
		t := r.pick(w, now)
		switch {
		case w.entry != nil:
			w.phase.Store(phaseHandling)
			r.unlock(now)
			return true
		case t != nil:
			cost := t.head().cost
			r.unlock(now)
			d, err := r.cfg.Limiter.Check(r.asking, t.name, cost)
			r.mu.Lock()
			now = r.clock.now()
			r.answered(w, t, cost, d, err, now)
			if w.entry != nil {
				w.phase.Store(phaseHandling)
				r.unlock(now)
				return true
			}
			continue
		case r.finished:
			r.unlock(now)
			return false
		}
		r.unlock(now)
		r.mu.Lock()
		r.sleep()
		now = r.clock.now()
	}
}

// sleep waits until there is something to do, if there is nothing.
func (r *run[M]) sleep() {
	if r.finished || r.sched.ready.len() > 0 && !r.draining {
		return
	}
	r.idle++
	r.work.Wait()
	r.idle--
	r.waking = false
}

// process runs the handler on the message of w and settles it, if that can be
// done by an acknowledgement.
func (r *run[M]) process(w *worker[M], handle Handler[M]) {
	e := w.entry
	if hook := r.cfg.Hooks.Admitted; hook != nil {
		facts := r.facts(e, w.granted)
		hook(facts.info())
	}
	ctx := r.handling
	if e.watch != nil {
		ctx = e.watch.ctx
	}

	returned, concluded := false, false
	defer func() {
		switch {
		case concluded:
			return
		case returned:
			// It was not the handler but Backoff, a hook or the source.
			w.verdict = verdictUnknown
		default:
			r.conclude(w, errGoexit, nil)
		}
		// Something ended the goroutine, which cannot be stopped; another takes
		// its place.
		r.spawn(func() { r.loop(w, handle) })
	}()
	stack, err := call(w.context(ctx, r.facts(e, w.granted)), handle, e.delivery.Message())
	returned = true
	r.conclude(w, err, stack)
	concluded = true
}

// call calls a handler and returns what it returned, or its panic as an error
// and the stack of it.
func call[M any](ctx context.Context, handle Handler[M], m M) (stack []byte, err error) {
	defer func() {
		if v := recover(); v != nil {
			stack, err = debug.Stack(), fmt.Errorf("%w: %v", ErrPanic, v)
		}
	}()
	return nil, handle(ctx, m)
}

// conclude finds the verdict on a message whose handler is done with err.
func (r *run[M]) conclude(w *worker[M], err error, stack []byte) {
	e := w.entry
	w.fate, w.backoff = nil, 0
	switch {
	case !w.phase.CompareAndSwap(phaseHandling, phaseSettling):
		w.verdict = verdictGone
	case e.revoked():
		e.delivery.Release()
		w.verdict = verdictRevoked
	case err == nil:
		r.acknowledge(w)
	default:
		r.failed(w, err, stack)
	}
}

// acknowledge settles a message that was processed. If that fails the settlers
// go on with it.
func (r *run[M]) acknowledge(w *worker[M]) {
	switch err := w.entry.delivery.Ack(r.settling); {
	case err == nil:
		w.verdict = verdictDone
		if hook := r.cfg.Hooks.Settled; hook != nil {
			facts := r.facts(w.entry, w.granted)
			hook(facts.info(), Process, ReasonNone)
		}
	case errors.Is(err, ErrRevoked):
		w.verdict = verdictRevoked
	default:
		w.verdict, w.fate = verdictSettle, &fate{outcome: Process, granted: w.granted, tries: 1}
	}
}

// failed finds the verdict on a message whose handler failed.
func (r *run[M]) failed(w *worker[M], err error, stack []byte) {
	e, p := w.entry, &r.cfg.Policy
	w.fate = &fate{outcome: DeadLetter, err: err, stack: stack, granted: w.granted}
	if permanent := (*permanentError)(nil); errors.As(err, &permanent) {
		e.attempts++
		w.fate.failed = true
		w.verdict, w.fate.reason = verdictSettle, ReasonPermanent
		return
	}
	if later := (*retryLaterError)(nil); errors.As(err, &later) {
		w.verdict, w.fate.reason, w.backoff = verdictLater, ReasonRetryLater, later.after
		return
	}
	e.attempts++
	w.fate.failed = true
	if p.MaxAttempts >= 0 && int(e.attempts) >= p.MaxAttempts {
		w.verdict, w.fate.reason = verdictSettle, ReasonAttempts
		return
	}
	w.fate.reason = ReasonRetry
	w.backoff = max(0, p.Backoff(int(e.attempts)))
	if w.verdict = verdictRetry; w.backoff > max(0, p.MaxWait) {
		w.verdict = verdictLater
	}
}

// handIn does with the message of w what its verdict says.
func (r *run[M]) handIn(w *worker[M], now int64) {
	e := w.entry
	w.entry = nil
	if w.verdict == verdictGone {
		return
	}
	t := e.tenant
	t.running--
	switch w.verdict {
	case verdictUnknown:
		r.leave(e)
	case verdictDone:
		r.totals.Processed++
		r.complete(e, now)
	case verdictRevoked:
		r.totals.Revoked++
		r.complete(e, now)
	case verdictRetry:
		r.pause(e, now+min(int64(w.backoff), never))
	case verdictLater:
		due := now + min(int64(w.backoff), never)
		until := due
		if e.key != nil {
			// One that is older may have been deferred further.
			until = max(until, e.key.lastBefore(e.order)+1)
		}
		r.hold(e, w.fate, until, due, now)
		if e.key != nil {
			r.follow(e.key, now)
		}
	case verdictSettle:
		e.fate = w.fate
		if w.fate.outcome == Process {
			r.settleFailed(e, now)
		} else {
			r.toSettle(e)
		}
	}
	r.sched.arrange(t, now)
}
