package stream

import "math/bits"

// place is where the scheduler keeps a tenant.
type place uint8

const (
	placeNone    place = iota // nothing of it can run now
	placeReady                // the next message may run
	placeWaiting              // its limit will admit the next message at grantAt
)

// scheduler decides whose turn it is. It is start-time fair queueing (Goyal,
// Vin, Cheng: SIGCOMM 1996) over the tenants that have work: a tenant's next
// message has the virtual start S = max(V, F), where F is the virtual finish of
// its last one, its start plus cost/weight, and V is the start of the message
// that went to the workers last. The smallest S goes next. So between two
// tenants f and g that both have work all along, the work W given to them
// differs by no more than
//
//	|W(f)/weight(f) - W(g)/weight(g)| <= cost(f)/weight(f) + cost(g)/weight(g)
//
// where cost is that of their largest message. Tenants that come back from
// idleness or from a wait for their limit start at V: they neither hoard credit
// nor pay for what nobody else wanted.
//
// A tenant that waits for its limit is in another heap, by the time of its
// grant, so that it costs O(log n) once and nothing while it waits.
//
// The scheduler has no lock, no clock and no goroutine.
type scheduler[M any] struct {
	virtual int64
	ready   heap[*tenant[M]]
	waiting heap[*tenant[M]]
	cap     int  // of running messages per tenant, or of batches
	batches bool // messages run in batches
}

const (
	// unit is the virtual price of one token at weight 1.
	unit = 1 << 20
	// maxCharge bounds the virtual price of a message, so that the starts of
	// all ready tenants lie within 2⁵³ of each other and virtual time may wrap.
	maxCharge = 1 << 52
)

// charge returns cost/weight in virtual time.
func charge(cost, weight int64) int64 {
	hi, lo := bits.Mul64(uint64(cost), unit)
	if hi >= uint64(weight) {
		return maxCharge
	}
	q, _ := bits.Div64(hi, lo, uint64(weight))
	return int64(max(1, min(q, maxCharge)))
}

// start returns the virtual start of t's next message if it became ready now.
func (s *scheduler[M]) start(t *tenant[M], cost int64) int64 {
	if !t.known {
		// Tenants that appear together, after a restart say, would otherwise all
		// start at the same instant whatever their weight: one of weight 1 among
		// a hundred would go first as often as last. The spread is by name, so
		// that it is the same everywhere.
		t.known = true
		t.start = s.virtual + int64(spread(t.name)%uint64(charge(cost, int64(t.weight))))
	}
	// A start further ahead than any charge is one that virtual time has
	// overtaken by half of its range.
	d := t.start - s.virtual
	if d > 0 && d <= maxCharge {
		return t.start
	}
	t.entered, t.lag = s.virtual, -d
	if d > 0 || d < -maxCharge {
		t.lag = maxCharge
	}
	return s.virtual
}

// correct makes t, whose message was taken at a virtual start at the price of
// cost, pay that of n instead. The caller arranges t.
//
// What t was charged before virtual time overtook it counts only as far as it
// would have made a difference. Where t had work all along, its start may come to
// lie before virtual time, and it makes up for the time in which it had paid too
// much.
func (s *scheduler[M]) correct(t *tenant[M], start, cost, n int64) {
	more := -charge(cost, int64(t.weight))
	if n > 0 {
		more += charge(n, int64(t.weight))
	}
	if start-t.entered < 0 {
		t.lag -= more
		if t.lag >= 0 {
			return
		}
		more, t.lag = -t.lag, 0
	}
	// Within the bounds that starts must keep.
	ahead := t.start + more - s.virtual
	t.start = s.virtual + min(max(ahead, -maxCharge), maxCharge)
}

// arrange puts t where it belongs after something about it has changed.
func (s *scheduler[M]) arrange(t *tenant[M], now int64) {
	head := t.head()
	if head == nil && t.running == 0 {
		t.pressed = false // it is not workers that its next message waits for
	}
	want := placeReady
	switch {
	case head == nil || t.asking || s.capped(t):
		want = placeNone
	case t.grantAt > now:
		want = placeWaiting
	}
	due := t.grantAt
	if t.lookAt > now {
		due = min(due, t.lookAt)
	}
	if want != t.where {
		s.withdraw(t)
		t.where = want
		switch want {
		case placeReady:
			t.start = s.start(t, head.cost)
			s.ready.push(t, t.start)
		case placeWaiting:
			s.waiting.push(t, due)
		}
		return
	}
	switch {
	case want == placeReady && s.ready.key(t.index) != t.start:
		s.ready.fix(t.index, t.start)
	case want == placeWaiting && s.waiting.key(t.index) != due:
		s.waiting.fix(t.index, due)
	}
}

// capped reports whether t has as many workers as it may have.
func (s *scheduler[M]) capped(t *tenant[M]) bool {
	if s.batches {
		return t.batch == nil && int(t.batches) >= s.cap
	}
	return int(t.running) >= s.cap
}

// withdraw takes t out of both heaps.
func (s *scheduler[M]) withdraw(t *tenant[M]) {
	switch t.where {
	case placeReady:
		s.ready.remove(t.index)
	case placeWaiting:
		s.waiting.remove(t.index)
	}
	t.where = placeNone
}

// wake makes those tenants ready whose grant is due. It returns one whose limit
// is to be looked at before that, nil if there is none; the caller arranges it
// and calls again.
func (s *scheduler[M]) wake(now int64) *tenant[M] {
	for s.waiting.len() > 0 {
		t, at := s.waiting.top()
		if at > now {
			return nil
		}
		if t.grantAt > now {
			return t
		}
		s.arrange(t, now)
	}
	return nil
}

// next returns the tenant whose turn it is, nil if nobody's.
func (s *scheduler[M]) next() *tenant[M] {
	if s.ready.len() == 0 {
		return nil
	}
	t, _ := s.ready.top()
	return t
}

// take takes the head of t, which is not waiting, out and charges for it. It
// returns its virtual start as well. The caller arranges t.
func (s *scheduler[M]) take(t *tenant[M]) (e *entry[M], start int64) {
	e = t.head()
	t.dequeue(e)
	if t.where != placeReady {
		t.start = s.start(t, e.cost)
	}
	start = t.start
	if start-s.virtual > 0 { // it is not where a correction has left it
		s.virtual = start
	}
	t.start += charge(e.cost, int64(t.weight))
	t.running++
	return e, start
}

// spread returns the 64-bit FNV-1a hash of a name.
func spread(name string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 1099511628211
	}
	return h
}
