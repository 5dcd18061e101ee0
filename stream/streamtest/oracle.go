package streamtest

import (
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// The oracles say what is wrong with a history, nil if nothing. Each looks for
// one promise only, so that a test can tell which it means to see broken.

// problems collects what an oracle finds, the first few of it.
type problems struct {
	errs []error
	more int
}

func (p *problems) add(format string, args ...any) {
	if len(p.errs) < 5 {
		p.errs = append(p.errs, fmt.Errorf(format, args...))
		return
	}
	p.more++
}

func (p *problems) err() error {
	if p.more > 0 {
		p.errs = append(p.errs, fmt.Errorf("and %d more", p.more))
	}
	return errors.Join(p.errs...)
}

// Lost finds messages that were not acknowledged or dead-lettered in the end,
// acknowledgements of messages that no handler processed without an error
// since their delivery, unless they were dropped, and messages with two ends.
// dropped says which may be acknowledged unprocessed; nil: none.
func (h History) Lost(dropped func(*Message) bool) error {
	var p problems
	type progress struct {
		ends      int
		processed bool
	}
	seen := make(map[int64]*progress)
	for _, e := range h {
		switch e.Kind {
		case Published:
			seen[e.Message.ID] = &progress{}
		case Ended:
			seen[e.Message.ID].processed = seen[e.Message.ID].processed || e.Err == nil
		case Acked:
			if m := seen[e.Message.ID]; !m.processed && (dropped == nil || !dropped(e.Message)) {
				p.add("acknowledged without having been processed: %v", e)
			}
			seen[e.Message.ID].ends++
		case DeadLettered:
			seen[e.Message.ID].ends++
		}
	}
	for id, m := range seen {
		if m.ends != 1 {
			p.add("message %d has %d ends, want 1: %v", id, m.ends, h.Of(id))
		}
	}
	return p.err()
}

// SettledOnce finds deliveries that were settled or released more than once.
func (h History) SettledOnce() error {
	var p problems
	for _, e := range h {
		if e.Kind == SettledAgain {
			p.add("%v", e)
		}
	}
	return p.err()
}

// ProcessedOnce finds messages that a handler processed without an error more
// than once, or after their end. It holds where nothing was revoked or released
// and no acknowledgement failed.
func (h History) ProcessedOnce() error {
	var p problems
	ended, processed := make(map[int64]bool), make(map[int64]bool)
	for _, e := range h {
		switch e.Kind {
		case Acked, DeadLettered:
			ended[e.Message.ID] = true
		case Started:
			if ended[e.Message.ID] || processed[e.Message.ID] {
				p.add("processed again: %v", e)
			}
		case Ended:
			processed[e.Message.ID] = processed[e.Message.ID] || e.Err == nil
		}
	}
	return p.err()
}

// NeverEarly finds handlers that started before the limiter granted it, grants
// from before the message was delivered, and deliveries of deferred messages
// before they were due.
func (h History) NeverEarly() error {
	var p problems
	due := make(map[int64]time.Time)
	for _, e := range h {
		switch e.Kind {
		case Deferred:
			due[e.Message.ID] = e.Until
		case Delivered:
			if e.At.Before(due[e.Message.ID]) {
				p.add("deferred until %v: %v", due[e.Message.ID], e)
			}
		case Started:
			if e.Info.Granted.IsZero() || e.At.Before(e.Info.Granted) {
				p.add("granted at %v: %v", e.Info.Granted, e)
			}
			if e.Info.Granted.Before(e.Info.Delivered) {
				p.add("granted at %v and delivered at %v: %v", e.Info.Granted, e.Info.Delivered, e)
			}
		}
	}
	return p.err()
}

// Rate finds tenants that were granted more than their limit in some window,
// of any length, exactly: cost(t, t+w) <= burst + rate*w for all t and w.
func (h History) Rate(limit func(tenant string) gcra.Limit) error {
	var p problems
	states := make(map[string]*big.Int)
	starts := slices.DeleteFunc(slices.Clone(h), func(e Event) bool { return e.Kind != Started })
	slices.SortStableFunc(starts, func(a, b Event) int { return a.Info.Granted.Compare(b.Info.Granted) })
	for _, e := range starts {
		l := limit(e.Message.Tenant)
		if l.IsUnlimited() {
			continue
		}
		// A virtual schedule, in units of 1/tokens ns so that all is whole: the
		// bound holds for all windows if and only if no grant runs ahead of it
		// by more than the burst.
		tokens, period := l.Rate()
		at := new(big.Int).Mul(big.NewInt(e.Info.Granted.UnixNano()), big.NewInt(tokens))
		tat := states[e.Message.Tenant]
		if tat == nil || tat.Cmp(at) < 0 {
			tat = at
		}
		tat = new(big.Int).Add(tat, new(big.Int).Mul(big.NewInt(e.Message.Cost), big.NewInt(int64(period))))
		states[e.Message.Tenant] = tat
		ahead := new(big.Int).Sub(tat, at)
		if ahead.Cmp(new(big.Int).Mul(big.NewInt(l.Burst()), big.NewInt(int64(period)))) > 0 {
			p.add("over the limit %v: %v, granted at %v", l, e, e.Info.Granted)
		}
	}
	return p.err()
}

// overdue is how long after its time the gate expects a deferred message: see
// the documentation of package stream on order.
const overdue = 30 * time.Second

// KeyOrder finds messages of an order key whose first processing without an
// error began before that of an earlier one was over, and that were processed
// beside one another. Messages that became dead letters count as over, and those
// that the broker has not brought back 30 seconds after they were due may be
// overtaken.
func (h History) KeyOrder() error {
	var p problems
	type key struct {
		tenant, name string
		partition    int
	}
	running := make(map[key]int)
	over := make(map[int64]bool)
	order := make(map[key][]int64)
	away := make(map[int64]time.Time) // when those that were deferred are due
	for _, e := range h {
		if e.Message == nil || e.Message.Key == "" {
			continue
		}
		k := key{e.Message.Tenant, e.Message.Key, e.Message.Partition}
		switch e.Kind {
		case Published:
			order[k] = append(order[k], e.Message.ID)
		case Deferred:
			away[e.Message.ID] = e.Until
		case Delivered:
			delete(away, e.Message.ID)
		case DeadLettered:
			over[e.Message.ID] = true
		case Started:
			if running[k]++; running[k] > 1 {
				p.add("beside another of its key: %v", e)
			}
			if over[e.Message.ID] {
				continue // again, after a redelivery
			}
			for len(order[k]) > 0 && over[order[k][0]] {
				order[k] = order[k][1:]
			}
			for _, id := range order[k] {
				if id >= e.Message.ID {
					break
				}
				due, ok := away[id]
				late := ok && e.At.Sub(due) > overdue
				if !over[id] && !late {
					p.add("before message %d of its key was over: %v", id, e)
					break
				}
			}
		case Ended:
			running[k]--
			if e.Err == nil {
				over[e.Message.ID] = true
			}
		}
	}
	return p.err()
}

// Busy is what a gate says of itself when nothing more will happen at this
// instant, that is, after synctest.Wait.
type Busy struct {
	Stats   stream.Stats
	Workers int
	Window  int

	// Tenants are the parked and running messages of each tenant, and whether
	// its limit would admit its next message now.
	Tenants []BusyTenant

	// TenantWorkers is the bound of messages that one tenant runs at once.
	TenantWorkers int
}

// BusyTenant is what Busy knows of a tenant.
type BusyTenant struct {
	Name             string
	Waiting, Running int
	Admitted         bool // its next message would be granted now
	Share            int  // the most that it may hold
}

// WorkConserving finds a free worker beside a message that could run.
func (b Busy) WorkConserving() error {
	if b.Stats.Running >= b.Workers {
		return nil
	}
	var p problems
	for _, t := range b.Tenants {
		if t.Waiting > 0 && t.Admitted && t.Running < b.TenantWorkers {
			p.add("%d of %d workers run, and tenant %q has %d messages that could", b.Stats.Running, b.Workers, t.Name, t.Waiting)
		}
	}
	return p.err()
}

// WindowShares finds windows and shares of it that hold too much.
func (b Busy) WindowShares() error {
	var p problems
	if b.Stats.Held > b.Window {
		p.add("%d messages held, window %d", b.Stats.Held, b.Window)
	}
	for _, t := range b.Tenants {
		if t.Share > 0 && t.Waiting+t.Running > t.Share {
			p.add("tenant %q holds %d messages, its share is %d", t.Name, t.Waiting+t.Running, t.Share)
		}
	}
	return p.err()
}

// Left finds what a gate still holds after its Run has returned.
func Left(s stream.Stats) error {
	if s.Held != 0 || s.Waiting != 0 || s.Running != 0 {
		return fmt.Errorf("held %d, waiting %d, running %d after the run", s.Held, s.Waiting, s.Running)
	}
	return nil
}
