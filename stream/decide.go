package stream

import "time"

// Situation is what [Policy.Decide] is told of a message that cannot run at once.
type Situation struct {
	Tenant string
	Cost   int64

	// Attempts and Deferrals are how often a handler has failed with the message
	// and how often it was deferred, both before now.
	Attempts  int
	Deferrals int

	// Age counts from the message's first publication, or from its delivery if
	// that is not known.
	Age time.Duration

	// Reason is why the rest of the Policy would not let the message wait in
	// memory: ReasonQuota, ReasonShare or ReasonLimiter. ReasonNone: it would.
	Reason Reason

	// Delay is how long it is until the message's turn, as far as can be foretold.
	Delay time.Duration

	// Held is how many messages of the tenant are parked or in handlers, and Share
	// how many may be.
	Held, Share int
}

// Verdict is what [Policy.Decide] makes of a message.
type Verdict struct {
	// Outcome is Defer, DeadLetter or Drop. Anything else, such as the zero
	// Verdict, leaves the message to the rest of the Policy, and so does Defer if
	// the source cannot do that, see [Deferrer].
	Outcome Outcome

	// After is how long a deferral lasts at least.
	// Defaults to 0: until about the message's turn.
	After time.Duration
}

// appeal asks Policy.Decide about e, which cannot run before turn, and which for
// that reason may not wait either, if there is one.
func (r *run[M]) appeal(e *entry[M], reason Reason, turn, now int64) Verdict {
	decide := r.cfg.Policy.Decide
	if decide == nil {
		return Verdict{}
	}
	switch reason {
	case ReasonNone, ReasonQuota, ReasonShare, ReasonLimiter:
	default:
		return Verdict{} // nothing is left to decide
	}
	t := e.tenant
	v := decide(Situation{
		Tenant: t.name, Cost: e.cost,
		Attempts: int(e.attempts), Deferrals: int(e.deferrals),
		Age: time.Duration(r.age(e, now)), Reason: reason, Delay: time.Duration(max(0, turn-now)),
		Held: int(t.waiting + t.running), Share: r.share(),
	})
	switch {
	case v.Outcome == Defer && r.defers, v.Outcome == DeadLetter, v.Outcome == Drop:
		return v
	}
	return Verdict{}
}
