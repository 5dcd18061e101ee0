package fluxnats

import (
	"context"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux/stream"
)

// What a dead letter says of an error and of a stack, at most. The server takes
// no more than 64 KiB of headers.
const (
	maxErrorText = 4 << 10
	maxStackText = 16 << 10
)

// DeadLetter publishes the message to the dead-letter stream, and terminates it
// at the consumer when the server has confirmed the dead letter.
func (d *delivery) DeadLetter(ctx context.Context, l stream.Letter) error {
	if !d.copied {
		if err := d.bury(ctx, l.Reason.String(), l); err != nil {
			return err
		}
		d.copied = true
	}
	// A termination settles like an acknowledgement, and tells the listeners of
	// the consumer's advisories why.
	return d.done(ctx, []byte("+TERM "+l.Reason.String()))
}

// bury stores the dead letter, and returns nil once that is confirmed.
func (d *delivery) bury(ctx context.Context, reason string, l stream.Letter) error {
	err := d.publish(ctx, d.deadLetter(reason, l, maxErrorText, maxStackText))
	if err != nil && refused(err) {
		// Too much in all: what was added goes first, but for the facts.
		err = d.publish(ctx, d.deadLetter(reason, l, 256, 0))
	}
	if err != nil {
		return fmt.Errorf("fluxnats: dead letter of %s to stream %s: %w", d.msg.ID(), d.r.set.DeadLetterStream, err)
	}
	return nil
}

func (d *delivery) deadLetter(reason string, l stream.Letter, errorText, stackText int) *nats.Msg {
	set := d.r.set
	h := copyHeaders(d.msg.m.Header)
	// The time is for a stream that is deleted and made again: its sequences
	// begin anew, and the dead-letter stream may remember the old ones.
	h[jetstream.MsgIDHeader] = []string{fmt.Sprintf("%s:%d:dead:%s", d.msg.ID(), d.firstSeen, set.Consumer)}
	h[jetstream.ExpectedStreamHeader] = []string{set.DeadLetterStream}
	setLetter(h, reason, l, errorText, stackText)
	setText(h, hdrOrigin, d.msg.ID())
	setTime(h, hdrFirstSeen, d.firstSeen)
	setText(h, hdrStream, set.Stream)
	setText(h, hdrConsumer, set.Consumer)
	setText(h, hdrSubject, d.msg.m.Subject)
	h[hdrSequence] = []string{strconv.FormatUint(d.seq, 10)}
	setTime(h, hdrTime, d.stored)
	return &nats.Msg{Subject: set.DeadLetterSubject, Header: h, Data: d.msg.m.Data}
}

// setLetter sets the headers that say why, with so much text of the error and
// the stack at most.
func setLetter(h nats.Header, reason string, l stream.Letter, errorText, stackText int) {
	setText(h, hdrReason, reason)
	setText(h, hdrTenant, l.Tenant)
	setCount(h, hdrAttempts, l.Attempts)
	setCount(h, hdrDeferrals, l.Deferrals)
	if l.Err != nil {
		setText(h, hdrError, clip(l.Err.Error(), errorText))
	}
	if len(l.Stack) > 0 && stackText > 0 {
		setText(h, hdrStack, clip(string(l.Stack), stackText))
	}
}

func clip(s string, n int) string { return s[:min(len(s), n)] }
