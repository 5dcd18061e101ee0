package fluxnats

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux/stream"
)

// reasonReleased is why a message became a dead letter that the gate gave up,
// being about to end: no reason of the gate's.
const reasonReleased = "released"

// coreDelivery is a message of core NATS: the server has forgotten it.
type coreDelivery struct {
	msg      Msg
	r        *coreRun
	over     bool        // settled or released; guarded by the run's mutex
	answered atomic.Bool // by the handler
	id       string      // of its dead letter
}

var _ stream.Delivery[*Msg] = (*coreDelivery)(nil)

func (d *coreDelivery) Message() *Msg { return &d.msg }

// Meta knows the size of the message and nothing else.
func (d *coreDelivery) Meta() stream.Meta { return stream.Meta{Bytes: d.msg.m.Size()} }

// Revoked returns nil: a message stays with whom it was given to.
func (d *coreDelivery) Revoked() <-chan struct{} { return nil }

// Ack tells nobody: the server did that when it sent the message.
func (d *coreDelivery) Ack(context.Context) error {
	d.settled()
	return nil
}

// Defer fails. A gate does not call it: see [Core.CanDefer].
func (d *coreDelivery) Defer(context.Context, stream.Deferral) error {
	return errors.New("fluxnats: core NATS keeps no message for later")
}

// DeadLetter answers the request, or publishes the dead letter.
func (d *coreDelivery) DeadLetter(ctx context.Context, l stream.Letter) error {
	if err := d.away(ctx, l.Reason.String(), l); err != nil {
		return err
	}
	d.settled()
	return nil
}

// Release gives the message up. It becomes a dead letter soon.
func (d *coreDelivery) Release() {
	r := d.r
	r.mu.Lock()
	again, ended := d.over, r.isIdle
	d.over = true
	if !again && !ended {
		r.released = append(r.released, d)
	}
	r.mu.Unlock()
	if again {
		return
	}
	r.src.stats.released.Add(1)
	if ended {
		// By an error, and nobody is left to publish anything.
		r.src.discard(&d.msg, reasonReleased, nil)
		return
	}
	poke(r.parting)
}

func (d *coreDelivery) settled() {
	d.r.mu.Lock()
	defer d.r.mu.Unlock()
	if !d.over {
		d.over = true
		d.r.letGo(1)
	}
}

// away finds a place for a message that is not processed, for a reason of the
// gate's or another.
func (d *coreDelivery) away(ctx context.Context, reason string, l stream.Letter) error {
	src := d.r.src
	set, m := &src.set, d.msg.m
	switch {
	case set.AnswerRefused && m.Reply != "" && !d.answered.Load():
		if err := src.nc.PublishMsg(refusal(m.Reply, reason, l)); err != nil {
			return fmt.Errorf("fluxnats: refuse a request: %w", err)
		}
		src.stats.refused.Add(1)
	case set.DeadLetterSubject == "":
		src.discard(&d.msg, reason, nil)
	default:
		if err := d.publish(ctx, reason, l); err != nil {
			return fmt.Errorf("fluxnats: dead letter to %s: %w", cmp.Or(set.DeadLetterStream, set.DeadLetterSubject), err)
		}
		src.stats.deadLetters.Add(1)
	}
	return nil
}

// discard counts a message that is lost, and says so.
func (s *Core) discard(m *Msg, reason string, err error) {
	s.stats.discarded.Add(1)
	s.set.Logger.Error("a message is lost", "message_subject", m.Subject(), "reason", reason, "error", err)
}

func (d *coreDelivery) publish(ctx context.Context, reason string, l stream.Letter) error {
	src := d.r.src
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	send := func(m *nats.Msg) error { return src.nc.PublishMsg(m) }
	if src.set.DeadLetterStream != "" {
		send = func(m *nats.Msg) error {
			_, err := src.js.PublishMsg(ctx, m)
			return err
		}
	}
	err := send(d.deadLetter(reason, l, maxErrorText, maxStackText))
	if err != nil && refused(err) {
		err = send(d.deadLetter(reason, l, 256, 0))
	}
	return err
}

func (d *coreDelivery) deadLetter(reason string, l stream.Letter, errorText, stackText int) *nats.Msg {
	set, m := &d.r.src.set, d.msg.m
	h := copyHeaders(m.Header)
	if set.DeadLetterStream != "" {
		if d.id == "" {
			d.id = "core:" + rand.Text()
		}
		h[jetstream.MsgIDHeader] = []string{d.id}
		h[jetstream.ExpectedStreamHeader] = []string{set.DeadLetterStream}
	}
	setLetter(h, reason, l, errorText, stackText)
	setText(h, hdrSubject, m.Subject)
	setTime(h, hdrTime, time.Now().UnixNano())
	return &nats.Msg{Subject: set.DeadLetterSubject, Header: h, Data: m.Data}
}
