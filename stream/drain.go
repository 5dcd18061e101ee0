package stream

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// patience is how long Run waits, after the drain timed out, for handlers and
// settles to notice that their contexts have ended.
const patience = time.Second

// supervise is the life of a run: it starts everything, waits for the end, and
// sees to it that everything ends. work is the life of a worker.
func (r *run[M]) supervise(ctx context.Context, src Source[M], work func(*worker[M])) error {
	// Handlers and settles outlive ctx until the drain is over.
	values := context.WithoutCancel(ctx)
	handling, stopHandlers := context.WithCancelCause(values)
	settling, stopSettles := context.WithCancelCause(values)
	sourcing, stopSource := context.WithCancelCause(ctx)
	defer stopHandlers(nil)
	defer stopSettles(nil)
	defer stopSource(nil)
	r.handling, r.settling, r.asking = handling, settling, sourcing

	for _, w := range r.workers {
		r.spawn(func() { work(w) })
	}
	for range settlers {
		r.spawn(r.settleLoop)
	}
	sourced := make(chan error, 1)
	go func() {
		// Also when the goroutine ends in one of the user's functions.
		err := errGoexit
		defer func() { sourced <- err }()
		err = src.Run(sourcing, r)
	}()

	var sourceErr error
	delivering := true
	select {
	case sourceErr = <-sourced:
		delivering = false
		if sourceErr == nil && ctx.Err() == nil {
			r.stop()
			select {
			case <-r.empty:
			case <-ctx.Done():
			}
		}
	case <-ctx.Done():
	}
	stopSource(ErrStopped)
	r.drain()

	drainBy := time.Now().Add(r.cfg.DrainTimeout)
	timeout := time.NewTimer(r.cfg.DrainTimeout)
	defer timeout.Stop()
	var drainErr error
	select {
	case <-r.empty:
	case <-timeout.C:
		drainErr = ErrDrainTimeout
		r.abandon(func() {
			stopHandlers(ErrDrainTimeout)
			stopSettles(ErrDrainTimeout)
		})
	}
	r.end()
	stopHandlers(nil) // and with them the goroutines that watch for revocations
	if !r.join(max(patience, time.Until(drainBy))) {
		drainErr = ErrDrainTimeout // of a limiter, say, that does not heed its context
	}
	if delivering {
		select {
		case <-r.empty:
			// It returns now that all is settled or released.
			sourceErr = <-sourced
		default:
			// A settle hangs; the source cannot return before it does.
		}
	}
	return errors.Join(orderly(ctx, sourceErr), drainErr)
}

// spawn runs f in a goroutine of the run. There are no errors to collect: what
// these goroutines meet with belongs to a message.
func (r *run[M]) spawn(f func()) {
	r.group.Go(func() error { f(); return nil })
}

// orderly returns a source's error, wrapped, unless it says no more than that
// the source was told to stop.
func orderly(ctx context.Context, err error) error {
	switch {
	case err == nil, errors.Is(err, ErrStopped):
		return nil
	case ctx.Err() != nil && (errors.Is(err, ctx.Err()) || errors.Is(err, context.Cause(ctx))):
		return nil
	}
	return fmt.Errorf("stream: source: %w", err)
}

// stop makes the gate take no more messages.
func (r *run[M]) stop() {
	r.mu.Lock()
	r.stopped = true
	r.refuse()
	r.unlock(r.clock.now())
}

// drain releases what is parked.
func (r *run[M]) drain() {
	r.mu.Lock()
	now := r.clock.now()
	r.stopped, r.draining = true, true
	r.refuse()
	for _, k := range r.keys {
		r.withdrawBlocked(k, now)
	}
	for _, t := range r.tenants {
		if t.key != nil {
			r.withdrawBlocked(t.key, now)
		}
		for e := t.head(); e != nil; e = t.head() {
			r.withdraw(e, now)
		}
	}
	for _, e := range r.pausing(stateBackoff) {
		r.withdraw(e, now)
	}
	r.unlock(now)
}

func (r *run[M]) withdrawBlocked(k *orderKey[M], now int64) {
	for k.blocked.first != nil {
		r.withdraw(k.blocked.first, now)
	}
}

// pausing returns the delayed entries in a state.
func (r *run[M]) pausing(s state) (entries []*entry[M]) {
	for _, slot := range r.delayed.slots {
		if e := r.delayed.items[slot.item]; e.state == s {
			entries = append(entries, e)
		}
	}
	return entries
}

// abandon releases what is still held, but for what a settler has at this
// moment: that is released if the settle fails, as it will soon. It calls stop,
// which ends the contexts of handlers and settles, when it is certain what
// becomes of each message, and before any is released.
func (r *run[M]) abandon(stop func()) {
	r.mu.Lock()
	now := r.clock.now()
	r.expired = true
	for r.settles.n > 0 {
		r.withdraw(r.settles.first, now)
	}
	for _, e := range r.pausing(stateSettleWait) {
		r.withdraw(e, now)
	}
	for _, w := range r.workers {
		r.abandonJob(&w.job)
		if w.batch != nil {
			for _, j := range w.batch.jobs {
				r.abandonJob(j)
			}
		}
	}
	for _, b := range r.gathering {
		for _, j := range b.jobs {
			j.entry.tenant.running--
			r.giveUp(j.entry)
		}
		b.jobs = b.jobs[:0]
	}
	// Whoever else has a turn leaves the list as it found it: empty.
	leaving := r.leaving
	r.leaving = list[M]{}
	r.mu.Unlock()
	stop()
	r.mu.Lock()
	r.leaving = leaving
	r.unlock(now)
}

// abandonJob releases the message of j, if its handler is still at it.
func (r *run[M]) abandonJob(j *job[M]) {
	if j.entry != nil && j.phase.CompareAndSwap(phaseHandling, phaseAbandoned) {
		j.entry.abandoned = true
		j.entry.tenant.running--
		r.giveUp(j.entry)
	}
}

// join waits for all goroutines of the run to end, but for no longer than
// limit, and reports whether they have.
func (r *run[M]) join(limit time.Duration) bool {
	joined := make(chan struct{})
	go func() {
		defer close(joined)
		_ = r.group.Wait() // always nil
	}()
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case <-joined:
		return true
	case <-timeout.C:
		return false
	}
}
