package main

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// The columns of the longest single calls.
const (
	colGrowCPU  = "new key, nobody else calling, CPU ms"
	colGrowNew  = "new key, while growing, ms"
	colGrowOld  = "tracked key, while growing, ms"
	colSweep    = "any key, while sweeping, ms"
	colSweeping = "the sweep itself, ms"
)

// stalls are the peers whose map is unlike another's: one library in a sync.Map
// stands for all of them.
var stalls = []peer{
	{name: "none", floor: true, open: peers[0].open}, // how long the machine itself holds up a call
	{name: "**flux**", open: openFlux},
	{name: "x/time/rate, sync.Map, janitor", open: openXTime},
	{name: "x/time/rate, mutex and map, janitor", open: openXTimeMutex},
	{name: "throttled, memstore (never drops a key)", open: openThrottled(0)},
	{name: "sethvargo/go-limiter", open: openSethvargoSweeping},
	{name: "ulule/limiter's cache", open: openUluleCache},
	{name: "mennanov/limiters, its Registry", open: openMennanovRegistry},
}

// runStalls looks for the longest single call while keys are added and while
// they are swept. The machine itself and the runtime hold up a call now and then,
// so the smallest of the rounds' maxima says most.
func (b *bench) runStalls() {
	keys := keySet(b.opt.keys + b.opt.keys/4)
	tracked, fresh := keys[:b.opt.keys], keys[b.opt.keys:]
	for round := range b.opt.rounds {
		for _, p := range shuffled(stalls, round) {
			b.progress("longest calls: %s, round %d", p.name, round+1)
			b.machine.waitQuiet()
			b.growAlone(p, round, tracked)
			b.grow(p, round, tracked)
			b.sweep(p, round, tracked, fresh)
		}
	}
}

// growAlone adds the keys one by one and measures the CPU time of each call: the
// work that falls to a single call, whatever else the machine does.
func (b *bench) growAlone(p peer, round int, keys []string) {
	lim := p.start(live)
	defer lim.done()
	collect()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var most time.Duration
	for _, key := range keys {
		start := threadTime()
		lim.allow(key)
		most = max(most, threadTime()-start)
	}
	b.stall.put(p.name, colGrowCPU, round, most.Seconds()*1e3)
}

// grow adds the keys one by one from one goroutine while another calls with
// keys that are there already.
func (b *bench) grow(p peer, round int, keys []string) {
	lim := p.start(live)
	defer lim.done()
	lim.allow(keys[0])
	collect()

	var progress atomic.Int64
	progress.Store(1)
	var longestNew, longestOld time.Duration
	b.machine.keep(b.machine.measure(func() {
		var wg sync.WaitGroup
		wg.Go(func() {
			i := 0
			longestNew = longest(func() (string, bool) {
				i++
				progress.Store(int64(i))
				return keys[min(i, len(keys)-1)], i < len(keys)
			}, lim)
		})
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(round)))
			longestOld = longest(func() (string, bool) {
				have := progress.Load()
				return keys[r.Int64N(have)], int(have) < len(keys)
			}, lim)
		})
		wg.Wait()
	}))
	b.stall.put(p.name, colGrowNew, round, longestNew.Seconds()*1e3)
	b.stall.put(p.name, colGrowOld, round, longestOld.Seconds()*1e3)
}

// longest calls lim with the keys of next until there are none, and returns how
// long the longest call took. A call is timed from the end of the one before, by
// one clock read. What the thread spent waiting for a processor does not count:
// on a shared machine that is more than anything a limiter does.
func longest(next func() (key string, ok bool), lim limiter) (most time.Duration) {
	const (
		long   = 50 * time.Microsecond // worth a closer look
		window = 256                   // calls between looks
	)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	queue := openRunQueue()
	defer queue.close()
	waited := queue.waited()

	base := time.Now()
	last := time.Since(base)
	for calls := 0; ; calls++ {
		key, ok := next()
		if !ok {
			return most
		}
		lim.allow(key)
		now := time.Since(base)
		if took := now - last; took > max(most, long) || calls%window == 0 {
			before := waited
			waited = queue.waited()
			most = max(most, took-(waited-before))
			now = time.Since(base) // looking is not the next call's fault
		} else {
			most = max(most, took)
		}
		last = now
	}
}

// sweep has the limiter drop keys that have all rested long enough, while
// another goroutine calls with any of them and, one time in sixteen, a new one.
func (b *bench) sweep(p peer, round int, keys, fresh []string) {
	// Long enough that no key has rested before all of them are in.
	rest := limit{interval: b.opt.rest(), burst: 1e6}
	lim := p.open(rest)
	defer lim.done()
	if lim.sweep == nil && !p.floor {
		return
	}
	lim.insert(keys)
	time.Sleep(rest.interval + rest.interval/10)
	collect()

	var over atomic.Bool
	var longestCall, sweeping time.Duration
	b.machine.keep(b.machine.measure(func() {
		var wg sync.WaitGroup
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(round)))
			calls, unused := 0, fresh
			longestCall = longest(func() (string, bool) {
				calls++
				if calls%16 == 0 && len(unused) > 0 {
					key := unused[0]
					unused = unused[1:]
					return key, !over.Load()
				}
				return keys[r.IntN(len(keys))], !over.Load()
			}, lim)
		})
		wg.Go(func() {
			if lim.sweep == nil {
				time.Sleep(100 * time.Millisecond)
			} else {
				start := time.Now()
				lim.sweep()
				sweeping = time.Since(start)
			}
			over.Store(true)
		})
		wg.Wait()
	}))
	b.stall.put(p.name, colSweep, round, longestCall.Seconds()*1e3)
	if lim.sweep != nil && !lim.sweepsItself {
		b.stall.put(p.name, colSweeping, round, sweeping.Seconds()*1e3)
	}
}
