package stream

import (
	"math"
	"time"

	"github.com/fluxlimiter/flux"
)

// How fast messages of a tenant get on says when those that are denied may come
// back: as fast as its limit lets them, or as fast as the workers take them.

const (
	// enoughPicks is how many messages of a tenant must have gone to the workers
	// before it is known how fast they go.
	enoughPicks = 8

	// unusual is how long the gap between two of them must be for it to say little
	// of the next ones.
	unusual = int64(time.Second)

	// longestHang is how long, at most, handlers that hang are expected to go on
	// doing so.
	longestHang = int64(30 * time.Second)
)

// unmeasured reports whether it is too early to say how long messages of t wait
// for workers. One that gets on slowly is known to.
func (t *tenant[M]) unmeasured(now int64) bool {
	return t.picks < enoughPicks && now-t.moved() < unusual
}

// worked returns when n messages of t that wait for nothing but workers will have
// gone to them: at the pace at which they did. When none has for long, its handlers
// hang, and may do so for as long as they would take at the pace that this is.
func (t *tenant[M]) worked(n int32, now int64) int64 {
	took := int64(n) * t.gap
	if since := now - t.moved(); since > unusual {
		took = max(took, min(int64(n)*(min(since, longestHang)/int64(max(1, t.running))), longestHang))
	}
	return now + took
}

// smooth returns the gap to expect, by that expected so far and one more. One that is
// much longer than usual counts as little more: handlers that hung once need not do
// so again.
func smooth(gap, took, usual, weight int64) int64 {
	return gap + (min(took, max(2*gap, usual))-gap)/weight
}

// interval returns the time between two turns of messages of t that cost as
// much: what the limit that d tells of takes to earn it, or the workers to come
// round to it.
func (r *run[M]) interval(t *tenant[M], d flux.Decision, cost int64) int64 {
	earned := t.earn(d, cost)
	if earned == 0 || !t.paced {
		earned = max(earned, t.gap)
	}
	return max(earned, int64(time.Millisecond))
}

// earn returns how long the limit of t, which d tells of if it is known now, takes
// to earn cost tokens, 0 if it has no rate.
func (t *tenant[M]) earn(d flux.Decision, cost int64) int64 {
	if t.handle == nil && t.remote != nil {
		d = t.remote.last // also while nothing is refused
	}
	return earn(d, cost)
}

// earn returns how long a limit takes to earn cost tokens, 0 if it has no rate.
func earn(d flux.Decision, cost int64) int64 {
	burst := d.Limit().Burst()
	if burst == 0 || burst > math.MaxInt64-cost {
		return 0
	}
	// Beyond a whole burst nothing is free.
	return min(int64(d.Delay(burst+cost)-d.Delay(burst)), never)
}
