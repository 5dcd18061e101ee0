package gcra

const (
	// splitAbove is how many live keys make a full page split. With fewer it is
	// purged of the others, which leaves room enough to have paid for that by
	// the time it is full again.
	splitAbove = fullAt * 2 / 3

	// mergeBelow is how many keys two neighbours may have for one page to take
	// both: few enough that it will not be split again soon.
	mergeBelow = fullAt / 2
)

// makeRoom purges the full page of the segment at place i of all keys that are
// fresh at now, or splits it if few are.
func (s *shard) makeRoom(g *segment, i uint64, now int64) {
	s.table.rebuilds.Add(1)
	d := s.directory.Load()
	first, n := d.span(i)
	if g.page.Load().live(now) <= splitAbove {
		purged := s.newSegment(g.depth, g.version)
		s.table.evictions.Add(int64(s.pour(g, now, nil, 0, purged, nil)))
		d.set(purged, first, n)
		return
	}
	if n == 1 {
		d = d.doubled()
		first, n = 2*first, 2
	}
	s.supply.stock(len(d.pages))
	left, right := s.newSegment(g.depth+1, g.version), s.newSegment(g.depth+1, g.version)
	s.table.evictions.Add(int64(s.pour(g, now, nil, 1<<(63-g.depth), left, right)))
	d.set(left, first, n/2)
	d.set(right, first+n/2, n/2)
	if n == 2 {
		d.deep += 2
	}
	s.directory.Store(d)
}

// merge makes one segment of the one at place i and its neighbour, as often as
// their keys are few enough, and returns how many of the neighbours' keys were
// dropped because they were fresh at now.
func (s *shard) merge(g *segment, i uint64, now int64) (dropped int) {
	for g.depth > 0 {
		d := s.directory.Load()
		first, n := d.span(i)
		neighbour := d.segments[first^n].Load()
		if neighbour.depth != g.depth || neighbour.version != g.version || neighbour.live+g.live > mergeBelow {
			break
		}
		s.table.rebuilds.Add(1)
		both := s.newSegment(g.depth-1, g.version)
		dropped += s.pour(g, now, nil, 0, both, nil)
		dropped += s.pour(neighbour, now, nil, 0, both, nil)
		d.set(both, first&^n, 2*n)
		if n == 1 {
			if d.deep -= 2; d.deep == 0 && d.depth() > minDepth {
				s.directory.Store(d.halved())
				s.supply = supply{}
				i /= 2
			}
		}
		g = both
	}
	return dropped
}

// convert counts the TATs of the segment at place i in the table's new limit.
func (s *shard) convert(g *segment, i uint64, r *rule) *segment {
	if g.used == 0 {
		g.version = r.version
		return g
	}
	s.table.rebuilds.Add(1)
	d := s.directory.Load()
	first, n := d.span(i)
	converted := s.newSegment(g.depth, r.version)
	s.pour(g, r.at, r, 0, converted, nil)
	d.set(converted, first, n)
	return converted
}

// pour moves the state of every key of a segment that is not fresh at now to
// left, or to right if its fingerprint has the bit, leaves from without a page,
// and returns how many keys were dropped. If r is given, TATs are first
// converted to its limit. Nobody else sees the new segments yet.
func (s *shard) pour(from *segment, now int64, r *rule, bit uint64, left, right *segment) (dropped int) {
	p := from.page.Load()
	for i := range p {
		fp := p[i].fp.Load()
		if fp == 0 {
			continue
		}
		tat := p[i].tat.Swap(moved)
		if tat == moved {
			continue
		}
		if r != nil && fp&ownBit == 0 {
			tat = Rescale(tat, r.at, &r.from, &r.limit)
		}
		if tat <= now {
			s.floor = max(s.floor, tat)
			dropped++
			continue
		}
		to := left
		if fp&bit != 0 {
			to = right
		}
		if to.used == 0 {
			to.page.Store(s.supply.page())
			s.table.pages.Add(1)
		}
		to.page.Load().insert(fp, tat)
		to.used++
		to.live++
		to.note(tat)
	}
	s.release(from)
	s.table.tracked.Add(-int64(dropped))
	return dropped
}

// release takes the page from a segment that nothing is found in any more.
func (s *shard) release(g *segment) {
	if g.page.Load() != &noPage {
		g.page.Store(&noPage)
		s.table.pages.Add(-1)
	}
}
