package gcra

import "math"

// sweep drops keys that are fresh at now, from where the last call left off,
// until it has looked at budget slots or come to the end of the table. It has a
// lock for one page at a time.
func (c *core) sweep(now int64, budget int) (removed int, done bool) {
	c.sweeping.Lock()
	defer c.sweeping.Unlock()
	for {
		dropped, looked, next := c.shards[c.sweptShard].sweep(now, c.sweptTo)
		removed += dropped
		budget -= looked
		c.sweptTo = next
		if next == 0 {
			c.sweptShard = (c.sweptShard + 1) % numShards
			if c.sweptShard == 0 {
				return removed, true
			}
		}
		if budget <= 0 {
			return removed, false
		}
	}
}

// sweep drops the fresh keys of the segment that at belongs to, and their page
// if none are left or a neighbour can take the rest. It returns how many it
// dropped and looked at, and where the next segment begins.
func (s *shard) sweep(now int64, at uint64) (dropped, looked int, next uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, i := s.segment(at)
	looked = 1
	if g.oldest.Load() <= now {
		looked += g.used
		dropped = s.expire(g, now)
	}
	if g.live == 0 && g.used > 0 {
		d := s.directory.Load()
		first, n := d.span(i)
		g.used = 0
		s.release(g)
		d.set(g, first, n)
	}
	dropped += s.merge(g, i, now)
	d := s.directory.Load()
	return dropped, looked, d.after(d.index(at))
}

// expire drops the keys of a segment that are fresh at now, in place, and
// returns how many they were.
func (s *shard) expire(g *segment, now int64) (dropped int) {
	// Who lowers a TAT notes it after that: either the loop sees the TAT, or the
	// note comes after this and stays.
	g.oldest.Store(math.MaxInt64)
	oldest := int64(math.MaxInt64)
	p := g.page.Load()
	for i := range p {
		e := &p[i]
		for e.fp.Load() != 0 {
			tat := e.tat.Load()
			if tat == moved {
				break
			}
			if tat > now {
				oldest = min(oldest, tat)
				break
			}
			if e.tat.CompareAndSwap(tat, moved) {
				s.floor = max(s.floor, tat)
				dropped++
				break
			}
		}
	}
	g.note(oldest)
	g.live -= dropped
	s.table.tracked.Add(-int64(dropped))
	return dropped
}
