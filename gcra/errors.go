package gcra

import "errors"

var (
	// ErrInvalidLimit is returned when a limit cannot be enforced: a rate,
	// period or burst that is zero, negative or not a number, or a burst that
	// takes decades to refill. The error that wraps it names the field.
	ErrInvalidLimit = errors.New("flux: invalid limit")

	// ErrExceedsBurst is returned when more tokens are asked for at once than
	// the limit's burst. No wait can help: split the work, raise the burst, or
	// book the cost as debt. Nothing was spent.
	ErrExceedsBurst = errors.New("flux: cost exceeds burst")

	// ErrNegative is returned when a number of tokens is below zero. Nothing
	// was spent; giving tokens back is a call of its own.
	ErrNegative = errors.New("flux: negative number of tokens")

	// ErrTime is returned for a time outside of ±2⁶² nanoseconds (146 years
	// either side of the clock's zero), where the arithmetic could overflow.
	// Nothing was spent.
	ErrTime = errors.New("flux: time out of range")
)
