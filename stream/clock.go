package stream

import (
	"time"

	"github.com/fluxlimiter/flux"
)

// unset stands for no reading of a clock, whose readings are never negative.
const unset = -1

// clock is the gate's clock, in nanoseconds. It is the limiter's if that can be
// had, so that grants and everything else are on one clock.
type clock struct {
	limiter *flux.Limiter[string]
	base    time.Time // zero of the clock without a limiter
}

func (c *clock) now() int64 {
	if c.limiter != nil {
		return c.limiter.Now()
	}
	return int64(time.Since(c.base))
}

// time converts a reading, unset to the zero time.
func (c *clock) time(at int64) time.Time {
	switch {
	case at < 0:
		return time.Time{}
	case c.limiter != nil:
		return c.limiter.Time(at)
	}
	return c.base.Add(time.Duration(at))
}

// facts are an Info as the gate keeps it, half the size and without the cost of
// making it if nobody asks.
type facts struct {
	clock                         *clock
	tenant                        string
	cost                          int64
	published, delivered, granted int64
	attempts, deferrals           int32
}

func (f *facts) info() Info {
	return Info{
		Tenant:    f.tenant,
		Cost:      f.cost,
		Attempt:   int(f.attempts) + 1,
		Deferrals: int(f.deferrals),
		Published: fromUnixNano(f.published),
		Delivered: f.clock.time(f.delivered),
		Granted:   f.clock.time(f.granted),
	}
}
