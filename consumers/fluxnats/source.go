package fluxnats

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux/stream"
)

// Source delivers the messages of one durable pull consumer to a gate. Several
// sources, in one process or in many, may share a consumer. Its methods may be
// called by any number of goroutines at once.
type Source struct {
	js      jetstream.JetStream
	set     settings
	running atomic.Bool
	stats   counters
}

var _ stream.Source[*Msg] = (*Source)(nil)

// New returns a source, or an error that wraps [ErrInvalidConfig]. It asks the
// server nothing and starts nothing: that is Run's.
func New(js jetstream.JetStream, cfg Config) (*Source, error) {
	if js == nil {
		return nil, fmt.Errorf("%w: js = nil: must be a JetStream context", ErrInvalidConfig)
	}
	set, err := newSettings(cfg)
	if err != nil {
		return nil, err
	}
	return &Source{js: js, set: set}, nil
}

// Run checks the stream, the consumer, the dead-letter stream and what the
// connection may do, and then delivers messages into in until ctx ends. Then it
// hands the messages that the gate gives up back to the server at once, keeps
// those that are still in a handler from redelivery, and returns nil when all are
// settled. A gate whose window is larger than the consumer's MaxAckPending has one
// of that size as long as Run goes on.
//
// Lost connections, changes of leader and requests that go unanswered it gets
// over by itself, and so it does if the stream or the consumer is deleted and made
// again within half a minute. It returns [ErrRunning] beside another Run of the
// source, an error that wraps [ErrSetup] if the check finds something wrong, and
// that of the request if the server does not answer the check within 5 seconds;
// and later one that wraps [ErrSetup], [jetstream.ErrConsumerNotFound],
// [jetstream.ErrStreamNotFound], [nats.ErrPermissionViolation] or
// [nats.ErrConnectionClosed] when there is nothing more to hope for. Messages
// that are held then can still be settled, but nothing keeps them from
// redelivery any more.
func (s *Source) Run(ctx context.Context, in stream.Intake[*Msg]) error {
	if !s.running.CompareAndSwap(false, true) {
		return ErrRunning
	}
	defer s.running.Store(false)
	facts, err := s.check(ctx)
	if err != nil {
		return unlessEnded(ctx, err)
	}
	s.fit(&facts, in)
	return newRun(s, in, facts).run(ctx)
}

// Stats are a source's totals since it was made, through all runs.
type Stats struct {
	Received   int64 // messages taken from the server
	Swallowed  int64 // redeliveries of messages that the source held, had just settled, or had deferred for longer
	Pulls      int64 // requests for messages
	Renewals   int64 // of them, made because an earlier one was lost
	KeepAlives int64 // messages kept from redelivery for another AckWait
	Copies     int64 // deferred copies confirmed by the server
	Naks       int64 // deferrals by a delayed negative acknowledgement
	Returned   int64 // messages handed back unsettled
	Abandoned  int64 // messages that Watch made dead letters of
	Gone       int64 // messages that it could not, because they were deleted, or it was interrupted just after it did
}

type counters struct {
	received, swallowed, pulls, renewals, keepAlives, copies, naks, returned, abandoned, gone atomic.Int64
}

// Stats returns the source's totals. It may be called at any time.
func (s *Source) Stats() Stats {
	c := &s.stats
	return Stats{
		Received: c.received.Load(), Swallowed: c.swallowed.Load(), Pulls: c.pulls.Load(), Renewals: c.renewals.Load(),
		KeepAlives: c.keepAlives.Load(), Copies: c.copies.Load(), Naks: c.naks.Load(), Returned: c.returned.Load(),
		Abandoned: c.abandoned.Load(), Gone: c.gone.Load(),
	}
}
