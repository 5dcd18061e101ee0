package main

import (
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
)

// page is a report being written.
type page struct{ strings.Builder }

// say writes a paragraph.
func (p *page) say(format string, args ...any) {
	_, _ = fmt.Fprintf(p, format+"\n\n", args...)
}

// report writes the whole run as markdown.
func (b *bench) report(command string) string {
	var p page
	p.say("# flux side by side")
	p.say("`%s`", strings.TrimSpace(command))
	p.say("%s", b.machine.String())
	p.say("Rounds: %d; in each round every peer has its turn, in an order of the round's own, for %v. Cells are medians (lowest–highest of the rounds); × is the"+
		" median of the rounds' ratios to flux; **bold** is the lowest that is not a floor. With two goroutines a call's time is that of both divided by"+
		" the calls of both. Keys are strings of 14 bytes, each call with a copy of its own, as out of a message. %s.", b.opt.rounds, b.opt.sample, versions())
	for _, part := range []struct {
		of    *grid
		write func(*bench, *page)
	}{
		{b.calls, (*bench).reportCalls},
		{b.hand, (*bench).reportHand},
		{b.million, (*bench).reportMillion},
		{b.stall, (*bench).reportStalls},
		{b.waits, (*bench).reportWaits},
		{b.admitted, (*bench).reportAdmitted},
	} {
		if len(part.of.rows) > 0 {
			part.write(b, &p)
		}
	}
	b.reportTargets(&p)
	p.say("## Not measured")
	p.list(notMeasured)
	if len(b.problems) > 0 {
		p.say("## Answers other than the limit's")
		p.list(b.problems)
	}
	return strings.TrimSpace(p.String()) + "\n"
}

func (b *bench) reportCalls(p *page) {
	var wall, cpu []column
	for _, w := range []string{"hot key", "hot key, refused", "hot key, 2 goroutines", "1,000 keys, 2 goroutines", colZipf, colUniform} {
		title := strings.ReplaceAll(w, "2 goroutines", "2 g")
		if w == colZipf || w == colUniform {
			title = thousands(int64(b.opt.keys)) + " keys " + title
		}
		wall = append(wall, column{name: w, title: title, ratio: true, best: true})
		cpu = append(cpu, column{name: w + colCPU, title: title, best: true, one: true})
	}
	wall = append(wall,
		column{name: "hot key" + colBytes, title: "B per call", one: true},
		column{name: "hot key" + colAllocs, title: "allocs", one: true})
	p.say("## A call that never waits, ns")
	p.table(b.calls, peers, reference, wall)
	p.say("The same in CPU time of the whole process, garbage collection included, medians:")
	p.table(b.calls, peers, reference, cpu)
}

func (b *bench) reportHand(p *page) {
	p.say("## A call with the key in hand, ns")
	p.say("A batch is %d calls. No other keyed library takes the batch's time or gives out its keys' state; x/time/rate is a single limiter to begin with.", pollSize)
	p.table(b.hand, inHand, fluxBatch, []column{
		{name: "in hand", title: "admitted", ratio: true, best: true},
		{name: "in hand, refused", title: "refused", ratio: true, best: true},
		{name: "in hand" + colCPU, title: "admitted, CPU", best: true, one: true},
		{name: "in hand, refused" + colCPU, title: "refused, CPU", best: true, one: true},
	})
}

func (b *bench) reportMillion(p *page) {
	p.say("## %s keys", thousands(int64(b.opt.keys)))
	p.say("The heap is without the keys' own bytes where a library keeps the caller's string; flux keeps none.")
	p.table(b.million, peers, reference, []column{
		{name: colInsert, ratio: true, best: true},
		{name: colInsertCPU, best: true, one: true},
		{name: colInsertB, best: true, one: true},
		{name: colInsertN, best: true, one: true},
		{name: colHeap, ratio: true, best: true, one: true},
		{name: colObjects, best: true, one: true},
		{name: colGC, best: true},
	})
}

func (b *bench) reportStalls(p *page) {
	p.say("## The longest single call, ms")
	p.say("One goroutine adds %s keys while another calls with those that are there; then all of them are swept while a goroutine calls with any of them and, one time in"+
		" sixteen, a new one. The time that the system let the thread wait for a processor is taken off; the row “none” is what is left of the machine's own doing, but"+
		" not what others lose when the system stops one that holds a lock. Of the rounds' maxima the lowest says most.", thousands(int64(b.opt.keys)))
	p.table(b.stall, stalls, reference, []column{
		{name: colGrowCPU, best: true},
		{name: colGrowNew, best: true},
		{name: colGrowOld, best: true},
		{name: colSweep, best: true},
		{name: colSweeping},
	})
}

func (b *bench) reportWaits(p *page) {
	p.say("## Waiting")
	p.say("%s waiters at once, served at %s per second in all; “overtaken” is served more than %v later than one that came after it; parked waiters have hours to wait,"+
		" and a goroutine's stack begins at 2 or 4 KB, by what the runtime saw before. The next caller's wait is announced by the library where it can say it, and"+
		" measured for up to 3 s where it cannot.",
		thousands(int64(b.opt.waiters)), thousands(totalRate), tolerance)
	many := thousands(int64(b.opt.waiters/waitersPerKey)) + " keys"
	p.table(b.waits, waitPeers, fluxParked, []column{
		{name: colOneCPU, ratio: true, best: true},
		{name: colOneWall, one: true, share: true},
		{name: colOvertook, one: true},
		{name: colManyCPU, title: strings.Replace(colManyCPU, "many keys", many, 1), ratio: true, best: true},
		{name: colManyWall, title: strings.Replace(colManyWall, "many keys", many, 1), one: true, share: true},
		{name: colParked, best: true},
		{name: colNext, one: true},
	})
}

func (b *bench) reportAdmitted(p *page) {
	p.say("## Admitted, as a share of what the limit allows")
	p.say("1 is exact; above is over-admission. In the second column one call of two has a clock that is 10 ms late. In the third a key is used once, rests, and is then" +
		" used as fast as can be for 100 ms, around the end of its window where there are windows. The last is 2,000 keys that ask all the time, of a limiter told to keep 1,000.")
	p.table(b.admitted, slices.Concat(peers, bounded[1:]), reference, []column{
		{name: colContended, share: true},
		{name: colStale, share: true},
		{name: colEdge, share: true},
		{name: colFlood, share: true},
	})
}

// versions lists the versions of the libraries measured.
func versions() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "Versions are not known"
	}
	rivals := []string{
		"golang.org/x/time", "github.com/throttled/throttled/v2", "github.com/sethvargo/go-limiter", "github.com/ulule/limiter/v3",
		"github.com/failsafe-go/failsafe-go", "github.com/juju/ratelimit", "go.uber.org/ratelimit", "github.com/mennanov/limiters",
	}
	var found []string
	for _, path := range rivals {
		for _, dep := range info.Deps {
			if dep.Path == path {
				found = append(found, strings.TrimPrefix(path, "github.com/")+" "+dep.Version)
			}
		}
	}
	return "Versions: " + strings.Join(found, ", ")
}
