package gcra

import "sync/atomic"

// Handle is a key of a [Table], resolved once. It may be kept for as long as the
// caller likes, whatever becomes of the key, and used by any number of
// goroutines at once. It keeps the table from being freed and, beside itself,
// nothing but at most 3 KB, which it may share with others: not the page that its
// key was in before it moved to another. [Table.Key] makes one; it must not be
// copied.
type Handle struct {
	shard   *shard
	fp      uint64 // under the table's limit
	segment atomic.Pointer[segment]
	slot    atomic.Uint32 // where in the segment's page the key was last
}

func (h *Handle) resolve(s *shard, fp uint64) {
	h.shard, h.fp = s, fp
	h.find(fp)
}

// TakeAt is [Limit.Take] on the state of the key, under limit or, if it is nil,
// the table's.
func (h *Handle) TakeAt(limit *Limit, now, n int64) (Decision, error) {
	if d := h.TryAt(limit, now, n); d.limit != nil {
		return d, nil
	}
	e, fp := h.place(), h.fingerprint(limit)
	switch l := h.shard.limitFor(limit); {
	case l == nil:
	case l.kind != limited:
		// Nothing that these decide depends on a key.
		_, d, err := l.Take(now, now, n)
		return d, err
	case e.fp.Load() == fp:
		if tat := e.tat.Load(); tat != moved {
			next, d, err := l.Take(tat, now, n)
			if next == tat || e.tat.CompareAndSwap(tat, next) {
				return d, err
			}
		}
	}
	h.find(fp)
	return h.shard.apply(opTake, fp, limit, now, n)
}

// TryAt is TakeAt where there is not much to it, as in most calls. Otherwise (the
// key has moved, say, or the call is in error) it does nothing and returns the
// zero Decision: call TakeAt then. It saves a step to who has two ways anyhow.
func (h *Handle) TryAt(limit *Limit, now, n int64) Decision {
	// No function is called here, so that it needs no frame.
	e, l, fp := h.place(), limit, h.fp
	if l == nil {
		l = h.shard.limit.Load()
	} else {
		fp |= ownBit
	}
	if e.fp.Load() == fp && l != nil && l.isPlain(now, n) {
		if tat := e.tat.Load(); tat != moved {
			debt, cost, room := l.weigh(tat, now, n)
			if uint64(debt) > uint64(room) {
				return l.denial(now, debt, room)
			}
			if e.tat.CompareAndSwap(tat, now+debt+cost) {
				return l.decision(now, 0, debt+cost)
			}
		}
	}
	return Decision{}
}

// place returns the slot where the key was last.
func (h *Handle) place() *slot { return &h.segment.Load().page.Load()[uint8(h.slot.Load())] }

// find looks a fingerprint up and keeps where it was found.
func (h *Handle) find(fp uint64) {
	d := h.shard.directory.Load()
	g := d.segments[d.index(fp)].Load()
	h.segment.Store(g)
	p := g.page.Load()
	for i := home(fp); ; i++ {
		switch p[i].fp.Load() {
		case fp:
			h.slot.Store(uint32(i))
			return
		case 0:
			return
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
