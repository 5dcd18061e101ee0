package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Targets in nanoseconds are held against the CPU time of a call, divided by the
// goroutines that call at once: on a quiet machine that is the time it takes, and
// on a busy one it is all that can be told. They were set for a machine on which reading the clock
// takes 25 ns, and mean that multiple of it on any other.
const nominalClock = 25

// target is a figure that flux is to reach.
type target struct {
	what  string
	grid  func(*bench) *grid
	row   string
	col   string
	reach float64
	unit  string
	clock bool // reach is a multiple of a clock read
	share int  // goroutines that share the CPU time, 0 for one
	least bool // reach is a lower bound
	low   bool // judged by the lowest round, not the median
	less  int  // what is taken off the measure: it is the caller's
	loop  bool // so is what the loop that makes the calls takes without any, as from the clock
}

var targets = []target{
	{what: "Check, one hot key, own clock read, admitted", grid: calls, row: reference, col: "hot key" + colCPU, reach: 42, unit: "ns", clock: true},
	{what: "the same, refused", grid: calls, row: reference, col: "hot key, refused" + colCPU, reach: 38, unit: "ns", clock: true},
	{what: "allocations of a Check", grid: calls, row: reference, col: "hot key" + colAllocs, reach: 0},
	{what: "decision on a resolved handle with the batch's time, without the loop", grid: hand, row: fluxBatch, col: "in hand" + colCPU, loop: true, reach: 6, unit: "ns", clock: true},
	{what: "1,000 keys, two goroutines", grid: calls, row: reference, col: "1,000 keys, 2 goroutines" + colCPU, share: 2, reach: 35, unit: "ns", clock: true},
	{what: "many keys by Zipf's law, two goroutines", grid: calls, row: reference, col: colZipf + colCPU, share: 2, reach: 80, unit: "ns", clock: true},
	{what: "many keys evenly, two goroutines", grid: calls, row: reference, col: colUniform + colCPU, share: 2, reach: 140, unit: "ns", clock: true},
	{what: "new key, amortised", grid: million, row: reference, col: colInsertCPU, reach: 160, unit: "ns", clock: true},
	{what: "allocations of a new key, amortised", grid: million, row: reference, col: colInsertN, reach: 0.005},
	{what: "heap per tracked key", grid: million, row: reference, col: colHeap, reach: 36, unit: "B"},
	{what: "garbage collection added by the keys", grid: million, row: reference, col: colGC, reach: 3, unit: "ms"},
	{what: "longest call with a new key, alone, CPU", grid: stall, row: reference, col: colGrowCPU, reach: 1, unit: "ms"},
	{what: "longest call with a new key while growing", grid: stall, row: reference, col: colGrowNew, reach: 1, unit: "ms", low: true},
	{what: "longest call with a tracked key while growing", grid: stall, row: reference, col: colGrowOld, reach: 1, unit: "ms", low: true},
	{what: "longest call while sweeping", grid: stall, row: reference, col: colSweep, reach: 1, unit: "ms", low: true},
	{what: "parked request of a Stream, beyond the request", grid: waits, row: fluxStream, col: colParked, less: requestSize, reach: 64, unit: "B"},
	{what: "parked WaitAsync, its channel included", grid: waits, row: fluxParked, col: colParked, reach: 64, unit: "B"},
	{what: "CPU per delayed event, ten on each of many keys, WaitAsync", grid: waits, row: fluxParked, col: colManyCPU, reach: 0.6, unit: "µs"},
	{what: "the same, Stream", grid: waits, row: fluxStream, col: colManyCPU, reach: 0.6, unit: "µs"},
	{what: "next caller's wait after 1,000 cancelled waiters at 10/s", grid: waits, row: fluxParked, col: colNext, reach: 0.1, unit: "s"},
	{what: "admitted under contention, at most", grid: admitted, row: reference, col: colContended, reach: 1, unit: "of the limit"},
	{what: "admitted under contention, at least", grid: admitted, row: reference, col: colContended, reach: 0.99, unit: "of the limit", least: true},
	{what: "admitted with clocks 10 ms out of order", grid: admitted, row: reference, col: colStale, reach: 1, unit: "of the limit"},
}

func calls(b *bench) *grid    { return b.calls }
func hand(b *bench) *grid     { return b.hand }
func million(b *bench) *grid  { return b.million }
func stall(b *bench) *grid    { return b.stall }
func waits(b *bench) *grid    { return b.waits }
func admitted(b *bench) *grid { return b.admitted }

// reportTargets compares what was measured with the targets.
func (b *bench) reportTargets(p *page) {
	clock := b.clock()
	p.say("## Targets")
	p.say("Targets in ns are for a clock read of %d ns, and scaled to this machine's %s ns in the column “here”; they are held against the CPU time of a call divided by the goroutines, which is"+
		" the time of a call on a quiet machine and all that can be told on a busy one. The longest calls are judged by the lowest of the rounds.",
		nominalClock, number(clock))
	p.WriteString("| | target | here | measured | best rival | |\n|---|---|---|---|---|---|\n")
	for _, t := range targets {
		g := t.grid(b)
		v, ok := g.at(t.row, t.col)
		if !ok {
			continue
		}
		less := float64(t.less)
		if t.loop {
			rig, _ := g.at(peers[0].name, t.col)
			less += rig.median
		}
		v = v.less(less).over(float64(max(t.share, 1)))
		sign, here, judged := "≤", t.reach, v.median
		if t.least {
			sign = "≥"
		}
		if t.clock {
			here *= clock / nominalClock
		}
		if t.low {
			judged = v.low
		}
		verdict := "met"
		if t.least && judged < here || !t.least && judged > here {
			verdict = "**missed**"
		}
		measured, rival := v.String(), g.rival(t.col, less, float64(max(t.share, 1)))
		if g == b.admitted {
			measured, rival = v.format(share), "–"
		}
		reach := strings.TrimSpace(number(t.reach) + " " + t.unit)
		_, _ = fmt.Fprintf(p, "| %s | %s %s | %s | %s | %s | %s |\n", t.what, sign, reach, number(here), measured, rival, verdict)
	}
	p.WriteString("\n")
}

// clock returns what reading the clock takes here, in ns.
func (b *bench) clock() float64 {
	read, ok := b.calls.at("clock read", "hot key"+colCPU)
	rig, _ := b.calls.at("none", "hot key"+colCPU)
	if !ok {
		return nominalClock
	}
	return read.median - rig.median
}

// rival returns the lowest figure of a column that is neither flux's nor a
// floor's, with less taken off, divided by share, and whose it is.
func (g *grid) rival(col string, less, share float64) string {
	best, name := math.Inf(1), ""
	for _, row := range g.rows {
		if strings.Contains(row, "flux") || isFloor(row) {
			continue
		}
		if v, ok := g.at(row, col); ok && v.median < best {
			best, name = v.median, row
		}
	}
	if name == "" {
		return "–"
	}
	return number((best-less)/share) + ", " + name
}

// isFloor reports whether a row is no limiter's but the cost of the rig.
func isFloor(row string) bool {
	return slices.ContainsFunc(slices.Concat(peers, inHand, waitPeers), func(p peer) bool { return p.floor && p.name == row })
}

// Rows of flux beside the one of its plain calls.
const (
	fluxBatch  = "**flux handle, the batch's time**"
	fluxParked = "**flux WaitAsync**"
	fluxStream = "flux Stream"
)
