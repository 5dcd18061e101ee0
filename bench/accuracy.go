package main

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// The columns of what is admitted: each a share of what the limit allows, where
// 1 is exact and more than 1 is over-admission.
const (
	colContended = "1,000 goroutines on one key"
	colStale     = "clocks 10 ms out of order"
	colEdge      = "any 100 ms of a key in use"
	colFlood     = "2,000 keys, room for 1,000"
)

// bounded are the limiters that promise to keep no more than a number of keys.
var bounded = []peer{
	{name: "**flux**", open: func(l limit) limiter { return fluxLimiter(newFlux(l, 1000)) }},
	{name: "throttled, memstore, LRU", open: openThrottled(1000)},
}

// runAccuracy measures what is admitted against what the limit allows.
func (b *bench) runAccuracy() {
	// Below that the moments of beginning and ending count too much.
	long := max(b.opt.sample, 100*time.Millisecond)
	for round := range b.opt.rounds {
		b.progress("accuracy: round %d", round+1)
		for _, p := range shuffled(peers, round) {
			if p.floor || p.blocks {
				continue
			}
			b.admitted.put(p.name, colContended, round, contended(p, long))
		}
		// This one is a matter of time, not of speed: all peers at once.
		var mu sync.Mutex
		var wg sync.WaitGroup
		for _, p := range peers {
			if p.floor || p.pacer {
				continue
			}
			wg.Go(func() {
				share := edge(p)
				mu.Lock()
				defer mu.Unlock()
				b.admitted.put(p.name, colEdge, round, share)
			})
		}
		wg.Wait()
		for _, p := range bounded {
			b.admitted.put(p.name, colFlood, round, flooded(p, long))
		}
	}
	b.admitted.put("**flux**", colStale, 0, staleFlux())
	b.admitted.put("x/time/rate, sync.Map", colStale, 0, staleXTime())
}

// contended lets a thousand goroutines ask for one key as fast as they can.
func contended(p peer, d time.Duration) float64 {
	l := limit{interval: 100 * time.Microsecond, burst: 100}
	if p.pacer {
		l.burst = 1
	}
	lim := p.open(l)
	defer lim.done()
	var over atomic.Bool
	var admitted atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for range 1000 {
		wg.Go(func() {
			n := int64(0)
			for !over.Load() {
				if lim.allow("tenant") {
					n++
				}
			}
			admitted.Add(n)
		})
	}
	time.Sleep(d)
	over.Store(true)
	wg.Wait()
	// Until the last goroutine is done tokens may be spent, so the limit
	// allows those of that time too.
	return float64(admitted.Load()) / l.allows(time.Since(start))
}

// allows returns how many calls of one key l lets through within d.
func (l limit) allows(d time.Duration) float64 {
	return float64(l.burst) + float64(d)/float64(l.interval)
}

// edge uses a key once, lets it rest until its window is nearly over, if it has
// one, and then asks as fast as it can for 100 ms around the end.
func edge(p peer) float64 {
	const window = 100 * time.Millisecond
	l := limit{interval: 10 * time.Millisecond, burst: 100}
	lim := p.open(l)
	defer lim.done()
	start := time.Now()
	lim.allow("tenant")
	time.Sleep(time.Until(start.Add(time.Second - window/2)))
	admitted := 0
	begin := time.Now()
	for time.Since(begin) < window {
		if lim.allow("tenant") {
			admitted++
		}
	}
	return float64(admitted) / l.allows(time.Since(begin))
}

// flooded has twice as many keys take turns as the limiter keeps, each of them
// asking all the time, and returns the share of what is due to all of them.
func flooded(p peer, d time.Duration) float64 {
	l := limit{interval: time.Minute, burst: 5}
	lim := p.open(l)
	defer lim.done()
	keys := keySet(2000)
	admitted := 0
	start := time.Now()
	for time.Since(start) < d {
		for _, key := range keys {
			if lim.allow(key) {
				admitted++
			}
		}
	}
	return float64(admitted) / (float64(len(keys)) * l.allows(time.Since(start)))
}

// Calls in simulated time: every 10 ms one whose clock is right and one whose
// clock is 10 ms late, as that of a goroutine which was held up between reading
// it and asking. That is twice what the limit of 100 per second allows.
const (
	staleSteps = 2000
	staleStep  = 10 * time.Millisecond
)

var staleLimit = limit{interval: staleStep, burst: 100}

// stale returns the share of what is allowed that allowAt admits.
func stale(allowAt func(since time.Duration) bool) float64 {
	admitted := 0
	for i := range time.Duration(staleSteps) {
		for _, at := range []time.Duration{i * staleStep, (i - 1) * staleStep} {
			if allowAt(max(0, at)) {
				admitted++
			}
		}
	}
	return float64(admitted) / staleLimit.allows((staleSteps-1)*staleStep)
}

func staleFlux() float64 {
	lim := newFlux(staleLimit, 0)
	h, base := lim.Key("tenant"), lim.Now()
	return stale(func(since time.Duration) bool {
		d, err := h.CheckAt(base+int64(since), 1)
		return err == nil && d.Allowed()
	})
}

func staleXTime() float64 {
	lim := rate.NewLimiter(rate.Every(staleLimit.interval), int(staleLimit.burst))
	base := time.Now()
	return stale(func(since time.Duration) bool { return lim.AllowN(base.Add(since), 1) })
}
