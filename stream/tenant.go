package stream

import "github.com/fluxlimiter/flux"

// tenant is what the gate knows of a tenant that it holds messages of, or held
// some of a short while ago.
type tenant[M any] struct {
	name   string
	handle *flux.Handle[string] // nil if the limiter is not a flux.Limiter

	// Messages whose turn may come: those that came in order are in queue, the
	// few that are older than its last one, because they are tried again, in
	// early.
	queue list[M]
	early *heap[*entry[M]] // nil: there were none yet

	queued  int64 // cost of all that wait for their turn, the blocked included
	bytes   int64 // of its messages that are not being settled
	crossed int64 // bytes when the last message came for which there were some left
	leavers int64 // of those that are
	settled int64 // when one was settled last, or the first of those began to be

	held     int32 // messages in the window
	waiting  int32 // of them in queue, in early, blocked or in backoff
	running  int32 // of them, with a worker or in a batch for one
	settling int32 // with the settlers, or waiting for them
	batches  int32 // that it has messages in, with a worker or not
	latched  int32 // messages in the deferred lists of its keys
	awaiting int32 // messages blocked by nothing but a deferred one

	// Flags, together because there may be a hundred thousand tenants.
	known     bool // start means something
	asking    bool // a worker asks the limiter for it
	limited   bool // the limiter had nothing left for it when it was last asked
	overdrawn bool // it is in run.overdrawn
	idle      bool // it is in run.idlers
	pressed   bool // when one went to the workers last, others waited that could have gone, too
	paced     bool // it was not workers that gap is due to, but its limit
	picks     int8 // how many gaps gap is known from, up to enoughPicks

	// Fair queueing, see scheduler.
	where  place
	index  int32
	weight int32

	// The tally, see there.
	tallied uint32  // when it was brought up to date, in ticks
	waited  float32 // what its messages have waited in memory, all together, in ticks
	denials uint32  // how many of them were not allowed to

	start int64 // virtual, of its next message, or earlier than it

	// What is needed to correct charges: when virtual time had overtaken start
	// last, and by how much.
	entered, lag int64

	// The limit. Times are readings of the gate's clock.
	grantAt   int64 // when the limiter will admit its next message, unset: now, as far as known
	denied    int64 // when it first refused that message as the next in turn, unset: not yet
	lastGrant int64
	lookAt    int64   // when to see whether the limit was raised
	remote    *remote // what the limiter said, if it may block

	// horizon is the turn of the last of its messages that were deferred: those
	// that arrive later come after it. It says nothing once it has passed. pace
	// is what a token took to be earned when that was last looked at. again is
	// the turn of the last of those with an order key that came back to no place.
	horizon int64
	pace    int64
	again   int64

	gap    int64 // between two of its messages going to the workers, smoothed
	picked int64 // when the last one went
	since  int64 // when it began to have messages

	// key is one of its order keys, which is not in run.keys, and is kept when
	// nothing depends on it, to be used again: that spares a tenant whose messages
	// come one at a time from having one made and forgotten for each.
	key *orderKey[M]

	batch *batch[M] // that it has messages in, and may have more

	prev, next *tenant[M] // among the idle ones
}

// remote is the last answer of a limiter that may block.
type remote struct {
	last     flux.Decision
	at       int64 // when it came
	failures int   // in a row, since failedAt
	failedAt int64
}

func (t *tenant[M]) setIndex(i int32) { t.index = i }

// head returns the message whose turn is next, nil if none can be.
func (t *tenant[M]) head() *entry[M] {
	first := t.queue.first
	if t.early != nil && t.early.len() > 0 {
		if e, arrival := t.early.top(); first == nil || arrival < first.arrival {
			return e
		}
	}
	return first
}

// enqueue makes e wait for its turn.
func (t *tenant[M]) enqueue(e *entry[M]) {
	if last := t.queue.last; last != nil && e.arrival < last.arrival {
		e.state = stateEarly
		if t.early == nil {
			t.early = new(heap[*entry[M]])
		}
		t.early.push(e, e.arrival)
		if t.head() == e {
			t.denied = unset
		}
		return
	}
	e.state = stateQueued
	t.queue.push(e)
}

// dequeue takes out an entry that waits for its turn.
func (t *tenant[M]) dequeue(e *entry[M]) {
	if t.head() == e {
		t.denied = unset
	}
	if e.state == stateEarly {
		t.early.remove(e.index)
	} else {
		t.queue.remove(e)
	}
}

// idlers are the tenants that the gate holds no messages of, the first to be
// forgotten first. Keeping some of them spares a tenant that comes and goes
// with every message from being set up each time.
type idlers[M any] struct {
	first, last *tenant[M]
	n           int
}

func (l *idlers[M]) push(t *tenant[M]) {
	t.idle = true
	t.prev, t.next = l.last, nil
	if l.last == nil {
		l.first = t
	} else {
		l.last.next = t
	}
	l.last = t
	l.n++
}

func (l *idlers[M]) remove(t *tenant[M]) {
	if t.prev == nil {
		l.first = t.next
	} else {
		t.prev.next = t.next
	}
	if t.next == nil {
		l.last = t.prev
	} else {
		t.next.prev = t.prev
	}
	t.idle, t.prev, t.next = false, nil, nil
	l.n--
}

// minIdle is how many idle tenants are kept at least.
const minIdle = 4096

// tenant returns the tenant of an arrival, which is idle no more.
func (r *run[M]) tenant(a *arrival[M], now int64) *tenant[M] {
	t := r.tenants[a.tenant]
	switch {
	case t == nil:
		t = &tenant[M]{name: a.tenant, grantAt: unset, denied: unset, lastGrant: unset, horizon: unset, again: unset, picked: unset, lookAt: unset, since: now, tallied: ticks(now)}
		switch {
		case a.tenant == "":
			// It is never asked for.
		case r.clock.limiter != nil:
			t.handle = r.clock.limiter.Key(a.tenant)
		default:
			t.remote = new(remote)
		}
		r.tenants[a.tenant] = t
	case t.idle:
		r.idlers.remove(t)
		t.since = now
	}
	t.weight = int32(a.weight)
	return t
}

// rest is called when t may have become idle.
func (r *run[M]) rest(t *tenant[M]) {
	if t.held > 0 || t.latched > 0 || t.idle {
		return
	}
	t.picked = unset
	r.idlers.push(t)
	if r.idlers.n > max(minIdle, r.cfg.Window) {
		forgotten := r.idlers.first
		r.idlers.remove(forgotten)
		delete(r.tenants, forgotten.name)
	}
}
