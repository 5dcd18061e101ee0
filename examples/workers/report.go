package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/gcra"
)

// report is what came of all requests.
type report struct {
	limit gcra.Limit
	took  time.Duration
	lines []line
	stats fluxnats.CoreStats
}

// line is what came of one tenant's.
type line struct {
	tenant                 string
	asked, served, refused int
	median                 time.Duration // wait for an answer, of those that were served
	err                    error
}

func (t *tally) line(tenant string) line {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := line{tenant: tenant, asked: t.asked, served: len(t.waits), err: t.err}
	for _, n := range t.refusal {
		l.refused += n
	}
	if len(t.waits) > 0 {
		l.median = slices.Sorted(slices.Values(t.waits))[len(t.waits)/2]
	}
	return l
}

// allowed is how many requests of a tenant the limit allows within a time.
func (r *report) allowed() int {
	tokens, period := r.limit.Rate()
	return int(r.limit.Burst()) + int(r.took*time.Duration(tokens)/period)
}

func (r *report) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(w, "tenant\tasked\tserved\trefused\tmedian wait\t")
	for _, l := range r.lines {
		_, _ = fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%v\t\n", l.tenant, l.asked, l.served, l.refused, l.median.Round(100*time.Microsecond))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "In %v the limit, %v, allows %d of each tenant's. The client dropped %d.\n",
		r.took.Round(time.Millisecond), r.limit, r.allowed(), r.stats.Dropped)
	return err
}

// check says what is not as it should be.
func (r *report) check() error {
	var errs []error
	for _, l := range r.lines {
		// What is taken in at the end of the time may be served after it.
		if most := r.allowed() + 1; l.served > most {
			errs = append(errs, fmt.Errorf("tenant %s: %d served, the limit allows %d", l.tenant, l.served, most))
		}
		if l.err != nil {
			errs = append(errs, fmt.Errorf("tenant %s: %w", l.tenant, l.err))
		}
		if l.asked == 0 {
			errs = append(errs, fmt.Errorf("tenant %s: nothing was asked", l.tenant))
		}
	}
	return errors.Join(errs...)
}
