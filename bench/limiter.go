package main

import (
	"context"
	"time"
)

// limit is what every library is asked to enforce on each key: one token per
// interval, burst of them at once from a key that has rested. Libraries with
// fixed windows get burst tokens per burst*interval.
type limit struct {
	interval time.Duration
	burst    int64
}

var (
	// open admits everything that a loop can ask for.
	open = limit{time.Nanosecond, 1e9}
	// live admits everything too, but a key that was used stays in debt for
	// a minute, so that no library may forget it meanwhile.
	live = limit{time.Minute, 1e7}
	// shut admits one call per key and then refuses.
	shut = limit{time.Hour, 1}
)

// limiter is what the rig sees of a library. Only allow is always there.
type limiter struct {
	// allow spends a token of key and reports true, or reports false.
	allow func(key string) bool
	// poll is called before each batch of calls: here a limiter may read the
	// clock once for all of them.
	poll func()
	// wait returns once it has spent a token of key, or with an error.
	wait func(ctx context.Context, key string) error
	// park enters n waits on the keys in turn without a goroutine for each,
	// and returns a function that blocks until the i-th of them is over.
	park func(ctx context.Context, keys []string, n int) (await func(i int) error)
	// told returns the wait that the library announces to the next caller.
	told func(key string) time.Duration
	// sweep drops the keys that are as good as new.
	sweep func()
	// sweepsItself marks a sweep that only waits for the library's own.
	sweepsItself bool
	// tracked returns how many keys are kept.
	tracked func() int
	// close ends what the library started.
	close func()
}

// done closes the limiter if it needs to be.
func (l limiter) done() {
	if l.close != nil {
		l.close()
	}
}

// peer is a library, or a usual way to use one.
type peer struct {
	name string
	open func(limit) limiter

	// floor marks what is not a limiter at all but the cost of the rig.
	floor bool
	// pacer marks libraries that space calls evenly and know no burst.
	pacer bool
	// blocks marks libraries that have no way to refuse.
	blocks bool
	// endless marks libraries whose waits cannot be cancelled.
	endless bool
}

// start opens the peer under l. Where l is to let everything through, pacers get
// an interval that no loop can outrun in place of a large burst.
func (p peer) start(l limit) limiter {
	if p.pacer && l != shut {
		l = open
	}
	return p.open(l)
}

// pollSize is the number of calls between two calls of limiter.poll.
const pollSize = 64

// spin calls allow n times with the keys in turn, beginning at from, and
// returns how many calls were admitted. The number of keys is a power of two.
func (l limiter) spin(keys []string, from, n int) (admitted int) {
	mask, allow := len(keys)-1, l.allow
	for i := from; i < from+n; i += pollSize {
		if l.poll != nil {
			l.poll()
		}
		for j := i; j < min(i+pollSize, from+n); j++ {
			if allow(keys[j&mask]) {
				admitted++
			}
		}
	}
	return admitted
}

// insert calls allow once with each key.
func (l limiter) insert(keys []string) {
	for _, key := range keys {
		l.allow(key)
	}
}
