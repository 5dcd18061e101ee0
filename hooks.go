package flux

import (
	"context"
	"fmt"
	"time"
)

// Hook is told what a [Limiter] does, through any of the interfaces below that
// it implements: [BeforeCheckHook], [AfterCheckHook], [ErrorHook],
// [AfterWaitHook] and [CleanupHook]. Hooks are called by whoever makes the
// limiter do it, and that call waits for them: they must be fast, and safe for
// concurrent use. They may check and wait themselves, but not change limits. A
// limiter without hooks pays one comparison for there being none.
type Hook any

// BeforeCheckHook is called before every decision of Check, CheckAsync, CheckAll
// and CheckAt; for the latter with a background context.
type BeforeCheckHook[K comparable] interface {
	BeforeCheck(ctx context.Context, key K, n int64)
}

// AfterCheckHook is called after every such decision, with the decision.
type AfterCheckHook[K comparable] interface {
	AfterCheck(ctx context.Context, key K, n int64, d Decision)
}

// ErrorHook is called in place of an AfterCheckHook when there was no decision.
type ErrorHook[K comparable] interface {
	OnError(ctx context.Context, key K, n int64, err error)
}

// AfterWaitHook is called once for every Wait, WaitAsync, Reserve and request of
// a Stream, about when it gets its result, and is told how long that took.
type AfterWaitHook[K comparable] interface {
	AfterWait(key K, n int64, waited time.Duration, res Result)
}

// CleanupHook is called after every sweep, with the number of keys that were
// forgotten, the time that it took, and the error that ended it early.
type CleanupHook interface {
	OnCleanup(removed int, took time.Duration, err error)
}

// hooks are the hooks of a limiter, by what they are called for.
type hooks[K comparable] struct {
	before  []BeforeCheckHook[K]
	after   []AfterCheckHook[K]
	failed  []ErrorHook[K]
	waited  []AfterWaitHook[K]
	cleaned []CleanupHook
}

// newHooks sorts the hooks. It returns nil if there are none, and an error for
// one that would never be called: most likely it is for keys of another type.
func newHooks[K comparable](list []Hook) (*hooks[K], error) {
	if len(list) == 0 {
		return nil, nil
	}
	h := &hooks[K]{}
	for i, hook := range list {
		known := false
		if f, ok := hook.(BeforeCheckHook[K]); ok {
			h.before, known = append(h.before, f), true
		}
		if f, ok := hook.(AfterCheckHook[K]); ok {
			h.after, known = append(h.after, f), true
		}
		if f, ok := hook.(ErrorHook[K]); ok {
			h.failed, known = append(h.failed, f), true
		}
		if f, ok := hook.(AfterWaitHook[K]); ok {
			h.waited, known = append(h.waited, f), true
		}
		if f, ok := hook.(CleanupHook); ok {
			h.cleaned, known = append(h.cleaned, f), true
		}
		if !known {
			return nil, fmt.Errorf("flux: Config.Hooks: %T, number %d, is no hook for keys of type %T", hook, i, *new(K))
		}
	}
	return h, nil
}

// beforeCheck tells of a decision to come.
func (h *hooks[K]) beforeCheck(ctx context.Context, key K, n int64) {
	for _, f := range h.before {
		f.BeforeCheck(ctx, key, n)
	}
}

// afterCheck tells of a decision, or of its error.
func (h *hooks[K]) afterCheck(ctx context.Context, key K, n int64, d Decision, err error) {
	if err != nil {
		for _, f := range h.failed {
			f.OnError(ctx, key, n, err)
		}
		return
	}
	for _, f := range h.after {
		f.AfterCheck(ctx, key, n, d)
	}
}

// ended is a wait that is over, or will be.
type ended[K comparable] struct {
	key    K
	n      int64
	since  int64
	waited time.Duration
	res    Result
}

// waits reports whether anyone wants to know about waits.
func (h *hooks[K]) waits() bool { return h != nil && len(h.waited) > 0 }

// afterWait tells of a wait that is over.
func (h *hooks[K]) afterWait(e ended[K]) {
	for _, f := range h.waited {
		f.AfterWait(e.key, e.n, e.waited, e.res)
	}
}

// afterCleanup tells of a sweep.
func (h *hooks[K]) afterCleanup(removed int, took time.Duration, err error) {
	if h != nil {
		for _, f := range h.cleaned {
			f.OnCleanup(removed, took, err)
		}
	}
}
