package gcra

import (
	"sync"
	"time"
)

// Monotonic turns the readings of a clock that can be set back, a wall clock or
// the clock of another machine, into readings that a key's state survives. Such
// a clock would otherwise refuse every active key for as long as it was set
// back, because a key's TAT then lies that far in the future.
//
// A reading that is earlier than the latest one by no more than the tolerance
// is taken for one that came late, which is harmless, and passed on as it is. An
// earlier one means that the clock was set back: time then goes on from the
// latest reading, as if the clock had stood still, and the step is counted. Time
// therefore never goes back by more than the tolerance and no step back mints
// tokens. A reading from before a step that arrives after it is still known for
// what it is. A step forward is taken at its word: it gives every key the
// tokens of the time skipped, a burst at most.
//
// The monotonic clock of package time needs none of this; but note that it
// stands still on some systems while the machine sleeps (golang/go#24595).
//
// Use [NewMonotonic] to make one. Its methods may be called by any number of
// goroutines at once.
type Monotonic struct {
	tolerance int64

	mu     sync.Mutex
	begun  bool
	latest int64 // the latest reading given out
	offset int64 // what the clock's own readings lag behind by, for all the steps back
	before int64 // offset before the last step
	steps  int64
}

// NewMonotonic returns a Monotonic for a clock whose readings may arrive out of
// order by up to tolerance, because goroutines or machines race between reading
// it and using the reading. A negative tolerance is 0.
func NewMonotonic(tolerance time.Duration) *Monotonic {
	return &Monotonic{tolerance: min(max(0, int64(tolerance)), maxCapacity)}
}

// At returns the time to decide with for a reading of the clock, in
// nanoseconds. It costs an uncontended mutex.
func (m *Monotonic) At(reading int64) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := reading + m.offset
	switch {
	case !m.begun:
		m.begun = true
		m.latest = at
	case at < m.latest-m.tolerance:
		m.steps++
		m.before = m.offset
		m.offset += m.latest - at
		at = m.latest
	case at > m.latest:
		// Ahead of all others, unless it is late from before the last step.
		if old := reading + m.before; m.steps > 0 && old <= m.latest && old >= m.latest-m.tolerance {
			return old
		}
		m.latest = at
	}
	return at
}

// Steps returns how often the clock was found to have been set back by more
// than the tolerance.
func (m *Monotonic) Steps() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.steps
}
