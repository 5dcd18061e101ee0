package main

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fluxlimiter/flux"
)

// The columns of waiting.
const (
	colOneCPU   = "one key: CPU µs per wait"
	colOneWall  = "one key: time ÷ ideal"
	colOvertook = "one key: overtaken, %"
	colManyCPU  = "many keys: CPU µs per wait"
	colManyWall = "many keys: time ÷ ideal"
	colParked   = "B per parked waiter"
	colNext     = "next caller's wait after 1,000 were cancelled, s"
)

// The waiters are all there at once, on limits that let 20,000 of them pass in a
// second: all on one key, or ten on each of many.
const (
	waitersPerKey = 10
	totalRate     = 20_000
)

// tolerance is how much later than one who came after a waiter may be served
// before it counts as overtaken: timers and goroutines need a moment.
const tolerance = 2 * time.Millisecond

// waitPeers are the ways to wait. A peer without a way to wait is used in the
// loop that its users write: ask, sleep for as long as it says, ask again.
var waitPeers = []peer{
	{name: "one goroutine that sleeps from turn to turn", open: openSleeper, floor: true, endless: true},
	{name: "a channel for each wait, filled at its turn", open: openChannels, floor: true},
	{name: "flux Wait", open: openFlux},
	{name: fluxParked, open: openFluxAsync},
	{name: fluxStream, open: openFluxStream},
	{name: "x/time/rate, sync.Map", open: openXTime},
	{name: "failsafe-go smooth, sync.Map", open: openFailsafeSmooth},
	{name: "mennanov/limiters leaky bucket, and sleep", open: openMennanovLeaky},
	{name: "juju/ratelimit, sync.Map (no cancel)", open: openJuju, endless: true},
	{name: "uber/ratelimit, sync.Map (no cancel)", open: openUber, endless: true},
	{name: "throttled, in a loop", open: openThrottled(0)},
	{name: "sethvargo/go-limiter, in a loop", open: openSethvargo},
}

// openSleeper is what waking up at the turns costs by itself: whoever asks for
// the waits, in order, sleeps until the turn of each, had they all begun at once.
func openSleeper(l limit) limiter {
	return limiter{park: func(_ context.Context, keys []string, _ int) func(i int) error {
		start := time.Now()
		return func(i int) error {
			time.Sleep(time.Until(start.Add(l.interval * time.Duration(i/len(keys)))))
			return nil
		}
	}}
}

// openChannels is what waiting costs whoever wants a channel for each wait: to
// make them, and one goroutine that sleeps from turn to turn and sends. It knows
// all turns beforehand; no limit is looked at.
func openChannels(l limit) limiter {
	return limiter{
		wait: func(context.Context, string) error { return nil },
		park: func(ctx context.Context, keys []string, n int) func(i int) error {
			start := time.Now()
			turns := make([]chan flux.Result, n)
			for i := range turns {
				turns[i] = make(chan flux.Result, 1)
			}
			go func() {
				for i, turn := range turns {
					if i%len(keys) == 0 {
						_ = sleep(ctx, time.Until(start.Add(l.interval*time.Duration(i/len(keys)))))
					}
					turn <- flux.Result{Err: ctx.Err()}
				}
			}()
			return func(i int) error { return (<-turns[i]).Err }
		},
	}
}

// runWaits measures waiters that are served, that are parked, and that are
// cancelled.
func (b *bench) runWaits() {
	// The runtime keeps the descriptors of goroutines for good: have them
	// all made, so that they are on nobody's account.
	enterAll(context.Background(), limiter{wait: func(context.Context, string) error {
		time.Sleep(10 * time.Millisecond)
		return nil
	}}, keySet(1), b.opt.waiters, func(int, error) {})()

	one := keySet(1)
	many := keySet(b.opt.waiters / waitersPerKey)
	for round := range b.opt.rounds {
		for _, p := range shuffled(waitPeers, round) {
			b.progress("waiters: %s, round %d", p.name, round+1)
			b.machine.waitQuiet()
			b.served(p, round, one, colOneCPU, colOneWall)
			b.served(p, round, many, colManyCPU, colManyWall)
			if !p.endless {
				b.parked(p, round)
			}
			if !p.endless && !p.floor {
				b.cancelled(p, round)
			}
		}
	}
}

// served has all waiters wait until they are let through.
func (b *bench) served(p peer, round int, keys []string, colCPU, colWall string) {
	l := limit{interval: time.Second / time.Duration(totalRate/len(keys)), burst: 1}
	lim := p.open(l)
	defer lim.done()
	collect()

	// One call per key is admitted at once, the others interval by interval.
	ideal := l.interval * time.Duration(b.opt.waiters/len(keys)-1)
	released := make([]time.Duration, b.opt.waiters) // by order of arrival
	var last time.Duration
	took := b.machine.keep(b.machine.measure(func() {
		start := time.Now()
		enterAll(context.Background(), lim, keys, b.opt.waiters, func(ticket int, err error) {
			if err != nil {
				b.problem(p.name + ", waiting: " + err.Error())
			}
			if len(keys) == 1 { // otherwise a reading of the clock would be a part of what is measured
				released[ticket] = time.Since(start)
			}
		})()
		last = time.Since(start)
	}))
	b.waits.put(p.name, colCPU, round, took.cpu.Seconds()*1e6/float64(b.opt.waiters))
	b.waits.put(p.name, colWall, round, float64(last)/float64(ideal))
	if len(keys) == 1 {
		b.waits.put(p.name, colOvertook, round, 100*float64(overtaken(released))/float64(b.opt.waiters))
	}
}

// enterAll starts n waits on the keys in turn, and returns a function that
// blocks until all of them are over. over is told the order of arrival of each
// wait that ends, and how it did.
func enterAll(ctx context.Context, lim limiter, keys []string, n int, over func(ticket int, err error)) (join func()) {
	if lim.park != nil {
		await := lim.park(ctx, keys, n)
		return func() {
			for i := range n {
				over(i, await(i))
			}
		}
	}
	var wg sync.WaitGroup
	var arrived atomic.Int64
	for i := range n {
		wg.Go(func() {
			ticket := int(arrived.Add(1) - 1)
			over(ticket, lim.wait(ctx, keys[i%len(keys)]))
		})
	}
	return wg.Wait
}

// overtaken returns how many were released clearly later than one who had
// arrived after them.
func overtaken(released []time.Duration) (n int) {
	earliest := time.Duration(1<<63 - 1)
	for _, at := range slices.Backward(released) {
		if at-tolerance > earliest {
			n++
		}
		earliest = min(earliest, at)
	}
	return n
}

// parked weighs waiters that have hours to wait, and cancels them.
func (b *bench) parked(p peer, round int) {
	lim := p.open(shut)
	defer lim.done()
	key := keySet(1)
	if err := lim.wait(context.Background(), key[0]); err != nil {
		b.problem(p.name + ", first wait: " + err.Error())
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	before := footprint()
	join := enterAll(ctx, lim, key, b.opt.waiters, func(int, error) {})
	settle()
	b.waits.put(p.name, colParked, round, float64(footprint()-before)/float64(b.opt.waiters))
	cancel()
	join()
}

// cancelled cancels a thousand waiters of a limit of ten per second, and
// measures how long the next caller waits.
func (b *bench) cancelled(p peer, round int) {
	const gone = 1000
	lim := p.open(limit{interval: time.Second / 10, burst: 1})
	defer lim.done()
	key := keySet(1)
	if err := lim.wait(context.Background(), key[0]); err != nil {
		b.problem(p.name + ", first wait: " + err.Error())
	}
	ctx, cancel := context.WithCancel(context.Background())
	join := enterAll(ctx, lim, key, gone, func(int, error) {})
	settle()
	cancel()
	join()

	// Nobody needs to sit out a minute and a half: a library that says how
	// long the wait would be is believed, and else the measure ends here.
	const end = 3 * time.Second
	start := time.Now()
	took := func() time.Duration {
		if lim.told != nil {
			return lim.told(key[0])
		}
		ctx, cancel := context.WithTimeout(context.Background(), end)
		defer cancel()
		if err := lim.wait(ctx, key[0]); err != nil {
			return end
		}
		return time.Since(start)
	}()
	b.waits.put(p.name, colNext, round, took.Seconds())
}

// settle gives goroutines that were just started time to park.
func settle() {
	for range 20 {
		runtime.Gosched()
		time.Sleep(5 * time.Millisecond)
	}
}

// footprint returns the bytes of heap and stacks in use.
func footprint() int64 {
	collect()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
