package main

import (
	"context"
	"iter"
	"math/rand/v2"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
)

// tenant is one sender of the workload.
type tenant struct {
	name    string
	opening int64         // messages that it sends at once at the start
	rate    float64       // messages per second that it sends from then on
	jitter  float64       // how unevenly, in parts of the time between two
	until   time.Duration // when it stops
}

// noTenant is the name under which the report shows the message that belongs to
// nobody.
const noTenant = "(none)"

// workload returns who sends what. One tenant, noisy, sends far more than its
// limit allows. The others stay below their limits: they open with half of their
// burst, and then send at 40 % to 75 % of their rate. They stop a moment before
// the end, so that none of their messages is on its way when the report is made.
func workload(o options) []tenant {
	end := o.duration - min(o.duration/10, 250*time.Millisecond)
	ts := []tenant{{name: "noisy", opening: o.burst, rate: o.rate * o.noisy, until: o.duration}}
	if o.tenants > 1 {
		ts = append(ts, tenant{name: "gold", opening: max(1, o.burst/2), rate: o.rate * 0.75, jitter: 0.1, until: end})
	}
	for i := 1; len(ts) < o.tenants; i++ {
		share := 0.4 + 0.05*float64(i%7)
		ts = append(ts, tenant{name: "quiet-" + strconv.Itoa(i), opening: max(1, o.burst/2), rate: o.rate * share, jitter: 0.1, until: end})
	}
	return ts
}

// weightOf returns a tenant's weight by its name, as a service would by its plan.
func weightOf(tenant string) int64 {
	if tenant == "gold" {
		return 2
	}
	return 1
}

// arrivals yields the times, counted from the start, at which t sends after its
// opening.
func (t tenant) arrivals(rng *rand.Rand) iter.Seq[time.Duration] {
	return func(yield func(time.Duration) bool) {
		gap := float64(time.Second) / t.rate
		// Tenants with a jitter do not march in step either.
		first := 1.0
		if t.jitter > 0 {
			first += t.jitter + rng.Float64()
		}
		for n := first; ; n++ {
			at := (n + t.jitter*(2*rng.Float64()-1)) * gap
			if at >= float64(t.until) || !yield(time.Duration(at)) {
				return
			}
		}
	}
}

// send publishes the whole workload, each message at its time, until ctx ends.
// A message that is late because the machine is busy is sent at once, so the
// totals hold. publish is called by several goroutines.
func send(ctx context.Context, tenants []tenant, seed uint64, start time.Time, publish func(tenant string) error) error {
	if err := open(ctx, tenants, publish); err != nil {
		return err
	}
	var senders errgroup.Group
	for i, t := range tenants {
		senders.Go(func() error {
			for at := range t.arrivals(rand.New(rand.NewPCG(seed, uint64(i)))) {
				if !sleepUntil(ctx, start.Add(at)) {
					return nil
				}
				if err := publish(t.name); err != nil {
					return err
				}
			}
			return nil
		})
	}
	// One message belongs to nobody, to show what becomes of it.
	senders.Go(func() error {
		if !sleepUntil(ctx, start.Add(tenants[0].until/10)) {
			return nil
		}
		return publish(noTenant)
	})
	return senders.Wait()
}

// open publishes the openings of all tenants, in turn: the same way on every
// run, as they compete for the workers.
func open(ctx context.Context, tenants []tenant, publish func(tenant string) error) error {
	for round, more := int64(0), true; more && ctx.Err() == nil; round++ {
		more = false
		for _, t := range tenants {
			if round >= t.opening {
				continue
			}
			if err := publish(t.name); err != nil {
				return err
			}
			more = true
		}
	}
	return nil
}

// work is what the handler does with a message: a few milliseconds of it.
func work(ctx context.Context) error {
	if sleep(ctx, 2*time.Millisecond+rand.N(2*time.Millisecond)) {
		return nil
	}
	return context.Cause(ctx)
}

func sleepUntil(ctx context.Context, at time.Time) bool { return sleep(ctx, time.Until(at)) }

// sleep reports whether it slept the whole time, that is, ctx did not end.
func sleep(ctx context.Context, d time.Duration) bool {
	if ctx.Err() != nil {
		return false
	}
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
