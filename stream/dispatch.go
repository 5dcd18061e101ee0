package stream

import (
	"errors"
	"time"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
)

// maxCatchUp is how late a tenant may be asked for at the time that its grant
// was due instead of at the time that it is. Timers fire late; if each slot of
// a limit with a burst of 1 began when the last one was noticed, all that
// lateness would be lost.
const maxCatchUp = int64(10 * time.Millisecond)

// pick finds the next message that may run now and gives it to w. It returns
// the tenant to be asked for, if that takes a limiter that may block, and nil
// with w.entry still nil if there is nothing to do.
func (r *run[M]) pick(w *worker[M], now int64) (ask *tenant[M]) {
	if r.draining {
		return nil
	}
	for ask == nil && w.entry == nil {
		t := r.sched.next()
		if t == nil {
			return nil
		}
		ask = r.try(w, t, now)
	}
	return ask
}

// try gives the next message of t, which is ready, to w if the limiter grants it.
// It returns t if it is to be asked for by a limiter that may block.
func (r *run[M]) try(w *worker[M], t *tenant[M], now int64) (ask *tenant[M]) {
	e := t.head()
	if e.revoked() {
		r.withdraw(e, now)
		return nil
	}
	if t.handle == nil {
		t.asking = true
		r.sched.arrange(t, now)
		return t
	}
	at := t.slot(e, now)
	d, err := t.handle.CheckAt(at, e.cost)
	if err == nil && t.remote != nil {
		t.remote.failures = 0
	}
	switch {
	case err != nil:
		r.undecided(w, t, e, err, now)
	case d.Allowed():
		r.grant(w, t, at, now)
		w.repaid = at + int64(d.ResetAfter)
		r.step(t, d, at, now)
		r.sched.arrange(t, now)
	default:
		r.refused(t, e, d, at, now)
	}
	return nil
}

// slot returns the time to ask the limiter at for the next message of t.
func (t *tenant[M]) slot(e *entry[M], now int64) int64 {
	if t.grantAt == unset || now-t.grantAt > maxCatchUp {
		return now
	}
	return min(now, max(t.grantAt, t.lastGrant, e.delivered))
}

// grant gives the head of t, which the limiter has admitted at at, to w.
func (r *run[M]) grant(w *worker[M], t *tenant[M], at, now int64) {
	e, start := r.sched.take(t)
	r.unpark(e, now)
	e.state = stateRunning
	if e.key != nil {
		e.key.since = now
	}
	if t.picked != unset && t.pressed {
		took := now - t.picked
		t.picks = min(t.picks+1, enoughPicks)
		t.gap = smooth(t.gap, took, unusual, int64(t.picks))
		// Most of the time was its limit's: that depends on what it cost.
		t.paced = t.grantAt != unset && now-t.grantAt < took/2
	}
	t.picked, t.lastGrant, t.pressed = now, at, t.waiting > t.awaiting
	w.entry, w.granted, w.start, w.cost = e, at, start, unset
}

// step moves t on to the next slot of its limit after a grant at at, so that
// the limiter need not be asked before.
func (r *run[M]) step(t *tenant[M], d flux.Decision, at, now int64) {
	t.grantAt = unset
	if t.limited = d.Delay(1) > 0; !t.limited {
		return
	}
	e := t.head()
	if e == nil || e.cost > d.Limit().Burst() {
		return
	}
	if wait := d.Delay(e.cost); wait > 0 {
		r.await(t, e, d, at, at+int64(wait), now)
	}
}

// refused is called when the limiter has refused e, the head of t, at at.
func (r *run[M]) refused(t *tenant[M], e *entry[M], d flux.Decision, at, now int64) {
	t.limited = true
	r.await(t, e, d, at, at+min(int64(d.RetryAfter), never), now)
	r.sched.arrange(t, now)
}

// await makes t wait until its head e will be granted at due, by what the
// limiter said at at. What would have to wait for longer than it may goes.
func (r *run[M]) await(t *tenant[M], e *entry[M], d flux.Decision, at, due, now int64) {
	t.grantAt = due
	if due <= now {
		return
	}
	if t.handle != nil {
		t.lookAt = now + lookAgain
	}
	if t.denied == unset {
		t.denied = now
	}
	if reason := r.late(e, due, t.denied, now); reason != ReasonNone {
		t.grantAt = unset
		if t.denied < now {
			// What it costs was not left to it: no others of its tenant came before it.
			e.marks |= markPassed
		}
		r.evict(e, reason, due, now)
	} else {
		r.tellParked(e, due, now)
	}
	r.trim(t, d, at, now)
}

// lookAgain is how soon the gate sees that the limit of a tenant that waits for
// it was raised. Limits do not say so by themselves: LimitFor may look anywhere.
const lookAgain = int64(time.Second)

// look sees whether the limit of t, which waits for it, has changed.
func (r *run[M]) look(t *tenant[M], now int64) {
	t.lookAt = now + lookAgain
	e := t.head()
	d, err := t.handle.CheckAt(now, 0)
	if wait := d.Delay(e.cost); err == nil && wait > 0 {
		r.await(t, e, d, now, now+min(int64(wait), never), now)
	} else {
		t.grantAt = unset // it will be asked
	}
	r.sched.arrange(t, now)
}

// late says why e may not wait until due, or ReasonNone. It has waited for its
// limit since since.
func (r *run[M]) late(e *entry[M], due, since, now int64) Reason {
	p := &r.cfg.Policy
	switch {
	case p.MaxAge > 0 && r.age(e, now)+(due-now) > int64(p.MaxAge):
		return ReasonExpired
	case p.MaxWait < 0 || due-since > int64(p.MaxWait):
		return ReasonQuota
	}
	return ReasonNone
}

// trim lets the newest messages of t go if they would have to wait for longer
// than messages may, or are more than its share. That was checked when they
// arrived, so otherwise it does nothing: but the limit may have been lowered,
// someone else may spend from it, or the tenant may have taken the whole window
// while nothing was known to hold it back.
func (r *run[M]) trim(t *tenant[M], d flux.Decision, at, now int64) {
	longest := max(0, int64(r.cfg.Policy.MaxWait))
	queued := t.queued
	surplus, bytes := r.surplusOf(t)
	reason := ReasonShare
	first := t.queue.last
	var cut *entry[M]
	for ; first != nil; first = first.prev {
		if r.delay(d, at, queued, now) > longest {
			reason = ReasonQuota
		} else if surplus <= 0 && bytes <= 0 {
			break
		}
		queued -= first.cost
		bytes -= first.bytes
		surplus--
		if k := first.key; k != nil {
			for e := k.blocked.first; e != nil; e = e.next {
				queued -= e.cost
				bytes -= e.bytes
				surplus--
			}
		}
		cut = first
	}
	for e := cut; e != nil; {
		next := e.next
		queued += e.cost
		r.evict(e, reason, now+r.delay(d, at, queued, now), now)
		e = next
	}
}

// evict denies e, which waits for its turn at due.
func (r *run[M]) evict(e *entry[M], reason Reason, due, now int64) {
	e.tenant.dequeue(e)
	r.unpark(e, now)
	r.deny(e, reason, due, now)
	if e.key != nil {
		r.follow(e.key, now)
	}
}

// undecided is called when the limiter has failed to decide about e, the head
// of t, for w. If messages may run then, w gets it.
func (r *run[M]) undecided(w *worker[M], t *tenant[M], e *entry[M], err error, now int64) {
	if errors.Is(err, gcra.ErrExceedsBurst) {
		t.dequeue(e)
		r.unpark(e, now)
		r.decide(e, &fate{outcome: DeadLetter, reason: ReasonOversize, err: err, granted: unset})
		r.sched.arrange(t, now)
		return
	}
	if t.remote == nil {
		t.remote = new(remote)
	}
	if t.remote.failures == 0 {
		t.remote.failedAt = now
	}
	t.remote.failures++
	r.tellLimiterFailed(t, err)
	switch r.cfg.Policy.OnLimiterError {
	case FailOpen:
		r.grant(w, t, now, now)
		w.granted = unset
		r.totals.FailedOpen++
		t.limited, t.grantAt = false, unset
		r.sched.arrange(t, now)
		return
	case FailClosed:
		r.evict(e, ReasonLimiter, now+int64(doubled(100*time.Millisecond, int(e.deferrals), 30*time.Second)), now)
		t.limited, t.grantAt = false, unset
		r.sched.arrange(t, now)
		return
	}
	t.limited, t.lookAt = true, unset
	t.grantAt = now + int64(doubled(100*time.Millisecond, t.remote.failures-1, maxPause))
	// All those that have waited for too long go at once: the next would not
	// fare better.
	for e := t.head(); e != nil; e = t.head() {
		reason := r.late(e, t.grantAt, max(e.delivered, t.remote.failedAt), now)
		if reason == ReasonNone {
			break
		}
		if reason == ReasonQuota {
			reason = ReasonLimiter
		}
		r.evict(e, reason, t.grantAt, now)
	}
	r.sched.arrange(t, now)
}

// maxPause is the longest pause before something that failed is tried again.
const maxPause = 5 * time.Second

// answered takes the answer of a limiter that may block: whether cost tokens of
// t's were spent.
func (r *run[M]) answered(w *worker[M], t *tenant[M], cost int64, d flux.Decision, err error, now int64) {
	t.asking = false
	e := t.head()
	switch {
	case e == nil || r.draining:
		// Its message was revoked meanwhile: what was spent is lost.
	case errors.Is(err, gcra.ErrExceedsBurst) && e.cost < cost:
		// That was about a larger one, which e has come before.
	case err != nil:
		r.undecided(w, t, e, err, now)
		return
	case d.Allowed() && e.cost <= cost:
		*t.remote = remote{last: d, at: now}
		r.grant(w, t, now, now)
		w.repaid, w.answer = now+int64(d.ResetAfter), d
		if t.limited, t.grantAt = d.Delay(1) > 0 && d.Limit() != (gcra.Limit{}), unset; t.limited {
			// At once: those that arrive before the next is refused come after
			// those that go now, not after all that are parked.
			r.trim(t, d, now, now)
		}
	case d.Allowed():
		// Likewise, and the next one costs more.
	default:
		*t.remote = remote{last: d, at: now}
		// An answer that says "at once" must not make it asked in a loop.
		d.RetryAfter = max(d.RetryAfter, time.Millisecond)
		r.refused(t, e, d, now, now)
		return
	}
	r.sched.arrange(t, now)
}
