package flux

import (
	"context"
	"fmt"
	"time"

	"github.com/fluxlimiter/flux/gcra"
)

// join lets w wait for key unless its tokens can be had at once, which the
// decision then says. With together, w leaves when ctx ends; otherwise that is up
// to its group, if it has one, or the caller.
func (r *room[K]) join(ctx context.Context, key K, w *waiter[K], together bool) (Decision, error) {
	r.mu.Lock()
	defer r.unlock()
	d, err := r.enter(ctx, key, w, together)
	if (err != nil || d.Allowed()) && r.lim.hooks.waits() {
		r.over = append(r.over, ended[K]{key: key, n: w.n, res: resultOf(d, w.n, err)})
	}
	return d, err
}

// enter is join under the lock.
func (r *room[K]) enter(ctx context.Context, key K, w *waiter[K], together bool) (Decision, error) {
	l := r.lim
	if l.closed.Load() {
		return Decision{}, ErrClosed
	}
	q := r.queues[key]
	if q != nil && l.joinsTheEnd(ctx, q, w.n) {
		r.line(ctx, q, w, together)
		return Decision{}, nil
	}
	// Read under the lock: within a queue, time goes forward.
	now := l.Now()
	if q == nil {
		q = l.newQueue(key)
	} else {
		r.advance(q, now)
	}
	defer r.settle(q, now)

	t := l.terms.Load()
	var d gcra.Decision
	var err error
	if q.len == 0 {
		d, err = q.slot.TakeAt(q.rule.own.ref(), t.pace.at(now), w.n)
		q.due = addSat(t.pace.at(now), int64(d.RetryAfter))
	} else {
		d, err = q.check(t.pace.at(now), w.n)
	}
	decision := l.decision(t, q.rule.own, d, now)
	switch {
	case err != nil || d.Allowed():
		return decision, err
	case d.RetryAfter == gcra.Forever:
		return decision, ErrDenyAll
	}
	if err := l.admit(ctx, q, now, decision.RetryAfter); err != nil {
		return decision, err
	}
	r.line(ctx, q, w, together)
	if l.hooks.waits() {
		r.since[w] = ended[K]{key: key, n: w.n, since: now}
	}
	if q.len == 1 {
		// Tokens that came back after the table was asked, by someone who saw no
		// mark, are seen now: there is a mark from here on.
		r.file(q, now)
		q.reckon(t.pace.at(now))
		r.advance(q, now)
	}
	return decision, nil
}

// joinsTheEnd counts one more who waits for n tokens in q, where others do, if
// nobody cares when the turn will be, and it is clear that there will be one. That
// is the case for most, and saves them a look at the clock. A limit that is not the
// queue's yet will be: whoever changes it tells those whose turn cannot come then.
func (l *Limiter[K]) joinsTheEnd(ctx context.Context, q *queue[K], n int64) bool {
	if l.cfg.MaxWait > 0 || l.cfg.LimitFor != nil || l.hooks.waits() ||
		n < 1 || n > q.rule.limit().Burst() || q.len >= l.cfg.MaxKeyWaiters || q.last() > maxAhead/2 {
		return false
	}
	_, hurried := ctx.Deadline()
	return !hurried && l.count()
}

// line makes w, which was counted, the last in q.
func (r *room[K]) line(ctx context.Context, q *queue[K], w *waiter[K], together bool) {
	q.push(w)
	switch {
	case w.group != nil:
		w.group.add(w)
	case together:
		r.enroll(ctx, w)
	}
}

// count counts one more who waits, unless as many do as may.
func (l *Limiter[K]) count() bool {
	for {
		n := l.waiting.Load()
		if n >= int64(l.cfg.MaxWaiters) {
			return false
		}
		if l.waiting.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// admit counts one more who waits in q, from now, for that long, or refuses to.
func (l *Limiter[K]) admit(ctx context.Context, q *queue[K], now int64, wait time.Duration) error {
	most := time.Duration(maxAhead)
	if l.cfg.MaxWait > 0 {
		most = min(most, l.cfg.MaxWait)
	}
	if deadline, ok := ctx.Deadline(); ok {
		if left := deadline.Sub(l.Time(now)); wait >= left {
			return &WaitTooLongError{Wait: wait, Max: max(0, min(left, most))}
		}
	}
	switch {
	case wait > most:
		return &WaitTooLongError{Wait: wait, Max: most}
	case q.len >= l.cfg.MaxKeyWaiters:
		return fmt.Errorf("%w: %d for one key", ErrTooManyWaiters, q.len)
	}
	if !l.count() {
		return fmt.Errorf("%w: %d", ErrTooManyWaiters, l.cfg.MaxWaiters)
	}
	return nil
}

// leave lets w go without its tokens, because of err, and reports whether it
// still waited.
func (r *room[K]) leave(w *waiter[K], err error) bool {
	r.mu.Lock()
	defer r.unlock()
	return r.cancel(w, r.lim.Now(), err)
}

// cancel is leave under the lock. A turn that has come by now is not given back.
func (r *room[K]) cancel(w *waiter[K], now int64, err error) bool {
	q := w.queue
	if q == nil {
		return false
	}
	r.advance(q, now)
	defer r.settle(q, now)
	if w.queue == nil {
		return false
	}
	r.strike(w, now, err)
	return true
}

// strike takes w out of its queue, which is up to date.
func (r *room[K]) strike(w *waiter[K], now int64, err error) {
	q := w.queue
	first := w == q.head
	q.unlink(w)
	r.end(w, Result{Err: err})
	if first {
		q.reckon(r.lim.terms.Load().pace.at(now))
		r.advance(q, now)
	}
}
