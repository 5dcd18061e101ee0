package stream

import (
	"context"
	"sync"
	"time"

	"github.com/fluxlimiter/flux"
	"golang.org/x/sync/errgroup"
)

// run is the state of one call of Run. Its mutex guards all that changes. It is
// held for some hundred nanoseconds at a time, or for as many messages' worth of
// them as come in together, 16 at most, and never while a limiter that may block,
// the source, a handler, a hook or a function of the configuration is called, nor
// while anything is waited for. The one exception is a flux.Limiter, whose LimitFor
// and hooks are called with it.
//
// The code of a run is in: intake.go (messages come in), admit.go (what becomes
// of them), pace.go (when they may come back), dispatch.go (they go to the
// workers), work.go (handlers), gather.go and batch.go (handlers of batches),
// settle.go (they leave), reclaim.go (they make room), revoke.go (they are lost),
// drain.go (the end), tell.go (hooks).
type run[M any] struct {
	cfg    *Config[M]
	clock  clock
	defers bool // the source can defer

	group errgroup.Group // of all goroutines but the source's

	// The ends of what a run calls: they are set before anything starts.
	asking, handling, settling context.Context //nolint:containedctx // a run lives as long as the call of Run that made it

	mu       sync.Mutex
	sched    scheduler[M]
	tenants  map[string]*tenant[M]
	keys     map[keyID[M]]*orderKey[M]
	freeKeys []*orderKey[M] // to be used again; no more than a window full
	latched  int            // messages in the deferred lists of keys
	awaiting int            // messages blocked by nothing but a deferred one
	idlers   idlers[M]
	arrivals int64

	// firstOrder grows from run to run, so that the order that messages are
	// given continues that of messages that an earlier run deferred.
	firstOrder int64

	free *entry[M] // entries to use again, linked by next; no more than a window full

	held, waiting int
	bytes         int64 // of the messages held
	limits        byteLimits
	totals        Stats // what is counted for good
	fates         fates

	quiet [2]quiet[M] // the last two tenants that were, the later first

	delayed   heap[*entry[M]]    // waiting for their next attempt, or to be settled again
	expecting heap[*orderKey[M]] // keys with deferred messages, by when one is overdue
	timer     *time.Timer
	armed     int64 // when timer fires, unset: it does not
	firing    sync.WaitGroup

	blocked intakeQueue[M] // Deliver calls that wait for room
	room    chan struct{}  // closed when there is some, nil if no call of Room waits

	workers []*worker[M]
	idle    int // workers asleep
	waking  bool
	work    sync.Cond

	// Only for batches.
	batching  *BatchConfig // nil: messages run one by one
	gathering []*batch[M]  // those that wait for more messages, the oldest first
	launched  int          // those that run
	checking  int          // workers that ask the limiter for messages to gather
	spare     []*batch[M]  // to be used again, like jobs
	jobs      []*job[M]

	overdrawn []*tenant[M] // that may have more than their share of the window

	crowded  intakeQueue[M] // Deliver calls that wait for settles of their tenant
	released int64          // when surplus was released because none was settled, unset: never

	barred   intakeQueue[M] // Deliver calls that wait for room in their partition
	reopened bool           // a partition that was full has enough of it
	lookedAt int64          // when barred was looked through last

	settles  list[M] // to be settled by the settlers
	outgoing int     // these, and those that settlers have or will have again
	leavers  int64   // bytes of those
	settlers int     // asleep
	settle   sync.Cond

	leaving   list[M]  // to be released once the mutex is free
	calls     []func() // of hooks, likewise
	watches   map[watchID]*watch[M]
	watched   *watch[M]         // the last one that was looked for
	recalled  []<-chan struct{} // that Recall was called for, and are not closed, as far as known
	lingering lingering[M]

	stopped  bool          // takes no more messages: the source is exhausted, or it drains
	draining bool          // parked messages have been released
	expired  bool          // the drain timed out
	finished bool          // workers and settlers are to go
	empty    chan struct{} // closed once stopped and nothing is held
}

func newRun[M any](cfg Config[M]) *run[M] {
	now := time.Now()
	r := &run[M]{
		cfg:        &cfg,
		tenants:    make(map[string]*tenant[M]),
		keys:       make(map[keyID[M]]*orderKey[M]),
		watches:    make(map[watchID]*watch[M]),
		limits:     newByteLimits(&cfg),
		firstOrder: now.UnixNano(),
		armed:      unset,
		released:   unset,
		empty:      make(chan struct{}),
	}
	r.clock.base = now
	r.clock.limiter, _ = cfg.Limiter.(*flux.Limiter[string])
	r.sched.cap = cfg.TenantWorkers
	r.work.L, r.settle.L = &r.mu, &r.mu
	for range cfg.Workers {
		r.workers = append(r.workers, new(worker[M]))
	}
	return r
}

// unlock ends a turn of the scheduler that began at now: whatever the turn made
// possible is set going, and what it gave up is released.
func (r *run[M]) unlock(now int64) {
	// What leaves makes room, and what comes in may leave at once.
	for {
		for r.leaving.n > 0 {
			r.release(now)
		}
		if len(r.overdrawn) > 0 && r.blocked.n+r.barred.n > 0 {
			r.reclaim(now)
		}
		if r.blocked.n > 0 || r.crowded.n > 0 || r.barred.n > 0 || r.room != nil {
			r.admitBlocked(now)
		}
		if r.leaving.n == 0 {
			break
		}
	}
	r.arm(now)
	if r.idle > 0 && !r.waking && r.workable(now) {
		// One at a time: the worker that wakes up wakes the next if there is
		// work left, so that a single message does not wake all.
		r.waking = true
		r.work.Signal()
	}
	if r.stopped && r.held == 0 {
		select {
		case <-r.empty:
		default:
			close(r.empty)
		}
	}
	calls := r.calls
	r.calls = nil
	r.mu.Unlock()
	for _, call := range calls {
		call()
	}
}

// release lets go of the entries that leave unsettled. It unlocks meanwhile.
func (r *run[M]) release(now int64) {
	leaving := r.leaving
	r.leaving = list[M]{}
	for e := leaving.first; e != nil; e = e.next {
		if e.revoked() {
			e.state = stateLost
		}
	}
	r.mu.Unlock()
	for e := leaving.first; e != nil; e = e.next {
		e.delivery.Release()
		r.tellReleased(e, unset, e.state == stateLost)
	}
	r.mu.Lock()
	for e := leaving.pop(); e != nil; e = leaving.pop() {
		if e.state == stateLost {
			r.totals.Revoked++
		} else {
			r.totals.Released++
		}
		r.complete(e, now)
	}
}

// leave gives e up, which is in no list any more, at the end of the turn.
func (r *run[M]) leave(e *entry[M]) {
	e.state = stateLeaving
	r.leaving.push(e)
}

// advance lets all happen that is due at now.
func (r *run[M]) advance(now int64) {
	for t := r.sched.wake(now); t != nil; t = r.sched.wake(now) {
		r.look(t, now)
	}
	for r.expecting.len() > 0 {
		k, at := r.expecting.top()
		if at > now {
			break
		}
		r.overdue(k, now)
	}
	for r.delayed.len() > 0 {
		e, at := r.delayed.top()
		if at > now {
			return
		}
		r.delayed.remove(e.index)
		if e.state == stateSettleWait {
			r.toSettle(e)
			continue
		}
		e.tenant.enqueue(e)
		e.tenant.queued += e.cost
		r.sched.arrange(e.tenant, now)
	}
}

// arm sets the one timer of the run to the next time that something is due.
// Workers look at the clock in each of their turns as well, so it matters only
// when they sleep; it is left alone when it would fire early.
func (r *run[M]) arm(now int64) {
	next := int64(unset)
	if r.sched.waiting.len() > 0 {
		_, next = r.sched.waiting.top()
	}
	if r.delayed.len() > 0 {
		next = earlier(next, r.delayed.next())
	}
	if r.expecting.len() > 0 {
		next = earlier(next, r.expecting.next())
	}
	if r.open() {
		for b := r.crowded.first; b != nil; b = b.next {
			next = earlier(next, r.uncrowded(r.tenants[b.arrival.tenant], &b.arrival))
		}
	}
	for _, b := range r.gathering {
		if b.due > now {
			next = earlier(next, b.due)
		}
	}
	if r.blocked.n+r.barred.n > 0 {
		for _, t := range r.overdrawn {
			next = earlier(next, t.moved()+int64(stuck))
		}
	}
	if next == unset || r.finished || r.armed != unset && r.armed <= next {
		return
	}
	r.armed = next
	wait := time.Duration(max(0, next-now))
	if r.timer == nil {
		r.firing.Add(1)
		r.timer = time.AfterFunc(wait, r.fire)
	} else if !r.timer.Reset(wait) {
		r.firing.Add(1)
	}
}

// earlier returns the earlier of two times, of which the first may be unset.
func earlier(a, b int64) int64 {
	if a == unset {
		return b
	}
	return min(a, b)
}

func (r *run[M]) fire() {
	defer r.firing.Done()
	r.mu.Lock()
	now := r.clock.now()
	r.armed = unset
	r.advance(now)
	r.unlock(now)
}

// end lets workers and settlers go once they have nothing to do, and stops
// the timer.
func (r *run[M]) end() {
	r.mu.Lock()
	r.finished = true
	r.work.Broadcast()
	r.settle.Broadcast()
	timer := r.timer
	r.mu.Unlock()
	if timer != nil && timer.Stop() {
		r.firing.Done()
	}
	r.firing.Wait()
}

func (r *run[M]) snapshot() (Stats, fates) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stats(), r.fates
}

func (r *run[M]) stats() Stats {
	s := r.totals
	s.Held, s.Waiting, s.Bytes = r.held, r.waiting, r.bytes
	for _, w := range r.workers {
		if w.entry != nil && w.phase.Load() != phaseAbandoned {
			s.Running++
		}
		if w.batch != nil {
			for _, j := range w.batch.jobs {
				if j.phase.Load() != phaseAbandoned {
					s.Running++
				}
			}
		}
	}
	for _, b := range r.gathering {
		s.Running += len(b.jobs)
	}
	return s
}
