// Command bench measures flux beside the libraries that one would use in its
// place, in one run on one machine, and prints what it finds as markdown.
//
//	go -C bench run .          # everything: a quarter of an hour
//	go -C bench run . -quick   # everything once and small: half a minute
//
// The same workloads are Go benchmarks, for profiles and for benchstat:
//
//	go -C bench test -run '^$' -bench 'Calls/^hot_key$/flux' -cpuprofile cpu.out
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"
)

// options say how much to measure.
type options struct {
	rounds  int
	sample  time.Duration
	keys    int
	waiters int
}

// minKeys is the least number of keys that may be called many.
const minKeys = 1000

// rest is how long keys rest before they are swept: longer than it takes to
// insert all of them.
func (o options) rest() time.Duration {
	return max(200*time.Millisecond, time.Duration(o.keys)*2*time.Microsecond)
}

// bench is one run: what to measure, and what was measured.
type bench struct {
	opt     options
	machine machine
	log     io.Writer

	// What each section measured, by peer and column.
	calls, hand, million, stall, waits, admitted *grid

	problems []string
}

func newBench(opt options, log io.Writer) *bench {
	return &bench{
		opt: opt, log: log,
		calls:    newGrid(opt.rounds),
		hand:     newGrid(opt.rounds),
		million:  newGrid(opt.rounds),
		stall:    newGrid(opt.rounds),
		waits:    newGrid(opt.rounds),
		admitted: newGrid(opt.rounds),
	}
}

// sections are the parts of a run, in order.
var sections = []struct {
	name string
	run  func(*bench)
}{
	{"calls", (*bench).runCalls},
	{"keys", (*bench).runMillion},
	{"stalls", (*bench).runStalls},
	{"waits", (*bench).runWaits},
	{"accuracy", (*bench).runAccuracy},
}

func main() {
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string, out, log io.Writer) error {
	names := make([]string, len(sections))
	for i, s := range sections {
		names[i] = s.name
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(log)
	var (
		quick    = flags.Bool("quick", false, "measure everything once and small, to see that it works; -rounds, -sample, -keys and -patience do not count then")
		rounds   = flags.Int("rounds", 5, "samples of each figure")
		sample   = flags.Duration("sample", 200*time.Millisecond, "length of a sample")
		keys     = flags.Int("keys", 1_000_000, "the number of keys where there are many")
		only     = flags.String("only", strings.Join(names, ","), "the parts to measure")
		foreign  = flags.Float64("foreign", 0.1, "share of the machine that other processes may take before a sample is taken again")
		patience = flags.Duration("patience", 5*time.Second, "how long to wait for a quiet moment")
	)
	if err := flags.Parse(args); err != nil {
		return err
	}
	opt := options{rounds: *rounds, sample: *sample, keys: *keys, waiters: 10_000}
	if *quick {
		opt = options{rounds: 1, sample: 10 * time.Millisecond, keys: 50_000, waiters: 1000}
		*patience = 0
	}
	if opt.rounds < 1 || opt.sample <= 0 || opt.keys < minKeys {
		return fmt.Errorf("-rounds %d, -sample %v and -keys %d must be at least 1, above 0 and at least %d", opt.rounds, opt.sample, opt.keys, minKeys)
	}
	wanted := strings.Split(*only, ",")
	for _, name := range wanted {
		if !slices.Contains(names, name) {
			return fmt.Errorf("-only %s: there are %s", name, strings.Join(names, ", "))
		}
	}

	b := newBench(opt, log)
	b.machine = machine{maxForeign: *foreign, patience: *patience}
	start := time.Now()
	for _, s := range sections {
		if slices.Contains(wanted, s.name) {
			s.run(b)
		}
	}
	b.progress("done in %v", time.Since(start).Round(time.Second))
	_, err := io.WriteString(out, b.report("go -C bench run . "+strings.Join(args, " ")))
	return err
}

// progress tells whoever waits what is being measured.
func (b *bench) progress(format string, args ...any) {
	_, _ = fmt.Fprintf(b.log, format+"\n", args...)
}

// problem notes what makes a figure wrong; the report shows it.
func (b *bench) problem(s string) {
	if !slices.Contains(b.problems, s) {
		b.problems = append(b.problems, s)
	}
}

// shuffled returns peers in an order of the round's own, so that none always
// comes after the same other.
func shuffled(peers []peer, round int) []peer {
	r := rand.New(rand.NewPCG(seed, uint64(round)))
	mixed := slices.Clone(peers)
	r.Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
	return mixed
}
