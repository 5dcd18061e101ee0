// Package gcra is the arithmetic of a rate limit, and a table that keeps its
// state for many keys.
//
// A [Limit] is a rate with a burst. A key's state is a single number, the time
// at which it is as if it had never been used, and [Limit.Take] maps that number,
// a time and a number of tokens to the next number and a [Decision]:
//
//	limit := gcra.PerSecond(100).WithBurst(20)
//	tat, d, err := limit.Take(tat, now, 1)
//
// There is no floating point and no drift: a decision is that of a token bucket
// in exact fractions, or stricter by a nanosecond. What a Decision says about
// the future comes true to the nanosecond.
//
// [Table] keeps the number of every key, for any number of goroutines, in a few
// tens of bytes each.
//
// Times are nanoseconds on a clock of the caller's choice and always an argument: this
// package reads no clock. A clock that can be set back goes through
// [Monotonic].
package gcra
