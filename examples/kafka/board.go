package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// board counts what becomes of the messages and prints it once a second.
type board struct {
	out   io.Writer
	start time.Time

	mu    sync.Mutex
	shown map[string]*figures
}

type figures struct {
	admitted, processed, deferred int64
	ages                          []time.Duration // since publication, of those processed
	recent                        int             // how many ages there were at the last line
}

func newBoard(out io.Writer) *board {
	b := &board{out: out, start: time.Now(), shown: make(map[string]*figures)}
	for _, t := range tenants {
		b.shown[t.name] = &figures{}
	}
	return b
}

func (b *board) admitted(info stream.Info) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f := b.shown[info.Tenant]; f != nil {
		f.admitted++
	}
}

func (b *board) settled(info stream.Info, outcome stream.Outcome, _ stream.Reason) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.shown[info.Tenant]
	switch {
	case f == nil:
	case outcome == stream.Process:
		f.processed++
		f.ages = append(f.ages, time.Since(info.Published))
	case outcome == stream.Defer:
		f.deferred++
	}
}

func (b *board) print(ctx context.Context) error {
	if _, err := fmt.Fprintln(b.out, "Of each tenant: messages processed, deferred, and the median age of the latest."); err != nil {
		return err
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := b.line(); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// line prints, for each tenant, how many of its messages were processed and
// deferred in all, and the median time from publication of the latest.
func (b *board) line() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	cells := []string{fmt.Sprintf("%5.1fs", time.Since(b.start).Seconds())}
	for _, t := range tenants {
		f := b.shown[t.name]
		cells = append(cells, fmt.Sprintf("%s %4d %4d %7s", t.name, f.processed, f.deferred, median(f.ages[f.recent:])))
		f.recent = len(f.ages)
	}
	_, err := fmt.Fprintln(b.out, strings.Join(cells, "  "))
	return err
}

// final prints the same of the whole run, and what the limit allows. Its error
// is that the limit was not kept.
func (b *board) final(limit gcra.Limit) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, _ = fmt.Fprintln(b.out)
	w := tabwriter.NewWriter(b.out, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(w, "tenant\tprocessed\tdeferred\tmedian age\t")
	for _, t := range tenants {
		f := b.shown[t.name]
		_, _ = fmt.Fprintf(w, "%s\t%d\t%d\t%s\t\n", t.name, f.processed, f.deferred, median(f.ages))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	lasted := time.Since(b.start)
	tokens, period := limit.Rate()
	allowed := limit.Burst() + int64(lasted)*tokens/int64(period)
	if _, err := fmt.Fprintf(b.out, "In %v the limit, %v, allows %d of each tenant's.\n", lasted.Round(time.Millisecond), limit, allowed); err != nil {
		return err
	}
	for _, t := range tenants {
		if n := b.shown[t.name].admitted; n > allowed {
			return fmt.Errorf("tenant %s: %d admitted, the limit allows %d", t.name, n, allowed)
		}
	}
	return nil
}

// median writes the median of ages, to the millisecond. It sorts them.
func median(ages []time.Duration) string {
	if len(ages) == 0 {
		return "-"
	}
	slices.Sort(ages)
	return ages[len(ages)/2].Round(time.Millisecond).String()
}
