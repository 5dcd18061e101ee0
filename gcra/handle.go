package gcra

import "sync/atomic"

// Handle is a key of a [Table], resolved once. It may be kept for as long as the
// caller likes, whatever becomes of the key, and used by any number of
// goroutines at once. It keeps the table from being freed and, beside itself,
// nothing but some 50 bytes: not the page that its key was in before it moved
// to another.
type Handle struct {
	shard   *shard
	fp      uint64 // under the table's limit
	segment atomic.Pointer[segment]
	slot    atomic.Uint32 // where in the segment's page the key was last
}

func newHandle(s *shard, fp uint64) *Handle {
	h := &Handle{shard: s, fp: fp}
	h.find(fp)
	return h
}

// TakeAt is [Limit.Take] on the state of the key, under limit or, if it is nil,
// the table's.
func (h *Handle) TakeAt(limit *Limit, now, n int64) (Decision, error) {
	s, fp, own := h.shard, h.fp, limit
	if own != nil {
		fp |= ownBit
	}
	e := &h.segment.Load().page.Load()[uint8(h.slot.Load())]
	if e.fp.Load() != fp {
		if e = h.find(fp); e == nil {
			return s.locked(opTake, fp, own, now, n)
		}
	}
	if limit = s.limit(own); limit == nil || !limit.isPlain(now, n) {
		return s.apply(opTake, fp, own, now, n)
	}
	for {
		tat := e.tat.Load()
		if tat == moved {
			return s.locked(opTake, fp, own, now, n)
		}
		next, d := limit.spend(tat, now, n)
		if next == tat || e.tat.CompareAndSwap(tat, next) {
			return d, nil
		}
	}
}

// find looks a fingerprint up and keeps where it was found.
func (h *Handle) find(fp uint64) *slot {
	d := h.shard.directory.Load()
	g := d.segments[d.index(fp)].Load()
	h.segment.Store(g)
	p := g.page.Load()
	for i := home(fp); ; i++ {
		switch e := &p[i]; e.fp.Load() {
		case fp:
			h.slot.Store(uint32(i))
			return e
		case 0:
			return nil
		}
	}
}

// RefundAt is [Limit.Refund] on the state of the key, under limit or, if it is
// nil, the table's.
func (h *Handle) RefundAt(limit *Limit, now, n int64) error {
	_, err := h.shard.apply(opRefund, h.fingerprint(limit), limit, now, n)
	return err
}

// DebtAt is [Limit.Debt] on the state of the key, under limit or, if it is nil,
// the table's.
func (h *Handle) DebtAt(limit *Limit, now, n int64) (Decision, error) {
	return h.shard.apply(opDebt, h.fingerprint(limit), limit, now, n)
}

// RescaleAt is [Table.RescaleAt] for the key.
func (h *Handle) RescaleAt(now int64, from, to *Limit) {
	h.shard.rescale(h.fp, now, from, to)
}

func (h *Handle) fingerprint(own *Limit) uint64 {
	if own != nil {
		return h.fp | ownBit
	}
	return h.fp
}
