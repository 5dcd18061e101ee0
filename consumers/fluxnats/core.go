package fluxnats

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux/stream"
)

// CoreConfig configures a [Core].
type CoreConfig struct {
	// Subject is what the source subscribes to, with or without wildcards.
	// Required.
	Subject string

	// Queue is the queue group that the source joins: the server gives each
	// message to one member of a group.
	// Defaults to none: the source gets every message.
	Queue string

	// AnswerRefused answers a request that becomes a dead letter, to tell the
	// one who asked why and when to ask again: see [ReadRefusal]. The answer takes
	// the place of the dead letter, unless the handler has answered already. A
	// request that the policy drops gets no answer.
	// Defaults to false.
	AnswerRefused bool

	// DeadLetterSubject is the subject that dead letters are published to, without
	// wildcards. Whoever listens there gets them.
	// Defaults to none: dead letters are counted and logged, and then they are
	// gone.
	DeadLetterSubject string

	// DeadLetterStream is the stream that must confirm each dead letter. It must
	// take in DeadLetterSubject.
	// Defaults to none: nobody confirms them.
	DeadLetterStream string

	// Backlog is how many messages, and BacklogBytes how many bytes of them, may
	// wait in the client for room in the gate. The client drops what goes beyond.
	// Default to the gate's window and 64 MiB.
	Backlog      int
	BacklogBytes int

	// Logger is told of what is lost, and of faults that the source gets over by
	// itself.
	// Defaults to nil: silence.
	Logger *slog.Logger
}

func (cfg CoreConfig) resolve() (CoreConfig, error) {
	fail := func(field string, value any, why string) (CoreConfig, error) {
		return CoreConfig{}, fmt.Errorf("%w: %s = %#v: %s", ErrInvalidConfig, field, value, why)
	}
	switch {
	case !validPattern(cfg.Subject):
		return fail("Subject", cfg.Subject, "must be a subject, with or without wildcards")
	case strings.ContainsFunc(cfg.Queue, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return fail("Queue", cfg.Queue, "must be the name of a queue group")
	case cfg.DeadLetterSubject != "" && !validSubject(cfg.DeadLetterSubject):
		return fail("DeadLetterSubject", cfg.DeadLetterSubject, "must be a subject without wildcards")
	case covers(cfg.Subject, cfg.DeadLetterSubject):
		return fail("DeadLetterSubject", cfg.DeadLetterSubject, "must not be one that the source subscribes to")
	case cfg.DeadLetterStream != "" && !validName(cfg.DeadLetterStream):
		return fail("DeadLetterStream", cfg.DeadLetterStream, "must be the name of a stream")
	case cfg.DeadLetterStream != "" && cfg.DeadLetterSubject == "":
		return fail("DeadLetterSubject", cfg.DeadLetterSubject, "must be given with DeadLetterStream")
	case cfg.Backlog < 0:
		return fail("Backlog", cfg.Backlog, "must not be negative")
	case cfg.BacklogBytes < 0:
		return fail("BacklogBytes", cfg.BacklogBytes, "must not be negative")
	}
	if cfg.BacklogBytes == 0 {
		cfg.BacklogBytes = 64 << 20
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Logger = cfg.Logger.With("subject", cfg.Subject, "queue", cfg.Queue)
	return cfg, nil
}

// Core delivers the messages of a subscription without JetStream to a gate: see
// Core NATS in the package's documentation for what that can promise. It cannot
// defer, so the gate's policy must not. Its methods may be called by any number of
// goroutines at once.
type Core struct {
	nc      *nats.Conn
	js      jetstream.JetStream
	set     CoreConfig
	running atomic.Bool
	stats   coreCounters

	mu      sync.Mutex
	sub     *nats.Subscription // while Run goes on
	dropped int                // by sub, as far as it is counted
}

var (
	_ stream.Source[*Msg] = (*Core)(nil)
	_ stream.Deferrer     = (*Core)(nil)
)

// NewCore returns a source, or an error that wraps [ErrInvalidConfig]. It asks the
// server nothing and starts nothing: that is Run's.
func NewCore(nc *nats.Conn, cfg CoreConfig) (*Core, error) {
	if nc == nil {
		return nil, fmt.Errorf("%w: nc = nil: must be a connection", ErrInvalidConfig)
	}
	cfg, err := cfg.resolve()
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("fluxnats: %w", err)
	}
	return &Core{nc: nc, js: js, set: cfg}, nil
}

// CanDefer implements [stream.Deferrer]. It returns false.
func (s *Core) CanDefer() bool { return false }

// Run subscribes, and delivers messages into in until ctx ends. Then it ends the
// subscription, treats the messages that were received and that the gate gives up
// as dead letters, with the reason "released", and returns nil when all are
// settled.
//
// A lost connection it gets over by itself; messages that are published meanwhile
// are lost. It returns [ErrRunning] beside another Run of the source, an error that
// wraps [ErrSetup] if the dead-letter stream is missing or unfit, that of the
// request if the server does not answer within 5 seconds, and one that wraps
// [nats.ErrPermissionViolation] or [nats.ErrConnectionClosed] when there is nothing
// more to hope for.
func (s *Core) Run(ctx context.Context, in stream.Intake[*Msg]) error {
	if !s.running.CompareAndSwap(false, true) {
		return ErrRunning
	}
	defer s.running.Store(false)
	if err := s.check(ctx); err != nil {
		return unlessEnded(ctx, err)
	}
	backlog := cmp.Or(s.set.Backlog, in.Window(math.MaxInt))
	return newCoreRun(s, in).run(ctx, backlog)
}

// unlessEnded returns nil for an error that says no more than that ctx has ended.
func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

// check looks at the dead-letter stream.
func (s *Core) check(ctx context.Context) error {
	if s.nc.IsClosed() {
		return fmt.Errorf("fluxnats: %w", nats.ErrConnectionClosed)
	}
	if s.set.DeadLetterStream == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	before := s.nc.LastError()
	return explained(s.nc, before, lookAtDeadLetters(ctx, s.js, s.set.DeadLetterStream, s.set.DeadLetterSubject))
}

// CoreStats are a [Core]'s totals since it was made, through all runs.
type CoreStats struct {
	Received    int64 // messages given to the gate
	Dropped     int64 // by the client, because the backlog was full
	Refused     int64 // requests that were answered with a refusal
	DeadLetters int64 // published, and confirmed if there is a dead-letter stream
	Released    int64 // given up by the gate unsettled, and then refused, published or discarded
	Discarded   int64 // dead letters without a place to go, or that could not get there at the end
}

type coreCounters struct {
	received, dropped, refused, deadLetters, released, discarded atomic.Int64
}

// Stats returns the source's totals. It may be called at any time.
func (s *Core) Stats() CoreStats {
	s.countDropped()
	c := &s.stats
	return CoreStats{
		Received: c.received.Load(), Dropped: c.dropped.Load(), Refused: c.refused.Load(),
		DeadLetters: c.deadLetters.Load(), Released: c.released.Load(), Discarded: c.discarded.Load(),
	}
}

// countDropped adds what the client has dropped since the last call, and returns
// that.
func (s *Core) countDropped() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.sub.Dropped()
	if err != nil { // there is no subscription
		return 0
	}
	more := n - s.dropped
	s.dropped = n
	s.stats.dropped.Add(int64(more))
	return more
}

func (s *Core) setSubscription(sub *nats.Subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sub, s.dropped = sub, 0
}
