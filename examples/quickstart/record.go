package main

import (
	"slices"
	"sync"
	"time"

	"github.com/fluxlimiter/flux/stream"
)

// recorder counts what happens to each tenant's messages. The sender, the gate's
// hooks and the handler tell it, at the same time.
type recorder struct {
	start time.Time

	mu      sync.Mutex
	tallies []tally
	index   map[string]int
}

// tally is what is recorded of one tenant.
type tally struct {
	name                                               string
	published, processed, deferred, deadLetters, drops int64
	expired                                            int64           // of the dead letters, those that would have become too old
	grants                                             []time.Duration // when the limiter admitted each, since start
	dwells                                             []time.Duration // from publication to the handler, each
}

// newRecorder returns a recorder for the tenants and, after them, for messages
// of nobody.
func newRecorder(tenants []tenant, start time.Time) *recorder {
	r := &recorder{start: start, index: make(map[string]int)}
	for i, t := range tenants {
		r.tallies = append(r.tallies, tally{name: t.name})
		r.index[t.name] = i
	}
	r.tallies = append(r.tallies, tally{name: noTenant})
	return r
}

// update changes the tally of a tenant.
func (r *recorder) update(tenant string, change func(*tally)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, ok := r.index[tenant]
	if !ok {
		i = len(r.tallies) - 1
	}
	change(&r.tallies[i])
}

// published notes that a message is about to be published.
func (r *recorder) published(tenant string) {
	r.update(tenant, func(t *tally) { t.published++ })
}

// handled notes that a message came to the handler after dwell.
func (r *recorder) handled(tenant string, dwell time.Duration) {
	r.update(tenant, func(t *tally) { t.dwells = append(t.dwells, dwell) })
}

// hooks are how the gate tells what it does.
func (r *recorder) hooks() stream.Hooks {
	return stream.Hooks{
		Admitted: func(m stream.Info) {
			r.update(m.Tenant, func(t *tally) { t.grants = append(t.grants, m.Granted.Sub(r.start)) })
		},
		Settled: func(m stream.Info, outcome stream.Outcome, reason stream.Reason) {
			r.update(m.Tenant, func(t *tally) {
				switch outcome {
				case stream.Process:
					t.processed++
				case stream.Defer:
					t.deferred++
				case stream.DeadLetter:
					t.deadLetters++
					if reason == stream.ReasonExpired {
						t.expired++
					}
				case stream.Drop:
					t.drops++
				}
			})
		},
	}
}

// tallies of this moment, in copy: the recorder goes on.
func (r *recorder) snapshot() []tally {
	r.mu.Lock()
	defer r.mu.Unlock()
	ts := slices.Clone(r.tallies)
	for i := range ts {
		ts[i].grants = slices.Clone(ts[i].grants)
		ts[i].dwells = slices.Clone(ts[i].dwells)
	}
	return ts
}
