package stream

import "time"

// Hooks are functions that the gate calls, from its workers and while they
// wait, so they must be fast and safe for concurrent use. A nil hook costs
// nothing.
type Hooks struct {
	// Admitted is called before a message goes to the handler.
	Admitted func(Info)

	// Settled is called when the broker has confirmed what became of a message:
	// outcome is Process, Defer, DeadLetter or Drop.
	Settled func(info Info, outcome Outcome, reason Reason)
}

// Info is what the gate knows of a message.
type Info struct {
	Tenant string
	Cost   int64

	// Attempt counts this attempt: 1 for the first. Deferrals counts how often
	// the message was deferred before; in [Hooks.Settled], this time included.
	Attempt   int
	Deferrals int

	// Published is when the message was first published, Delivered when the
	// gate took it, and Granted the time that the limiter's decision to admit it
	// was taken with: zero if it was not admitted, see [FailOpen] as well. No attempt starts before its
	// Granted, and the Granted times of a tenant keep its limit exactly,
	// whatever delays the machine adds before the handler runs.
	Published time.Time
	Delivered time.Time
	Granted   time.Time
}

// Stats are the gate's totals.
type Stats struct {
	// Held counts the messages in the window, Waiting those of them that are
	// parked, Running those in a handler. The rest is being settled.
	Held, Waiting, Running int

	// Messages that left, by outcome: these count since the gate was made.
	Processed, Deferred, DeadLettered, Dropped int64

	// Released messages were given up unsettled at a drain, Revoked ones lost
	// to another consumer before they were settled.
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
