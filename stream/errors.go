package stream

import "errors"

var (
	// ErrInvalidConfig is returned by New; the error that wraps it names the
	// field and its value.
	ErrInvalidConfig = errors.New("stream: invalid config")

	// ErrStopped is returned by [Intake.Deliver] and [Intake.Room] once the gate
	// takes no more messages.
	ErrStopped = errors.New("stream: gate is stopped")

	// ErrRevoked is returned by a settle of a message that this consumer does
	// not own any more. Whoever owns it now will settle it.
	ErrRevoked = errors.New("stream: message was revoked")

	// ErrDrainTimeout is returned by Run when handlers were still running at
	// the end of the drain timeout. Their messages were released.
	ErrDrainTimeout = errors.New("stream: drain timed out")
)
