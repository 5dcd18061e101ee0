package fluxnats

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// lookAtDeadLetters looks at the stream that is to confirm the dead letters that
// are published to it under a subject.
func lookAtDeadLetters(ctx context.Context, js jetstream.JetStream, name, subject string) error {
	s, err := js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("%w: dead-letter stream %s: %w; create it", ErrSetup, name, err)
	}
	if err != nil {
		return fmt.Errorf("fluxnats: look at dead-letter stream %s: %w", name, err)
	}
	var found problems
	found.ofDeadLetters(s.CachedInfo().Config, subject)
	return errors.Join(found...)
}

// ofDeadLetters adds what hinders a stream from keeping dead letters, or from
// confirming them.
func (p *problems) ofDeadLetters(c jetstream.StreamConfig, subject string) {
	if !anyCovers(c.Subjects, subject) {
		p.add("dead-letter stream %s: its subjects %q do not take in %q; add it", c.Name, c.Subjects, subject)
	}
	if c.Retention == jetstream.InterestPolicy {
		p.add("dead-letter stream %s: Retention is Interest: a dead letter is confirmed and not kept unless a consumer wants it; use Limits", c.Name)
	}
	if c.NoAck {
		p.add("dead-letter stream %s: NoAck is set, so dead letters cannot be confirmed; unset it", c.Name)
	}
}

// explained adds to an error what the server tells the connection and not the one
// who asked: that it does not permit what was asked. before is the connection's
// last error before that.
func explained(nc *nats.Conn, before, err error) error {
	last := nc.LastError()
	if err == nil || last == before || !errors.Is(last, nats.ErrPermissionViolation) { //nolint:errorlint // the same value, not the same kind
		return err
	}
	return fmt.Errorf("%w; the server says: %w", err, last)
}

// remove deletes a message of a stream, if somebody else has not done so.
func remove(ctx context.Context, s jetstream.Stream, seq uint64) error {
	err := s.DeleteMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		if _, gone := s.GetMsg(ctx, seq); errors.Is(gone, jetstream.ErrMsgNotFound) {
			return nil
		}
	}
	return err
}
