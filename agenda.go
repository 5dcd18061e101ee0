package flux

import "math"

// agenda holds the queues of a room, the one to be looked after first in front:
// a heap with four children to a node, in which each queue knows its place. The
// times stand beside the queues so that sorting touches no queue but those that
// it moves.
type agenda[K comparable] []item[K]

type item[K comparable] struct {
	look  int64
	queue *queue[K]
}

// next returns the time of the first, and math.MaxInt64 if nobody waits.
func (a agenda[K]) next() int64 {
	if len(a) == 0 {
		return math.MaxInt64
	}
	return a[0].look
}

// add puts q on the agenda.
func (a *agenda[K]) add(q *queue[K]) {
	q.place = len(*a)
	*a = append(*a, item[K]{q.look, q})
	a.fix(q)
}

// remove takes q off.
func (a *agenda[K]) remove(q *queue[K]) {
	old := *a
	last := old[len(old)-1]
	old[len(old)-1] = item[K]{}
	*a = old[:len(old)-1]
	if last.queue != q {
		last.queue.place = q.place
		a.fix(last.queue)
	}
	q.place = -1
}

// fix moves q to where it belongs after its time has changed.
func (a agenda[K]) fix(q *queue[K]) {
	i := q.place
	for i > 0 {
		up := (i - 1) / 4
		if a[up].look <= q.look {
			break
		}
		a.put(i, a[up])
		i = up
	}
	for {
		first := 4*i + 1
		if first >= len(a) {
			break
		}
		least := first + earliest(a[first:])
		if q.look <= a[least].look {
			break
		}
		a.put(i, a[least])
		i = least
	}
	a.put(i, item[K]{q.look, q})
}

// earliest returns the place of the earliest of the first four, by steps that the
// processor need not guess the outcome of where there are four.
func earliest[K comparable](of []item[K]) (least int) {
	if len(of) < 4 {
		for i := range of {
			if of[i].look < of[least].look {
				least = i
			}
		}
		return least
	}
	here, other, there := of[0].look, 2, of[2].look
	if look := of[1].look; look < here {
		least, here = 1, look
	}
	if look := of[3].look; look < there {
		other, there = 3, look
	}
	if there < here {
		least = other
	}
	return least
}

// put places it at i.
func (a agenda[K]) put(i int, it item[K]) {
	a[i] = it
	it.queue.place = i
}
