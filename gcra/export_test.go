package gcra

import "fmt"

const (
	PageSlots = pageSlots
	FullAt    = fullAt
	NumShards = numShards
)

// Verify returns what is wrong with the table's structure, with all locks held.
func (t *Table[K]) Verify() error {
	c := &t.core
	for i := range c.shards {
		c.shards[i].mu.Lock()
		defer c.shards[i].mu.Unlock()
	}
	var tracked, pages int64
	for i := range c.shards {
		live, held, err := c.shards[i].verify()
		if err != nil {
			return fmt.Errorf("shard %d: %w", i, err)
		}
		tracked += live
		pages += held
	}
	if tracked != c.tracked.Load() || pages != c.pages.Load() {
		return fmt.Errorf("%d keys in %d pages, counted %d in %d", tracked, pages, c.tracked.Load(), c.pages.Load())
	}
	if noPage != (page{}) {
		return fmt.Errorf("the page of nobody is written on")
	}
	return nil
}

func (s *shard) verify() (live, pages int64, err error) {
	d := s.directory.Load()
	if len(d.pages) != 1<<d.depth() || len(d.segments) != len(d.pages) || d.depth() < minDepth {
		return 0, 0, fmt.Errorf("depth %d, length %d", d.depth(), len(d.pages))
	}
	deep := 0
	for i := uint64(0); i < uint64(len(d.pages)); {
		g := d.segments[i].Load()
		first, n := d.span(i)
		if first != i {
			return 0, 0, fmt.Errorf("place %d: the segment begins at %d", i, first)
		}
		if n == 1 {
			deep++
		}
		p := g.page.Load()
		for j := first; j < first+n; j++ {
			if d.segments[j].Load() != g || d.pages[j].Load() != p {
				return 0, 0, fmt.Errorf("place %d: not of the segment at %d", j, first)
			}
		}
		if err := s.verifySegment(g, d, i); err != nil {
			return 0, 0, fmt.Errorf("segment at %d: %w", i, err)
		}
		live += int64(g.live)
		if p != &noPage {
			pages++
		}
		i += n
	}
	if deep != d.deep {
		return 0, 0, fmt.Errorf("%d segments take one place, counted %d", deep, d.deep)
	}
	return live, pages, nil
}

func (s *shard) verifySegment(g *segment, d *directory, i uint64) error {
	var used, live int
	p := g.page.Load()
	for j := range p {
		fp := p[j].fp.Load()
		if fp == 0 {
			continue
		}
		used++
		first, n := d.span(d.index(fp))
		if i < first || i >= first+n {
			return fmt.Errorf("%x is of place %d", fp, d.index(fp))
		}
		if p.find(fp) != &p[j] {
			return fmt.Errorf("%x is not found", fp)
		}
		if p[j].tat.Load() == moved {
			continue
		}
		live++
		if tat := p[j].tat.Load(); tat < g.oldest.Load() {
			return fmt.Errorf("%x is fresh at %d, the oldest at %d", fp, tat, g.oldest.Load())
		}
		if other := p.find(fp ^ ownBit); other != nil && other.tat.Load() != moved {
			return fmt.Errorf("%x has two states", fp)
		}
	}
	if used != g.used || live != g.live {
		return fmt.Errorf("%d slots used, %d live, counted %d and %d", used, live, g.used, g.live)
	}
	if used > pageSlots*7/8 {
		return fmt.Errorf("%d slots used", used)
	}
	if r := s.rule; g.version > r.version || g.version < r.version-1 || s.limit.Load() != nil && g.version != r.version {
		return fmt.Errorf("version %d under %d", g.version, r.version)
	}
	return nil
}

// Depth returns the depth of the deepest directory.
func (t *Table[K]) Depth() (depth uint) {
	for i := range t.core.shards {
		depth = max(depth, t.core.shards[i].directory.Load().depth())
	}
	return depth
}

// Used returns how many slots of the key's page are used.
func (h *Handle) Used() int {
	h.shard.mu.Lock()
	defer h.shard.mu.Unlock()
	g, _ := h.shard.segment(h.fp)
	return g.used
}

// Holds reports whether the handle keeps a page that the table does not.
func (h *Handle) HoldsOldPage() bool {
	p := h.segment.Load().page.Load()
	return p != &noPage && p != h.shard.page(h.fp)
}
