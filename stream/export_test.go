package stream

import "slices"

// Tenants returns how many tenants the gate knows.
func (g *Gate[M]) Tenants() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.run.mu.Lock()
	defer g.run.mu.Unlock()
	return len(g.run.tenants)
}

// Keys returns how many order keys the gate knows something of.
func (g *Gate[M]) Keys() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.run.mu.Lock()
	defer g.run.mu.Unlock()
	n := len(g.run.keys)
	for _, t := range g.run.tenants {
		if t.key != nil && !t.key.unused() {
			n++
		}
	}
	return n
}

// MinIdle is how many idle tenants are kept at least.
const MinIdle = minIdle

// Sched is a scheduler without a gate.
type Sched struct {
	s       scheduler[int]
	tenants map[string]*tenant[int]
	arrived int64
}

// NewSched returns a scheduler whose virtual time begins at virtual.
func NewSched(virtual int64, perTenant int) *Sched {
	return &Sched{s: scheduler[int]{virtual: virtual, cap: perTenant}, tenants: make(map[string]*tenant[int])}
}

// Push adds a message of a tenant.
func (x *Sched) Push(name string, weight, cost, now int64) {
	t := x.tenants[name]
	if t == nil {
		t = &tenant[int]{name: name, grantAt: unset, lookAt: unset}
		x.tenants[name] = t
	}
	t.weight = int32(weight)
	x.arrived++
	t.enqueue(&entry[int]{tenant: t, cost: cost, arrival: x.arrived})
	x.s.arrange(t, now)
}

// Wait makes a tenant wait until at.
func (x *Sched) Wait(name string, at, now int64) {
	t := x.tenants[name]
	t.grantAt = at
	x.s.arrange(t, now)
}

// Next takes the message whose turn it is; ok is false if there is none. done
// says that it has been processed.
func (x *Sched) Next(now int64) (name string, cost int64, done func(), ok bool) {
	name, cost, correct, ok := x.Take(now)
	return name, cost, func() { correct(cost) }, ok
}

// Take is Next, and done says what the message has cost in truth.
func (x *Sched) Take(now int64) (name string, cost int64, done func(cost int64), ok bool) {
	if x.s.wake(now) != nil {
		panic("no tenant here looks at its limit before it is due")
	}
	t := x.s.next()
	if t == nil {
		return "", 0, nil, false
	}
	e, start := x.s.take(t)
	x.s.arrange(t, now)
	return t.name, e.cost, func(cost int64) {
		t.running--
		if cost != e.cost {
			x.s.correct(t, start, e.cost, cost)
		}
		x.s.arrange(t, now)
	}, true
}

// Places returns how many tenants are in each of the scheduler's heaps.
func (x *Sched) Places() (ready, waiting int) { return x.s.ready.len(), x.s.waiting.len() }

// MaxCharge is the largest virtual price of a message.
const MaxCharge = maxCharge

// Charge is the virtual price of a message.
func Charge(cost, weight int64) int64 { return charge(cost, weight) }

// Heap is a heap of numbered items.
type Heap struct{ h heap[*HeapItem] }

// HeapItem is an item of a Heap.
type HeapItem struct {
	ID    int
	index int32
}

func (i *HeapItem) setIndex(n int32) { i.index = n }

// Room returns how many items there is memory for.
func (h *Heap) Room() int { return max(cap(h.h.slots), cap(h.h.items), cap(h.h.at)) }

// Moves calls f and returns how many places in the heap have another item, or
// none, or one, after it.
func (h *Heap) Moves(f func()) (n int) {
	before := slices.Clone(h.h.slots)
	f()
	after := h.h.slots
	for i := range min(len(before), len(after)) {
		if before[i] != after[i] {
			n++
		}
	}
	return n + max(len(before), len(after)) - min(len(before), len(after))
}

// In reports whether the item is in a heap.
func (i *HeapItem) In() bool { return i.index >= 0 }

// Push, Fix, Remove, Top and Len are those of heap.
func (h *Heap) Push(i *HeapItem, key int64) { h.h.push(i, key) }

// Fix is heap.fix.
func (h *Heap) Fix(i *HeapItem, key int64) { h.h.fix(i.index, key) }

// Remove is heap.remove.
func (h *Heap) Remove(i *HeapItem) { h.h.remove(i.index) }

// Top is heap.top.
func (h *Heap) Top() (*HeapItem, int64) { return h.h.top() }

// Len is heap.len.
func (h *Heap) Len() int { return h.h.len() }

// Ranked returns the tenants that a ranking of so many keeps of those that it is
// told of, each with the figure at its place.
func Ranked(top int, tenants string, figures ...int64) (kept string) {
	r := ranking{top: top}
	for i, figure := range figures {
		r.add(figure, TenantLoad{Tenant: tenants[i : i+1]})
	}
	for _, load := range r.loads {
		kept += load.Tenant
	}
	return kept
}

// Away is away, and Deferred what it keeps.
type (
	Away     struct{ a away }
	Deferred struct{ Order, Arrival, Until int64 }
)

// Add is away.add.
func (a *Away) Add(d Deferred) { a.a.add(deferred{order: d.Order, arrival: d.Arrival, until: d.Until}) }

// LastBefore is away.lastBefore.
func (a *Away) LastBefore(order int64) int64 { return a.a.lastBefore(order) }

// Precedes is away.precedes.
func (a *Away) Precedes(order int64) bool { return a.a.precedes(order) }

// Len is away.len.
func (a *Away) Len() int { return a.a.len() }

// Earliest is away.earliest.
func (a *Away) Earliest() int64 { return a.a.earliest() }

// Remove is away.remove of one delivery.
func (a *Away) Remove(order, arrival int64) int {
	return a.a.remove(order, func(d deferred) bool { return d.arrival == arrival })
}

// Sweep is away.sweep.
func (a *Away) Sweep(until int64) int { return a.a.sweep(until) }
