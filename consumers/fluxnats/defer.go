package fluxnats

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux/stream"
)

// Defer publishes a scheduled copy of the message, and acknowledges the message
// when the server has confirmed the copy. A copy that the server refuses for
// good, being too large, say, makes it a delayed negative acknowledgement.
//
// The copy of a message whose stream was deleted and made again would be taken for
// one of the message that has its sequence now. Such a message is gone, as its
// stream is.
func (d *delivery) Defer(ctx context.Context, f stream.Deferral) error {
	switch gone, err := d.gone(); {
	case err != nil:
		return fmt.Errorf("fluxnats: defer %s: %w", d.msg.ID(), err)
	case gone:
		d.settled(true)
		return nil
	}
	if !d.copied {
		if d.r.set.NakDeferrals {
			return d.nak(ctx, f)
		}
		if err := d.publish(ctx, d.deferredCopy(f)); err != nil {
			if !refused(err) {
				return fmt.Errorf("fluxnats: defer %s: %w", d.msg.ID(), err)
			}
			d.r.set.log.Warn("the server refuses a deferred copy, the message stays with the consumer", "message", d.msg.ID(), "error", err)
			return d.nak(ctx, f)
		}
		d.copied = true
		d.r.src.stats.copies.Add(1)
	}
	return d.done(ctx, ackDone)
}

// deferredCopy returns the message that the server's scheduler keeps until it
// is due. Its subject and its id follow from the stored message alone: a second
// copy of it, made after a crash, is recognised within the duplicate window, and
// replaces the first if that is still waiting. The counts are no part of the id:
// a retry changes one and a deferral the other, and the same message may be
// deferred for another reason when it comes again.
func (d *delivery) deferredCopy(f stream.Deferral) *nats.Msg {
	seq := strconv.FormatUint(d.seq, 10)
	set := d.r.set
	h := copyHeaders(d.msg.m.Header)
	h[jetstream.MsgIDHeader] = []string{set.Stream + ":" + seq + ":d:" + set.Consumer}
	h[jetstream.ExpectedStreamHeader] = []string{set.Stream}
	target := d.msg.m.Subject
	if set.ReturnSubject != "" {
		target = set.ReturnSubject + "." + seq
	}
	h[jetstream.ScheduleTargetHeader] = []string{target}
	// With nanoseconds: the client library's own option cuts the time down to
	// the second before it, and the message would come back early.
	h[jetstream.ScheduleHeader] = []string{"@at " + f.Until.UTC().Format(time.RFC3339Nano)}
	if d.r.facts.Load().maxAge > 0 {
		h[jetstream.MsgTTLHeader] = []string{"never"}
	}
	setText(h, hdrTenant, f.Tenant)
	setText(h, hdrReason, f.Reason.String())
	setCount(h, hdrAttempts, f.Attempts)
	setCount(h, hdrDeferrals, f.Deferrals)
	h[hdrOrder] = []string{strconv.FormatInt(f.Order, 10)}
	setTime(h, hdrFirstSeen, d.firstSeen)
	setTime(h, hdrDue, f.Until.UnixNano())
	setText(h, hdrOrigin, d.msg.ID())
	setText(h, hdrSubject, d.msg.m.Subject)
	return &nats.Msg{Subject: set.DeferSubject + "." + seq, Header: h, Data: d.msg.m.Data}
}

// publish stores a message in a stream, and returns nil once that is confirmed.
func (d *delivery) publish(ctx context.Context, m *nats.Msg) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	_, err := d.r.src.js.PublishMsg(ctx, m)
	return err
}

// refused reports whether a publish failed in a way that trying again cannot
// mend.
func refused(err error) bool {
	if errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrBadHeaderMsg) || errors.Is(err, nats.ErrBadSubject) {
		return true
	}
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && api.Code >= 400 && api.Code < 500
}

// nak hands the message back to come again when it is due.
func (d *delivery) nak(ctx context.Context, f stream.Deferral) error {
	r := d.r
	r.mu.Lock()
	r.remember(d.seq, nakked{counts{f.Attempts, f.Deferrals, f.Order}, d.stored, f.Until})
	r.mu.Unlock()
	delay := max(time.Until(f.Until), time.Millisecond)
	if err := d.confirm(ctx, delayedNak(delay)); err != nil {
		return err
	}
	d.settled(true)
	r.src.stats.naks.Add(1)
	return nil
}

// nakked is what is known of a message that was handed back until it is due.
type nakked struct {
	counts
	stored int64
	due    time.Time
}

// remember keeps what is known of a message until it comes again. It forgets some if
// there are more of them than the consumer can have outstanding: those came
// again at another member. The lock must be held.
func (r *run) remember(seq uint64, n nakked) {
	if limit := r.facts.Load().maxAckPending; limit > 0 && len(r.naks) >= limit {
		for old := range r.naks {
			delete(r.naks, old)
			break
		}
	}
	r.naks[seq] = n
}
