package stream

import (
	"slices"
	"time"
)

// Snapshot is what a gate is about at one instant. See [Gate.Snapshot].
type Snapshot struct {
	// Stats are the totals, and how much of the window is in use.
	Stats

	// Settling counts the messages in the window that are neither parked nor in
	// a handler: they are on their way out.
	Settling int

	// Window is how many messages the window holds.
	Window int

	// Blocked counts the calls of Deliver that wait for room.
	Blocked int

	// Tenants counts the tenants that the gate holds messages of, or waits for
	// deferred ones of to keep their order.
	Tenants int

	// Fates counts what became of messages and why, since the gate was made:
	// outcomes in their order, and reasons in theirs, without those that did not
	// occur.
	Fates []Fate

	// ByWaited and ByDenied are the tenants whose messages waited longest of
	// late, and were denied most often, the first in front. Tenants that the
	// gate holds no messages of are among them until they are forgotten, after
	// several thousand others.
	ByWaited, ByDenied []TenantLoad
}

// Fate counts the messages that left in one way for one reason.
type Fate struct {
	Outcome Outcome
	Reason  Reason
	Count   int64
}

// TenantLoad is what a tenant is to a gate, and the gate to it.
type TenantLoad struct {
	Tenant           string
	Waiting, Running int

	// Waited is how long its messages were parked, all together, those that
	// are included; Denied how many were not allowed to be. Both are of late:
	// they are halved every 69 seconds.
	Waited time.Duration
	Denied int64
}

// fates counts messages by outcome and reason.
type fates [len(outcomeNames)][len(reasonNames)]int64

func (f *fates) add(o *fates) {
	for outcome := range f {
		for reason := range f[outcome] {
			f[outcome][reason] += o[outcome][reason]
		}
	}
}

func (f *fates) list() (list []Fate) {
	for outcome := range f {
		for reason, n := range f[outcome] {
			if n > 0 {
				list = append(list, Fate{Outcome(outcome), Reason(reason), n})
			}
		}
	}
	return list
}

// Snapshot returns what the gate is about, with up to top tenants in each of its
// lists. It may be called at any time by any goroutine.
//
// Its counts are all of one instant. The tenants are looked at after that, a few
// at a time, so that the gate is never held up for longer than some ten
// microseconds, however many there are; a hundred thousand take the caller some
// twenty milliseconds. It allocates for its result only.
func (g *Gate[M]) Snapshot(top int) Snapshot {
	g.mu.Lock()
	s := Snapshot{Stats: g.past, Window: g.cfg.Window}
	counts := g.pastFates
	r := g.run
	if r != nil {
		r.describe(&s, &counts)
	}
	g.mu.Unlock()
	s.Fates = counts.list()
	if r != nil && top > 0 {
		s.ByWaited, s.ByDenied = r.rank(top)
	}
	return s
}

// describe adds what r is about to s and counts.
func (r *run[M]) describe(s *Snapshot, counts *fates) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Window = r.cfg.Window
	s.Stats = s.plus(r.stats())
	s.Settling = s.Held - s.Waiting - s.Running
	s.Blocked = r.blocked.n + r.crowded.n + r.barred.n
	s.Tenants = len(r.tenants) - r.idlers.n
	counts.add(&r.fates)
}

// Load returns what one tenant is to the gate at this instant, and the gate to it:
// nothing, if Run is not called.
func (g *Gate[M]) Load(tenant string) TenantLoad {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r := g.run; r != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		if t := r.tenants[tenant]; t != nil {
			return t.load(r.clock.now())
		}
	}
	return TenantLoad{Tenant: tenant}
}

// load returns what t is to the gate.
func (t *tenant[M]) load(now int64) TenantLoad {
	t.tally(now)
	return TenantLoad{
		Tenant: t.name, Waiting: int(t.waiting), Running: int(t.running),
		Waited: time.Duration(t.waited) << tickBits, Denied: int64(t.denials),
	}
}

// atOnce is how many tenants are looked at before others may have the mutex.
const atOnce = 64

// rank returns the tenants with the largest tallies.
func (r *run[M]) rank(top int) (byWaited, byDenied []TenantLoad) {
	waited, denied := ranking{top: top}, ranking{top: top}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock.now()
	n := 0
	// Whoever has the mutex meanwhile may change the map: those who come or go are
	// seen or not, and one that is forgotten and comes again may be seen twice.
	for _, t := range r.tenants {
		load := t.load(now)
		waited.add(int64(load.Waited), load)
		denied.add(load.Denied, load)
		if n++; n%atOnce == 0 {
			r.mu.Unlock()
			r.mu.Lock()
			now = r.clock.now()
		}
	}
	return waited.loads, denied.loads
}

// ranking keeps the loads with the largest figures, the largest first. The
// figures stand beside them, so that a load is looked at only to be kept. Of two of
// one tenant it keeps the first.
type ranking struct {
	top     int
	figures []int64
	loads   []TenantLoad
}

func (r *ranking) add(figure int64, load TenantLoad) {
	n := len(r.loads)
	if figure <= 0 || n == r.top && figure <= r.figures[n-1] {
		return
	}
	if slices.ContainsFunc(r.loads, func(l TenantLoad) bool { return l.Tenant == load.Tenant }) {
		return
	}
	at, _ := slices.BinarySearchFunc(r.figures, figure, func(f, figure int64) int {
		if f >= figure {
			return -1
		}
		return 1
	})
	if n == r.top {
		r.figures, r.loads = r.figures[:n-1], r.loads[:n-1]
	}
	r.figures, r.loads = slices.Insert(r.figures, at, figure), slices.Insert(r.loads, at, load)
}
