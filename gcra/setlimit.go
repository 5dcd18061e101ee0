package gcra

import "fmt"

// rule is the table's limit as a shard knows it. While the limit is changing,
// some pages are still counted in the limit from, and a call that takes the lock
// of the shard first converts its page, to what it would have become at the time
// of the change.
type rule struct {
	limit   Limit
	version int
	from    Limit
	at      int64
}

// setLimit replaces the table's limit and converts all pages.
func (c *core) setLimit(now int64, limit Limit) error {
	if err := limit.Validate(); err != nil {
		return err
	}
	if !inRange(now) {
		return fmt.Errorf("%w: %d", ErrTime, now)
	}
	c.changing.Lock()
	defer c.changing.Unlock()
	old := c.shards[0].rule
	if old.limit == limit {
		return nil
	}
	change := &rule{limit: limit, version: old.version + 1, from: old.limit, at: now}
	c.announce(change)
	var t tour
	for done := false; !done; {
		done = t.next(func(shard int, at uint64) uint64 {
			s := &c.shards[shard]
			next := s.convertAt(at)
			if next == 0 {
				s.limit.Store(&change.limit)
			}
			return next
		})
	}
	return nil
}

// announce makes a change known to all shards at one instant, because keys of
// all of them may use the shared state.
func (c *core) announce(r *rule) {
	for i := range c.shards {
		c.shards[i].mu.Lock()
	}
	if c.shared != nil {
		tat := &c.shared[0].tat
		tat.Store(Rescale(tat.Load(), r.at, &r.from, &r.limit))
	}
	for i := range c.shards {
		c.shards[i].rule = r
		c.shards[i].limit.Store(nil)
		c.shards[i].mu.Unlock()
	}
}

// convertAt converts the segment that at belongs to, and returns where the next
// one begins.
func (s *shard) convertAt(at uint64) (next uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, i := s.segment(at)
	return s.directory.Load().after(i)
}

// rescale moves the state of a key from one limit to another, nil for the
// table's.
func (s *shard) rescale(fp uint64, now int64, before, own *Limit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fp &^= ownBit
	from, to := before, own
	if own != nil {
		fp |= ownBit
	}
	table := &s.rule.limit
	if before == nil {
		from = table
	}
	if own == nil {
		to = table
	}
	for {
		g, i := s.segment(fp)
		e, other, free := g.page.Load().search(fp)
		if e != nil {
			for tat := e.tat.Load(); tat != moved; tat = e.tat.Load() {
				if next := Rescale(tat, now, from, to); e.tat.CompareAndSwap(tat, next) {
					g.note(next)
					return
				}
			}
		}
		if other == nil || other.tat.Load() == moved {
			// The key may have used the shared state.
			s.table.shared.of(own).raise(Rescale(s.table.shared.of(before).load(), now, from, to))
			return
		}
		if e == nil && g.used >= fullAt {
			s.makeRoom(g, i, now)
			continue
		}
		g.live--
		s.put(g, i, e, free, fp, Rescale(other.tat.Swap(moved), now, from, to))
		return
	}
}
