package fluxnats

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux/stream"
)

// WatchConfig configures [Source.Watch].
type WatchConfig struct {
	// AdvisoryStream is a template of the name of the stream that keeps the
	// server's advisories of the consumer until they are dealt with. It must take
	// in their subjects, as in
	// "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{stream}.{consumer}".
	// Defaults to "ADVISORIES_{stream}_{consumer}".
	AdvisoryStream string

	// Create makes that stream, and its consumer for Watch, if they do not exist:
	// with the storage and the replicas of the dead-letter stream.
	// Defaults to false: Watch refuses to begin without them.
	Create bool

	// Terminated makes dead letters also of messages that some client terminated,
	// but for those whose reason is one of the gate's: they are dead letters
	// already. A work-queue stream has deleted such a message before anyone hears
	// of it.
	// Defaults to false.
	Terminated bool
}

const (
	reasonMaxDeliveries = "max_deliveries"
	reasonTerminated    = "terminated"

	advisories = "$JS.EVENT.ADVISORY.CONSUMER."

	// watchRetry is when an advisory is looked at again that could not be dealt
	// with.
	watchRetry = 5 * time.Second

	// watchAckWait is more than what dealing with the few advisories takes that
	// are fetched at a time.
	watchAckWait = time.Minute
	watchFetch   = 4
)

// Watch makes dead letters of the messages that the server abandons because they
// were delivered as often as the consumer's MaxDeliver allows, until ctx ends. It
// need not run where Run does, and any number of Watches, in one process or many,
// share the work. A consumer without MaxDeliver, as Provision makes it, needs
// none.
//
// The dead letter is confirmed before the advisory is acknowledged, and has the
// message id that Run would give it: one that is published twice is stored once
// within the stream's duplicate window. From a work-queue stream the message is
// then deleted, as by a termination.
//
// Advisories wait in their stream while nobody watches. What cannot be had back
// are those that the server published while that stream did not exist or had no
// leader, and messages that their stream has deleted since: these are counted in
// [Stats.Gone]. Clients must not be permitted to publish advisories.
//
// It returns nil when ctx ended, an error that wraps [ErrSetup] if one of the
// streams is missing or unfit, and one that wraps [ErrInvalidConfig],
// [nats.ErrPermissionViolation], [jetstream.ErrConsumerDeleted] or
// [nats.ErrConnectionClosed].
func (s *Source) Watch(ctx context.Context, cfg WatchConfig) error {
	w, err := s.newWatch(cfg)
	if err != nil {
		return err
	}
	consumer, err := w.setUp(ctx)
	if err != nil {
		return unlessEnded(ctx, explained(s.js.Conn(), w.before, err))
	}
	return unlessEnded(ctx, w.run(ctx, consumer))
}

// watch is one call of Watch.
type watch struct {
	src      *Source
	cfg      WatchConfig
	subjects []string // of advisories
	before   error    // the connection's last, before it all began
	origin   jetstream.Stream
	r        *run // that messages are read for as if it had received them
}

func (s *Source) newWatch(cfg WatchConfig) (*watch, error) {
	names := strings.NewReplacer("{stream}", s.set.Stream, "{consumer}", s.set.Consumer)
	name := names.Replace(cmp.Or(cfg.AdvisoryStream, "ADVISORIES_{stream}_{consumer}"))
	if !validName(name) || name == s.set.Stream || name == s.set.DeadLetterStream {
		return nil, fmt.Errorf("%w: AdvisoryStream = %q: must be the name of a stream of its own", ErrInvalidConfig, cfg.AdvisoryStream)
	}
	cfg.AdvisoryStream = name
	of := "." + s.set.Stream + "." + s.set.Consumer
	w := &watch{src: s, cfg: cfg, subjects: []string{advisories + "MAX_DELIVERIES" + of}, r: &run{src: s, set: &s.set}, before: s.js.Conn().LastError()}
	if cfg.Terminated {
		w.subjects = append(w.subjects, advisories+"MSG_TERMINATED"+of)
	}
	return w, nil
}

// setUp finds the streams, and makes those that it may make.
func (w *watch) setUp(ctx context.Context) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	set, js := &w.src.set, w.src.js
	var err error
	if w.origin, err = js.Stream(ctx, set.Stream); err != nil {
		return nil, missing("stream", set.Stream, err)
	}
	if err := lookAtDeadLetters(ctx, js, set.DeadLetterStream, set.DeadLetterSubject); err != nil {
		return nil, err
	}
	kept, err := js.Stream(ctx, w.cfg.AdvisoryStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) && w.cfg.Create {
		kept, err = w.create(ctx)
	}
	if err != nil {
		return nil, missing("advisory stream", w.cfg.AdvisoryStream, err)
	}
	for _, subject := range w.subjects {
		if have := kept.CachedInfo().Config.Subjects; !anyCovers(have, subject) {
			return nil, fmt.Errorf("%w: advisory stream %s: its subjects %q do not take in %q; add it", ErrSetup, w.cfg.AdvisoryStream, have, subject)
		}
	}
	return w.consumer(ctx, kept)
}

// create makes the stream for advisories, or finds one that somebody else has
// just made.
func (w *watch) create(ctx context.Context) (jetstream.Stream, error) {
	js := w.src.js
	dead, err := js.Stream(ctx, w.src.set.DeadLetterStream)
	if err != nil {
		return nil, err
	}
	like := dead.CachedInfo().Config
	s, err := js.CreateStream(ctx, jetstream.StreamConfig{
		Name: w.cfg.AdvisoryStream, Subjects: w.subjects, Retention: jetstream.WorkQueuePolicy,
		Storage: like.Storage, Replicas: like.Replicas,
	})
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return js.Stream(ctx, w.cfg.AdvisoryStream)
	}
	return s, err
}

func (w *watch) consumer(ctx context.Context, kept jetstream.Stream) (jetstream.Consumer, error) {
	name := w.src.set.Stream + "-" + w.src.set.Consumer
	what := "consumer " + name + " of advisory stream"
	con, err := kept.Consumer(ctx, name)
	if errors.Is(err, jetstream.ErrConsumerNotFound) && w.cfg.Create {
		// The same config makes the same consumer, whoever is first.
		con, err = kept.CreateConsumer(ctx, jetstream.ConsumerConfig{
			Durable: name, AckPolicy: jetstream.AckExplicitPolicy, AckWait: watchAckWait, MaxDeliver: -1, FilterSubjects: w.subjects,
		})
	}
	if err != nil {
		return nil, missing(what, w.cfg.AdvisoryStream, err)
	}
	c := con.CachedInfo().Config
	switch {
	case c.AckPolicy != jetstream.AckExplicitPolicy:
		return nil, fmt.Errorf("%w: %s %s: AckPolicy is %s; create it with AckExplicitPolicy", ErrSetup, what, w.cfg.AdvisoryStream, c.AckPolicy)
	case c.MaxDeliver > 0:
		return nil, fmt.Errorf("%w: %s %s: MaxDeliver is %d; set it to -1", ErrSetup, what, w.cfg.AdvisoryStream, c.MaxDeliver)
	case list(filtersOf(c)) != list(w.subjects):
		return nil, fmt.Errorf("%w: %s %s: its filters are %q; set them to %q", ErrSetup, what, w.cfg.AdvisoryStream, filtersOf(c), w.subjects)
	}
	return con, nil
}

// missing explains why something could not be looked at.
func missing(what, name string, err error) error {
	if errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf("%w: %s %s: %w; create it, or let Create do so", ErrSetup, what, name, err)
	}
	return fmt.Errorf("fluxnats: look at %s %s: %w", what, name, err)
}

func (w *watch) run(ctx context.Context, consumer jetstream.Consumer) error {
	messages, err := consumer.Messages(jetstream.PullMaxMessages(watchFetch))
	if err != nil {
		return fmt.Errorf("fluxnats: watch: %w", err)
	}
	defer context.AfterFunc(ctx, messages.Stop)()
	defer messages.Stop()
	for {
		m, err := messages.Next()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = m.Nak()
			}
			return nil
		case err == nil:
			w.deal(ctx, m)
		case errors.Is(err, jetstream.ErrConsumerDeleted), w.src.js.Conn().IsClosed(), errors.Is(err, jetstream.ErrMsgIteratorClosed):
			if w.src.js.Conn().IsClosed() {
				err = nats.ErrConnectionClosed
			}
			return fmt.Errorf("fluxnats: watch: %w", err)
		case errors.Is(explained(w.src.js.Conn(), w.before, err), nats.ErrPermissionViolation):
			return fmt.Errorf("fluxnats: watch: %w", explained(w.src.js.Conn(), w.before, err))
		default:
			w.src.set.log.Warn("advisories cannot be read, trying again", "error", err)
		}
	}
}

// deal deals with one advisory, now or later.
func (w *watch) deal(ctx context.Context, m jetstream.Msg) {
	err := w.bury(ctx, m.Data())
	if err == nil {
		err = m.Ack()
	} else {
		w.src.set.log.Error("a message that the server abandoned is not yet a dead letter", "error", explained(w.src.js.Conn(), w.before, err))
		err = m.NakWithDelay(watchRetry)
	}
	if err != nil {
		w.src.set.log.Warn("cannot settle an advisory, it comes again", "error", err)
	}
}

// advisory is what the server says of a message that it delivers no more.
type advisory struct {
	Type       string    `json:"type"`
	Time       time.Time `json:"timestamp"`
	Stream     string    `json:"stream"`
	Consumer   string    `json:"consumer"`
	Seq        uint64    `json:"stream_seq"`
	Deliveries uint64    `json:"deliveries"`
	Reason     string    `json:"reason"`
}

// ofGate reports whether a reason for a termination is one that Run gives.
func ofGate(reason string) bool {
	for r := stream.ReasonNone + 1; !strings.HasPrefix(r.String(), "reason("); r++ {
		if r.String() == reason {
			return true
		}
	}
	return false
}

// bury makes a dead letter of the message that an advisory tells of. It returns
// an error if it should be tried again.
func (w *watch) bury(ctx context.Context, data []byte) error {
	set := &w.src.set
	var a advisory
	if err := json.Unmarshal(data, &a); err != nil || a.Stream != set.Stream || a.Consumer != set.Consumer || a.Seq == 0 {
		set.log.Error("advisory that cannot be read", "error", err, "advisory", clip(string(data), 512))
		return nil
	}
	reason, why := reasonMaxDeliveries, fmt.Sprintf("delivered %d times and not acknowledged", a.Deliveries)
	if strings.HasSuffix(a.Type, ".terminated") {
		reason, why = reasonTerminated, cmp.Or(a.Reason, "no reason given")
		if ofGate(a.Reason) {
			return nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 2*answerTimeout)
	defer cancel()
	raw, err := w.origin.GetMsg(ctx, a.Seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && raw.Time.After(a.Time) { // the stream was made anew since
		w.src.stats.gone.Add(1)
		set.log.Error("a message that the server abandoned is not in its stream any more", "sequence", a.Seq, "reason", reason)
		return nil
	}
	if err != nil {
		return fmt.Errorf("fluxnats: read message %d of stream %s: %w", a.Seq, set.Stream, err)
	}
	d := newDelivery(w.r, &nats.Msg{Subject: raw.Subject, Header: raw.Header, Data: raw.Data},
		ackInfo{delivered: max(a.Deliveries, 1), seq: raw.Sequence, stored: raw.Time.UnixNano()})
	l := stream.Letter{Err: errors.New(why), Attempts: d.attempts, Deferrals: d.deferrals}
	if err := d.bury(ctx, reason, l); err != nil {
		return err
	}
	w.src.stats.abandoned.Add(1)
	if w.origin.CachedInfo().Config.Retention == jetstream.WorkQueuePolicy {
		if err := remove(ctx, w.origin, a.Seq); err != nil {
			return fmt.Errorf("fluxnats: delete message %d of stream %s: %w", a.Seq, set.Stream, err)
		}
	}
	return nil
}
