package fluxnats

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Layout says what [Source.Provision] creates.
type Layout struct {
	// Subjects are what the stream takes in and the consumer reads, with or
	// without wildcards. Required.
	Subjects []string

	// Retention is the stream's: [jetstream.LimitsPolicy] keeps messages that
	// are done, [jetstream.WorkQueuePolicy] deletes them.
	// Defaults to LimitsPolicy.
	Retention jetstream.RetentionPolicy

	// Storage is that of both streams.
	// Defaults to [jetstream.FileStorage].
	Storage jetstream.StorageType

	// Replicas is how many servers keep each stream.
	// Defaults to 1.
	Replicas int

	// AckWait is how long the server waits for a sign of life of a message
	// before it gives it to another member.
	// Defaults to 30 seconds.
	AckWait time.Duration

	// MaxAckPending is how many messages all members may hold together. Make it
	// at least the sum of their gates' windows: when it is used up, the server gives
	// no tenant anything. Run knows of its own gate only, and lowers that one's
	// window to it.
	// Defaults to 8192.
	MaxAckPending int
}

// Created says what a call of [Source.Provision] created and did not find.
type Created struct {
	Stream, Consumer, DeadLetters bool
}

// Provision creates what the source needs and does not exist: the stream, its
// consumer and the stream for dead letters. What exists it leaves as it is; if
// that differs from the layout it returns an error that wraps [ErrExists] and
// names the field and both values. After an error it deletes what it created, if
// nobody has begun to use that. What the server created and did not confirm, it
// leaves.
//
// It may be called by any number of processes at once. Each of those that find
// nothing may then be told that it created what is there.
func (s *Source) Provision(ctx context.Context, l Layout) (created Created, err error) {
	if err := s.complete(&l); err != nil {
		return created, err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	defer func() {
		if err != nil {
			s.undo(context.WithoutCancel(ctx), created)
			created = Created{}
		}
	}()
	if created.Stream, err = s.ensureStream(ctx, s.streamConfig(l)); err != nil {
		return created, err
	}
	if created.DeadLetters, err = s.ensureStream(ctx, s.deadLetterConfig(l)); err != nil {
		return created, err
	}
	created.Consumer, err = s.ensureConsumer(ctx, s.consumerConfig(l))
	return created, err
}

// complete fills in the defaults and validates the layout.
func (s *Source) complete(l *Layout) error {
	fail := func(field string, value any, why string) error {
		return fmt.Errorf("%w: Layout.%s = %v: %s", ErrInvalidConfig, field, value, why)
	}
	if len(l.Subjects) == 0 {
		return fail("Subjects", l.Subjects, "must name what the stream takes in")
	}
	for i, subject := range l.Subjects {
		field := fmt.Sprintf("Subjects[%d]", i)
		if !validPattern(subject) {
			return fail(field, fmt.Sprintf("%q", subject), "must be a subject, with or without wildcards")
		}
		for _, own := range []string{s.set.DeferSubject + ".*", s.set.ReturnSubject + ".*", s.set.DeadLetterSubject} {
			if own != ".*" && overlaps(subject, own) {
				return fail(field, fmt.Sprintf("%q", subject), fmt.Sprintf("must not take in %q, which the source publishes to", own))
			}
		}
	}
	switch {
	case l.Retention == jetstream.InterestPolicy && !s.set.NakDeferrals:
		return fail("Retention", l.Retention, "cannot keep deferred copies; use LimitsPolicy or WorkQueuePolicy, or set NakDeferrals")
	case l.Replicas < 0:
		return fail("Replicas", l.Replicas, "must not be negative")
	case l.AckWait != 0 && l.AckWait < minAckWait:
		return fail("AckWait", l.AckWait, "must be at least "+minAckWait.String())
	case l.MaxAckPending < -1:
		return fail("MaxAckPending", l.MaxAckPending, "must be positive, or -1 for no limit")
	}
	if l.Replicas == 0 {
		l.Replicas = 1
	}
	if l.AckWait == 0 {
		l.AckWait = 30 * time.Second
	}
	if l.MaxAckPending == 0 {
		l.MaxAckPending = 8192
	}
	return nil
}

func (s *Source) streamConfig(l Layout) jetstream.StreamConfig {
	c := jetstream.StreamConfig{
		Name: s.set.Stream, Subjects: slices.Clone(l.Subjects),
		Retention: l.Retention, Storage: l.Storage, Replicas: l.Replicas,
	}
	if !s.set.NakDeferrals {
		c.Subjects = append(s.reads(l), s.set.DeferSubject+".*")
		c.AllowMsgSchedules = true
	}
	return c
}

func (s *Source) deadLetterConfig(l Layout) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: s.set.DeadLetterStream, Subjects: []string{s.set.DeadLetterSubject},
		Storage: l.Storage, Replicas: l.Replicas,
	}
}

func (s *Source) consumerConfig(l Layout) jetstream.ConsumerConfig {
	c := jetstream.ConsumerConfig{
		Durable: s.set.Consumer, AckPolicy: jetstream.AckExplicitPolicy, AckWait: l.AckWait,
		MaxDeliver: -1, MaxAckPending: l.MaxAckPending,
	}
	if reads := s.reads(l); len(reads) == 1 {
		c.FilterSubject = reads[0]
	} else {
		c.FilterSubjects = reads
	}
	return c
}

// reads returns what the consumer reads.
func (s *Source) reads(l Layout) []string {
	reads := slices.Clone(l.Subjects)
	if s.set.ReturnSubject != "" {
		reads = append(reads, s.set.ReturnSubject+".*")
	}
	return reads
}

func (s *Source) ensureStream(ctx context.Context, want jetstream.StreamConfig) (created bool, err error) {
	have, err := s.js.Stream(ctx, want.Name)
	if err == nil {
		return false, compareStream(have.CachedInfo().Config, want)
	}
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return false, s.unanswered("stream "+want.Name, err)
	}
	if _, err = s.js.CreateStream(ctx, want); err != nil {
		return false, fmt.Errorf("fluxnats: create stream %s: %w", want.Name, err)
	}
	return true, nil
}

func (s *Source) ensureConsumer(ctx context.Context, want jetstream.ConsumerConfig) (created bool, err error) {
	have, err := s.js.Consumer(ctx, s.set.Stream, want.Durable)
	if err == nil {
		return false, compareConsumer(have.CachedInfo().Config, want)
	}
	if !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return false, s.unanswered("consumer "+want.Durable+" of stream "+s.set.Stream, err)
	}
	if _, err = s.js.CreateConsumer(ctx, s.set.Stream, want); err != nil {
		return false, fmt.Errorf("fluxnats: create consumer %s of stream %s: %w", want.Durable, s.set.Stream, err)
	}
	return true, nil
}

// undo deletes what a failed call created, unless it is used by now: another call
// may have created the same at the same moment, and gone on.
func (s *Source) undo(ctx context.Context, c Created) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	for _, name := range []struct {
		made bool
		name string
	}{{c.Stream, s.set.Stream}, {c.DeadLetters, s.set.DeadLetterStream}} {
		if !name.made {
			continue
		}
		str, err := s.js.Stream(ctx, name.name)
		if err == nil {
			if state := str.CachedInfo().State; state.LastSeq > 0 || state.Consumers > 0 {
				s.set.log.Warn("the stream that was created before the error is in use, and stays", "created", name.name)
				continue
			}
			err = s.js.DeleteStream(ctx, name.name)
		}
		if err != nil {
			s.set.log.Error("cannot delete the stream that was created before the error", "created", name.name, "error", err)
		}
	}
}

// difference is a field of a configuration that differs from the wanted one.
type difference struct {
	field      string
	have, want any
}

func differ(what string, pairs []difference) error {
	for _, p := range pairs {
		if p.have != p.want {
			return fmt.Errorf("%w: %s: %s is %v, wanted %v", ErrExists, what, p.field, p.have, p.want)
		}
	}
	return nil
}

func compareStream(have, want jetstream.StreamConfig) error {
	return differ("stream "+want.Name, []difference{
		{"Subjects", list(have.Subjects), list(want.Subjects)},
		{"Retention", have.Retention, want.Retention},
		{"Storage", have.Storage, want.Storage},
		{"Replicas", have.Replicas, want.Replicas},
		{"AllowMsgSchedules", have.AllowMsgSchedules, want.AllowMsgSchedules},
	})
}

func compareConsumer(have, want jetstream.ConsumerConfig) error {
	return differ("consumer "+want.Durable, []difference{
		{"FilterSubjects", list(filtersOf(have)), list(filtersOf(want))},
		{"AckPolicy", have.AckPolicy, want.AckPolicy},
		{"AckWait", have.AckWait, want.AckWait},
		{"MaxDeliver", have.MaxDeliver, want.MaxDeliver},
		{"MaxAckPending", have.MaxAckPending, want.MaxAckPending},
	})
}

// list makes a set of subjects comparable.
func list(subjects []string) string {
	sorted := slices.Sorted(slices.Values(subjects))
	return strings.Join(sorted, ", ")
}
