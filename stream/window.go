package stream

import "math/bits"

// byteLimits are the bounds of the window in bytes.
type byteLimits struct {
	window, tenant, partition int64
}

func newByteLimits[M any](cfg *Config[M]) byteLimits {
	part := func(messages int) int64 { return int64(portion(cfg.WindowBytes, messages, cfg.Window)) }
	return byteLimits{int64(cfg.WindowBytes), part(cfg.TenantWindow), part(cfg.PartitionWindow)}
}

// portion returns as much of n as part is of whole, at least 1.
func portion(n, part, whole int) int {
	hi, lo := bits.Mul64(uint64(n), uint64(part))
	quotient, _ := bits.Div64(hi, lo, uint64(whole))
	return int(max(1, quotient))
}

// Window implements [Intake]. The bytes stay as they are, and so do the parts of
// them.
func (r *run[M]) Window(most int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.cfg; most < c.Window {
		most = max(1, most)
		c.TenantWindow = portion(c.TenantWindow, most, c.Window)
		c.PartitionWindow = portion(c.PartitionWindow, most, c.Window)
		c.Window = most
	}
	return r.cfg.Window
}

// open reports whether there is room for a message.
func (r *run[M]) open() bool { return r.held < r.cfg.Window && r.bytes < r.limits.window }

// fitting returns how many of a number of messages have room in so many bytes,
// if they are as large as those that are held, at least 1.
func (r *run[M]) fitting(messages int, bytes int64) int {
	if r.bytes > 0 {
		mean := max(1, r.bytes/int64(r.held))
		messages = int(min(int64(messages), bytes/mean))
	}
	return max(1, messages)
}

// share returns how many messages a tenant may have.
func (r *run[M]) share() int { return r.fitting(r.cfg.TenantWindow, r.limits.tenant) }

// full reports whether the partition that w watches has its part of the window.
func (r *run[M]) full(w *watch[M]) bool {
	return w != nil && w.id.partition != "" && (w.refs >= r.cfg.PartitionWindow || w.bytes >= r.limits.partition)
}

// surplusOf returns what t has beyond its share of the window, negative if that
// has room. What is being settled is on its way out. The message that exceeded
// the share of bytes, of which t had some left, is no surplus.
func (r *run[M]) surplusOf(t *tenant[M]) (messages int, bytes int64) {
	return int(t.waiting+t.running) - r.cfg.TenantWindow, t.bytes - max(r.limits.tenant, t.crossed)
}

// shareUsed reports whether t has its share of the window without e.
func (r *run[M]) shareUsed(t *tenant[M], e *entry[M]) bool {
	return !t.awaits(e) &&
		(int(t.waiting+t.running) >= r.cfg.TenantWindow || t.bytes-e.bytes >= r.limits.tenant)
}

// awaits reports whether all messages of t that are here wait for one to come
// back, and e may be that one: whatever they take up must not keep it away. See
// stays for what they may.
func (t *tenant[M]) awaits(e *entry[M]) bool {
	return t.awaiting > 0 && t.awaiting == t.waiting+t.running && e.key != nil && e.key.first(e)
}

// cramped reports whether t, without e, has as many messages as are still
// free in the window, or in the part of it that the partition of e may have.
func (r *run[M]) cramped(t *tenant[M], e *entry[M]) bool {
	if t.awaits(e) {
		return false
	}
	messages, size := int(t.waiting+t.running), t.bytes-e.bytes
	if messages > r.cfg.Window-r.held || size > 0 && size >= r.limits.window-r.bytes+e.bytes {
		return true
	}
	w := e.watch
	return w != nil && w.id.partition != "" &&
		(messages > r.cfg.PartitionWindow-w.refs || size > 0 && size >= r.limits.partition-w.bytes+e.bytes)
}

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
	e.published, e.delivered, e.bytes = unixNano(a.meta.Time), now, int64(max(0, a.meta.Bytes))
	r.arrivals++
	e.arrival, e.order = r.arrivals, a.meta.Order
	if e.order != 0 {
		e.marks |= markOrdered
	} else {
		e.order = r.firstOrder + r.arrivals
	}
	e.key = r.key(a, t)
	if a.revoked != nil || a.meta.Partition != "" {
		r.watchFor(e, a)
	}
	return e
}

// complete takes e, which is settled or given up and in no list, out of the
// window.
func (r *run[M]) complete(e *entry[M], now int64) {
	t, k := e.tenant, e.key
	r.held--
	t.held--
	r.bytes -= e.bytes
	if e.settling {
		r.outgoing--
		t.settling--
		r.leavers -= e.bytes
		t.leavers -= e.bytes
	} else {
		t.bytes -= e.bytes
	}
	if k != nil {
		k.refs--
		if k.head == e {
			k.over(now)
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
	case stateGathered:
		r.ungather(e, now)
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
