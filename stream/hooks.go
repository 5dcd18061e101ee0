package stream

import "time"

// Hooks are functions that the gate calls, from its workers and while they
// wait, so they must be fast and safe for concurrent use. They are called with no
// lock held, and may call the gate. A nil hook costs nothing, and a panic of one
// is not recovered. Those of one message come from several goroutines, so Parked
// may come after Admitted.
//
// Of each message that the gate has taken it is told once how it left: by Settled
// or by Released.
type Hooks struct {
	// Parked is called when a message has to wait in memory for its tenant's
	// limit, or behind others that do: for about delay, as far as is known then.
	// It is called at most once for each time that a message is delivered, and
	// not for one that waits for nothing but workers, or for earlier messages of
	// its order key.
	Parked func(info Info, delay time.Duration)

	// Admitted is called before each attempt. The message was in the gate from
	// info.Delivered to info.Granted until then.
	Admitted func(Info)

	// Failed is called when an attempt has failed with err, before what follows
	// from it: next is Wait for another attempt in memory after delay, Defer for
	// one after the message was deferred by delay, and DeadLetter when there is
	// to be none. What is deferred may still become a dead letter, because it
	// would grow too old. [RetryLater] is not a failure.
	Failed func(info Info, err error, next Outcome, delay time.Duration)

	// Settled is called when the broker has confirmed what became of a message:
	// outcome is Process, Defer, DeadLetter or Drop. info.Until is when a
	// deferred one comes back.
	Settled func(info Info, outcome Outcome, reason Reason)

	// SettleFailed is called when a settle failed with err. It is tried again
	// after pause, unless the message is revoked or the drain ends before that.
	SettleFailed func(info Info, outcome Outcome, err error, pause time.Duration)

	// Released is called when a message was given up unsettled: because it is
	// another consumer's by now, or else because the gate drains, the source
	// recalled it, or the broker does not settle what the tenant has too much of.
	Released func(info Info, revoked bool)

	// LimiterFailed is called when the limiter gave an error, other than that a
	// message costs more than it can ever grant.
	LimiterFailed func(tenant string, err error)
}

// Info is what the gate knows of a message.
type Info struct {
	Tenant string
	Cost   int64

	// Attempt counts this attempt: 1 for the first. Deferrals counts how often
	// the message was deferred before, as [Policy.MaxDeferrals] does; in
	// [Hooks.Settled], this time included.
	Attempt   int
	Deferrals int

	// Published is when the message was first published, Delivered when the
	// gate took it, and Granted the time that the limiter's decision to admit it
	// was taken with: zero if it was not admitted, or its attempt was given up, see
	// [FailOpen] as well. No attempt starts before its Granted, and the Granted
	// times of a tenant keep its limit exactly, whatever delays the machine adds
	// before the handler runs.
	Published time.Time
	Delivered time.Time
	Granted   time.Time

	// Until is when a deferred message is to come back: in [Hooks.Settled] and
	// [Hooks.SettleFailed], and zero otherwise.
	Until time.Time
}

// Dwell returns how old the message was at at: since its publication, or since
// its delivery if nobody knows when it was published.
func (i Info) Dwell(at time.Time) time.Duration {
	if i.Published.IsZero() {
		return at.Sub(i.Delivered)
	}
	return at.Sub(i.Published)
}

// Stats are the gate's totals.
type Stats struct {
	// Held counts the messages in the window, Waiting those of them that are
	// parked, Running those in a handler, or in a batch for one. The rest is being settled.
	Held, Waiting, Running int

	// Bytes is how many bytes the messages in the window have.
	Bytes int64

	// Messages that left, by outcome: these count since the gate was made.
	Processed, Deferred, DeadLettered, Dropped int64

	// Released messages were given up unsettled, for a reason that
	// [Hooks.Released] names, Revoked ones lost to another consumer before they
	// were settled.
	Released, Revoked int64

	// FailedOpen counts attempts that ran although the limiter could not decide,
	// see [FailOpen].
	FailedOpen int64

	// SettleErrors counts settles that failed and were, or will be, tried again.
	SettleErrors int64

	// Invalid counts messages with a negative Cost, Weight, or [Meta.Bytes],
	// which were taken for the least that is allowed.
	Invalid int64
}
