package fluxnats

import (
	"cmp"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// Config configures a [Source]. In the fields that are templates, {stream} and
// {consumer} stand for the names of the two.
type Config struct {
	// Stream and Consumer name the stream and its durable pull consumer, which
	// must exist when Run is called: see [Source.Provision]. Required.
	Stream   string
	Consumer string

	// DeferSubject is a template of the subject under which deferred copies are
	// scheduled, each with the sequence of its original as one more token. The
	// stream must take in such subjects and the consumer must not.
	// Defaults to "flux.defer.{stream}.{consumer}".
	DeferSubject string

	// ReturnSubject is a template of the subject that deferred copies come back
	// under, each with one more token. The stream must take in such subjects, the
	// consumer must read them, and no other consumer may. It is for streams whose
	// messages more than one consumer reads: see Deferrals in the package's
	// documentation.
	// Defaults to the subject of the message itself.
	ReturnSubject string

	// AllowSharedCopies accepts other consumers of the stream that read what
	// deferred copies come back under, or are scheduled under. A message that
	// this source defers reaches them once more. Copies that wait in a work queue
	// they must not read in any case: they would delete them.
	// Defaults to false: Run refuses to begin beside such a consumer.
	AllowSharedCopies bool

	// NakDeferrals hands deferred messages back by a delayed negative
	// acknowledgement instead of a scheduled copy. Each of them then holds a
	// place in the consumer's MaxAckPending until it is due. Copies that were
	// scheduled without it are taken for new messages.
	// Defaults to false.
	NakDeferrals bool

	// DeadLetterStream is a template of the name of the stream for dead
	// letters, and DeadLetterSubject one of the subject that they are published
	// to. The stream must take in the subject.
	// Defaults to "DLQ_{stream}" and "dlq.{stream}.{consumer}".
	DeadLetterStream  string
	DeadLetterSubject string

	// Batch is how many messages the source asks for at once, if the gate has
	// room for so many.
	// Defaults to 256.
	Batch int

	// Heartbeat is how often the server says that a request for messages still
	// stands. After two that did not come the request is made anew; in any case
	// that happens every three.
	// Defaults to 1 second.
	Heartbeat time.Duration

	// ConfirmAcks makes every acknowledgement wait until the server has
	// confirmed it: one round trip each. Without it an acknowledgement that is
	// lost with the connection leads to a redelivery.
	// Defaults to false.
	ConfirmAcks bool

	// AllowMaxDeliver accepts a consumer with a MaxDeliver. The server abandons
	// a message that it has delivered so often, without a word to anyone but
	// the listeners of its advisories, and restarts and drains count as well as
	// failures.
	// Defaults to false: such a consumer is refused.
	AllowMaxDeliver bool

	// Logger is told of faults that the source gets over by itself.
	// Defaults to nil: silence.
	Logger *slog.Logger
}

// settings is a Config that is complete and valid.
type settings struct {
	Config
	log *slog.Logger
}

func newSettings(cfg Config) (settings, error) {
	fail := func(field string, value any, why string) (settings, error) {
		return settings{}, fmt.Errorf("%w: %s = %#v: %s", ErrInvalidConfig, field, value, why)
	}
	if !validName(cfg.Stream) {
		return fail("Stream", cfg.Stream, "must be the name of a stream")
	}
	if !validName(cfg.Consumer) {
		return fail("Consumer", cfg.Consumer, "must be the name of a consumer")
	}
	if cfg.Batch < 0 {
		return fail("Batch", cfg.Batch, "must not be negative")
	}
	if cfg.Heartbeat != 0 && cfg.Heartbeat < 100*time.Millisecond {
		return fail("Heartbeat", cfg.Heartbeat.String(), "must be at least 100ms")
	}
	const anySubject, anyName = "must be a subject without wildcards", "must be the name of a stream"
	names := strings.NewReplacer("{stream}", cfg.Stream, "{consumer}", cfg.Consumer)
	for _, t := range []struct {
		field     string
		value     *string
		otherwise string
		valid     func(string) bool
		rule      string
	}{
		{"DeferSubject", &cfg.DeferSubject, "flux.defer.{stream}.{consumer}", validSubject, anySubject},
		{"ReturnSubject", &cfg.ReturnSubject, "", validSubject, anySubject},
		{"DeadLetterStream", &cfg.DeadLetterStream, "DLQ_{stream}", validName, anyName},
		{"DeadLetterSubject", &cfg.DeadLetterSubject, "dlq.{stream}.{consumer}", validSubject, anySubject},
	} {
		full := names.Replace(cmp.Or(*t.value, t.otherwise))
		if full != "" && !t.valid(full) {
			return fail(t.field, *t.value, t.rule)
		}
		*t.value = full
	}
	switch {
	case cfg.DeadLetterStream == cfg.Stream:
		return fail("DeadLetterStream", cfg.DeadLetterStream, "must not be the stream itself")
	case cfg.ReturnSubject == cfg.DeferSubject:
		return fail("ReturnSubject", cfg.ReturnSubject, "must not be DeferSubject")
	case cfg.ReturnSubject != "" && cfg.NakDeferrals:
		return fail("ReturnSubject", cfg.ReturnSubject, "has no use with NakDeferrals")
	}
	if cfg.Batch == 0 {
		cfg.Batch = 256
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = time.Second
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return settings{Config: cfg, log: log.With("stream", cfg.Stream, "consumer", cfg.Consumer)}, nil
}
