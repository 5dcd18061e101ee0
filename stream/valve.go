package stream

import "time"

// A message that waits here for long holds back the commits of its partition:
// all that was processed behind it has to be processed again if this process
// dies, and no other consumer sees that it was. What follows lets such a message
// out. It is paid for by messages that were processed, so that nothing is let out
// while nothing gets on, when what the handlers need is down, say: that would
// but move the backlog elsewhere. This is how Uber's uForwarder resolves a
// blocked head of the line.

// valvePrice is how many messages of a partition must have been processed for
// one to be let out.
const valvePrice = 50

// passed is called when e was processed.
func (r *run[M]) passed(e *entry[M], now int64) {
	w := e.watch
	if w == nil || w.id.partition == "" {
		return
	}
	w.earned++
	if oldest := w.oldest; w.earned >= valvePrice && oldest != nil && oldest != e && now-oldest.delivered >= int64(r.cfg.Policy.MaxHold) {
		r.letOut(oldest, now)
	}
}

// letOut defers e, if it waits in memory. When it comes back it has to be
// granted like any other.
func (r *run[M]) letOut(e *entry[M], now int64) {
	if r.cfg.Policy.MaxHold < 0 || !r.defers || r.draining || e.revoked() {
		return
	}
	t, k := e.tenant, e.key
	due := now
	switch e.state {
	case stateQueued, stateEarly:
		if t.head() == e {
			due = max(due, t.grantAt)
		}
		t.dequeue(e)
		r.unpark(e, now)
	case stateBlocked:
		k.blocked.remove(e)
		r.unpark(e, now)
	case stateBackoff:
		due = max(due, r.delayed.key(e.index))
		r.delayed.remove(e.index)
		r.count(t, -1, now)
	default:
		return // it is being processed or settled
	}
	e.watch.earned = 0
	due = max(due, now+int64(time.Millisecond))
	if k != nil {
		due = max(due, k.away.lastBefore(e.order)+1)
	}
	r.hold(e, &fate{outcome: Defer, reason: ReasonHeld, granted: unset}, due, due, now)
	if k != nil {
		r.follow(k, now)
		r.countAwaiting(k)
	}
	r.sched.arrange(t, now)
}
