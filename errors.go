package flux

import (
	"errors"
	"fmt"
	"time"
)

// The errors of a request itself are those of package gcra:
// [github.com/fluxlimiter/flux/gcra.ErrExceedsBurst], ErrNegative,
// ErrInvalidLimit and, where a call takes a time, ErrTime. Nothing was spent when
// a method returns one of them, or one of these.
var (
	// ErrWaitTooLong is returned at once for a wait that could not end before
	// the context's deadline or within [Config.MaxWait]. The error that wraps
	// it is a [*WaitTooLongError], which says how long it would have been.
	ErrWaitTooLong = errors.New("flux: wait too long")

	// ErrTooManyWaiters is returned when [Config.MaxWaiters] or
	// [Config.MaxKeyWaiters] are waiting already.
	ErrTooManyWaiters = errors.New("flux: too many waiters")

	// ErrDenyAll is returned to those who would wait for a key whose limit is
	// gcra.DenyAll: no wait can end. A Check of such a key is a plain denial.
	ErrDenyAll = errors.New("flux: limit denies everything")

	// ErrStaleLimit is returned for a change of a limit whose version is not
	// above that of the change before. The limit stays what it is.
	ErrStaleLimit = errors.New("flux: stale limit")

	// ErrClosed is returned to those who wait, or would, when the limiter has
	// been closed.
	ErrClosed = errors.New("flux: limiter is closed")
)

// WaitTooLongError tells how long a wait that was refused would have been. It
// wraps [ErrWaitTooLong].
type WaitTooLongError struct {
	// Wait is how long the wait would have been, as things stood: never below
	// what it takes to spend the tokens asked for, and all those that others
	// queued up for before.
	Wait time.Duration

	// Max is how long it might have been.
	Max time.Duration
}

// Error says what Wait and Max are.
func (e *WaitTooLongError) Error() string {
	return fmt.Sprintf("%v: %v, and at most %v would do", ErrWaitTooLong, e.Wait, e.Max)
}

// Unwrap returns [ErrWaitTooLong].
func (e *WaitTooLongError) Unwrap() error { return ErrWaitTooLong }
