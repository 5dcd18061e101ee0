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
		messages, bytes := r.surplusOf(t)
		t.overdrawn = messages > 0 || bytes > 0
		if t.overdrawn && (r.halted(t, now) || r.waitsFor(t)) {
			r.repay(t, messages, bytes, now)
			t.overdrawn = false
		}
		if t.overdrawn {
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

// waitsFor reports whether a message of another tenant than t waits for room
// that has few here: one with as much to do as t is not hurt.
func (r *run[M]) waitsFor(t *tenant[M]) bool {
	for _, q := range [...]*intakeQueue[M]{&r.blocked, &r.barred} {
		for b := q.first; b != nil; b = b.next {
			if other := r.tenants[b.arrival.tenant]; other == nil || other != t && r.isQuiet(other) {
				return true
			}
		}
	}
	return false
}

// repay denies the newest n messages of t, and as many bytes of them, that wait
// for their turn, or for others of their key.
func (r *run[M]) repay(t *tenant[M], n int, bytes, now int64) {
	turn := t.worked(int32(r.share()), now) // of the first, deny spaces out the others
	// newest returns the first of those of a list that have to go, nil if there is
	// none. All behind it go.
	newest := func(l *list[M]) (first *entry[M]) {
		for e := l.last; e != nil && (n > 0 || bytes > 0); e = e.prev {
			first = e
			bytes -= e.bytes
			n--
		}
		return first
	}
	// From the end of the queue first, and then from those of the keys.
	for e := newest(&t.queue); e != nil; {
		next := e.next
		r.evict(e, ReasonShare, turn, now)
		e = next
	}
	for k := range r.keysOf(t) {
		if n <= 0 && bytes <= 0 {
			break
		}
		for e := newest(&k.blocked); e != nil; {
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
