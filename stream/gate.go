package stream

import (
	"context"
	"fmt"
	"sync"
)

// Handler processes one message. A nil error acknowledges it. Any other error
// is a failed attempt, unless it is [Permanent] or [RetryLater]; so is a panic.
// [FromContext] tells the handler what the gate knows of the message.
//
// Its context carries the values of Run's, but not its end: it is cancelled
// when the message is revoked, with the cause [ErrRevoked], when the drain times
// out, with [ErrDrainTimeout], and after [Config.HandlerTimeout], with
// [ErrHandlerTimeout]. A handler must return then; what it returns after a
// revocation, or the end of the drain, is not looked at any more. The context may
// be kept by what the handler has used it for, but must not be used for the first
// time after the handler has returned: it may be that of another message then.
type Handler[M any] func(ctx context.Context, m M) error

// Gate applies a limiter's decisions to a stream of messages: see the package's
// documentation. Its methods may be called by any number of goroutines at once.
type Gate[M any] struct {
	cfg Config[M]

	mu  sync.Mutex
	run *run[M] // nil while Run is not called

	past      Stats // totals of earlier runs
	pastFates fates
}

// New returns a gate, or an error that wraps [ErrInvalidConfig]. It starts
// nothing.
func New[M any](cfg Config[M]) (*Gate[M], error) {
	cfg, err := cfg.resolve()
	if err != nil {
		return nil, err
	}
	return &Gate[M]{cfg: cfg}, nil
}

// Run takes messages from src and processes them with handle until ctx ends,
// the source is exhausted, or it fails.
//
// When ctx ends the gate drains: it takes no more messages, releases those that
// are parked, lets running handlers finish, and settles what they have done, for
// up to the drain timeout. Then handlers' contexts are cancelled and what is
// still held is released. Run waits a second for handlers, settles and the
// limiter to notice and returns; whichever of them ignores its context keeps its
// goroutine until it returns, and nothing else is left behind.
//
// When the source is exhausted, its Run having returned nil, all that it
// delivered is processed first.
//
// Run returns nil after an orderly end, an error that wraps the source's if it
// failed, [ErrDrainTimeout] if the drain was not finished in time, both if both
// happened, [ErrRunning] at once while another Run goes on, and an error that
// wraps [ErrInvalidConfig] if src or handle is nil, or for a policy that the
// source cannot follow, see [Deferrer]. It may be called again after it has
// returned; the gate's totals go on counting, and everything else starts afresh.
func (g *Gate[M]) Run(ctx context.Context, src Source[M], handle Handler[M]) error {
	return g.runWith(ctx, src, handle == nil, func(r *run[M]) func(*worker[M]) {
		return func(w *worker[M]) { r.loop(w, handle) }
	})
}

// runWith is Run with workers whose life is what prepare returns, unless there is
// no handler for them.
func (g *Gate[M]) runWith(ctx context.Context, src Source[M], noHandler bool, prepare func(*run[M]) func(*worker[M])) error {
	switch {
	case src == nil:
		return fmt.Errorf("%w: the source is nil", ErrInvalidConfig)
	case noHandler:
		return fmt.Errorf("%w: the handler is nil", ErrInvalidConfig)
	}
	defers := true
	if s, ok := src.(Deferrer); ok && !s.CanDefer() {
		defers = false
		if err := g.cfg.Policy.withoutDefer(); err != nil {
			return err
		}
	}
	r, err := g.begin(defers)
	if err != nil {
		return err
	}
	defer g.end(r)
	return r.supervise(ctx, src, prepare(r))
}

func (g *Gate[M]) begin(defers bool) (*run[M], error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.run != nil {
		return nil, ErrRunning
	}
	g.run = newRun(g.cfg)
	g.run.defers = defers
	return g.run, nil
}

func (g *Gate[M]) end(r *run[M]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	stats, counts := r.snapshot()
	g.past = g.past.plus(stats)
	g.past.Held, g.past.Waiting, g.past.Running, g.past.Bytes = 0, 0, 0, 0
	g.pastFates.add(&counts)
	g.run = nil
}

// Stats returns the gate's totals, all of one instant: those of a [Snapshot],
// without allocating.
func (g *Gate[M]) Stats() Stats {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.run == nil {
		return g.past
	}
	stats, _ := g.run.snapshot()
	return g.past.plus(stats)
}

// plus returns the sum of two snapshots.
func (s Stats) plus(o Stats) Stats {
	s.Held += o.Held
	s.Bytes += o.Bytes
	s.Waiting += o.Waiting
	s.Running += o.Running
	s.Processed += o.Processed
	s.Deferred += o.Deferred
	s.DeadLettered += o.DeadLettered
	s.Dropped += o.Dropped
	s.Released += o.Released
	s.Revoked += o.Revoked
	s.FailedOpen += o.FailedOpen
	s.SettleErrors += o.SettleErrors
	s.Invalid += o.Invalid
	return s
}
