package stream

import (
	"iter"
	"time"
)

// orderKey keeps the messages of one key of one tenant in order. At most one of
// them is its head: it waits for its turn, is processed, or is being settled.
// The others are blocked behind it.
type orderKey[M any] struct {
	id       keyID[M]
	head     *entry[M]
	blocked  list[M] // by order
	refs     int32   // entries that point here
	index    int32   // in the heap of keys that expect a message back
	awaiting int     // of its blocked messages, those counted in run.awaiting

	// awaitedIn is the watch that these are counted in, nil if there is none. A
	// key has its messages in one partition.
	awaitedIn *watch[M]

	since int64 // when its head went to a worker, 0: it did not yet
	gap   int64 // from then until that was over, smoothed, 0: not known yet

	away away // its deferred messages: later ones must not overtake them

	done int64 // order of the last one that was settled for good, 0: not known
}

func (k *orderKey[M]) setIndex(i int32) { k.index = i }

type keyID[M any] struct {
	tenant *tenant[M]
	name   string
}

// over is called when the head of k leaves.
func (k *orderKey[M]) over(now int64) {
	if took := now - k.since; k.head.fate != nil || k.since == 0 {
		// It was not simply processed, or not at all.
	} else if k.gap == 0 {
		k.gap = min(took, usualKeyGap)
	} else {
		k.gap = smooth(k.gap, took, usualKeyGap, 4)
	}
	k.head, k.since = nil, 0
}

const (
	// usualKeyGap is how long a message of a key may take to say that the next will
	// take as long.
	usualKeyGap = int64(100 * time.Millisecond)

	// maxKeyGap is the longest time that is left between two deferred messages of
	// a key because those before them took long: some do, and the next may not.
	maxKeyGap = int64(time.Second)
)

// behind returns how long after the deferred messages of its key that it follows e
// is to come back, if interval is the time between two turns of its tenant, and those
// that are here will have to wait for wait.
func (r *run[M]) behind(e *entry[M], interval, wait int64) int64 {
	t, k := e.tenant, e.key
	// Twice what the key needs, so that it has made up for what it lost when they
	// come back: each that comes back too early is one more delivery, and meanwhile
	// others wait here.
	gap := min(2*k.gap, maxKeyGap)
	if (e.deferrals > 0 || e.followed()) && (int(t.waiting) > r.share()/2 || wait > int64(max(0, r.cfg.Policy.MaxWait))/2) {
		// Those before it were denied their places, and will be while all come back
		// at once: each key has a part of the turns. New ones are in line already.
		gap = max(gap, min(interval, int64(time.Minute))*int64(t.latched)/int64(k.away.len()))
	}
	return max(interval, gap)
}

// block puts e behind the messages of its key that are older.
func (k *orderKey[M]) block(e *entry[M]) {
	at := k.blocked.last
	for at != nil && at.order > e.order {
		at = at.prev
	}
	e.state = stateBlocked
	k.blocked.insert(e, at)
}

// first reports whether e, which has come back if it was deferred, comes before
// all messages of its key that are here or deferred.
func (k *orderKey[M]) first(e *entry[M]) bool {
	return k.head == nil &&
		!k.away.precedes(e.order) &&
		(k.blocked.first == nil || k.blocked.first.order > e.order)
}

// followed reports whether a message of e's key that is deferred comes after it.
func (e *entry[M]) followed() bool { return e.key != nil && e.key.away.follows(e.order) }

// key returns the order key of an arrival, nil if it has none.
func (r *run[M]) key(a *arrival[M], t *tenant[M]) *orderKey[M] {
	if a.key == "" {
		return nil
	}
	k := t.key
	if k == nil || k.id.name != a.key {
		k = r.findKey(t, a.key)
	}
	k.refs++
	return k
}

// findKey returns a key of t that is not t.key, which it may become.
func (r *run[M]) findKey(t *tenant[M], name string) *orderKey[M] {
	id := keyID[M]{t, name}
	if k := r.keys[id]; k != nil {
		return k
	}
	switch k := t.key; {
	case k == nil:
		t.key = r.newKey(id)
		return t.key
	case k.unused():
		k.id, k.gap, k.done = id, 0, 0
		return k
	}
	k := r.newKey(id)
	r.keys[id] = k
	return k
}

// newKey returns a key of which nothing is known.
func (r *run[M]) newKey(id keyID[M]) *orderKey[M] {
	n := len(r.freeKeys)
	if n == 0 {
		return &orderKey[M]{id: id, index: -1}
	}
	k := r.freeKeys[n-1]
	r.freeKeys = r.freeKeys[:n-1]
	k.id = id
	return k
}

// keysOf yields the keys of t.
func (r *run[M]) keysOf(t *tenant[M]) iter.Seq[*orderKey[M]] {
	return func(yield func(*orderKey[M]) bool) {
		if t.key == nil || !yield(t.key) {
			return // one without that has none
		}
		for id, k := range r.keys {
			if id.tenant == t && !yield(k) {
				return
			}
		}
	}
}

// unused reports whether nothing depends on k.
func (k *orderKey[M]) unused() bool { return k.refs == 0 && k.away.len() == 0 }

// dropKey forgets k if nothing depends on it.
func (r *run[M]) dropKey(k *orderKey[M]) {
	if !k.unused() || k == k.id.tenant.key {
		return
	}
	delete(r.keys, k.id)
	if len(r.freeKeys) < r.cfg.Window {
		k.id, k.gap, k.done = keyID[M]{}, 0, 0
		r.freeKeys = append(r.freeKeys, k)
	}
}

// maxLatched is how many deferred messages are remembered for the order of
// their keys. A message that is deferred beyond that can be overtaken.
func (r *run[M]) maxLatched() int { return max(4096, 16*r.cfg.Window) }

// latch remembers that e was deferred, if it has an order key.
func (r *run[M]) latch(e *entry[M], until int64) {
	k := e.key
	if k == nil || r.latched >= r.maxLatched() || k.done != 0 && e.order == k.done {
		return
	}
	k.away.add(deferred{order: e.order, arrival: e.arrival, until: until})
	r.latched++
	e.tenant.latched++
	overdue := until + int64(latchGrace) + 1
	if k.index < 0 {
		r.expecting.push(k, overdue)
	} else if overdue < r.expecting.key(k.index) {
		r.expecting.fix(k.index, overdue)
	}
}

// unlatched is called when n deferred messages of k were forgotten.
func (r *run[M]) unlatched(k *orderKey[M], n int) {
	r.latched -= n
	k.id.tenant.latched -= int32(n)
	if k.away.len() == 0 && k.index >= 0 {
		r.expecting.remove(k.index)
	}
}

// notDeferred is called when e could not be deferred after all.
func (r *run[M]) notDeferred(e *entry[M]) {
	if k := e.key; k != nil {
		r.unlatched(k, k.away.remove(e.order, func(d deferred) bool { return d.arrival == e.arrival }))
	}
}

// done is called when e was settled for good. If it was delivered more than once
// and deferred meanwhile, it need not come back.
func (r *run[M]) done(e *entry[M]) {
	if k := e.key; k != nil {
		r.unlatched(k, k.away.remove(e.order, func(deferred) bool { return true }))
		k.done = e.order
	}
}

// returned is called when e arrives and messages of its key are deferred.
func (r *run[M]) returned(e *entry[M]) {
	k := e.key
	if !e.marks.has(markOrdered) && e.deferrals+e.attempts > 0 {
		// The source cannot tell which it is: they come back in order, then.
		e.order = k.away.all()[0].order
	}
	r.unlatched(k, k.away.remove(e.order, func(deferred) bool { return true }))
}

// overdue forgets those deferred messages of k that should have been back long
// ago: someone else got them.
func (r *run[M]) overdue(k *orderKey[M], now int64) {
	r.unlatched(k, k.away.sweep(now-int64(latchGrace)))
	if k.away.len() > 0 {
		r.expecting.fix(k.index, k.away.earliest()+int64(latchGrace)+1)
	}
	t := k.id.tenant
	r.promote(k, now)
	r.dropKey(k)
	r.rest(t)
}

// stays reports whether e, the nth blocked message of its key, may wait here: it
// must follow none that is deferred, or only such as are due back within the
// time that messages that come back may have to wait. Those that wait for
// another to come back must leave it room to do so: in the window, in the share
// of their tenant, and in that of their partition. If they did not, it would be
// deferred again and again because of those that wait for it.
func (r *run[M]) stays(e *entry[M], nth int, now int64) bool {
	k := e.key
	if !k.away.precedes(e.order) {
		return true
	}
	if k.away.lastBefore(e.order)-now > int64(max(0, r.cfg.Policy.MaxWait))/2 {
		return false
	}
	more := nth - k.awaiting
	if r.awaiting+more > r.fitting(r.cfg.Window, r.limits.window)/4 ||
		int(k.id.tenant.awaiting)+more > r.share()-1 {
		return false
	}
	w := e.watch
	return w == nil || w.id.partition == "" ||
		w.awaiting+more <= r.fitting(r.cfg.PartitionWindow, r.limits.partition)*3/4
}

// promote makes the next message of k its head, if it has none.
func (r *run[M]) promote(k *orderKey[M], now int64) {
	r.follow(k, now)
	if e := k.blocked.first; e != nil && k.head == nil && !k.away.precedes(e.order) {
		k.blocked.remove(e)
		k.head = e
		// It comes after those that were before the others of their keys already,
		// so that a key with many messages does not go before all that came later.
		r.arrivals++
		e.arrival = r.arrivals
		e.tenant.enqueue(e)
		r.sched.arrange(e.tenant, now)
	}
	r.countAwaiting(k)
}

// follow denies those blocked messages of k that must follow one that is not
// back soon: if any, the last one is among them.
func (r *run[M]) follow(k *orderKey[M], now int64) {
	if last := k.blocked.last; last == nil || r.stays(last, k.blocked.n, now) {
		return
	}
	nth := 0
	for e := k.blocked.first; e != nil; {
		newer := e.next
		if nth++; !r.stays(e, nth, now) {
			k.blocked.remove(e)
			r.unpark(e, now)
			r.deny(e, ReasonOrder, now, now)
		}
		e = newer
	}
}

// countAwaiting counts the messages of k that wait for nothing but one that is to come
// back, after something about them has changed.
func (r *run[M]) countAwaiting(k *orderKey[M]) {
	before := k.awaiting
	k.awaiting = 0
	if first := k.blocked.first; first != nil && k.head == nil && k.away.precedes(first.order) {
		k.awaiting = k.blocked.n
	}
	r.awaiting += k.awaiting - before
	k.id.tenant.awaiting += int32(k.awaiting - before)
	if w := k.awaitedIn; w != nil {
		w.awaiting -= before
	}
	if k.awaitedIn = nil; k.awaiting > 0 {
		if w := k.blocked.first.watch; w != nil {
			w.awaiting += k.awaiting
			k.awaitedIn = w
		}
	}
}

// unpark takes back what park counted.
func (r *run[M]) unpark(e *entry[M], now int64) {
	r.count(e.tenant, -1, now)
	e.tenant.queued -= e.cost
}
