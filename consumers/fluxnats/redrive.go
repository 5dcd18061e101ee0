package fluxnats

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
)

// RedriveConfig configures [Redrive].
type RedriveConfig struct {
	// Stream is the name of the dead-letter stream. Required.
	Stream string

	// Subject is what is read of it: a subject with or without wildcards, as in
	// "dlq.ORDERS.billing".
	// Defaults to all.
	Subject string

	// Filter returns whether a dead letter is to be redriven. Those that are not
	// stay where they are.
	// Defaults to nil: all are.
	Filter func(*DeadLetter) bool

	// Limit is how fast they are published.
	// Defaults to 100 a second, one at a time.
	Limit gcra.Limit

	// DryRun reads and counts, and neither publishes nor deletes anything.
	// Defaults to false.
	DryRun bool

	// Progress is told how far it is after each dead letter, and waited for.
	// Defaults to nil.
	Progress func(Redriven)

	// Logger is told of dead letters that cannot be redriven, and of faults that
	// Redrive gets over by itself.
	// Defaults to nil: silence.
	Logger *slog.Logger
}

// Redriven is what a [Redrive] has done.
type Redriven struct {
	Read     int64 // dead letters that were looked at, the sum of the others
	Redriven int64 // published and deleted; in a dry run, those that would be
	Skipped  int64 // that the filter did not want
	Failed   int64 // that cannot be redriven as they are, and stay

	LastError error // why the last of those that failed did
}

// redriveTries is how often something is tried that fails for a reason that may
// pass: for some seconds, in which a server restarts.
const redriveTries = 8

// Redrive publishes the dead letters of a stream to the subjects that they first
// had, in the order in which they died, and deletes them. It ends with the last
// that was there when it began, so that one that dies again is not redriven again.
//
// A dead letter is deleted when the server has confirmed that its message is
// stored, so that none is lost. One that is published twice, because the
// confirmation was lost or the process died before the deletion, or because two
// redrive at the same time, is stored once within the duplicate window of its
// stream.
//
// The message is a new one, with the payload and the headers of the old: its
// attempts, deferrals and age begin anew. But it has a Nats-Msg-Id of its own, for
// with its old one the server could take it for a duplicate of itself, and the old
// one as Flux-Msg-Id. A message that came by core NATS can be redriven only if
// some stream takes in its subject, as nobody else would confirm it.
//
// It returns what it has done, also beside an error: ctx's, one that wraps
// [ErrInvalidConfig], [ErrSetup] or [nats.ErrPermissionViolation], or that of a
// server which did not answer for some time. Dead letters that failed for reasons
// of their own are no error. One whose stream has no leader for a second is taken for
// one that no stream takes in: it fails, and stays for another call.
func Redrive(ctx context.Context, js jetstream.JetStream, cfg RedriveConfig) (Redriven, error) {
	r, err := newRedrive(js, cfg)
	if err != nil {
		return Redriven{}, err
	}
	last, err := r.setUp(ctx)
	if err != nil {
		return Redriven{}, err
	}
	err = r.all(ctx, last)
	return r.done, err
}

// redrive is one call of Redrive.
type redrive struct {
	js      jetstream.JetStream
	cfg     RedriveConfig
	limiter *flux.Limiter[string]
	stream  jetstream.Stream
	before  error // the connection's last, before it all began
	done    Redriven
}

func newRedrive(js jetstream.JetStream, cfg RedriveConfig) (*redrive, error) {
	fail := func(field string, value any, why string) (*redrive, error) {
		return nil, fmt.Errorf("%w: %s = %#v: %s", ErrInvalidConfig, field, value, why)
	}
	if cfg.Limit == (gcra.Limit{}) {
		cfg.Limit = gcra.PerSecond(100).WithBurst(1)
	}
	cfg.Subject = cmp.Or(cfg.Subject, ">")
	switch err := cfg.Limit.Validate(); {
	case js == nil:
		return fail("js", nil, "must be a JetStream context")
	case !validName(cfg.Stream):
		return fail("Stream", cfg.Stream, "must be the name of a stream")
	case !validPattern(cfg.Subject):
		return fail("Subject", cfg.Subject, "must be a subject, with or without wildcards")
	case err != nil:
		return fail("Limit", cfg.Limit.String(), err.Error())
	case cfg.Limit.IsDenyAll():
		return fail("Limit", cfg.Limit.String(), "would never let anything through")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Logger = cfg.Logger.With("stream", cfg.Stream)
	limiter, err := flux.New(flux.Config[string]{Limit: cfg.Limit})
	if err != nil {
		return nil, fmt.Errorf("fluxnats: %w", err)
	}
	return &redrive{js: js, cfg: cfg, limiter: limiter, before: js.Conn().LastError()}, nil
}

// setUp finds the stream, and returns the sequence of its last dead letter.
func (r *redrive) setUp(ctx context.Context) (last uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	name := r.cfg.Stream
	r.stream, err = r.js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return 0, fmt.Errorf("%w: dead-letter stream %s: %w", ErrSetup, name, err)
	}
	if err != nil {
		return 0, fmt.Errorf("fluxnats: look at dead-letter stream %s: %w", name, explained(r.js.Conn(), r.before, err))
	}
	info := r.stream.CachedInfo()
	switch c := info.Config; {
	case r.cfg.DryRun:
	case c.DenyDelete || c.Sealed:
		return 0, fmt.Errorf("%w: dead-letter stream %s: DenyDelete is set, so what is redriven could not be deleted; copy the stream, and redrive the copy", ErrSetup, name)
	case c.Mirror != nil:
		return 0, fmt.Errorf("%w: dead-letter stream %s: it is a mirror; redrive its origin, %s", ErrSetup, name, c.Mirror.Name)
	}
	return info.State.LastSeq, nil
}

func (r *redrive) all(ctx context.Context, last uint64) error {
	for seq := uint64(1); seq <= last; seq++ {
		var m *jetstream.RawStreamMsg
		err := r.try(ctx, func(ctx context.Context) (err error) {
			m, err = r.stream.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(r.cfg.Subject))
			return err
		})
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
			return nil
		case err != nil:
			return fmt.Errorf("fluxnats: read dead letters of stream %s from %d: %w", r.cfg.Stream, seq, err)
		case m.Sequence > last:
			return nil
		}
		seq = m.Sequence
		if err := r.one(ctx, readDeadLetter(m)); err != nil {
			return err
		}
		if r.cfg.Progress != nil {
			r.cfg.Progress(r.done)
		}
	}
	return nil
}

// one redrives a dead letter. An error is one that ends it all.
func (r *redrive) one(ctx context.Context, l *DeadLetter) error {
	if r.cfg.Filter != nil && !r.cfg.Filter(l) {
		r.count(&r.done.Skipped)
		return nil
	}
	if err := r.unfit(l); err != nil {
		r.failed(l, err)
		return nil
	}
	if r.cfg.DryRun {
		r.count(&r.done.Redriven)
		return nil
	}
	if err := r.limiter.Wait(ctx, "", 1); err != nil {
		return fmt.Errorf("fluxnats: redrive: %w", err)
	}
	err := r.try(ctx, func(ctx context.Context) error {
		_, err := r.js.PublishMsg(ctx, r.message(l))
		return err
	})
	switch {
	case err == nil:
	case refused(err), errors.Is(err, jetstream.ErrNoStreamResponse):
		r.failed(l, err)
		return nil
	default:
		return fmt.Errorf("fluxnats: redrive %d of stream %s: %w", l.Sequence, r.cfg.Stream, err)
	}
	if err := r.try(ctx, func(ctx context.Context) error { return remove(ctx, r.stream, l.Sequence) }); err != nil {
		return fmt.Errorf("fluxnats: delete dead letter %d of stream %s, which was redriven: %w", l.Sequence, r.cfg.Stream, err)
	}
	r.count(&r.done.Redriven)
	return nil
}

func (r *redrive) count(which *int64) {
	*which++
	r.done.Read++
}

func (r *redrive) failed(l *DeadLetter, err error) {
	r.count(&r.done.Failed)
	r.done.LastError = fmt.Errorf("fluxnats: redrive %d of stream %s: %w", l.Sequence, r.cfg.Stream, err)
	r.cfg.Logger.Error("a dead letter cannot be redriven, and stays", "sequence", l.Sequence, "to", l.Subject, "error", err)
}

// unfit says why a dead letter cannot be redriven, as far as it can be seen.
func (r *redrive) unfit(l *DeadLetter) error {
	switch {
	case l.Subject == "":
		return errors.New("it does not say what subject it had: it has no Flux-Subject")
	case !validSubject(l.Subject):
		return fmt.Errorf("its Flux-Subject is %q: no subject to publish to", l.Subject)
	case anyCovers(r.stream.CachedInfo().Config.Subjects, l.Subject):
		return fmt.Errorf("its Flux-Subject is %q: it would come back as a dead letter", l.Subject)
	case l.Stream != "" && !validName(l.Stream):
		return fmt.Errorf("its Flux-Stream is %q: no stream has that name", l.Stream)
	}
	return nil
}

func (r *redrive) message(l *DeadLetter) *nats.Msg {
	h := copyHeaders(l.Headers)
	delete(h, hdrMsgID) // that of the dead letter
	if id := text(l.Headers, hdrMsgID); id != "" {
		setText(h, hdrMsgID, id)
	}
	// The time is for a stream that is deleted and made again.
	h[jetstream.MsgIDHeader] = []string{fmt.Sprintf("%s:%d:%d:redrive", r.cfg.Stream, l.Sequence, l.Time.UnixNano())}
	if l.Stream != "" {
		h[jetstream.ExpectedStreamHeader] = []string{l.Stream}
	}
	return &nats.Msg{Subject: l.Subject, Header: h, Data: l.Data}
}

// try does something until it succeeds, or fails for a reason that does not pass.
func (r *redrive) try(ctx context.Context, f func(context.Context) error) error {
	pause := 50 * time.Millisecond
	for tries := 1; ; tries++ {
		limited, cancel := context.WithTimeout(ctx, answerTimeout)
		err := explained(r.js.Conn(), r.before, f(limited))
		cancel()
		switch {
		case err == nil, refused(err), errors.Is(err, nats.ErrPermissionViolation):
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case tries == redriveTries, r.js.Conn().IsClosed(), tries > 1 && errors.Is(err, jetstream.ErrNoStreamResponse):
			return err
		}
		r.cfg.Logger.Warn("redrive: trying again", "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
		pause *= 2
	}
}
