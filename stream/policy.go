package stream

import (
	"fmt"
	"time"
)

// Policy turns what the limiter and the window say into an [Outcome]. The zero
// Policy is the default one: a message waits in memory if its turn comes
// within MaxWait and its tenant's share of the window has room, and otherwise
// is deferred to about the time of its turn.
type Policy struct {
	// MaxWait is the longest that a message may be parked in memory for its
	// tenant's limit. Negative: not at all.
	// Defaults to 5 seconds.
	MaxWait time.Duration

	// MaxHold is how long a message of a partition, see [Meta.Partition], may wait
	// in memory and hold back all that is processed behind it, which does not
	// count as done before it is. One that was delivered longer ago, and is the
	// oldest of its partition that is not done, is deferred to its turn; but no
	// more than one for every fifty that are processed, so that none is while
	// nothing gets on. Negative: without bound.
	// Defaults to 30 seconds, and at least twice MaxWait.
	MaxHold time.Duration

	// OnDenied is what becomes of a message that may not be parked because its
	// turn is too far away: Defer, DeadLetter or Drop.
	// Defaults to Defer.
	OnDenied Outcome

	// OnFull is what becomes of a message that may not be parked because its
	// tenant's share of the window is used up: Defer, DeadLetter or Drop.
	// Defaults to what OnDenied says.
	OnFull Outcome

	// OnNoTenant is what becomes of a message without a tenant: DeadLetter or
	// Drop.
	// Defaults to DeadLetter.
	OnNoTenant Outcome

	// OnLimiterError is what becomes of a message that the limiter could not
	// decide about. A message that costs more than its tenant's burst is not one
	// of them.
	// Defaults to FailWait.
	OnLimiterError FailMode

	// Decide is asked about each message that cannot run at once, because of its
	// limit or its tenant's share: when it arrives, and again if the rest of the
	// Policy will not let it wait any longer. It may have the message deferred, made
	// a dead letter or dropped, whatever MaxWait, OnDenied and OnFull say, so that
	// each tenant can have a policy of its own. MaxDeferrals and MaxAge hold all the
	// same, and nothing runs or waits for longer because of it. It is not asked
	// about a message that has to follow a deferred one of its order key. It is
	// called with a lock of the gate held, so it must be fast, and must not call
	// the gate.
	// Defaults to nil: the rest of the Policy decides.
	Decide func(Situation) Verdict

	// MaxDeferrals is how often a message may be deferred for its limit, or because
	// its handler asked for it, before it becomes a dead letter. Deferrals for what
	// others do count as one together, however many they are: because its tenant's
	// share of the window is used up, because it has to follow a deferred one of its
	// order key, because of MaxHold, and because others of its tenant, which gets on,
	// have had its turn, if MaxWait is long enough to earn what it costs. They end when
	// those others are done, so a message for which that must not take too long,
	// handlers may hang, needs a MaxAge. One that was next, and whose tokens were spent
	// elsewhere, was deferred for its limit. Negative: without bound.
	// Defaults to 16.
	MaxDeferrals int

	// MaxAge is the age, counted from its first publication, beyond which a
	// denied message becomes a dead letter. It does so at once when its turn
	// would come later than that.
	// Defaults to 0, without bound.
	MaxAge time.Duration

	// MaxAttempts is how often a handler may fail with a message before it
	// becomes a dead letter. Attempts travel with a deferral; a message that is
	// given back while it waits for its next attempt in memory, because it is
	// revoked or Run ends, comes again with the attempts that it came with.
	// Negative: without bound.
	// Defaults to 5.
	MaxAttempts int

	// Backoff returns how long to wait before the next attempt, given the
	// number of attempts that have failed, at least 1. A wait of up to MaxWait
	// is spent in memory, a longer one is a deferral.
	// Defaults to 100ms doubled per attempt, at most 30s.
	Backoff func(failed int) time.Duration
}

// FailMode is what the gate does while its limiter gives errors instead of
// decisions.
type FailMode uint8

const (
	// FailWait keeps a tenant's messages waiting while its limiter is asked
	// again, after a pause that grows from 100 ms to 5 s. Those that have waited
	// for MaxWait go the way of OnDenied.
	FailWait FailMode = iota

	// FailOpen processes the message without a grant: its [Info.Granted] is
	// zero, it spends nothing, and [Stats.FailedOpen] counts it. The limiter is
	// asked again with the next message, so one that hangs before it fails should
	// be given a timeout of its own.
	FailOpen

	// FailClosed sends the message the way of OnDenied at once. One that is
	// deferred comes back after a pause that doubles with each of its deferrals,
	// from 100 ms to 30 s.
	FailClosed
)

var failModeNames = [...]string{FailWait: "wait", FailOpen: "open", FailClosed: "closed"}

// String returns the mode's stable name, as in "closed".
func (m FailMode) String() string {
	if int(m) < len(failModeNames) {
		return failModeNames[m]
	}
	return fmt.Sprintf("fail_mode(%d)", uint8(m))
}
