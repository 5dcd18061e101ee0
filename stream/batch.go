package stream

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// BatchConfig says how [Gate.RunBatch] gathers messages.
type BatchConfig struct {
	// Size is how many messages a batch has at most.
	// Defaults to 100, or as many as the window, or a tenant's share of it, holds.
	Size int

	// Linger is how long a batch that is not full waits for more messages after
	// its first one was granted. An answer of a limiter that may block, which it has
	// been asked for by then, is waited for.
	// Defaults to 0: it takes what may run at that moment. Of a limiter that may
	// block that is known when it was asked for each, one after the other, so with
	// one that takes its time a Linger says how long the first message may wait.
	Linger time.Duration

	// Mixed lets a batch have messages of several tenants.
	// Defaults to false: each is of one tenant.
	Mixed bool
}

const defaultBatchSize = 100

// resolve checks b for a gate with cfg, which is resolved, and returns it with
// its defaults filled in.
func (b BatchConfig) resolve(window, tenantWindow int) (BatchConfig, error) {
	invalid := func(format string, args ...any) (BatchConfig, error) {
		return BatchConfig{}, fmt.Errorf("%w: BatchConfig."+format, append([]any{ErrInvalidConfig}, args...)...)
	}
	most, what := tenantWindow, "TenantWindow"
	if b.Mixed {
		most, what = window, "Window"
	}
	switch {
	case b.Size < 0:
		return invalid("Size %d is negative", b.Size)
	case b.Linger < 0:
		return invalid("Linger %v is negative", b.Linger)
	case b.Size > most:
		return invalid("Size %d is larger than %s %d", b.Size, what, most)
	case b.Size == 0:
		b.Size = min(defaultBatchSize, most)
	}
	return b, nil
}

// BatchHandler processes several messages at once. What it returns is the result
// of each message that was not given one of its own by [Item.Done], and counts
// for each of them as it would for a [Handler]: nil acknowledges them, any other
// error is a failed attempt of each, and so is a panic.
//
// Its context is that of a Handler, but belongs to no message in particular: see
// [Item.Info] in place of [FromContext]. It ends with a revocation only if that
// is of all messages of the batch at once, those of one partition, say. A
// message that was revoked alone is released whatever becomes of it here.
type BatchHandler[M any] func(ctx context.Context, batch []*Item[M]) error

// Item is a message of a batch. Its methods may be called by several goroutines
// at once, and have no effect after the handler has returned.
type Item[M any] struct {
	Message M

	facts  facts
	cost   atomic.Int64 // what SetCost said, plus 1; 0: nothing
	result atomic.Pointer[error]
}

// Info returns what the gate knows of the message.
func (i *Item[M]) Info() Info { return i.facts.info() }

// Done says what became of this message, whatever becomes of the others: nil
// that it is processed, or the error of its attempt, such as [Permanent] and
// [RetryLater] make. The last call counts.
func (i *Item[M]) Done(err error) { i.result.Store(&err) }

// Result returns what Done was told last, and whether it was told anything: for
// those who stand between the gate and a handler.
func (i *Item[M]) Result() (done bool, err error) {
	if result := i.result.Load(); result != nil {
		return true, *result
	}
	return false, nil
}

// SetCost is [SetCost] for this message.
func (i *Item[M]) SetCost(n int64) { i.cost.Store(min(max(0, n), maxCost) + 1) }

// RunBatch is [Gate.Run] for a handler that processes several messages at once.
//
// Each message is admitted on its own, and the limit, its tenant's share of the
// window, retries and settlement are what they are without batches. A batch is of
// messages that were granted already. It has no two of the same order key,
// because the later one may run only when the first is done. It takes one worker
// from its first message on, and counts as one of [Config.TenantWorkers] for each
// of its tenants. Tenants take turns by the batch, if it is of one tenant, so
// that between two of them the difference in what they were given is up to one
// batch of each.
//
// A batch goes to the handler when it is full, when it has lingered, when its
// worker is needed for another, and when the gate drains.
//
// RunBatch returns what Run does, and an error that wraps [ErrInvalidConfig] for
// a batch that is not valid, or does not fit the gate's window.
func (g *Gate[M]) RunBatch(ctx context.Context, src Source[M], batch BatchConfig, handle BatchHandler[M]) error {
	batch, err := batch.resolve(g.cfg.Window, g.cfg.TenantWindow)
	if err != nil {
		return err
	}
	return g.runWith(ctx, src, handle == nil, func(r *run[M]) func(*worker[M]) {
		r.batching = &batch
		r.sched.batches = true
		return func(w *worker[M]) { r.batchLoop(w, handle) }
	})
}

// batchLoop runs batches until the run is finished.
func (r *run[M]) batchLoop(w *worker[M], handle BatchHandler[M]) {
	for r.nextBatch(w) {
		r.processBatch(w, handle)
	}
}

// processBatch runs the handler on the batch of w, and settles those of its
// messages for which that can be done by an acknowledgement.
func (r *run[M]) processBatch(w *worker[M], handle BatchHandler[M]) {
	jobs := w.batch.jobs
	items := make([]Item[M], len(jobs))
	batch := make([]*Item[M], len(jobs))
	parent := r.handling
	first := jobs[0].entry
	if first.watch != nil {
		parent = first.watch.ctx
	}
	for i, j := range jobs {
		e := j.entry
		items[i].Message, items[i].facts = e.delivery.Message(), r.facts(e, j.granted)
		batch[i] = &items[i]
		if e.revocation() != first.revocation() {
			parent = r.handling
		}
		r.tellAdmitted(e, j.granted)
	}

	returned, concluded := false, 0
	conclude := func(err error, stack []byte) {
		for ; concluded < len(jobs); concluded++ {
			j, item := jobs[concluded], &items[concluded]
			j.cost = item.cost.Load() - 1
			r.correct(j)
			if done, own := item.Result(); done {
				r.conclude(j, own, nil)
			} else {
				r.conclude(j, err, stack)
			}
		}
	}
	defer func() {
		switch {
		case concluded == len(jobs):
			return
		case !returned:
			conclude(errGoexit, nil)
		default:
			// It was not the handler but Backoff, a hook or the source.
			for _, j := range jobs[concluded:] {
				j.verdict = verdictUnknown
				if !j.phase.CompareAndSwap(phaseHandling, phaseSettling) && j.phase.Load() == phaseAbandoned {
					j.verdict = verdictGone
				}
			}
		}
		// Something ended the goroutine, which cannot be stopped; another takes
		// its place.
		r.spawn(func() { r.batchLoop(w, handle) })
	}()
	stack, err := call(parent, r.cfg.HandlerTimeout, handle, batch)
	returned = true
	conclude(err, stack)
}
