package stream

import (
	"context"
	"errors"
	"time"
)

const (
	// settlers is how many goroutines settle what is not simply acknowledged by
	// the worker that has processed it. Each waits for the broker most of the
	// time.
	settlers = 32

	// settleTimeout bounds one try of a settler, so that a broker that does not
	// answer for one message does not keep settlers from the others.
	settleTimeout = 30 * time.Second

	// releasePause is how long after a message was released instead of settled
	// the next one that has been delivered before follows it.
	releasePause = 10 * time.Millisecond
)

// toSettle hands e, which is in no list, to the settlers. It gives e up when
// the drain has timed out, and there are none any more, and when e is one too
// many of a tenant that they have been stuck with: the others need the place.
// An attempt that failed is not forgotten for that.
func (r *run[M]) toSettle(e *entry[M]) {
	if r.expired {
		r.giveUp(e)
		return
	}
	if t := e.tenant; !e.settling {
		if r.surplus(t) && !e.fate.failed && e.fate.reason != ReasonRetryLater && r.clock.now()-t.settled >= int64(stuck) {
			r.released = r.clock.now()
			r.giveUp(e)
			return
		}
		e.settling = true
		t.bytes -= e.bytes
		t.leavers += e.bytes
		r.leavers += e.bytes
		r.outgoing++
		if t.settling++; t.settling == 1 {
			t.settled = r.clock.now()
		}
	}
	e.state = stateSettle
	r.settles.push(e)
	if r.settlers > 0 {
		r.settle.Signal()
	}
}

// settleLoop settles messages until the run is finished.
func (r *run[M]) settleLoop() {
	r.mu.Lock()
	for {
		e := r.settles.pop()
		if e == nil {
			if r.finished {
				r.mu.Unlock()
				return
			}
			r.settlers++
			r.settle.Wait()
			r.settlers--
			continue
		}
		if e.revoked() {
			r.giveUp(e)
			r.unlock(r.clock.now())
			r.mu.Lock()
			continue
		}
		e.state = stateSettling
		r.mu.Unlock()
		err := r.settleOne(e)
		r.mu.Lock()
		now := r.clock.now()
		r.settled(e, err, now)
		r.unlock(now)
		r.mu.Lock()
	}
}

// settleOne tries to settle e as its fate says.
func (r *run[M]) settleOne(e *entry[M]) error {
	ctx, cancel := context.WithTimeout(r.settling, settleTimeout)
	defer cancel()
	var err error
	switch f := e.fate; f.outcome {
	case Defer:
		err = e.delivery.Defer(ctx, Deferral{
			Until: f.until, Reason: f.reason, Tenant: e.tenant.name,
			Attempts: int(e.attempts), Deferrals: int(e.deferrals), Order: e.order,
		})
	case DeadLetter:
		err = e.delivery.DeadLetter(ctx, Letter{
			Reason: f.reason, Err: f.err, Stack: f.stack, Tenant: e.tenant.name,
			Attempts: int(e.attempts), Deferrals: int(e.deferrals), Turn: f.until,
		})
	default:
		err = e.delivery.Ack(ctx)
	}
	if err != nil {
		e.fate.tries++
	}
	r.tellSettled(e, e.fate, err)
	return err
}

// settled does what follows from a try to settle e.
func (r *run[M]) settled(e *entry[M], err error, now int64) {
	if err == nil || errors.Is(err, ErrRevoked) {
		e.tenant.settled = now
	}
	switch {
	case err == nil:
		r.fates[e.fate.outcome][e.fate.reason]++
		switch e.fate.outcome {
		case Process:
			r.totals.Processed++
			r.passed(e, now)
		case Defer:
			r.totals.Deferred++
		case DeadLetter:
			r.totals.DeadLettered++
		case Drop:
			r.totals.Dropped++
		}
		if e.fate.outcome != Defer {
			r.done(e)
		}
		r.finish(e, now)
	case errors.Is(err, ErrRevoked):
		r.notDeferred(e)
		r.totals.Revoked++
		r.finish(e, now)
	default:
		r.settleFailed(e, now)
	}
}

// finish completes e and arranges its tenant.
func (r *run[M]) finish(e *entry[M], now int64) {
	t := e.tenant
	r.complete(e, now)
	r.sched.arrange(t, now)
}

// settleFailed tries to settle e again after a pause, unless it is too late.
func (r *run[M]) settleFailed(e *entry[M], now int64) {
	r.totals.SettleErrors++
	if r.expired || e.revoked() {
		r.giveUp(e)
		return
	}
	e.state = stateSettleWait
	r.delayed.push(e, now+int64(settlePause(e.fate.tries)))
}

// settlePause returns how long to wait after so many failed tries to settle.
func settlePause(tries int) time.Duration { return doubled(50*time.Millisecond, tries-1, maxPause) }

// giveUp lets go of e, whose fate was decided, unsettled.
func (r *run[M]) giveUp(e *entry[M]) {
	if e.fate != nil && e.fate.outcome == Defer {
		r.notDeferred(e)
	}
	r.leave(e)
}
