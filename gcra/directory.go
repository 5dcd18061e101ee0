package gcra

import "sync/atomic"

// directory finds the page of a fingerprint: the one that its first 64-shift
// bits number. A segment of keys whose first depth bits are the same takes
// 2^(64-shift-depth) neighbouring places, so that a full page can be split
// alone. When a page that takes a single place is to be split, the directory is
// replaced by one of twice the length (extendible hashing: Fagin, Nievergelt,
// Pippenger, Strong, 1979).
//
// Reading it takes no lock. Writing takes that of the shard; the reader of a
// directory or page that was just replaced finds nothing there but moved slots
// or none, and comes back with the lock.
type directory struct {
	shift    uint
	pages    []atomic.Pointer[page] // of the segments, one step shorter to reach
	segments []atomic.Pointer[segment]
	deep     int // segments that take a single place
}

// segment is a page and what is known of it. All but page and oldest is guarded
// by the lock of the shard. A handle may keep pointing to a segment that was merged
// into another, so its page must not be kept by it.
type segment struct {
	page    atomic.Pointer[page]
	oldest  atomic.Int64 // at most the earliest TAT of its keys: none is fresh before
	depth   uint
	used    int // slots with a fingerprint
	live    int // of them, those that are not moved
	version int // of the table's limit that its TATs are counted in
}

// note keeps oldest right when a TAT has become tat.
func (g *segment) note(tat int64) {
	for old := g.oldest.Load(); tat < old; old = g.oldest.Load() {
		if g.oldest.CompareAndSwap(old, tat) {
			return
		}
	}
}

// minDepth keeps shift below 64, which saves every lookup a comparison.
const minDepth = 1

func newDirectory(depth uint) *directory {
	return &directory{
		shift:    64 - depth,
		pages:    make([]atomic.Pointer[page], 1<<depth),
		segments: make([]atomic.Pointer[segment], 1<<depth),
	}
}

func (d *directory) depth() uint { return 64 - d.shift }

// index returns the place of a fingerprint.
func (d *directory) index(fp uint64) uint64 { return fp >> (d.shift & 63) }

// span returns the first place of the segment at place i, and how many it takes.
func (d *directory) span(i uint64) (first, n uint64) {
	n = 1 << (d.depth() - d.segments[i].Load().depth)
	return i &^ (n - 1), n
}

// after returns the least fingerprint beyond the segment at place i, 0 if it is
// the last one.
func (d *directory) after(i uint64) uint64 {
	first, n := d.span(i)
	return (first + n) << (d.shift & 63)
}

// set puts g at n places from first on.
func (d *directory) set(g *segment, first, n uint64) {
	p := g.page.Load()
	for i := first; i < first+n; i++ {
		d.segments[i].Store(g)
		d.pages[i].Store(p)
	}
}

// doubled returns a directory of twice the length with the same segments.
func (d *directory) doubled() *directory {
	next := newDirectory(d.depth() + 1)
	for i := range next.pages {
		next.segments[i].Store(d.segments[i/2].Load())
		next.pages[i].Store(d.pages[i/2].Load())
	}
	return next
}

// halved returns a directory of half the length with the same segments, none of
// which may take a single place.
func (d *directory) halved() *directory {
	next := newDirectory(d.depth() - 1)
	for i := range next.pages {
		g := d.segments[2*i].Load()
		if g.depth == next.depth() {
			next.deep++
		}
		next.segments[i].Store(g)
		next.pages[i].Store(d.pages[2*i].Load())
	}
	return next
}
