package stream

import (
	"fmt"
	"time"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
)

const (
	// alone is how long no tenant that has little to do must have had a message
	// for another to use the whole window.
	alone = 10 * time.Second

	// never is a wait that does not end.
	never = int64(1) << 61

	// neverAgain is when a message is looked at again whose wait would not end:
	// someone may raise the limit.
	neverAgain = time.Hour

	// stuck is how long the broker must have settled none of a tenant's messages
	// for the tenant's surplus to be released instead of being held until it
	// does, and how long none of its messages must have gone to a worker for it
	// to give up what it has beyond its share.
	stuck = 5 * time.Second

	// latchGrace is how long after the time that it was deferred to a message
	// may come back and still be expected by later ones of its order key.
	latchGrace = 30 * time.Second
)

// admit takes a message into the window, which has room, and decides what
// becomes of it.
func (r *run[M]) admit(a *arrival[M], now int64) {
	t := r.tenant(a, now)
	e := r.entry(a, t, now)
	r.held++
	t.held++
	r.bytes += e.bytes
	t.bytes += e.bytes
	if a.invalid {
		r.totals.Invalid++
	}
	select {
	case <-a.revoked: // never, if it is nil
		e.watch.gone.Store(true)
		r.leave(e)
		return
	default:
	}
	if r.isRecalled(a.revoked) {
		r.leave(e)
		return
	}
	if t.name == "" {
		r.decide(e, &fate{outcome: r.cfg.Policy.OnNoTenant, reason: ReasonNoTenant})
		return
	}
	if e.key != nil && e.key.away.len() > 0 {
		r.returned(e)
	}
	reason, turn := r.judge(e, now)
	if k := e.key; k != nil && k.away.precedes(e.order) && (reason != ReasonNone || !r.stays(e, k.blocked.n+1, now)) {
		reason, turn = ReasonOrder, now
	}
	var v Verdict
	if reason != ReasonNone || turn > now {
		if v = r.appeal(e, reason, turn, now); v.Outcome != 0 && reason == ReasonNone {
			reason = ReasonQuota
		}
	}
	if reason != ReasonNone {
		r.denyAs(e, v, reason, turn, now)
		if k := e.key; k != nil && k.head == nil && reason != ReasonOrder {
			k.head = e
			r.countAwaiting(k)
		}
		return
	}
	if t.bytes-e.bytes < r.limits.tenant {
		t.crossed = t.bytes
	}
	if turn > now {
		r.tellParked(e, turn, now)
	}
	r.park(e, now)
	r.sched.arrange(t, now)
}

// park makes e wait for its turn, or for that of the messages of its key.
func (r *run[M]) park(e *entry[M], now int64) {
	t, k := e.tenant, e.key
	r.count(t, 1, now)
	t.queued += e.cost
	if k != nil && k.away.precedes(e.order) {
		k.block(e)
		r.countAwaiting(k)
		return
	}
	if k != nil && k.head != nil {
		if first := k.head; e.order < first.order && (first.state == stateQueued || first.state == stateEarly) {
			// It was redelivered, and comes before what has come meanwhile.
			t.dequeue(first)
			k.block(first)
		} else {
			k.block(e)
			return
		}
	}
	if k != nil {
		k.head = e
		r.countAwaiting(k)
	}
	t.enqueue(e)
}

// judge says why a message that arrives may not be parked, or ReasonNone, and
// when its turn would be.
func (r *run[M]) judge(e *entry[M], now int64) (reason Reason, turn int64) {
	t := e.tenant
	wait := int64(0)
	var d flux.Decision
	if t.limited || t.waiting > 0 || e.cost > 1 {
		ahead := t.queued
		if t.awaits(e) {
			ahead = 0 // or it would be deferred for those that wait for it, again and again
		}
		wait, d = r.predict(t, ahead+e.cost, now)
		if l := d.Limit(); e.cost > l.Burst() && l != (gcra.Limit{}) && !l.IsDenyAll() {
			return ReasonOversize, now
		}
		if head := t.head(); head != nil && t.where == placeWaiting && t.handle != nil {
			// The limit may have been raised since the tenant began to wait.
			t.grantAt = min(t.grantAt, now+r.delay(d, now, head.cost, now))
		}
	}
	turn = now + wait
	if r.isQuiet(t) {
		if t != r.quiet[0].tenant {
			r.quiet[1] = r.quiet[0]
		}
		r.quiet[0] = quiet[M]{t, now}
	}
	if e.deferrals == 0 && !e.followed() && t.waiting > 0 && t.horizon > now && r.surplusAway(t, d, now) {
		// Messages that arrived earlier are on their way back and come first.
		turn = max(turn, t.horizon+r.interval(t, d, e.cost))
	}
	maxAge := int64(r.cfg.Policy.MaxAge)
	refused := ReasonQuota
	if wait == 0 {
		refused = ReasonShare // nothing but workers, or others of its tenant, holds it back
	}
	switch {
	case wait > 0 && maxAge > 0 && r.age(e, now)+(turn-now) > maxAge:
		return ReasonExpired, turn
	case turn-now > max(0, int64(r.cfg.Policy.MaxWait)), wait > 0 && r.cfg.Policy.MaxWait < 0:
		break
	case wait > 0 && (r.shareUsed(t, e) || r.cramped(t, e)):
		refused = ReasonShare
	case wait == 0 && r.shareUsed(t, e) && (r.halted(t, now) || !r.alone(t, now) && !t.unmeasured(now)):
	default:
		if r.shareUsed(t, e) {
			r.overdraw(t)
		}
		return ReasonNone, turn
	}
	if wait == 0 {
		turn = max(turn, t.worked(t.waiting+t.running, now))
	}
	return refused, turn
}

// quiet is a tenant that had few messages here when another one came at at.
type quiet[M any] struct {
	tenant *tenant[M]
	at     int64
}

// isQuiet reports whether t has so little to do that its next message matters.
func (r *run[M]) isQuiet(t *tenant[M]) bool {
	n := int(t.waiting + t.running)
	return n == 0 || n < (r.share()+1)/2
}

// alone reports whether nobody is in the way of whom t is, as far as can be
// seen: no other tenant that was quiet recently, and still is.
func (r *run[M]) alone(t *tenant[M], now int64) bool {
	other := r.quiet[0]
	if other.tenant == t {
		other = r.quiet[1]
	}
	return other.tenant == nil || now-other.at > int64(alone) || !r.isQuiet(other.tenant)
}

// predict returns how long from now the last of cost tokens of t's will have to
// wait if all are taken in order, and the decision that says so.
func (r *run[M]) predict(t *tenant[M], cost, now int64) (wait int64, d flux.Decision) {
	at := now
	switch {
	case t.handle != nil:
		var err error
		if d, err = t.handle.CheckAt(now, 0); err != nil {
			return 0, flux.Decision{}
		}
	case t.limited:
		d, at = t.remote.last, t.remote.at
	default: // it was not asked yet, or not refused
		return 0, flux.Decision{}
	}
	return r.delay(d, at, cost, now), d
}

// delay is predict with a decision taken at at.
func (r *run[M]) delay(d flux.Decision, at, cost, now int64) int64 {
	wait := int64(d.Delay(cost))
	if wait > 0 && d.Limit() == (gcra.Limit{}) {
		// It does not tell its limit, so what it said of one message must do.
		wait = int64(d.RetryAfter)
	}
	return max(0, min(wait, never)-(now-at))
}

// surplusAway reports whether messages of t that were deferred are still to come
// back, as far as is known.
func (r *run[M]) surplusAway(t *tenant[M], d flux.Decision, now int64) bool {
	pace := t.earn(d, 1)
	// Those that are away come back at the pace that was known when they went.
	// If the limit was raised since, what it grants beyond that is for others.
	if raised := pace < t.pace-t.pace/4; raised || t.horizon <= now {
		t.horizon, t.again = unset, unset
	}
	t.pace = pace
	return t.horizon > now
}

// age returns how long before now e was published, or delivered if nobody knows.
func (r *run[M]) age(e *entry[M], now int64) int64 {
	if e.published == 0 {
		return now - e.delivered
	}
	// The wall clock, because that is what the publisher looked at.
	wall := time.Now().UnixNano()
	if e.published < 0 && wall-e.published < 0 {
		return never
	}
	return min(wall-e.published, never)
}

// deny decides the fate of a message that may not wait in memory until its
// turn. It is in no list.
func (r *run[M]) deny(e *entry[M], reason Reason, turn, now int64) {
	r.denyAs(e, r.appeal(e, reason, turn, now), reason, turn, now)
}

// denyAs is deny with what Policy.Decide has said.
func (r *run[M]) denyAs(e *entry[M], v Verdict, reason Reason, turn, now int64) {
	t, p := e.tenant, &r.cfg.Policy
	t.tally(now)
	t.denials++
	turn = min(turn, now+never)
	f := &fate{outcome: p.OnDenied, reason: reason, granted: unset}
	switch reason {
	case ReasonShare:
		f.outcome = p.OnFull
	case ReasonExpired:
		f.outcome = DeadLetter
	case ReasonOversize:
		_, d := r.predict(t, 0, now)
		f.outcome = DeadLetter
		f.err = fmt.Errorf("%w: %d tokens, burst %d", gcra.ErrExceedsBurst, e.cost, d.Limit().Burst())
	}
	if v.Outcome != 0 {
		f.outcome = v.Outcome
	}
	if reason != ReasonLimiter && turn > now && turn-now < never {
		f.until = r.wall(turn, now) // for its letter, if it becomes one
	}
	// Messages that follow a deferred one of their key have no choice.
	if f.outcome != Defer && reason != ReasonOrder {
		r.decide(e, f)
		return
	}

	if v.Outcome == Defer && v.After > 0 {
		until := now + min(int64(v.After), never)
		r.hold(e, f, until, until, now)
		return
	}

	_, d := r.predict(t, 0, now)
	interval := r.interval(t, d, e.cost)
	switch away := r.surplusAway(t, d, now); {
	case e.key != nil && e.deferrals > 0 || e.followed():
		// Those that follow it are to come back soon after the turn that it had, or
		// are deferred already: at the end of the line it would hold them all up. It
		// comes after those that came back and found no place like itself.
		if reason != ReasonOrder {
			turn = max(turn, min(t.again, now+never)+interval)
			t.again = turn
		}
	case away:
		turn = max(turn, min(t.horizon, now+never)+interval)
	}
	// It comes back some time before its turn, to find a place and wait for it:
	// a broker that is late must not leave the limit unused. But no more than
	// half of the tenant's places are meant for those that come back early, and if
	// none is free now, half of those before it must have had their turn.
	lead := min(int64(max(0, p.MaxWait)), max(0, turn-now)) / 2
	if places := int64(r.share() / 2); interval < lead/max(1, places) || places == 0 {
		lead = interval * places
	}
	if reason == ReasonLimiter && p.OnLimiterError == FailClosed {
		lead = 0 // it would not wait here, but be asked about again
	}
	until := max(turn-lead, now+int64(time.Millisecond))
	if turn-now >= never {
		until = now + int64(neverAgain)
	} else {
		t.horizon = max(t.horizon, turn)
	}
	if reason == ReasonOrder {
		last := min(e.key.away.lastBefore(e.order), now+never)
		if last > now {
			until = max(until, last+r.behind(e, interval, r.delay(d, now, t.queued, now)))
		} else {
			// What it has to follow is late, and may be as late again.
			until = max(until, now) + max(int64(100*time.Millisecond), now-last)
		}
	}
	r.hold(e, f, until, turn, now)
}

// hold decides that e is deferred until then, if it may be deferred once more
// and grow as old as it would be at its turn; otherwise it is a dead letter.
func (r *run[M]) hold(e *entry[M], f *fate, until, turn, now int64) {
	p := &r.cfg.Policy
	f.outcome = Defer
	switch {
	case p.MaxAge > 0 && r.age(e, now)+(turn-now) > int64(p.MaxAge):
		f.outcome, f.reason = DeadLetter, ReasonExpired
	case f.reason == ReasonRetry:
		// An attempt, not a deferral.
	case e.deferrals > 0 && (f.reason == ReasonOrder || f.reason == ReasonShare || f.reason == ReasonHeld):
		// How often it is deferred depends on others: those that it follows, or
		// those that have its place. Once, because the count says that it is no
		// new message.
	case e.deferrals > 0 && f.reason == ReasonQuota && r.outrun(e, now):
		// Likewise: others of its tenant have had its turn.
	case p.MaxDeferrals >= 0 && int(e.deferrals) >= p.MaxDeferrals:
		f.outcome, f.reason = DeadLetter, ReasonDeferrals
	default:
		e.deferrals++
	}
	if f.outcome == Defer && !r.defers {
		r.pause(e, turn, now)
		return
	}
	if f.outcome == Defer {
		f.until = r.wall(until, now)
		r.latch(e, until)
	}
	r.decide(e, f)
}

// outrun reports whether e, which may not wait until its turn, could do so if others of
// its tenant, that have run a short while ago, had not come before it.
func (r *run[M]) outrun(e *entry[M], now int64) bool {
	if e.marks.has(markPassed) {
		return false
	}
	t := e.tenant
	_, d := r.predict(t, 0, now)
	earned := t.earn(d, e.cost)
	return t.picked != unset && now-t.picked < int64(stuck)+earned && earned <= int64(max(0, r.cfg.Policy.MaxWait))
}

// pause makes e wait in memory for its next attempt.
func (r *run[M]) pause(e *entry[M], until, now int64) {
	if r.draining || e.revoked() || r.isRecalled(e.revocation()) {
		r.leave(e) // nobody else would take it out
		return
	}
	e.state = stateBackoff
	e.marks &^= markPassed
	r.count(e.tenant, 1, now)
	r.delayed.push(e, until)
}

// wall returns a time of the run's clock as others know it: without a monotonic
// reading, because it is for another process.
func (r *run[M]) wall(at, now int64) time.Time {
	return time.Now().Add(time.Duration(at - now)).Round(0)
}

// decide hands e, which is in no list, to the settlers.
func (r *run[M]) decide(e *entry[M], f *fate) {
	e.fate = f
	r.toSettle(e)
}
