package flux

import (
	"context"
	"fmt"
	"time"
)

// Cleanup configures the cleanup that [Limiter.StartCleanup] runs.
type Cleanup struct {
	// Interval is the time between two sweeps of the whole limiter.
	// Defaults to one minute.
	Interval time.Duration
}

// CleanupResult is what [Limiter.CleanupStaleAsync] did: see
// [Limiter.CleanupStale].
type CleanupResult struct {
	Removed int   // how many keys were forgotten
	Err     error // why it ended early, if it did
}

// sweepStep is how many keys are looked at between two looks at the context.
const sweepStep = 4096

// longBatch is how far back the times lie that calls come with while StartCleanup
// is at work: a key that was forgotten later than that could be denied for what
// another one owed then.
const longBatch = time.Second

// StartCleanup forgets keys that need not be remembered, every so often, until
// ctx ends or stop is called. Stop returns when the cleanup has ended, and may
// be called more than once, but not by a hook.
//
// Forgetting changes no decision: a key is forgotten only when it has been as if
// it had never been used for a second, because a [Handle] may be asked with the time
// of a batch that began so long ago. It goes in small steps that delay no call.
func (l *Limiter[K]) StartCleanup(ctx context.Context, c Cleanup) (stop func()) {
	if c.Interval <= 0 {
		c.Interval = time.Minute
	}
	ctx, cancel := context.WithCancel(orBackground(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(c.Interval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_, _ = l.CleanupStale(ctx, longBatch) // fails only when ctx has ended
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// CleanupStale forgets every key that has been as if it had never been used for
// at least olderThan, and returns how many there were. It changes no decision that
// is taken with a time of up to olderThan before: a call with an earlier time, see
// [Handle.CheckAt], may be denied for what a forgotten key owed then. A longer
// olderThan also spares keys that may be back soon from being tracked anew.
// When ctx ends it stops early, and returns its error with the number so far.
func (l *Limiter[K]) CleanupStale(ctx context.Context, olderThan time.Duration) (int, error) {
	if olderThan < 0 {
		return 0, fmt.Errorf("flux: cleanup: olderThan %v is negative", olderThan)
	}
	ctx = orBackground(ctx)
	start := l.Now()
	removed, err := l.sweep(ctx, l.terms.Load().pace.at(start-int64(olderThan)))
	l.hooks.afterCleanup(removed, time.Duration(l.Now()-start), err)
	return removed, err
}

// sweep forgets the keys that were fresh at a time of the paced clock.
func (l *Limiter[K]) sweep(ctx context.Context, at int64) (removed int, err error) {
	for {
		if err := ctx.Err(); err != nil {
			return removed, err
		}
		n, done := l.table.Sweep(at, sweepStep)
		removed += n
		if done {
			return removed, nil
		}
	}
}

// CleanupStaleAsync is [Limiter.CleanupStale] in a goroutine of its own, which
// ends with the cleanup. The channel gets exactly one result and need not be
// read.
func (l *Limiter[K]) CleanupStaleAsync(ctx context.Context, olderThan time.Duration) <-chan CleanupResult {
	ch := make(chan CleanupResult, 1)
	go func() {
		n, err := l.CleanupStale(ctx, olderThan)
		ch <- CleanupResult{n, err}
	}()
	return ch
}
