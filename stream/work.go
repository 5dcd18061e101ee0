package stream

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/fluxlimiter/flux"
)

// worker runs handlers, one at a time.
type worker[M any] struct {
	job[M]
	batch *batch[M] // that it runs instead of a job; written with the run's mutex held

	contexts []messageContext // to be used, see context
}

// job is a message in the hands of a worker, whose goroutine owns it, but for
// entry and granted, which are written with the run's mutex held so that others
// may read them then, and phase.
type job[M any] struct {
	entry   *entry[M]
	granted int64
	start   int64 // virtual, that it was taken at
	cost    int64 // what the handler says that it cost, unset: as estimated

	// repaid is when its tenant has back what was spent for it, if it spends no
	// more; answer what a limiter that may block said when it was granted.
	repaid int64
	answer flux.Decision

	// phase is changed by compare-and-swap: a message is settled by its worker
	// or released by the drain, never both.
	phase atomic.Uint32

	verdict verdict
	fate    *fate
	backoff time.Duration
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
		r.handIn(&w.job, now)
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
	r.tellAdmitted(e, w.granted)
	parent := r.handling
	if e.watch != nil {
		parent = e.watch.ctx
	}
	c := w.context(parent, r.facts(e, w.granted))

	returned, concluded := false, false
	defer func() {
		switch {
		case concluded:
			return
		case returned:
			// It was not the handler but Backoff, a hook or the source.
			w.verdict = verdictUnknown
		default:
			w.cost = c.spent()
			r.correct(&w.job)
			r.conclude(&w.job, errGoexit, nil)
		}
		// Something ended the goroutine, which cannot be stopped; another takes
		// its place.
		r.spawn(func() { r.loop(w, handle) })
	}()
	stack, err := call(c, r.cfg.HandlerTimeout, handle, e.delivery.Message())
	returned = true
	w.cost = c.spent()
	r.correct(&w.job)
	r.conclude(&w.job, err, stack)
	concluded = true
}

// call calls a handler, of one message or of many, and returns what it returned,
// or its panic as an error and the stack of it. It ends the handler's context
// after limit, if that is not 0.
func call[T any](ctx context.Context, limit time.Duration, handle func(context.Context, T) error, m T) (stack []byte, err error) {
	defer func() {
		if v := recover(); v != nil {
			stack, err = debug.Stack(), fmt.Errorf("%w: %v", ErrPanic, v)
		}
	}()
	if limit == 0 {
		return nil, handle(ctx, m)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, ErrHandlerTimeout)
	defer cancel()
	err = handle(ctx, m)
	if err != nil && context.Cause(ctx) == ErrHandlerTimeout { //nolint:errorlint // the cause is this very error
		err = fmt.Errorf("%w after %v: %w", ErrHandlerTimeout, limit, err)
	}
	return nil, err
}

// conclude finds the verdict on a message whose handler is done with err.
func (r *run[M]) conclude(j *job[M], err error, stack []byte) {
	e := j.entry
	j.fate, j.backoff = nil, 0
	switch {
	case !j.phase.CompareAndSwap(phaseHandling, phaseSettling):
		j.verdict = verdictGone
	case e.revoked():
		e.delivery.Release()
		r.tellReleased(e, j.granted, true)
		j.verdict = verdictRevoked
	case err == nil:
		r.acknowledge(j)
	default:
		r.failed(j, err, stack)
		r.tellFailed(e, j.fate, j.verdict, j.backoff)
	}
}

// acknowledge settles a message that was processed. If that fails the settlers
// go on with it.
func (r *run[M]) acknowledge(j *job[M]) {
	err := j.entry.delivery.Ack(r.settling)
	r.tellAcknowledged(j.entry, j.granted, err)
	switch {
	case err == nil:
		j.verdict = verdictDone
	case errors.Is(err, ErrRevoked):
		j.verdict = verdictRevoked
	default:
		j.verdict, j.fate = verdictSettle, &fate{outcome: Process, granted: j.granted, tries: 1}
	}
}

// failed finds the verdict on a message whose handler failed.
func (r *run[M]) failed(j *job[M], err error, stack []byte) {
	e, p := j.entry, &r.cfg.Policy
	j.fate = &fate{outcome: DeadLetter, err: err, stack: stack, granted: j.granted}
	if permanent := (*permanentError)(nil); errors.As(err, &permanent) {
		e.attempts++
		j.fate.failed = true
		j.verdict, j.fate.reason = verdictSettle, ReasonPermanent
		return
	}
	if later := (*retryLaterError)(nil); errors.As(err, &later) {
		j.verdict, j.fate.reason, j.backoff = verdictLater, ReasonRetryLater, later.after
		return
	}
	e.attempts++
	j.fate.failed = true
	if p.MaxAttempts >= 0 && int(e.attempts) >= p.MaxAttempts {
		j.verdict, j.fate.reason = verdictSettle, ReasonAttempts
		return
	}
	j.fate.reason = ReasonRetry
	j.backoff = max(0, p.Backoff(int(e.attempts)))
	if j.verdict = verdictRetry; j.backoff > max(0, p.MaxWait) {
		j.verdict = verdictLater
	}
}

// handIn does with the message of j what its verdict says.
func (r *run[M]) handIn(j *job[M], now int64) {
	e := j.entry
	j.entry = nil
	if j.verdict == verdictGone {
		return
	}
	t := e.tenant
	t.running--
	r.recharge(j, t, e.cost, now)
	switch j.verdict {
	case verdictUnknown:
		r.leave(e)
	case verdictDone:
		r.totals.Processed++
		r.fates[Process][ReasonNone]++
		r.passed(e, now)
		r.done(e)
		r.complete(e, now)
	case verdictRevoked:
		r.totals.Revoked++
		r.complete(e, now)
	case verdictRetry:
		r.pause(e, now+min(int64(j.backoff), never), now)
	case verdictLater:
		due := now + min(int64(j.backoff), never)
		until := due
		if e.key != nil {
			// One that is older may have been deferred further.
			until = max(until, e.key.away.lastBefore(e.order)+1)
		}
		r.hold(e, j.fate, until, due, now)
		if e.key != nil {
			r.follow(e.key, now)
		}
	case verdictSettle:
		e.fate = j.fate
		if j.fate.outcome == Process {
			r.settleFailed(e, now)
		} else {
			r.toSettle(e)
		}
	}
	r.sched.arrange(t, now)
}
