package stream

// A tenant that waits for nothing but workers may take more than its share of
// the window as long as nobody is hurt by it, see judge. What follows takes the
// surplus back when somebody is.

// overdraw remembers that t has more than its share.
func (r *run[M]) overdraw(t *tenant[M]) {
	if !t.overdrawn {
		t.overdrawn = true
		r.overdrawn = append(r.overdrawn, t)
	}
}

// reclaim makes room in a full window for those that wait for it: tenants that
// have more than their share give it up if another tenant waits, or if they do
// not get on at all.
func (r *run[M]) reclaim(now int64) {
	kept := r.overdrawn[:0]
	for _, t := range r.overdrawn {
		surplus := t.waiting + t.running - r.cfg.TenantWindow
		if surplus > 0 && (r.halted(t, now) || r.waitsFor(t)) {
			r.repay(t, surplus, now)
			surplus = 0
		}
		if t.overdrawn = surplus > 0; t.overdrawn {
			kept = append(kept, t)
		}
	}
	clear(r.overdrawn[len(kept):])
	r.overdrawn = kept
}

// halted reports whether no message of t has gone to a worker for so long that
// its handlers must be stuck.
func (r *run[M]) halted(t *tenant[M], now int64) bool { return now >= t.moved()+int64(stuck) }

// moved is when a message of t last went to a worker, or t began to have some.
func (t *tenant[M]) moved() int64 { return max(t.since, t.picked) }

// waitsFor reports whether a message of another tenant than t waits for room.
func (r *run[M]) waitsFor(t *tenant[M]) bool {
	for b := r.blocked.first; b != nil; b = b.next {
		if b.arrival.tenant != t.name {
			return true
		}
	}
	return false
}

// repay denies the newest n messages of t that wait for their turn, or for
// others of their key.
func (r *run[M]) repay(t *tenant[M], n int, now int64) {
	// From the end of the queue first, and then from those of the keys.
	turn := now + int64(r.cfg.TenantWindow)*t.gap // of the first, deny spaces out the others
	first := t.queue.last
	for ; first != nil && n > 0; n-- {
		first = first.prev
	}
	e := t.queue.first
	if first != nil {
		e = first.next
	}
	for e != nil {
		next := e.next
		r.evict(e, ReasonShare, turn, now)
		e = next
	}
	for _, k := range r.keys {
		if k.id.tenant != t || n <= 0 {
			continue
		}
		first := k.blocked.last
		for ; first != nil && n > 0; n-- {
			first = first.prev
		}
		e := k.blocked.first
		if first != nil {
			e = first.next
		}
		for e != nil {
			next := e.next
			k.blocked.remove(e)
			r.unpark(e, now)
			r.deny(e, ReasonShare, turn, now)
			e = next
		}
		r.countAwaiting(k)
	}
	r.sched.arrange(t, now)
}
