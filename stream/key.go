package stream

import "time"

// orderKey keeps the messages of one key of one tenant in order. At most one of
// them is its head: it waits for its turn, is processed, or is being settled.
// The others are blocked behind it.
type orderKey[M any] struct {
	id      keyID[M]
	head    *entry[M]
	blocked list[M] // by order
	refs    int     // entries that point here

	// deferred holds, by order, those of its messages that this gate has
	// deferred and that have not come back: later ones must not overtake them.
	deferred []deferred
}

type keyID[M any] struct {
	tenant *tenant[M]
	name   string
}

type deferred struct {
	order int64
	until int64 // when it is to come back, on the gate's clock
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

// latch remembers that a message was deferred.
func (k *orderKey[M]) latch(order, until int64) {
	i := len(k.deferred)
	for i > 0 && k.deferred[i-1].order > order {
		i--
	}
	k.deferred = append(k.deferred, deferred{})
	copy(k.deferred[i+1:], k.deferred[i:])
	k.deferred[i] = deferred{order, until}
}

// unlatch forgets the message with that order and reports whether it was known.
func (k *orderKey[M]) unlatch(order int64) bool {
	for i, d := range k.deferred {
		if d.order == order {
			k.deferred = append(k.deferred[:i], k.deferred[i+1:]...)
			return true
		}
	}
	return false
}

// mustFollow reports whether an older message of the key was deferred.
func (k *orderKey[M]) mustFollow(order int64) bool {
	return len(k.deferred) > 0 && k.deferred[0].order < order
}

// lastBefore returns the latest time that an older message was deferred to.
func (k *orderKey[M]) lastBefore(order int64) int64 {
	last := int64(unset)
	for _, d := range k.deferred {
		if d.order < order {
			last = max(last, d.until)
		}
	}
	return last
}

// key returns the order key of an arrival, nil if it has none.
func (r *run[M]) key(a *arrival[M], t *tenant[M]) *orderKey[M] {
	if a.key == "" {
		return nil
	}
	id := keyID[M]{t, a.key}
	k := r.keys[id]
	if k == nil {
		k = &orderKey[M]{id: id}
		r.keys[id] = k
	}
	k.refs++
	return k
}

// dropKey forgets k if nothing depends on it.
func (r *run[M]) dropKey(k *orderKey[M]) {
	if k.refs == 0 && len(k.deferred) == 0 {
		delete(r.keys, k.id)
	}
}

// maxLatched is how many deferred messages are remembered at most, for the
// order of their keys, as a multiple of the window. A deferred message that is
// not remembered can be overtaken.
const maxLatched = 16

// latch remembers that e was deferred, if it has an order key.
func (r *run[M]) latch(e *entry[M], until, now int64) {
	if e.key == nil {
		return
	}
	if r.latched >= maxLatched*r.cfg.Window {
		if now-r.forgotten < int64(time.Second) {
			return
		}
		r.forgotten = now
		if r.forgetLate(now); r.latched >= maxLatched*r.cfg.Window {
			return
		}
	}
	e.key.latch(e.order, until)
	r.latched++
	e.tenant.latched++
}

// unlatch is called when e has come back, or will not.
func (r *run[M]) unlatch(e *entry[M]) {
	if e.key != nil && e.key.unlatch(e.order) {
		r.latched--
		e.tenant.latched--
	}
}

// returned is called when e arrives and messages of its key are deferred.
func (r *run[M]) returned(e *entry[M], now int64) {
	k := e.key
	r.forget(k, now)
	if len(k.deferred) == 0 {
		return
	}
	known := len(k.deferred)
	r.unlatch(e)
	if known == len(k.deferred) && e.deferrals+e.attempts > 0 && !e.numbered {
		// The source cannot tell which it is: they come back in order, then.
		e.order = k.deferred[0].order
		r.unlatch(e)
	}
}

// forget drops those deferred messages of k that are long overdue: someone else
// got them.
func (r *run[M]) forget(k *orderKey[M], now int64) {
	kept := k.deferred[:0]
	for _, d := range k.deferred {
		if now-d.until <= int64(latchGrace) {
			kept = append(kept, d)
		}
	}
	gone := len(k.deferred) - len(kept)
	k.deferred = kept
	r.latched -= gone
	k.id.tenant.latched -= gone
}

// forgetLate is forget for all keys.
func (r *run[M]) forgetLate(now int64) {
	for _, k := range r.keys {
		r.forget(k, now)
		r.dropKey(k)
		r.rest(k.id.tenant)
	}
}

// promote makes the next message of k its head, when the last one has left.
func (r *run[M]) promote(k *orderKey[M], now int64) {
	k.head = nil
	r.follow(k, now)
	if e := k.blocked.pop(); e != nil {
		k.head = e
		e.tenant.enqueue(e)
		r.sched.arrange(e.tenant, now)
	}
}

// follow denies those messages of k, if any, that an older one is deferred
// before.
func (r *run[M]) follow(k *orderKey[M], now int64) {
	if k == nil {
		return
	}
	for e := k.blocked.first; e != nil && k.mustFollow(e.order); e = k.blocked.first {
		k.blocked.remove(e)
		r.unpark(e)
		r.deny(e, ReasonOrder, now, now)
	}
}

// unpark takes back what park counted.
func (r *run[M]) unpark(e *entry[M]) {
	e.tenant.waiting--
	r.waiting--
	e.tenant.queued -= e.cost
}
