package main

import (
	"fmt"
	"runtime"
)

// The columns of many keys.
const (
	colInsert    = "new key, ns"
	colInsertCPU = "new key, CPU ns"
	colInsertB   = "B allocated per new key"
	colInsertN   = "allocations per new key"
	colHeap      = "heap, B per key"
	colObjects   = "objects per key"
	colGC        = "GC added, CPU ms"
	colZipf      = "zipf, 2 goroutines"
	colUniform   = "uniform, 2 goroutines"
	gcsPerRound  = 3
)

// manyWorkloads are the workloads on many keys: columns of the table of calls.
func manyWorkloads(keys int) []workload {
	const draws = 1 << 20
	return []workload{
		{colZipf, live, 2, func() []string { return zipf(draws, keys) }},
		{colUniform, live, 2, func() []string { return uniform(draws, keys) }},
	}
}

// runMillion fills a limiter with many keys and measures what that took, what
// they weigh, and calls among them. A limiter lives for one peer's turn of one
// round only, so that none is measured on another's heap.
func (b *bench) runMillion() {
	keys := keySet(b.opt.keys)
	many := manyWorkloads(b.opt.keys)
	drawn := make([][]string, len(many))
	for i, w := range many {
		drawn[i] = w.keys()
	}
	for round := range b.opt.rounds {
		var floorGC float64
		// The first peer is the floor that the others' GC is taken from.
		for _, p := range append([]peer{peers[0]}, shuffled(peers[1:], round)...) {
			b.progress("%s keys: %s, round %d", thousands(int64(b.opt.keys)), p.name, round+1)
			b.machine.waitQuiet()
			gc := b.fill(p, round, keys, func(lim limiter) {
				for i, w := range many {
					b.sampleCalls(b.calls, round, w, p, lim, drawn[i])
				}
			})
			if p.name == peers[0].name {
				floorGC = gc
			} else if !p.floor {
				b.million.put(p.name, colGC, round, gc-floorGC)
			}
		}
	}
	runtime.KeepAlive(keys)
	runtime.KeepAlive(drawn)
}

// fill opens p, inserts the keys and weighs the result, calls then with it, and
// returns the milliseconds of CPU that a garbage collection takes with it.
func (b *bench) fill(p peer, round int, keys []string, then func(limiter)) (gc float64) {
	n := float64(len(keys))
	var before, inserted, after runtime.MemStats
	collect()
	runtime.ReadMemStats(&before)
	lim := p.start(live)
	defer lim.done()
	took := b.machine.keep(b.machine.measure(func() { lim.insert(keys) }))
	runtime.ReadMemStats(&inserted)
	collect()
	runtime.ReadMemStats(&after)

	if !p.floor {
		b.million.put(p.name, colInsert, round, float64(took.wall)/n)
		b.million.put(p.name, colInsertCPU, round, float64(took.cpu)/n)
		b.million.put(p.name, colInsertB, round, float64(inserted.TotalAlloc-before.TotalAlloc)/n)
		b.million.put(p.name, colInsertN, round, float64(inserted.Mallocs-before.Mallocs)/n)
		b.million.put(p.name, colHeap, round, (float64(after.HeapAlloc)-float64(before.HeapAlloc))/n)
		b.million.put(p.name, colObjects, round, (float64(after.HeapObjects)-float64(before.HeapObjects))/n)
	}
	if lim.tracked != nil {
		if got := lim.tracked(); got != len(keys) {
			b.problem(fmt.Sprintf("%s tracks %d of %d live keys", p.name, got, len(keys)))
		}
	}
	var gcs []float64
	for range gcsPerRound {
		gcs = append(gcs, b.machine.measure(runtime.GC).cpu.Seconds()*1e3)
	}
	then(lim)
	return summarize(gcs).low
}

// collect frees all that is garbage, also what finalizers held on to.
func collect() {
	runtime.GC()
	runtime.GC()
}
