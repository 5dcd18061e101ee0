package stream

import (
	"errors"
	"time"
)

// What follows calls the hooks. None is called with the run's mutex held.

// facts returns what hooks and handlers may want to know of e.
func (r *run[M]) facts(e *entry[M], granted int64) facts {
	return facts{
		clock: &r.clock, tenant: e.tenant.name, cost: e.cost,
		published: e.published, delivered: e.delivered, granted: granted,
		attempts: e.attempts, deferrals: e.deferrals,
	}
}

// later has call called when the mutex is free.
func (r *run[M]) later(call func()) { r.calls = append(r.calls, call) }

func (r *run[M]) tellAdmitted(e *entry[M], granted int64) {
	if hook := r.cfg.Hooks.Admitted; hook != nil {
		facts := r.facts(e, granted)
		hook(facts.info())
	}
}

// tellParked is called with the mutex held when it is known that e has to wait
// for its limit, until due as far as known.
func (r *run[M]) tellParked(e *entry[M], due, now int64) {
	if hook := r.cfg.Hooks.Parked; hook != nil && !e.marks.has(markParked) {
		e.marks |= markParked
		facts := r.facts(e, unset)
		r.later(func() { hook(facts.info(), time.Duration(min(due-now, never))) })
	}
}

// tellFailed is called when an attempt has failed and the verdict is found.
func (r *run[M]) tellFailed(e *entry[M], f *fate, v verdict, backoff time.Duration) {
	hook := r.cfg.Hooks.Failed
	if hook == nil || !f.failed {
		return // it asked to be deferred
	}
	facts := r.facts(e, f.granted)
	facts.attempts-- // this one is counted already
	next := DeadLetter
	switch v {
	case verdictRetry:
		next = Wait
	case verdictLater:
		next = Defer
	}
	hook(facts.info(), f.err, next, backoff)
}

// tellAcknowledged is called after the worker of e has tried to acknowledge it.
func (r *run[M]) tellAcknowledged(e *entry[M], granted int64, err error) {
	if hooks := &r.cfg.Hooks; err != nil || hooks.Settled != nil {
		r.tellSettled(e, &fate{outcome: Process, granted: granted, tries: 1}, err)
	}
}

// tellSettled is called after each try to settle e.
func (r *run[M]) tellSettled(e *entry[M], f *fate, err error) {
	hooks := &r.cfg.Hooks
	if err == nil && hooks.Settled == nil || err != nil && hooks.Released == nil && hooks.SettleFailed == nil {
		return
	}
	facts := r.facts(e, f.granted)
	if f.failed {
		facts.attempts--
	}
	info := facts.info()
	if f.outcome == Defer {
		info.Until = f.until
	}
	switch {
	case err == nil:
		hooks.Settled(info, f.outcome, f.reason)
	case errors.Is(err, ErrRevoked):
		if hooks.Released != nil {
			hooks.Released(info, true)
		}
	case hooks.SettleFailed != nil:
		hooks.SettleFailed(info, f.outcome, err, settlePause(f.tries))
	}
}

// tellReleased is called after e was released.
func (r *run[M]) tellReleased(e *entry[M], granted int64, revoked bool) {
	if hook := r.cfg.Hooks.Released; hook != nil {
		facts := r.facts(e, granted)
		hook(facts.info(), revoked)
	}
}

// tellLimiterFailed is called with the mutex held.
func (r *run[M]) tellLimiterFailed(t *tenant[M], err error) {
	if hook := r.cfg.Hooks.LimiterFailed; hook != nil {
		name := t.name
		r.later(func() { hook(name, err) })
	}
}
