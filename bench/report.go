package main

import (
	"fmt"
	"math"
	"runtime/debug"
	"strings"
)

// column is a column of a table in the report.
type column struct {
	name  string // in the grid
	title string
	ratio bool // beside the ratio to flux's row
	best  bool // the lowest figure is marked
	one   bool // the median says it all
	share bool // a ratio that is 1 when all is well
}

// report writes the whole run as markdown.
func (b *bench) report(command string) string {
	var s strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&s, format+"\n", args...) }
	n := thousands(int64(b.opt.keys))

	p("# flux side by side\n")
	p("`%s`\n", strings.TrimSpace(command))
	p("%s\n", b.machine.String())
	p("Rounds: %d; in each round every peer has its turn, in an order of the round's own, for %v. Cells are medians (lowest–highest of the rounds); × is the"+
		" median of the rounds' ratios to flux; **bold** is the lowest that is not a floor. With two goroutines a call's time is that of both divided by"+
		" the calls of both. Keys are strings of 14 bytes, each call with a copy of its own, as out of a message. %s.\n", b.opt.rounds, b.opt.sample, versions())

	if len(b.calls.rows) > 0 {
		var calls, cpu []column
		for _, w := range []string{"hot key", "hot key, refused", "hot key, 2 goroutines", "1,000 keys, 2 goroutines", colZipf, colUniform} {
			title := strings.ReplaceAll(w, "2 goroutines", "2 g")
			if w == colZipf || w == colUniform {
				title = n + " keys " + title
			}
			calls = append(calls, column{name: w, title: title, ratio: true, best: true})
			cpu = append(cpu, column{name: w, title: title, best: true, one: true})
		}
		calls = append(calls, column{name: "hot key" + colBytes, title: "B per call", one: true}, column{name: "hot key" + colAllocs, title: "allocs", one: true})
		p("## A call that never waits, ns\n")
		s.WriteString(b.calls.table(peers, reference, calls))
		p("\nThe same in CPU time of the whole process, garbage collection included, medians:\n")
		s.WriteString(b.callsCPU.table(peers, reference, cpu))
	}
	if len(b.hand.rows) > 0 {
		p("\n## A call with the key in hand, ns\n")
		p("A batch is %d calls. No other keyed library takes the batch's time or gives out its keys' state; x/time/rate is a single limiter to begin with.\n", pollSize)
		s.WriteString(b.hand.table(inHand, inHand[3].name, []column{
			{name: "in hand", title: "admitted", ratio: true, best: true},
			{name: "in hand, refused", title: "refused", ratio: true, best: true},
		}))
	}
	if len(b.million.rows) > 0 {
		p("\n## %s keys\n", n)
		p("The heap is without the keys' own bytes where a library keeps the caller's string; flux keeps none.\n")
		s.WriteString(b.million.table(peers, reference, []column{
			{name: colInsert, title: colInsert, ratio: true, best: true},
			{name: colInsertB, title: colInsertB, best: true, one: true},
			{name: colInsertN, title: colInsertN, best: true, one: true},
			{name: colHeap, title: colHeap, ratio: true, best: true, one: true},
			{name: colObjects, title: colObjects, best: true, one: true},
			{name: colGC, title: colGC, best: true},
		}))
	}
	if len(b.stall.rows) > 0 {
		p("\n## The longest single call, ms\n")
		p("One goroutine adds %s keys while another calls with those that are there; then all of them are swept while a goroutine calls with any of them and, one time in"+
			" sixteen, a new one. The row “none” is how long the machine itself holds up a call: of the rounds' maxima, the lowest says most.\n", n)
		s.WriteString(b.stall.table(stalls, reference, []column{
			{name: colGrowNew, title: colGrowNew, best: true},
			{name: colGrowOld, title: colGrowOld, best: true},
			{name: colSweep, title: colSweep, best: true},
			{name: colSweeping, title: colSweeping},
		}))
	}
	if len(b.waits.rows) > 0 {
		p("\n## Waiting\n")
		p("%s waiters at once, served at %s per second in all; “overtaken” is served more than %v later than one that came after it; parked waiters have hours to wait, and a goroutine's stack begins at 2 or 4 KB, by what the"+
			" runtime saw before.\n",
			thousands(int64(b.opt.waiters)), thousands(totalRate), tolerance)
		many := thousands(int64(b.opt.waiters/waitersPerKey)) + " keys"
		s.WriteString(b.waits.table(waitPeers, fluxParked, []column{
			{name: colOneCPU, title: colOneCPU, ratio: true, best: true},
			{name: colOneWall, title: colOneWall, one: true, share: true},
			{name: colOvertook, title: colOvertook, one: true},
			{name: colManyCPU, title: strings.Replace(colManyCPU, "many keys", many, 1), ratio: true, best: true},
			{name: colManyWall, title: strings.Replace(colManyWall, "many keys", many, 1), one: true, share: true},
			{name: colParked, title: colParked, best: true},
			{name: colNext, title: colNext, one: true},
		}))
		p("\nThe next caller's wait is announced by the library where it can say it, and measured for up to 3 s where it cannot.")
	}
	if len(b.admitted.rows) > 0 {
		p("\n## Admitted, as a share of what the limit allows\n")
		p("1 is exact; above is over-admission. In the second column one call of two has a clock that is 10 ms late. In the third a key is used once, rests, and is then" +
			" used as fast as can be for 100 ms, around the end of its window where there are windows. The last is 2,000 keys that ask all the time, of a limiter told to keep 1,000.\n")
		s.WriteString(b.admitted.table(append(append([]peer(nil), peers...), bounded[1]), reference, []column{
			{name: colContended, title: colContended, share: true},
			{name: colStale, title: colStale, share: true},
			{name: colEdge, title: colEdge, share: true},
			{name: colFlood, title: colFlood, share: true},
		}))
	}
	s.WriteString(b.targetTable())
	p("\n## Not measured\n")
	for _, why := range notMeasured {
		p("- %s", why)
	}
	if len(b.problems) > 0 {
		p("\n## Answers other than the limit's\n")
		for _, problem := range b.problems {
			p("- %s", problem)
		}
	}
	return s.String()
}

// table writes the rows of peers that g has samples of.
func (g *grid) table(peers []peer, base string, cols []column) string {
	var s strings.Builder
	s.WriteString("| |")
	for _, c := range cols {
		s.WriteString(" " + c.title + " |")
	}
	s.WriteString("\n|---|" + strings.Repeat("---|", len(cols)) + "\n")
	for _, p := range peers {
		cells, any := make([]string, len(cols)), false
		for i, c := range cols {
			cells[i] = g.text(p, base, c, peers)
			any = any || cells[i] != "–"
		}
		if !any {
			continue
		}
		name := p.name
		if p.floor {
			name = "*" + name + "*"
		}
		s.WriteString("| " + name + " | " + strings.Join(cells, " | ") + " |\n")
	}
	return s.String()
}

// text formats a cell.
func (g *grid) text(p peer, base string, c column, peers []peer) string {
	v, ok := g.at(p.name, c.name)
	if !ok {
		return "–"
	}
	format := number
	if c.share {
		format = share
	}
	text := v.format(format)
	if c.one {
		text = format(v.median)
	}
	if c.best && !p.floor && v.median <= g.lowest(peers, c.name) {
		text = "**" + text + "**"
	}
	if ratio, ok := g.ratio(p.name, base, c.name); ok && c.ratio && p.name != base {
		text += fmt.Sprintf(" ×%s", number(ratio))
	}
	return text
}

// lowest returns the lowest median of a column that is not a floor's.
func (g *grid) lowest(peers []peer, col string) float64 {
	lowest := math.Inf(1)
	for _, p := range peers {
		if v, ok := g.at(p.name, col); ok && !p.floor {
			lowest = min(lowest, v.median)
		}
	}
	return lowest
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
