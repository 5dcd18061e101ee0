package stream

import "time"

// Policy turns what the limiter and the window say into an [Outcome]. The zero
// Policy is the default one: a message waits in memory if its turn comes
// within MaxWait and its tenant's share of the window has room, and otherwise
// is deferred to about the time of its turn.
type Policy struct {
	// MaxWait is the longest that a message may be parked in memory for its
	// tenant's limit. Negative: not at all.
	// Defaults to 5 seconds.
	MaxWait time.Duration

	// OnDenied is what becomes of a message that may not be parked: Defer,
	// DeadLetter or Drop.
	// Defaults to Defer.
	OnDenied Outcome

	// OnNoTenant is what becomes of a message without a tenant: DeadLetter or
	// Drop.
	// Defaults to DeadLetter.
	OnNoTenant Outcome

	// MaxDeferrals is how often a message may be deferred before it becomes a
	// dead letter. Negative: without bound.
	// Defaults to 16.
	MaxDeferrals int

	// MaxAge is the age, counted from its first publication, beyond which a
	// denied message becomes a dead letter. It does so at once when its turn
	// would come later than that.
	// Defaults to 0, without bound.
	MaxAge time.Duration

	// MaxAttempts is how often a handler may fail with a message before it
	// becomes a dead letter. Negative: without bound.
	// Defaults to 5.
	MaxAttempts int

	// Backoff returns how long to wait before the next attempt, given the
	// number of attempts that have failed, at least 1. A wait of up to MaxWait
	// is spent in memory, a longer one is a deferral.
	// Defaults to 100ms doubled per attempt, at most 30s.
	Backoff func(failed int) time.Duration
}
