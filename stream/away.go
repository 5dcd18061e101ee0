package stream

import (
	"cmp"
	"slices"
)

// away keeps, by order, those messages of an order key that this gate has deferred
// and that have not come back. A backlog in order may have many of them. So the
// first ones come back and are deferred once more, and new ones join at the end,
// without the others having to be looked at, or moved.
type away struct {
	slots []deferred
	free  int // slots before the first that is in use
}

type deferred struct {
	order   int64
	arrival int64 // of the delivery that was deferred
	until   int64 // when it is to come back, on the gate's clock
	latest  int64 // the latest until of this one and all before it
}

func (a *away) len() int { return len(a.slots) - a.free }

// all returns the deferred messages by order.
func (a *away) all() []deferred { return a.slots[a.free:] }

// before returns how many come before order.
func (a *away) before(order int64) int {
	i, _ := slices.BinarySearchFunc(a.all(), order, func(d deferred, order int64) int {
		return cmp.Compare(d.order, order)
	})
	return i
}

// precedes reports whether one comes before order.
func (a *away) precedes(order int64) bool { return a.len() > 0 && a.slots[a.free].order < order }

// follows reports whether one comes after order.
func (a *away) follows(order int64) bool {
	return a.len() > 0 && a.slots[len(a.slots)-1].order > order
}

// lastBefore returns the latest time that one before order was deferred to.
func (a *away) lastBefore(order int64) int64 {
	i := a.before(order)
	if i == 0 {
		return unset
	}
	return a.all()[i-1].latest
}

func (a *away) add(d deferred) {
	d.latest = unset
	i := a.before(d.order)
	switch n := a.len(); {
	case a.free > 0 && i < n-i:
		a.free--
		copy(a.all()[:i], a.all()[1:])
		a.all()[i] = d
	case a.free > n && len(a.slots) == cap(a.slots):
		a.slots, a.free = append(a.slots[:0], a.all()...), 0
		fallthrough
	default:
		a.slots = slices.Insert(a.slots, a.free+i, d)
	}
	a.mend(i)
}

// remove takes out those of this order that it is told of, and returns how many
// they were.
func (a *away) remove(order int64, which func(deferred) bool) (n int) {
	for i := a.before(order); i < a.len() && a.all()[i].order == order; {
		if which(a.all()[i]) {
			a.delete(i)
			n++
		} else {
			i++
		}
	}
	return n
}

// delete takes out the one at i.
func (a *away) delete(i int) {
	if all := a.all(); i < len(all)-i {
		copy(all[1:i+1], all[:i])
		a.free++
	} else {
		a.slots = slices.Delete(a.slots, a.free+i, a.free+i+1)
	}
	if a.len() == 0 {
		*a = away{}
		return
	}
	a.mend(i)
}

// sweep takes out those that were due before until, and returns how many they were.
// They were not the latest before any that stays.
func (a *away) sweep(until int64) (n int) {
	n = a.len()
	kept := slices.DeleteFunc(a.all(), func(d deferred) bool { return d.until < until })
	if *a = (away{}); len(kept) > 0 {
		a.slots = kept
	}
	return n - len(kept)
}

// earliest returns the earliest time that one was deferred to.
func (a *away) earliest() int64 {
	until := a.all()[0].until
	for _, d := range a.all() {
		until = min(until, d.until)
	}
	return until
}

// mend computes latest anew from i on, until nothing changes any more.
func (a *away) mend(i int) {
	all := a.all()
	for ; i < len(all); i++ {
		latest := all[i].until
		if i > 0 {
			latest = max(latest, all[i-1].latest)
		}
		if all[i].latest == latest {
			return
		}
		all[i].latest = latest
	}
}
