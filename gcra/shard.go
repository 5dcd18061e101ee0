package gcra

import (
	"sync"
	"sync/atomic"
)

const (
	shardBits = 4
	numShards = 1 << shardBits
)

// shard keeps the keys whose hashes begin with the same bits. What a hit reads
// is apart from what a miss writes.
//
// # How a decision stays exact
//
// The state of a key is in one slot, or in none, and then it is what untracked
// says. Whoever finds the slot spends by a compare-and-swap on its TAT, without
// a lock. All else has the lock: slots get keys, pages are split, merged and
// purged, and limits changed under it. To take a state out of a slot means to
// swap its TAT for moved, so the compare-and-swap of anyone who still looks at
// that slot fails, and it comes back with the lock; what was spent before the
// swap is in the state that it returned. No take is lost and none counts twice.
//
// A limit and the page whose TATs are counted in it are replaced one after the
// other, so who has no lock reads the page first, then the limit, then the TAT:
// if the limit is the old one, the page was not yet converted by then, and if it
// has been since, then its slots are moved.
type shard struct {
	directory atomic.Pointer[directory]
	limit     atomic.Pointer[Limit] // the table's, nil while it is changing
	table     *core
	_         [104]byte

	mu   sync.Mutex
	rule *rule // written under core.changing, too
	// floor is at least the latest TAT of all keys that were dropped. A key
	// without a slot is as if it had it: for a clock that is on time that is
	// as good as new, and for one that is late it mints nothing.
	floor int64
	// hand is where evict looks next.
	hand   uint64
	supply supply
	_      [48]byte
}

// op is what is done to the state of a key.
type op uint8

const (
	opTake op = iota
	opDebt
	opRefund
)

// apply does an operation on a state.
func (l *Limit) apply(o op, tat, now, n int64) (next int64, d Decision, err error) {
	switch o {
	case opTake:
		return l.Take(tat, now, n)
	case opDebt:
		return l.Debt(tat, now, n)
	default:
		next, err = l.Refund(tat, now, n)
		return next, Decision{}, err
	}
}

// take decides about a key.
func (s *shard) take(fp uint64, own *Limit, now, n int64) (Decision, error) {
	if e := s.page(fp).find(fp); e != nil {
		if limit := s.limitFor(own); limit != nil && limit.isPlain(now, n) {
			if tat := e.tat.Load(); tat != moved {
				debt, cost, room := limit.weigh(tat, now, n)
				if uint64(debt) > uint64(room) {
					return limit.denial(now, debt, room), nil
				}
				if e.tat.CompareAndSwap(tat, now+debt+cost) {
					return limit.decision(now, 0, debt+cost), nil
				}
			}
		}
	}
	return s.apply(opTake, fp, own, now, n)
}

// apply is take for any operation.
func (s *shard) apply(o op, fp uint64, own *Limit, now, n int64) (Decision, error) {
	e := s.page(fp).find(fp)
	if e == nil {
		return s.locked(o, fp, own, now, n)
	}
	limit := s.limitFor(own)
	if limit == nil {
		return s.locked(o, fp, own, now, n)
	}
	for {
		tat := e.tat.Load()
		if tat == moved {
			return s.locked(o, fp, own, now, n)
		}
		next, decision, err := limit.apply(o, tat, now, n)
		if next == tat || e.tat.CompareAndSwap(tat, next) {
			if next < tat {
				d := s.directory.Load()
				d.segments[d.index(fp)].Load().note(next)
			}
			return decision, err
		}
	}
}

// page returns the page that a fingerprint belongs to.
func (s *shard) page(fp uint64) *page {
	d := s.directory.Load()
	return d.pages[d.index(fp)].Load()
}

// limitFor returns the limit to decide by, and nil while the table's is
// changing.
func (s *shard) limitFor(own *Limit) *Limit {
	if own != nil {
		return own
	}
	return s.limit.Load()
}

// locked is apply for a key that has no slot as far as its caller could see, or
// whose slot has moved, or whose limit is changing.
func (s *shard) locked(o op, fp uint64, own *Limit, now, n int64) (d Decision, err error) {
	limit := s.limitFor(own)
	if limit != nil && limit.kind != limited {
		// Nothing that these decide depends on a key.
		_, d, err = limit.apply(o, now, now, n)
		return d, err
	}
	s.table.evict(now)
	s.mu.Lock()
	defer s.mu.Unlock()
	if limit = own; own == nil {
		limit = &s.rule.limit
	}
	for {
		g, i := s.segment(fp)
		e, other, free := g.page.Load().search(fp)
		if e != nil && e.tat.Load() != moved {
			for {
				tat := e.tat.Load()
				next, d, err := limit.apply(o, tat, now, n)
				if next == tat || e.tat.CompareAndSwap(tat, next) {
					g.note(next)
					return d, err
				}
			}
		}
		if other != nil && other.tat.Load() != moved {
			// The key has got a limit of its own, or lost it.
			if e == nil && g.used >= fullAt {
				s.makeRoom(g, i, now)
				continue
			}
			g.live--
			s.put(g, i, e, free, fp, other.tat.Swap(moved))
			continue
		}
		if o == opRefund {
			// A key without a slot has nothing to be given back.
			_, d, err = limit.apply(o, now, now, n)
			return d, err
		}
		shared := s.table.shared.of(own)
		if s.table.full() {
			s.table.sharedCalls.Add(1)
			return shared.apply(o, limit, s.floor, now, n)
		}
		base := max(s.floor, shared.load())
		next, d, err := limit.apply(o, base, now, n)
		if next == base {
			return d, err
		}
		if e == nil && g.used >= fullAt {
			s.makeRoom(g, i, now)
			continue
		}
		if s.table.reserve() {
			s.put(g, i, e, free, fp, next)
			return d, err
		}
	}
}

// segment returns the segment of a fingerprint, counted in the limit in force,
// and its place.
func (s *shard) segment(fp uint64) (g *segment, i uint64) {
	d := s.directory.Load()
	i = d.index(fp)
	g = d.segments[i].Load()
	if r := s.rule; g.version != r.version {
		g = s.convert(g, i, r)
	}
	return g, i
}

// put makes tat the state of a fingerprint that has none: in e, the slot that
// it had, or in a free one if e is nil.
func (s *shard) put(g *segment, i uint64, e, free *slot, fp uint64, tat int64) {
	g.live++
	g.note(tat)
	if e != nil {
		e.tat.Store(tat)
		return
	}
	g.used++
	if g.page.Load() != &noPage {
		free.set(fp, tat)
		return
	}
	p := s.supply.page()
	p.insert(fp, tat)
	g.page.Store(p)
	d := s.directory.Load()
	first, n := d.span(i)
	d.set(g, first, n)
	s.table.pages.Add(1)
}
