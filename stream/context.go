package stream

import "context"

// contextKey is the key of a message's own values in its context.
type contextKey struct{}

// messageContext is the context of one handler call. It has no cancellation of
// its own: it ends with that of all handlers, or of all messages that are
// revoked together. A handler may keep it after it returned, so it is used
// once; they are made many at a time, see worker.context.
type messageContext struct {
	context.Context //nolint:containedctx // it is a context

	facts facts
}

// Value returns the message's facts for FromContext.
func (c *messageContext) Value(key any) any {
	if key == (contextKey{}) {
		return &c.facts
	}
	return c.Context.Value(key)
}

// FromContext returns the Info of the message that a handler's context was
// made for, and false for any other context.
func FromContext(ctx context.Context) (Info, bool) {
	f, ok := ctx.Value(contextKey{}).(*facts)
	if !ok {
		return Info{}, false
	}
	return f.info(), true
}
