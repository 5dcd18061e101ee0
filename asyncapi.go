package flux

import "context"

// Result is the answer to a request that may have waited. Tokens were spent if
// and only if Err is nil and the Decision is Allowed.
type Result struct {
	// Decision is the decision that spent the tokens: its At is the time of the
	// turn. With an Err it may be the denial that led to it, or zero.
	Decision

	// Spent is the number of tokens that were spent: what to give back to
	// [Limiter.Refund] if the work was not done.
	Spent int64

	// Err is why the request was neither allowed nor denied, or could not wait.
	Err error
}

// CheckAsync is [Limiter.Check] for those who select on channels: the channel
// it returns has the result in it already. It costs the Check and the channel.
func (l *Limiter[K]) CheckAsync(ctx context.Context, key K, n int64) <-chan Result {
	d, err := l.Check(ctx, key, n)
	return answered(d, n, err)
}

// Wait returns when n tokens were spent for key. It returns an error, and has
// spent nothing, when ctx ended before ([context.Context.Err]), when the wait
// could not end in time ([ErrWaitTooLong]) or at all ([ErrDenyAll],
// [gcra.ErrExceedsBurst]), when too many wait already ([ErrTooManyWaiters]), or
// when the limiter was closed ([ErrClosed]). If the turn and the end of ctx fall
// together, either may win, and the error tells which did.
//
// n = 0 does not wait. A call that need not wait costs what a Check does. One
// that waits costs its goroutine, and some 64 bytes.
func (l *Limiter[K]) Wait(ctx context.Context, key K, n int64) error {
	ctx = orBackground(ctx)
	_, room, err := l.try(ctx, key, n)
	if room == nil {
		return err
	}
	w, ok := l.idle.Get().(*waiter[K])
	if !ok {
		w = &waiter[K]{to: make(outbox, 1)}
	}
	defer l.idle.Put(w)
	w.n = n
	to := w.to.(outbox)
	if d, err := room.join(ctx, key, w, false); err != nil || d.Allowed() {
		return err
	}
	select {
	case res := <-to:
		return res.Err
	case <-ctx.Done():
		if room.leave(w, ctx.Err()) {
			return ctx.Err()
		}
		res := <-to
		return res.Err
	}
}

// WaitAsync is [Limiter.Wait] without a goroutine that waits: it returns at
// once, and the channel gets exactly one result, when the tokens were spent or
// the wait is over without them. The channel is never closed, and need not be
// read. A call that waits takes some 250 bytes, 176 of them its channel;
// many calls take less through [Limiter.Stream]. Calls that share a context share
// what it takes to notice that it ended.
func (l *Limiter[K]) WaitAsync(ctx context.Context, key K, n int64) <-chan Result {
	ctx = orBackground(ctx)
	d, room, err := l.try(ctx, key, n)
	if room == nil {
		return answered(d, n, err)
	}
	to := make(outbox, 1)
	if d, err := room.join(ctx, key, &waiter[K]{n: n, to: to}, true); err != nil || d.Allowed() {
		to <- resultOf(d, n, err)
	}
	return to
}

// try answers a request that need not wait, without a lock, or returns the room
// to wait in.
func (l *Limiter[K]) try(ctx context.Context, key K, n int64) (d Decision, r *room[K], err error) {
	switch err = ctx.Err(); {
	case err != nil:
	case l.closed.Load():
		err = ErrClosed
	default:
		if r = l.queued(key); r != nil {
			return d, r, nil
		}
		if d, err = l.checkAt(key, l.Now(), n); err == nil && !d.Allowed() {
			return d, l.room(l.hash(key)), nil
		}
	}
	if l.hooks.waits() {
		l.hooks.afterWait(ended[K]{key: key, n: n, res: resultOf(d, n, err)})
	}
	return d, nil, err
}

// answered returns a channel with its result in it.
func answered(d Decision, n int64, err error) <-chan Result {
	ch := make(chan Result, 1)
	ch <- resultOf(d, n, err)
	return ch
}

// resultOf returns the result of a decision about n tokens.
func resultOf(d Decision, n int64, err error) Result {
	res := Result{Decision: d, Err: err}
	if err == nil && d.Allowed() {
		res.Spent = n
	}
	return res
}

// orBackground returns ctx, or the background context in place of nil.
func orBackground(ctx context.Context) context.Context {
	if ctx == nil {
		return context.Background()
	}
	return ctx
}
