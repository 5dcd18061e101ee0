package flux

import (
	"time"

	"github.com/fluxlimiter/flux/gcra"
)

// waiter is one who waits: a call of Wait or WaitAsync, a reservation, or a
// request of a Stream. All fields are guarded by the lock of its room, but for
// n and to, which never change. It holds no tokens.
type waiter[K comparable] struct {
	queue      *queue[K]  // nil before it joins, and once it has left
	next, prev *waiter[K] // in its queue
	n          int64

	// to is where the result goes: an outbox or, of a request of a Stream, its
	// value, to come back with the answer of the group.
	to any

	// The group that w belongs to, if any, and its place in it.
	group *group[K]
	place int
}

// outbox is a channel with room for the only result.
type outbox chan Result

// queue is the line of those who wait for one key. It owns the key's schedule:
// while anyone waits, turns come when the limit has them, whenever it is that a
// timer fires. All times are on the paced clock.
//
// The head's turn is due when it fits the limit exactly, which leaves the key
// without a token. So each one behind has its turn as long after the one before
// as its own tokens take: a turn anywhere in the queue is due plus the prices of
// those between, and no waiter's turn needs to be kept.
type queue[K comparable] struct {
	key        K
	hash       uint64 // of the key
	slot       gcra.Handle
	rule       rule
	head, tail *waiter[K]
	len        int
	due        int64 // the head's turn
	behind     int64 // the price of all but the head
	look       int64 // when to look after it: due, or earlier
	place      int   // in the room's agenda
}

// newQueue returns an empty queue for key.
func (l *Limiter[K]) newQueue(key K) *queue[K] {
	q := &queue[K]{key: key, hash: l.hash(key), rule: l.ruleOf(key), place: -1}
	l.table.Resolve(key, &q.slot)
	return q
}

// maxAhead bounds how far ahead a turn may lie, 36 years, so that sums of
// prices cannot overflow.
const maxAhead = 1 << 60

// maxLate is how late a turn may be granted and still count as granted in
// time, so that the next one comes as if nothing had happened. Timers fire
// about a millisecond late, and a process that used up its share of the CPU may
// stand still for a period of the scheduler, which is 100 ms by default under
// Linux: were the schedule to start anew each time, 20,000 a second would become
// a thousand. A process that slept for longer has lost those turns: otherwise it
// would hand out a minute's worth of them when it wakes up.
const maxLate = int64(100 * time.Millisecond)

// price returns how long n tokens take to come back: the debt of a fresh key
// that has spent them.
func price(limit *gcra.Limit, n int64) int64 {
	_, d, _ := limit.Take(0, 0, n)
	return int64(d.ResetAfter)
}

// last returns the turn of the newest in the queue. It is out of reach, as due is,
// while a limit that denies everything takes the place of another.
func (q *queue[K]) last() int64 { return addSat(q.due, q.behind) }

// turn returns the turn of w, which waits in q. It costs a step for each one
// before it.
func (q *queue[K]) turn(w *waiter[K]) int64 {
	at := q.due
	for v := q.head; v != w; {
		v = v.next
		at = addSat(at, price(q.rule.limit(), v.n))
	}
	return at
}

// push adds w to the end.
func (q *queue[K]) push(w *waiter[K]) {
	w.queue = q
	q.len++
	if q.tail == nil {
		q.head, q.tail = w, w
		return
	}
	w.prev, q.tail.next, q.tail = q.tail, w, w
	q.behind += price(q.rule.limit(), w.n)
}

// unlink takes w out of q. When it was the head, the new head's turn has yet to
// be reckoned.
func (q *queue[K]) unlink(w *waiter[K]) {
	switch {
	case w != q.head:
		q.behind -= price(q.rule.limit(), w.n)
		w.prev.next = w.next
	case w.next != nil:
		q.behind -= price(q.rule.limit(), w.next.n)
		q.head = w.next
	default:
		q.head, q.behind = nil, 0
	}
	if w == q.tail {
		q.tail = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.next, w.prev, w.queue = nil, nil, nil
	q.len--
}

// reckon finds the head's turn from what the key has left at now: after the
// head left, or when someone else took or returned tokens.
func (q *queue[K]) reckon(now int64) {
	if q.head == nil {
		return
	}
	d, _ := q.slot.TakeAt(q.rule.own.ref(), now, 0)
	q.due = addSat(now, int64(d.Delay(q.head.n)))
}

// retime puts q under another rule from now on: every turn is reckoned anew.
// Those whose turn can never come any more leave, and are passed to gone with
// the reason.
func (q *queue[K]) retime(to rule, now int64, gone func(*waiter[K], error)) {
	q.rule = to
	limit := to.limit()
	var ahead int64
	for w := q.head; w != nil; {
		next := w.next
		_, d, err := limit.Take(0, 0, w.n)
		switch {
		case err == nil && !d.Allowed():
			err = ErrDenyAll
		case err == nil && int64(d.ResetAfter) > maxAhead-ahead:
			err = &WaitTooLongError{Wait: time.Duration(addSat(ahead, int64(d.ResetAfter))), Max: maxAhead}
		}
		if err == nil {
			ahead += int64(d.ResetAfter)
		} else {
			q.unlink(w)
			gone(w, err)
		}
		w = next
	}
	if q.head != nil {
		q.behind = ahead - price(limit, q.head.n)
		q.reckon(now)
	}
}

// next lets the head have its turn at the time given, and returns it with the
// decision, or nil if it must wait on: someone else came first, and its turn
// was put off.
func (q *queue[K]) next(at int64) (*waiter[K], gcra.Decision, error) {
	w := q.head
	d, err := q.slot.TakeAt(q.rule.own.ref(), at, w.n)
	if err == nil && !d.Allowed() {
		q.due = addSat(at, int64(d.RetryAfter))
		return nil, d, nil
	}
	q.unlink(w)
	if err != nil {
		q.reckon(at)
	} else if q.head != nil {
		q.due = addSat(at, int64(d.Delay(q.head.n)))
	}
	return w, d, err
}

// check decides a request that does not wait as coming after all who do: it is
// denied, and may be made again when the queue is empty and n fit the limit.
func (q *queue[K]) check(now, n int64) (gcra.Decision, error) {
	limit := q.rule.limit()
	_, d, err := limit.Take(addSat(q.last(), price(limit, limit.Burst())), now, n)
	return d, err
}
