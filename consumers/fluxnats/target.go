package fluxnats

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// checkTarget looks at a stream that is to confirm what is published to it under
// a subject.
func checkTarget(ctx context.Context, js jetstream.JetStream, what, name, subject string) error {
	s, err := js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("%w: %s %s: %w; create it", ErrSetup, what, name, err)
	}
	if err != nil {
		return fmt.Errorf("fluxnats: look at %s %s: %w", what, name, err)
	}
	var found problems
	c := s.CachedInfo().Config
	if !anyCovers(c.Subjects, subject) {
		found.add("%s %s: its subjects %q do not take in %q; add it", what, name, c.Subjects, subject)
	}
	if c.NoAck {
		found.add("%s %s: NoAck is set, so what is stored cannot be confirmed; unset it", what, name)
	}
	return errors.Join(found...)
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
