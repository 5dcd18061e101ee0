package flux

import "math"

// agenda holds the queues of a room, the one with the earliest turn first: a
// heap with four children to a node, in which each queue knows its place. The
// turns stand beside the queues so that sorting touches no queue but those that
// it moves.
type agenda[K comparable] []item[K]

type item[K comparable] struct {
	due   int64
	queue *queue[K]
}

// due returns the earliest turn, and math.MaxInt64 if nobody waits.
func (a agenda[K]) due() int64 {
	if len(a) == 0 {
		return math.MaxInt64
	}
	return a[0].due
}

// add puts q on the agenda.
func (a *agenda[K]) add(q *queue[K]) {
	q.place = len(*a)
	*a = append(*a, item[K]{q.due, q})
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

// fix moves q to where it belongs after its turn has changed.
func (a agenda[K]) fix(q *queue[K]) {
	i := q.place
	for i > 0 {
		up := (i - 1) / 4
		if a[up].due <= q.due {
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
		least := first
		for c := first + 1; c < min(first+4, len(a)); c++ {
			if a[c].due < a[least].due {
				least = c
			}
		}
		if q.due <= a[least].due {
			break
		}
		a.put(i, a[least])
		i = least
	}
	a.put(i, item[K]{q.due, q})
}

// put places it at i.
func (a agenda[K]) put(i int, it item[K]) {
	a[i] = it
	it.queue.place = i
}
