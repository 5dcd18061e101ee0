package stream

// entry returns the entry of an arrival.
func (r *run[M]) entry(a *arrival[M], t *tenant[M], now int64) *entry[M] {
	e := r.free
	if e == nil {
		e = new(entry[M])
	} else {
		r.free = e.next
		e.next = nil
	}
	e.delivery, e.tenant, e.cost = a.delivery, t, a.cost
	e.attempts, e.deferrals = int32(a.meta.Attempts), int32(a.meta.Deferrals)
	e.published, e.delivered, e.denied = unixNano(a.meta.Time), now, unset
	r.arrivals++
	e.arrival, e.order = r.arrivals, a.meta.Order
	if e.order != 0 {
		e.marks |= markOrdered
	} else {
		e.order = r.firstOrder + r.arrivals
	}
	e.key = r.key(a, t)
	if a.revoked != nil {
		r.watchFor(e, a.revoked)
	}
	return e
}

// complete takes e, which is settled or given up and in no list, out of the
// window.
func (r *run[M]) complete(e *entry[M], now int64) {
	t, k := e.tenant, e.key
	r.held--
	t.held--
	if e.settling {
		r.outgoing--
		t.settling--
	}
	if k != nil {
		k.refs--
		if k.head == e {
			k.head = nil
		}
		r.promote(k, now)
		r.dropKey(k)
	}
	if e.watch != nil {
		r.unwatch(e)
	}
	// A worker may still look at an abandoned one.
	if !e.abandoned {
		*e = entry[M]{}
		e.next, r.free = r.free, e
	}
	r.rest(t)
}

// withdraw makes e leave unsettled at the end of the turn, unless a worker or a
// settler has it, who will see to it.
func (r *run[M]) withdraw(e *entry[M], now int64) {
	t := e.tenant
	switch e.state {
	case stateQueued, stateEarly:
		t.dequeue(e)
		r.unpark(e, now)
	case stateBlocked:
		e.key.blocked.remove(e)
		r.unpark(e, now)
		r.countAwaiting(e.key)
	case stateBackoff:
		r.delayed.remove(e.index)
		r.count(t, -1, now)
	case stateSettle:
		r.settles.remove(e)
	case stateSettleWait:
		r.delayed.remove(e.index)
	default:
		return
	}
	r.sched.arrange(t, now)
	r.giveUp(e)
}
