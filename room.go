package flux

import (
	"math"
	"math/bits"
	"runtime"
	"sync"
	"time"
)

// room is where those who wait for some of the keys do so: a lock, their
// queues, and one timer, which is set to the first on the agenda. There are as
// many rooms as processors; more would only mean more timers.
//
// Results are sent with the lock held, so that waiters hear of their turn in the
// order in which it came. No send blocks: each goes to a channel that has room
// for it.
type room[K comparable] struct {
	lim    *Limiter[K]
	number int // its place among the limiter's

	mu     sync.Mutex
	queues map[K]*queue[K]
	groups map[<-chan struct{}]*group[K]
	agenda agenda[K]
	timer  *time.Timer
	set    int64 // what timer is set to, math.MaxInt64 if to nothing

	// For hooks that want to know about waits: who waits, since when; and waits
	// that are over, to be told of when the lock is released.
	since map[*waiter[K]]ended[K]
	over  []ended[K]
}

// openRooms makes the rooms, empty.
func (l *Limiter[K]) openRooms() {
	n := 1 << bits.Len(uint(min(runtime.GOMAXPROCS(0), 64)-1))
	l.rooms = make([]room[K], n)
	for i := range l.rooms {
		l.rooms[i] = room[K]{
			lim:    l,
			number: i,
			queues: make(map[K]*queue[K]),
			groups: make(map[<-chan struct{}]*group[K]),
			since:  make(map[*waiter[K]]ended[K]),
			set:    math.MaxInt64,
		}
	}
}

// room returns the room of the keys with this hash.
func (l *Limiter[K]) room(hash uint64) *room[K] {
	return &l.rooms[hash>>32&uint64(len(l.rooms)-1)]
}

// Close ends all waiting: those who wait get [ErrClosed], as does everyone who
// would wait from now on, and reservations are void. It returns at once, and may
// be called more than once. It does not end [Limiter.Check], which has nothing
// to close.
func (l *Limiter[K]) Close() {
	l.closed.Store(true)
	for i := range l.rooms {
		l.rooms[i].clear(ErrClosed)
	}
}

// unlock releases the lock, and then tells of the waits that ended under it.
func (r *room[K]) unlock() {
	over := r.over
	r.over = nil
	r.mu.Unlock()
	for _, e := range over {
		r.lim.hooks.afterWait(e)
	}
}

// check decides a request for a key that may have a queue.
func (r *room[K]) check(key K, now, n int64) (Decision, error) {
	r.mu.Lock()
	defer r.unlock()
	t := r.lim.terms.Load()
	if q := r.queues[key]; q != nil {
		r.advance(q, now)
		defer r.settle(q, now)
		if q.len > 0 {
			d, err := q.check(t.pace.at(now), n)
			return r.lim.decision(t, q.rule.own, d, now), err
		}
	}
	own := r.lim.ownLimit(key)
	d, err := r.lim.table.TakeAt(key, own.ref(), t.pace.at(now), n)
	return r.lim.decision(t, own, d, now), err
}

// interrupt holds the room while tokens of key are taken or given back past its
// queue. The turns that have come by now come first; those that have not are
// reckoned anew when resume is called, which lets go of the room.
func (r *room[K]) interrupt(key K) (resume func()) {
	r.mu.Lock()
	q := r.queues[key]
	if q == nil {
		return r.unlock
	}
	now := r.lim.Now()
	r.advance(q, now)
	return func() {
		defer r.unlock()
		q.reckon(r.lim.terms.Load().pace.at(now))
		r.advance(q, now)
		r.settle(q, now)
	}
}

// wake is called by the timer.
func (r *room[K]) wake() {
	r.mu.Lock()
	defer r.unlock()
	r.set = math.MaxInt64
	now := r.lim.Now()
	// By the pace of the moment: once the factor was raised, now lies less far on
	// the paced clock than it did, and what was due by it may not be.
	for n := 1; r.agenda.next() <= r.lim.terms.Load().pace.at(now); n++ {
		q := r.agenda[0].queue
		r.advance(q, now)
		r.file(q, now)
		if n%lockStep == 0 {
			now = r.yield()
		}
	}
	r.arm(r.lim.Now())
}

// lockStep is how many queues, or waiters, are seen to before others may have the
// lock.
const lockStep = 64

// yield lets others have the lock for a moment, and returns the time afterwards.
func (r *room[K]) yield() (now int64) {
	r.unlock()
	r.mu.Lock()
	return r.lim.Now()
}

// advanceAll brings all queues up to date.
func (l *Limiter[K]) advanceAll() {
	for i := range l.rooms {
		l.rooms[i].advanceAll()
	}
}

func (r *room[K]) advanceAll() {
	r.mu.Lock()
	defer r.unlock()
	now := r.lim.Now()
	for _, q := range r.queues {
		r.advance(q, now)
		r.file(q, now)
	}
	r.arm(now)
}

// rearm sets the timer anew after the pace has changed.
func (r *room[K]) rearm() {
	r.mu.Lock()
	defer r.unlock()
	r.set = math.MaxInt64
	r.arm(r.lim.Now())
}

// clear ends every wait with err.
func (r *room[K]) clear(err error) {
	r.mu.Lock()
	defer r.unlock()
	now := r.lim.Now()
	for _, q := range r.queues {
		for q.head != nil {
			w := q.head
			q.unlink(w)
			r.result(q.key, w, Result{Err: err})
		}
		r.file(q, now)
	}
	r.arm(now)
}

// advance gives everyone in q whose turn has come by now, a time of the
// limiter's clock, its tokens, each at the time of its own turn.
func (r *room[K]) advance(q *queue[K], now int64) {
	t := r.lim.terms.Load()
	paced := t.pace.at(now)
	switch rule := r.lim.ruleOf(q.key); {
	case rule == q.rule:
	case *rule.limit() == *q.rule.limit():
		// Only the pace is another: turns are when they were on the paced clock,
		// those that have come and were not granted yet as well.
		q.rule = rule
	default:
		q.retime(rule, paced, func(w *waiter[K], err error) { r.result(q.key, w, Result{Err: err}) })
	}
	for q.head != nil && q.due <= paced {
		at := max(q.due, paced-maxLate)
		w, d, err := q.next(at)
		if w == nil {
			continue
		}
		res := Result{Decision: r.lim.decision(t, q.rule.own, d, t.pace.until(at)), Err: err}
		if err == nil {
			res.Spent = w.n
		}
		r.result(q.key, w, res)
	}
}

// result tells w, which has left the queue of key, what became of it.
func (r *room[K]) result(key K, w *waiter[K], res Result) {
	g := w.group
	r.end(w, res)
	r.tell(key, w, g, res)
}

// tell hands w, which was in the group g or in none, its result.
func (r *room[K]) tell(key K, w *waiter[K], g *group[K], res Result) {
	if g != nil && g.answer != nil {
		g.answer(key, w, res)
		return
	}
	w.to.(outbox) <- res
}

// end strikes w, which has left its queue, off everything else.
func (r *room[K]) end(w *waiter[K], res Result) {
	r.lim.waiting.Add(-1)
	r.ungroup(w)
	if r.lim.hooks.waits() {
		e := r.since[w]
		delete(r.since, w)
		e.waited, e.res = time.Duration(r.lim.Now()-e.since), res
		r.over = append(r.over, e)
	}
}

// settle brings the agenda and the timer up to date after q has changed.
func (r *room[K]) settle(q *queue[K], now int64) {
	r.file(q, now)
	r.arm(now)
}

// lookAgain is how long a LimitFor may have changed its mind before those who
// wait get to feel it. Other changes come by themselves.
const lookAgain = int64(time.Second)

// file puts q where it belongs on the agenda, and takes it out when nobody
// waits in it.
func (r *room[K]) file(q *queue[K], now int64) {
	q.look = q.due
	if r.lim.cfg.LimitFor != nil {
		q.look = min(q.due, r.lim.terms.Load().pace.at(now+lookAgain))
	}
	switch listed := q.place >= 0; {
	case q.len > 0 && listed:
		r.agenda.fix(q)
	case q.len > 0:
		r.queues[q.key] = q
		r.lim.addMark(q.hash)
		r.agenda.add(q)
	case listed:
		delete(r.queues, q.key)
		r.lim.removeMark(q.hash)
		r.agenda.remove(q)
	}
}

// arm sets the timer to the first on the agenda.
func (r *room[K]) arm(now int64) {
	next := r.agenda.next()
	if next == r.set {
		return
	}
	r.set = next
	if next == math.MaxInt64 {
		r.timer.Stop()
		return
	}
	in := time.Duration(max(0, r.lim.terms.Load().pace.until(next)-now))
	if r.timer == nil {
		r.timer = time.AfterFunc(in, r.wake)
		return
	}
	r.timer.Reset(in)
}
