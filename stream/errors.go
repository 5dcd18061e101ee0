package stream

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrInvalidConfig is returned by [New], and by Run for a source or a handler
	// that is nil and for what does not go with the source or the batch; the error
	// that wraps it names the field and its value.
	ErrInvalidConfig = errors.New("stream: invalid config")

	// ErrRunning is returned by Run while another Run of the same gate, or with the
	// same [ChanSource], has not returned.
	ErrRunning = errors.New("stream: gate is already running")

	// ErrStopped is returned by [Intake.Deliver] and [Intake.Room] once the gate
	// takes no more messages.
	ErrStopped = errors.New("stream: gate is stopped")

	// ErrRevoked is returned by a settle of a message that this consumer does
	// not own any more. Whoever owns it now will settle it. It is also the cause
	// with which a handler's context is cancelled when its message is revoked.
	ErrRevoked = errors.New("stream: message was revoked")

	// ErrDrainTimeout is returned by Run when handlers were still running, or
	// messages still being settled, at the end of the drain timeout. They were
	// released. It is also the cause with which handlers' contexts are cancelled
	// then.
	ErrDrainTimeout = errors.New("stream: drain timed out")

	// ErrHandlerTimeout is the cause with which a handler's context ends after
	// [Config.HandlerTimeout]. An error that the handler returns then is wrapped
	// in it, in a dead letter, say.
	ErrHandlerTimeout = errors.New("stream: handler timed out")

	// ErrPanic is what a dead letter's error wraps if the handler panicked in
	// its last attempt.
	ErrPanic = errors.New("stream: handler panicked")

	// errGoexit stands for a function of the user's that ended its goroutine.
	errGoexit = errors.New("stream: runtime.Goexit was called")
)

// require panics if an argument of function is nil.
func require(function string, isNil bool, argument string) {
	if isNil {
		panic(fmt.Sprintf("stream: %s: %s is nil", function, argument))
	}
}

// Permanent marks a handler's error as one that no retry can mend: the message
// becomes a dead letter at once. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// RetryLater marks a handler's error as "not now", such as a 429 from
// downstream: the message is deferred for at least d, and it does not count as
// a failed attempt. err may be nil.
func RetryLater(d time.Duration, err error) error {
	return &retryLaterError{max(0, d), err}
}

type retryLaterError struct {
	after time.Duration
	err   error
}

func (e *retryLaterError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("retry after %v", e.after)
	}
	return fmt.Sprintf("retry after %v: %v", e.after, e.err)
}

func (e *retryLaterError) Unwrap() error { return e.err }
