package gcra

import (
	"math"
	"sync/atomic"
)

const (
	// pageSlots is such that a uint8 runs around a page, and that a page is of
	// a size of which the allocator wastes nothing: 4096 bytes.
	pageSlots = 256

	// fullAt is how many slots of a page may be in use: beyond it, a search
	// for a key that is not there takes too long.
	fullAt = 208

	// moved is the TAT of a slot that no longer holds its key's state. Once set in
	// a page that was replaced, it stays.
	moved = math.MinInt64
)

// A fingerprint is what a page knows of a key: all bits of its hash but those
// that chose the shard, and in their place ownBit, for the state of a key that
// has a limit of its own, and usedBit, so that it is never 0.
const (
	ownBit  = 1 << 0
	usedBit = 1 << 1
)

// fingerprint returns the fingerprint of a key with a hash under a limit, nil
// for the table's.
func fingerprint(hash uint64, own *Limit) uint64 {
	fp := hash<<shardBits | usedBit
	if own != nil {
		fp |= ownBit
	}
	return fp
}

// slot is the state of one key. Its fingerprint is set once, after the first
// TAT, and never changes.
type slot struct {
	fp  atomic.Uint64
	tat atomic.Int64
}

// page is an open-addressed table of slots, probed one by one. Slots are never
// freed, so who has found a slot may keep using it until its TAT is moved.
type page [pageSlots]slot

// noPage is the page of every segment that has no keys.
var noPage page

// home returns where to look first for a fingerprint.
func home(fp uint64) uint8 { return uint8(fp >> shardBits) }

// find returns the slot of a fingerprint, nil if it has none. It may be called
// without a lock.
func (p *page) find(fp uint64) *slot {
	for i := home(fp); ; i++ {
		switch s := &p[i]; s.fp.Load() {
		case fp:
			return s
		case 0:
			return nil
		}
	}
}

// search returns the slot of a fingerprint and that of the same key with another
// owner of its limit, nil where there is none, and the slot that a new
// fingerprint would get.
func (p *page) search(fp uint64) (e, other, free *slot) {
	for i := home(fp); ; i++ {
		switch s := &p[i]; s.fp.Load() {
		case fp:
			e = s
		case fp ^ ownBit:
			other = s
		case 0:
			return e, other, s
		}
	}
}

// insert gives a fingerprint that is not there a slot.
func (p *page) insert(fp uint64, tat int64) {
	i := home(fp)
	for p[i].fp.Load() != 0 {
		i++
	}
	p[i].set(fp, tat)
}

// set makes a slot that was never used that of a fingerprint.
func (s *slot) set(fp uint64, tat int64) {
	s.tat.Store(tat)
	s.fp.Store(fp)
}

// live returns how many slots hold the state of a key that is not fresh.
func (p *page) live(now int64) (n int) {
	for i := range p {
		if p[i].fp.Load() != 0 && p[i].tat.Load() > now {
			n++
		}
	}
	return n
}
