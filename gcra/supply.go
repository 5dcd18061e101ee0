package gcra

import "math"

// supply is what a shard makes its pages and segments from. A table that grows
// makes several at a time, which saves it most of the allocations and a tenth of
// the time that a new key takes. Those that were made together are freed together:
// a few pages in a hundred stay for a while after they were split, as all pages of
// a shard fill up at about the same time.
type supply struct {
	pages    []page
	segments []segment
}

const (
	// pagesAtOnce and segmentsAtOnce are how many are made at a time, fewer in a
	// small shard.
	pagesAtOnce    = 4
	segmentsAtOnce = 64
)

// stock has two pages ready, for a split in a directory of so many places.
func (s *supply) stock(places int) {
	if len(s.pages) < 2 {
		s.pages = make([]page, max(2, min(pagesAtOnce, places/4)))
	}
}

// page returns an empty page.
func (s *supply) page() *page {
	if len(s.pages) == 0 {
		return new(page)
	}
	p := &s.pages[0]
	s.pages = s.pages[1:]
	return p
}

// newSegment returns a segment without keys.
func (s *shard) newSegment(depth uint, version int) *segment {
	if len(s.supply.segments) == 0 {
		s.supply.segments = make([]segment, min(segmentsAtOnce, len(s.directory.Load().pages)))
	}
	g := &s.supply.segments[0]
	s.supply.segments = s.supply.segments[1:]
	g.depth, g.version = depth, version
	g.page.Store(&noPage)
	g.oldest.Store(math.MaxInt64)
	return g
}
