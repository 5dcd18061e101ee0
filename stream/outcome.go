package stream

import "fmt"

// Outcome is what becomes of a message.
type Outcome uint8

const (
	// Process hands the message to the handler now.
	Process Outcome = iota + 1
	// Wait parks the message in memory until its turn.
	Wait
	// Defer hands the message back to the broker to be delivered later.
	Defer
	// DeadLetter moves the message to the dead letters.
	DeadLetter
	// Drop acknowledges the message without processing it.
	Drop
)

var outcomeNames = [...]string{Process: "process", Wait: "wait", Defer: "defer", DeadLetter: "dead_letter", Drop: "drop"}

// String returns the outcome's stable name, as in "dead_letter".
func (o Outcome) String() string {
	if int(o) < len(outcomeNames) && outcomeNames[o] != "" {
		return outcomeNames[o]
	}
	return fmt.Sprintf("outcome(%d)", uint8(o))
}

// MarshalText returns the outcome's name, so that it stands in JSON and in logs.
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// Reason is why a message was not simply processed. Its names are stable: they
// stand in headers, metrics and dashboards.
type Reason uint8

const (
	// ReasonNone is the reason of a message that was processed.
	ReasonNone Reason = iota
	// ReasonQuota is a wait that the limit would make longer than the policy allows.
	ReasonQuota
	// ReasonShare is a tenant that already holds its share of the window.
	ReasonShare
	// ReasonExpired is a message that grew older, or would before its turn, than the policy allows.
	ReasonExpired
	// ReasonDeferrals is a message that was deferred as often as the policy allows.
	ReasonDeferrals
	// ReasonRetry is a handler that failed and may try again.
	ReasonRetry
	// ReasonRetryLater is a handler that asked for a later delivery, see [RetryLater].
	ReasonRetryLater
	// ReasonAttempts is a handler that failed as often as the policy allows.
	ReasonAttempts
	// ReasonPermanent is a handler that failed for good, see [Permanent].
	ReasonPermanent
	// ReasonNoTenant is a message that belongs to no tenant.
	ReasonNoTenant
	// ReasonOversize is a message that costs more than its tenant's burst.
	ReasonOversize
	// ReasonLimiter is a limiter that could not decide.
	ReasonLimiter
	// ReasonOrder is an earlier message of the same order key that was deferred.
	ReasonOrder
	// ReasonHeld is a message that held back what was processed behind it, see [Policy.MaxHold].
	ReasonHeld
)

var reasonNames = [...]string{
	ReasonNone: "none", ReasonQuota: "quota_exceeded", ReasonShare: "share_exceeded",
	ReasonExpired: "expired", ReasonDeferrals: "max_deferrals", ReasonRetry: "retry",
	ReasonRetryLater: "retry_later", ReasonAttempts: "max_attempts", ReasonPermanent: "handler_permanent",
	ReasonNoTenant: "no_tenant", ReasonOversize: "oversize", ReasonLimiter: "limiter_error",
	ReasonOrder: "behind_deferred", ReasonHeld: "held_too_long",
}

// String returns the reason's stable name, as in "quota_exceeded".
func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason(%d)", uint8(r))
}

// MarshalText returns the reason's name, so that it stands in JSON and in logs.
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }
