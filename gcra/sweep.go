package gcra

import "math"

// tour goes through the segments of all shards, one of each in turn: the lock of
// a shard that is taken again and again is hard to get for others.
type tour struct {
	at    [numShards]uint64 // the fingerprint from which on to go on
	ended [numShards]bool
	shard int
	left  int // shards that are not at their end, 0 for all when it has not begun
}

// next calls visit, which returns the first fingerprint beyond the segment, or 0
// at the end of the shard, and reports whether it was the last segment of all.
func (t *tour) next(visit func(shard int, at uint64) uint64) (done bool) {
	if t.left == 0 {
		*t = tour{left: numShards}
	}
	for t.ended[t.shard] {
		t.shard = (t.shard + 1) % numShards
	}
	i := t.shard
	t.shard = (i + 1) % numShards
	if t.at[i] = visit(i, t.at[i]); t.at[i] == 0 {
		t.ended[i] = true
		t.left--
	}
	return t.left == 0
}

// sweep drops keys that are fresh at now, from where the last call left off,
// until it has looked at budget slots or come to the end of the table. It has a
// lock for one page at a time.
func (c *core) sweep(now int64, budget int) (removed int, done bool) {
	c.sweeping.Lock()
	defer c.sweeping.Unlock()
	for first := true; first || budget > 0 && !done; first = false {
		done = c.swept.next(func(shard int, at uint64) uint64 {
			dropped, looked, next := c.shards[shard].sweep(now, at)
			removed += dropped
			budget -= looked
			return next
		})
	}
	return removed, done
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
