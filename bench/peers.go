package main

import (
	"time"
)

// peers are the ways to limit by key that are measured, each behind the same
// func(key string) bool. The first two are floors; flux comes before its rivals.
var peers = []peer{
	{name: "none", floor: true, open: func(limit) limiter {
		return limiter{allow: func(string) bool { return true }}
	}},
	{name: "clock read", floor: true, open: func(limit) limiter {
		base := time.Now()
		return limiter{allow: func(string) bool { return time.Since(base) >= 0 }}
	}},
	{name: "**flux**", open: openFlux},
	{name: "x/time/rate, sync.Map", open: openXTime},
	{name: "x/time/rate, mutex and map", open: openXTimeMutex},
	{name: "throttled, memstore", open: openThrottled(0)},
	{name: "sethvargo/go-limiter", open: openSethvargo},
	{name: "ulule/limiter", open: openUlule},
	{name: "failsafe-go bursty, sync.Map", open: openFailsafeBursty},
	{name: "failsafe-go smooth, sync.Map", open: openFailsafeSmooth, pacer: true},
	{name: "juju/ratelimit, sync.Map", open: openJuju},
	{name: "uber/ratelimit, sync.Map", open: openUber, pacer: true, blocks: true},
	{name: "mennanov/limiters, sync.Map", open: openMennanov},
}

// notMeasured says which libraries one might look for, and why they are not
// in the table.
var notMeasured = []string{
	"clipperhouse/rate and webriots/rate: their modules were not to be had when this was written.",
	"go-redis/redis_rate, gubernator, envoyproxy/ratelimit: a network round trip per decision; in-process they have no counterpart.",
}

// reference is the row that ratios are taken to.
const reference = "**flux**"
