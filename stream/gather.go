package stream

import "slices"

// batch is some messages that were granted, on their way to one call of the
// handler. While it is gathered it belongs to the run, and then to a worker.
type batch[M any] struct {
	jobs    []*job[M]
	tenants []*tenant[M] // of the messages, each once; one that is asked for may have none yet
	due     int64        // when it has lingered, unset: it has no message yet
	asking  bool         // a worker asks the limiter for its next message
}

// nextBatch hands in the batch that w has run, if any, and waits for another. It
// returns false when there will be none.
//
// There are never more batches being gathered than there are workers free to run
// them, but for those that gather for a moment more.
func (r *run[M]) nextBatch(w *worker[M]) bool {
	r.mu.Lock()
	now := r.clock.now()
	if w.batch != nil {
		r.handInBatch(w, now)
	}
	for {
		r.advance(now)
		t := r.nextTenant()
		b := r.ripe(t, now)
		switch {
		case b != nil:
			r.launch(w, b, now)
			r.unlock(now)
			return true
		case t != nil && r.roomFor(t):
			now = r.gather(w, t, now)
		case r.finished:
			r.unlock(now)
			return false
		default:
			r.unlock(now)
			r.mu.Lock()
			if now = r.clock.now(); !r.finished && !r.workable(now) {
				r.idle++
				r.work.Wait()
				r.idle--
				r.waking = false
				now = r.clock.now()
			}
		}
	}
}

// nextTenant returns the tenant whose turn it is, nil if nobody's.
func (r *run[M]) nextTenant() *tenant[M] {
	if r.draining {
		return nil
	}
	return r.sched.next()
}

// workable reports whether there is something to do for a worker that sleeps.
func (r *run[M]) workable(now int64) bool {
	if r.batching == nil {
		return r.sched.ready.len() > 0
	}
	t := r.nextTenant()
	return t != nil && r.roomFor(t) || r.ripe(t, now) != nil
}

// roomFor reports whether a worker may gather messages of t: in a batch that is
// being gathered, or in another that it could run itself.
func (r *run[M]) roomFor(t *tenant[M]) bool {
	if r.batching.Mixed || t.batch != nil {
		return true
	}
	taken := r.launched + r.checking
	for _, b := range r.gathering {
		if !b.asking {
			taken++
		}
	}
	return taken < r.cfg.Workers
}

// ripe returns a batch that is to run now, nil if there is none. t is the tenant
// whose turn it is.
func (r *run[M]) ripe(t *tenant[M], now int64) *batch[M] {
	pressed := t != nil && !r.roomFor(t)
	for _, b := range r.gathering {
		switch {
		case b.asking || len(b.jobs) == 0:
		case len(b.jobs) >= r.batching.Size, pressed, r.draining, b.due < now:
			return b
		case b.due == now && (t == nil || !r.batching.Mixed):
			// A mixed one takes all that may run at this moment.
			return b
		}
	}
	return nil
}

// gather gathers messages of t, whose turn it is, and returns the time, which
// goes on while a limiter that may block is asked.
func (r *run[M]) gather(w *worker[M], t *tenant[M], now int64) int64 {
	if r.batching.Mixed {
		if now = r.admitNext(w, t, true, now); w.entry != nil {
			r.add(r.openBatch(nil), w, now)
		}
		return now
	}
	b := r.openBatch(t)
	b.asking = true
	for len(b.jobs) < r.batching.Size && t.where == placeReady && !r.lingered(b, now) {
		if now = r.admitNext(w, t, len(b.jobs) == 0, now); w.entry != nil {
			r.add(b, w, now)
		} else if t.handle == nil {
			break // others may have their turn while it is asked again
		}
	}
	b.asking = false
	if len(b.jobs) == 0 {
		r.closeBatch(b, now)
	}
	return now
}

// lingered reports whether b has waited for more messages for as long as it may: a
// limiter that may block takes time for each. Without Linger it takes all that its
// tenant may have now.
func (r *run[M]) lingered(b *batch[M], now int64) bool {
	return r.batching.Linger > 0 && len(b.jobs) > 0 && b.due < now
}

// admitNext asks the limiter for the next message of t, which is ready, and gives
// it to w if it is granted. One that is not the first of its batch has its turn
// together with that: virtual time stays what it is, or whoever comes back would
// begin behind the batch.
func (r *run[M]) admitNext(w *worker[M], t *tenant[M], first bool, now int64) int64 {
	virtual := r.sched.virtual
	if r.try(w, t, now) != nil {
		cost := t.head().cost
		r.checking++
		r.unlock(now)
		d, err := r.cfg.Limiter.Check(r.asking, t.name, cost)
		r.mu.Lock()
		r.checking--
		now, virtual = r.clock.now(), r.sched.virtual
		r.answered(w, t, cost, d, err, now)
	}
	if !first {
		r.sched.virtual = virtual
	}
	return now
}

// openBatch returns a batch that has room: for messages of t, or for any if t is
// nil.
func (r *run[M]) openBatch(t *tenant[M]) *batch[M] {
	if t != nil && t.batch != nil {
		return t.batch
	}
	if n := len(r.gathering); t == nil && n > 0 && len(r.gathering[n-1].jobs) < r.batching.Size {
		return r.gathering[n-1]
	}
	b := &batch[M]{due: unset}
	if n := len(r.spare); n > 0 {
		b, r.spare = r.spare[n-1], r.spare[:n-1]
	}
	r.gathering = append(r.gathering, b)
	if t != nil {
		r.enter(b, t)
	}
	return b
}

// enter makes t one of the tenants of b.
func (r *run[M]) enter(b *batch[M], t *tenant[M]) {
	if t.batch != b {
		t.batch = b
		t.batches++
		b.tenants = append(b.tenants, t)
	}
}

// add puts the message that w was given into b.
func (r *run[M]) add(b *batch[M], w *worker[M], now int64) {
	var j *job[M]
	if n := len(r.jobs); n > 0 {
		j, r.jobs = r.jobs[n-1], r.jobs[:n-1]
	} else {
		j = new(job[M])
	}
	j.entry, j.granted, j.start, j.cost, j.repaid, j.answer = w.entry, w.granted, w.start, w.cost, w.repaid, w.answer
	w.entry = nil
	j.phase.Store(phaseHandling)
	j.entry.state = stateGathered
	if len(b.jobs) == 0 {
		b.due = now + int64(r.batching.Linger)
	}
	b.jobs = append(b.jobs, j)
	r.enter(b, j.entry.tenant)
	if len(b.jobs) == r.batching.Size {
		r.seal(b, now)
	}
	r.sched.arrange(j.entry.tenant, now)
}

// seal ends the gathering of b: its tenants go on with another, if they may.
func (r *run[M]) seal(b *batch[M], now int64) {
	for _, t := range b.tenants {
		if t.batch == b {
			t.batch = nil
			r.sched.arrange(t, now)
		}
	}
}

// launch gives b to w.
func (r *run[M]) launch(w *worker[M], b *batch[M], now int64) {
	r.gathered(b, now)
	for _, j := range b.jobs {
		j.entry.state = stateRunning
	}
	w.batch = b
	r.launched++
}

// gathered takes b out of those that are being gathered.
func (r *run[M]) gathered(b *batch[M], now int64) {
	r.gathering = slices.DeleteFunc(r.gathering, func(other *batch[M]) bool { return other == b })
	r.seal(b, now)
}

// closeBatch forgets b, which has no message left.
func (r *run[M]) closeBatch(b *batch[M], now int64) {
	r.gathered(b, now)
	r.recycle(b, now)
}

// recycle keeps b, whose messages are done, to be used again.
func (r *run[M]) recycle(b *batch[M], now int64) {
	for _, t := range b.tenants {
		t.batches--
		r.sched.arrange(t, now)
	}
	clear(b.jobs)
	clear(b.tenants)
	b.jobs, b.tenants, b.due = b.jobs[:0], b.tenants[:0], unset
	r.spare = append(r.spare, b)
}

// ungather takes e, which was revoked, out of the batch that it waits in. What its
// tenant was charged for it is given back, and what was spent, where that can be
// done at once.
func (r *run[M]) ungather(e *entry[M], now int64) {
	for _, b := range r.gathering {
		i := slices.IndexFunc(b.jobs, func(j *job[M]) bool { return j.entry == e })
		if i < 0 {
			continue
		}
		if t, j := e.tenant, b.jobs[i]; t.handle != nil && j.granted != unset {
			r.refund(j, e.cost, now)
			t.grantAt = unset
		}
		r.sched.correct(e.tenant, b.jobs[i].start, e.cost, 0)
		e.tenant.running--
		b.jobs = slices.Delete(b.jobs, i, i+1)
		if len(b.jobs) == 0 && !b.asking {
			r.closeBatch(b, now)
		}
		return
	}
}

// handInBatch does with the messages of the batch of w what their verdicts say.
func (r *run[M]) handInBatch(w *worker[M], now int64) {
	b := w.batch
	w.batch = nil
	r.launched--
	for _, j := range b.jobs {
		r.handIn(j, now)
		r.jobs = append(r.jobs, j)
	}
	r.recycle(b, now)
}
