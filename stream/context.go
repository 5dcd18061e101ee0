package stream

import (
	"context"
	"sync/atomic"
	"time"
)

// contextKey is the key of a message's own values in its context.
type contextKey struct{}

// messageContext is the context of one handler call. It has no cancellation of
// its own: it ends with that of all handlers, or of all messages that are
// revoked together.
//
// Its worker uses it again for the next message, unless the handler has asked
// it for anything: whoever did so may go on asking, a span of a trace or a
// connection of a pool, say, after the handler has returned.
type messageContext struct {
	parent context.Context //nolint:containedctx // it is a context
	facts  facts
	asked  atomic.Bool
	cost   atomic.Int64 // what SetCost said, plus 1; 0: nothing
}

// spent returns what the handler said that the message cost, unset if nothing.
func (c *messageContext) spent() int64 { return c.cost.Load() - 1 }

// ask remembers that the context was used.
func (c *messageContext) ask() {
	if !c.asked.Load() {
		c.asked.Store(true)
	}
}

func (c *messageContext) Deadline() (time.Time, bool) {
	c.ask()
	return c.parent.Deadline()
}

func (c *messageContext) Done() <-chan struct{} {
	c.ask()
	return c.parent.Done()
}

func (c *messageContext) Err() error {
	c.ask()
	return c.parent.Err()
}

// Value returns the context itself for FromContext and SetCost.
func (c *messageContext) Value(key any) any {
	c.ask()
	if key == (contextKey{}) {
		return c
	}
	return c.parent.Value(key)
}

// contextsAtOnce is how many contexts are made at a time. One that a handler
// keeps for ever keeps the others.
const contextsAtOnce = 32

// context returns a context for a handler, which has it to itself until it
// returns.
func (w *worker[M]) context(parent context.Context, f facts) *messageContext {
	if len(w.contexts) > 0 && w.contexts[0].asked.Load() {
		w.contexts = w.contexts[1:]
	}
	if len(w.contexts) == 0 {
		w.contexts = make([]messageContext, contextsAtOnce)
	}
	c := &w.contexts[0]
	c.parent, c.facts = parent, f
	return c
}

// FromContext returns the Info of the message that a handler's context was
// made for, and false for any other context.
func FromContext(ctx context.Context) (Info, bool) {
	c, ok := ctx.Value(contextKey{}).(*messageContext)
	if !ok {
		return Info{}, false
	}
	return c.facts.info(), true
}
