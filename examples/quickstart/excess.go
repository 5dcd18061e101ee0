package main

import (
	"math"
	"slices"
	"time"

	"github.com/fluxlimiter/flux/gcra"
)

// maxRateExcess returns the worst, over all windows of time, of
//
//	messages admitted in the window - burst - rate * length of the window
//
// in messages: positive if the limit was ever exceeded, however briefly. The
// sign is exact. With nothing admitted it is -burst. It sorts grants.
//
// A window that begins and ends with an admission is the worst of all windows
// with the same admissions. So the largest count - rate*length that ends at
// one admission is the largest that ended at the one before, less what the rate
// allowed in between, but never below nothing (that is where a new window
// begins), plus one: the level of a leaking bucket, found in one pass.
//
// The level is counted in messages times the period of the limit, which makes
// it an integer.
func maxRateExcess(grants []time.Duration, limit gcra.Limit) float64 {
	rate, period := limit.Rate()
	one := int64(period)
	slices.Sort(grants)
	var level, highest int64
	for i, at := range grants {
		if i > 0 {
			level = leak(level, rate, int64(at-grants[i-1]))
		}
		if level > math.MaxInt64-one {
			return math.Inf(1)
		}
		level += one
		highest = max(highest, level)
	}
	// Whole messages first: a float64 does not hold the product.
	whole, part := highest/one-limit.Burst(), highest%one
	return float64(whole) + float64(part)/float64(one)
}

// leak returns max(level - rate*elapsed, 0), for level >= 0 and rate >= 1.
func leak(level, rate, elapsed int64) int64 {
	if elapsed > level/rate {
		return 0
	}
	return level - rate*elapsed
}
