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
	e.arrival, e.order, e.ordered = r.arrivals, a.meta.Order, a.meta.Order != 0
	if !e.ordered {
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
		r.unpark(e)
	case stateBlocked:
		e.key.blocked.remove(e)
		r.unpark(e)
		r.countAwaiting(e.key)
	case stateBackoff:
		r.delayed.remove(e.index)
		t.waiting--
		r.waiting--
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

// facts returns what hooks and handlers may want to know of e.
func (r *run[M]) facts(e *entry[M], granted int64) facts {
	return facts{
		clock: &r.clock, tenant: e.tenant.name, cost: e.cost,
		published: e.published, delivered: e.delivered, granted: granted,
		attempts: e.attempts, deferrals: e.deferrals,
	}
}
