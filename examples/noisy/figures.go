package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
	"github.com/fluxlimiter/flux/stream/streamtest"
)

// The bounds of the figures.
const (
	minJain    = 0.99 // Jain's index: 1 is even
	maxLag     = 1    // the worst lag, as a share of what start-time fair queueing allows
	maxSlowing = 2    // the quiet tenant's dwell, of what it is alone
)

// figure is something measured, and its bound.
type figure struct {
	name  string
	value float64
	bound float64
	least bool // value must be at least bound, rather than at most
	note  string
}

func (f figure) broken() bool {
	if f.least {
		return f.value < f.bound
	}
	return f.value > f.bound
}

// judged makes a consumer from the limit of each tenant and the rest of a
// gate's configuration.
type judged func(limit gcra.Limit, cfg stream.Config[*message]) consumer

// fluxed is what is judged.
func fluxed(limit gcra.Limit, cfg stream.Config[*message]) consumer {
	return consumer{"flux", func(ctx context.Context, src *streamtest.Broker, handle stream.Handler[*message]) error {
		return throughGate(ctx, src, handle, limit, cfg)
	}}
}

// measure takes all figures of c.
func measure(c judged) ([]figure, error) {
	shares, err := measureShares(c)
	if err != nil {
		return nil, err
	}
	throttled, err := measureSlowing(c, "throttled", gcra.PerSecond(40).WithBurst(20))
	if err != nil {
		return nil, err
	}
	unlimited, err := measureSlowing(c, "without a limit", gcra.Unlimited())
	if err != nil {
		return nil, err
	}
	return append(shares, throttled, unlimited), nil
}

// measureShares has tenants of three weights compete for the workers with
// backlogs of very different sizes, and messages of different costs, and looks
// at who was given how much while all of them had work.
func measureShares(c judged) ([]figure, error) {
	const first = "first" // keeps the workers busy until everything is there
	weight := func(tenant string) int64 { return int64(tenant[len(tenant)-1]-'0')%3 + 1 }
	rng := rand.New(rand.NewPCG(3, 4))
	var load []planned
	for range workers {
		load = append(load, planned{message: message{Tenant: first, Work: time.Second}})
	}
	left := make(map[string]int)
	for i := range 8 {
		tenant := fmt.Sprint("tenant ", i)
		left[tenant] = 100 << (i / 2)
		for range left[tenant] {
			load = append(load, planned{message: message{
				Tenant: tenant, Cost: 1 + rng.Int64N(3), Work: time.Millisecond + time.Duration(rng.Int64N(int64(time.Millisecond))),
			}})
		}
	}
	// All of it fits into the window, so that what is not fair is the order.
	cfg := stream.Config[*message]{
		Window: len(load), TenantWindow: len(load), Weight: weight,
		Cost: func(m *message) int64 { return m.Cost },
	}
	history, err := play(c(gcra.Unlimited(), cfg), load)
	if err != nil {
		return nil, err
	}
	history = slices.DeleteFunc(history, func(e streamtest.Event) bool { return e.Message == nil || e.Message.Tenant == first })
	n := 0 // starts until a tenant has no more
	for _, e := range history {
		if e.Kind == streamtest.Started {
			n++
			if left[e.Message.Tenant]--; left[e.Message.Tenant] == 0 {
				break
			}
		}
	}
	note := fmt.Sprintf("8 backlogs of 100 to 800 messages, weights 1 to 3, costs 1 to 3; the first %d starts", n)
	return []figure{
		{"Jain's index of fairness", history.Jain(n, weight), minJain, true, note},
		{"worst lag, of the bound of start-time fair queueing", history.WorstLag(n, weight), maxLag, false, "the same"},
	}, nil
}

// measureSlowing compares the dwell of a quiet tenant alone with that beside a
// noisy one, whose backlog does not end.
func measureSlowing(c judged, how string, limit gcra.Limit) (figure, error) {
	const sent = 30 * time.Second
	dwell := func(backlog int) (time.Duration, error) {
		rng := rand.New(rand.NewPCG(5, 6))
		var load []planned
		for at := time.Duration(0); at < sent; at += 240*time.Millisecond + time.Duration(rng.Int64N(int64(20*time.Millisecond))) {
			load = append(load, planned{at, message{Tenant: quiet[0], Work: service}})
		}
		for range backlog {
			load = append(load, planned{0, message{Tenant: noisy, Work: service*3/4 + time.Duration(rng.Int64N(int64(service)/2))}})
		}
		slices.SortStableFunc(load, func(a, b planned) int { return int(a.at - b.at) })
		history, err := play(c(limit, stream.Config[*message]{}), load)
		return longestOf(dwells(history)[quiet[0]]), err
	}
	alone, err := dwell(0)
	if err != nil {
		return figure{}, err
	}
	// More than the workers can do in that time.
	beside, err := dwell(2 * workers * int(sent/service))
	if err != nil {
		return figure{}, err
	}
	return figure{
		"longest dwell of a quiet tenant beside a noisy one " + how + ", of that alone", float64(beside) / float64(alone), maxSlowing, false,
		fmt.Sprintf("%s, alone %s", short(beside), short(alone)),
	}, nil
}

func longestOf(points []point) (dwell time.Duration) {
	for _, p := range points {
		dwell = max(dwell, p.dwell)
	}
	return dwell
}

// report writes figures and says which bounds are broken.
func report(w io.Writer, figures []figure) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var broken []string
	for _, f := range figures {
		bound := "at most"
		if f.least {
			bound = "at least"
		}
		_, _ = fmt.Fprintf(table, "%s\t%.3f\t%s %g\t(%s)\n", f.name, f.value, bound, f.bound, f.note)
		if f.broken() {
			broken = append(broken, f.name)
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if len(broken) > 0 {
		return fmt.Errorf("out of bounds: %s", strings.Join(broken, "; "))
	}
	return nil
}
