package flux

import (
	"fmt"
	"math"
	"math/bits"
	"time"

	"github.com/fluxlimiter/flux/gcra"
)

// SetFactor makes the limiter grant factor times the rate of every limit from
// now on, for as long as what stands behind it is not well: 0.3 of each rate,
// say. Bursts stay what they are. It takes effect at once for every key and
// everyone in the limiter's queues, whatever their number: the tokens that a key
// has spent come back more slowly, none is minted or lost, and a raise locks nobody
// out.
//
// It costs some microseconds, however many keys there are. From the first time on
// a check takes some ten nanoseconds longer, and as long again under a factor
// below 1.
//
// The factor lies between 0.001 and 1: the limits are the most that is ever
// granted. Anything else, not-a-number included, is an error and changes
// nothing.
func (l *Limiter[K]) SetFactor(factor float64) error {
	// Written so that NaN fails it.
	if !(factor >= minFactor && factor <= 1) {
		return fmt.Errorf("flux: factor %v is not between %v and 1", factor, minFactor)
	}
	l.changing.Lock()
	defer l.changing.Unlock()
	now, next := l.Now(), *l.terms.Load()
	next.pace = &pace{from: now, start: next.pace.at(now), speed: uint64(factor * fullSpeed)}
	next.by = next.by.with(next.pace, "")
	l.agree(next)
	l.renewAll()
	for i := range l.rooms {
		l.rooms[i].rearm()
	}
	return nil
}

// Factor returns the factor in force: 1 unless [Limiter.SetFactor] said otherwise.
func (l *Limiter[K]) Factor() float64 {
	if p := l.terms.Load().pace; p != nil {
		return float64(p.speed) / fullSpeed
	}
	return 1
}

const (
	minFactor = 0.001
	fullSpeed = 1 << 32

	// maxTime bounds the times that the table takes.
	maxTime = 1 << 62
)

// pace is how fast the clock runs by which keys get their tokens back. Under a
// factor of 0.5 it runs at half speed, and so does everything that is reckoned
// by it: no key's state has to be touched when the factor changes, and no call
// that still uses the pace before can mint a token. A nil pace is the limiter's
// own clock.
//
// It never runs faster than the limiter's clock, so it never skips a
// nanosecond, and converting there and back is exact.
type pace struct {
	from, start int64  // the paced clock showed start when the limiter's showed from
	speed       uint64 // of the paced clock, in 1/fullSpeed of the limiter's
}

// at returns the paced time at a time of the limiter's clock, rounded down. A time
// that no clock could show stays what it is, for the table to refuse.
func (p *pace) at(now int64) int64 {
	switch {
	case p == nil || now >= maxTime || now < -maxTime:
		return now
	case now < p.from:
		// A time from before the factor changed: seen from its end, it may
		// look later than it was, but never later than the change.
		hi, lo := bits.Mul64(uint64(p.from-now), p.speed)
		lo, carry := bits.Add64(lo, fullSpeed-1, 0)
		return p.start - int64((hi+carry)<<32|lo>>32)
	}
	hi, lo := bits.Mul64(uint64(now-p.from), p.speed)
	return p.start + int64(hi<<32|lo>>32)
}

// until returns the earliest time of the limiter's clock at which the paced
// clock shows paced or more, and math.MaxInt64 if that is out of reach.
func (p *pace) until(paced int64) int64 {
	switch {
	case p == nil:
		return paced
	case paced <= p.start:
		q, _ := bits.Div64(uint64(p.start-paced)>>32, uint64(p.start-paced)<<32, p.speed)
		return p.from - int64(q)
	}
	ahead := uint64(paced - p.start)
	hi, lo := ahead>>32, ahead<<32
	lo, carry := bits.Add64(lo, p.speed-1, 0)
	hi += carry
	if hi >= p.speed {
		return math.MaxInt64
	}
	q, _ := bits.Div64(hi, lo, p.speed)
	return addSat(p.from, int64(min(q, math.MaxInt64)))
}

// span returns how long after now, a time of the limiter's clock, the paced
// clock will have gone on by d.
func (p *pace) span(now int64, d time.Duration) time.Duration {
	if p == nil || p.speed == fullSpeed {
		return d
	}
	return p.stretch(now, d)
}

// stretch is span under a factor other than 1.
func (p *pace) stretch(now int64, d time.Duration) time.Duration {
	if d == 0 || d == gcra.Forever {
		return d
	}
	return time.Duration(p.until(addSat(p.at(now), int64(d))) - now)
}

// addSat returns a + b for b >= 0, and math.MaxInt64 where that is too much.
func addSat(a, b int64) int64 {
	if s := a + b; s >= a {
		return s
	}
	return math.MaxInt64
}
