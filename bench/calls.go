package main

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Columns beside the one of a workload's time per call.
const (
	colCPU    = ", CPU per call"
	colBytes  = ", B per call"
	colAllocs = ", allocations per call"
)

// workload is a way to call a limiter many times: a column of the table of
// calls.
type workload struct {
	name    string
	limit   limit
	workers int
	keys    func() []string
}

// Workloads on few keys. Those on many come with the measures of memory, in
// million.go.
var workloads = []workload{
	{"hot key", open, 1, func() []string { return keySet(1) }},
	{"hot key, refused", shut, 1, func() []string { return keySet(1) }},
	{"hot key, 2 goroutines", open, 2, func() []string { return keySet(1) }},
	{"1,000 keys, 2 goroutines", open, 2, func() []string { return uniform(1<<16, 1000) }},
}

// inHand are limiters whose key was looked up before. Only flux offers that
// for keyed limits; x/time/rate is a single limiter to begin with.
var inHand = []peer{
	{name: "none", floor: true, open: peers[0].open},
	{name: "clock read", floor: true, open: peers[1].open},
	{name: "flux handle, a clock read per call", open: openFluxHandle},
	{name: fluxBatch, open: openFluxBatch},
	{name: "x/time/rate in hand, a clock read per call", open: openXTimeHand},
	{name: "x/time/rate in hand, the batch's time", open: openXTimeBatch},
}

// inHandWorkloads are the workloads of inHand, a column each.
var inHandWorkloads = []workload{
	{"in hand", open, 1, func() []string { return keySet(1) }},
	{"in hand, refused", shut, 1, func() []string { return keySet(1) }},
}

// run has each worker make n calls at its own place among the keys, and
// returns how many of them were admitted.
func (w workload) run(lim limiter, keys []string, n int) (admitted int) {
	if w.workers == 1 {
		return lim.spin(keys, 0, n)
	}
	var all atomic.Int64
	var wg sync.WaitGroup
	for i := range w.workers {
		wg.Go(func() { all.Add(int64(lim.spin(keys, i*len(keys)/w.workers, n))) })
	}
	wg.Wait()
	return int(all.Load())
}

// skips reports whether p has no answer to w: it cannot refuse.
func (w workload) skips(p peer) bool { return w.limit == shut && (p.blocks || p.floor) }

// prepare opens p for w and spends what shut admits.
func (w workload) prepare(p peer, keys []string) limiter {
	lim := p.start(w.limit)
	if w.limit == shut {
		w.run(lim, keys, len(keys))
	}
	return lim
}

// wrong explains how a run differs from what w asks of p, or returns "".
func (w workload) wrong(p peer, admitted, calls int) string {
	want := calls
	if w.limit == shut {
		want = 0
	}
	if admitted == want {
		return ""
	}
	return fmt.Sprintf("%s, %s: %d of %d calls admitted, %d expected", p.name, w.name, admitted, calls, want)
}

// sampleCalls takes one sample of w on p: the time per call, that all workers
// together need, and the CPU time per call.
func (b *bench) sampleCalls(g *grid, round int, w workload, p peer, lim limiter, keys []string) {
	// A short run warms up and says how many calls fill a sample.
	n := 1 << 10
	for {
		start := time.Now()
		w.run(lim, keys, n)
		if took := time.Since(start); took > b.opt.sample/50 {
			n = max(pollSize, int(float64(n)*float64(b.opt.sample)/float64(took)))
			break
		}
		n *= 4
	}
	var admitted int
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	runs := 0
	took := b.machine.measureQuiet(func() {
		admitted = w.run(lim, keys, n)
		runs++
	})
	runtime.ReadMemStats(&after)
	calls := n * w.workers
	if s := w.wrong(p, admitted, calls); s != "" {
		b.problem(s)
	}
	g.put(p.name, w.name, round, float64(took.wall)/float64(calls))
	g.put(p.name, w.name+colCPU, round, float64(took.cpu)/float64(calls))
	// What the rig itself allocates in a run is lost in the division.
	perCall := func(n uint64) float64 { return float64(n / uint64(calls*runs)) }
	g.put(p.name, w.name+colBytes, round, perCall(after.TotalAlloc-before.TotalAlloc))
	g.put(p.name, w.name+colAllocs, round, perCall(after.Mallocs-before.Mallocs))
}

// runCalls measures workloads on few keys, all peers in each round.
func (b *bench) runCalls() {
	b.each("calls", workloads, peers, b.calls)
	b.each("calls in hand", inHandWorkloads, inHand, b.hand)
}

func (b *bench) each(what string, workloads []workload, peers []peer, g *grid) {
	for _, w := range workloads {
		keys := w.keys()
		for round := range b.opt.rounds {
			b.progress("%s: %s, round %d", what, w.name, round+1)
			for _, p := range shuffled(peers, round) {
				if w.skips(p) {
					continue
				}
				lim := w.prepare(p, keys)
				b.sampleCalls(g, round, w, p, lim, keys)
				lim.done()
			}
		}
	}
}
