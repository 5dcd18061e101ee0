package fluxnats

import (
	"cmp"
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fluxlimiter/flux/stream"
)

// answerTimeout bounds the wait for an answer of the server. One that has not come
// by then will not come, and asking again is harmless.
const answerTimeout = 5 * time.Second

// releasePause is when a message comes again that was released while the source
// goes on.
const releasePause = time.Second

var (
	ackDone = []byte("+ACK")
	ackNak  = []byte("-NAK")
)

// delivery is a message that the server has given to this source. Its fields
// are set before anyone else sees it, but for those of the ring, which are the
// run's, and copied, which is for whoever settles it.
type delivery struct {
	msg Msg
	r   *run
	seq uint64 // in the stream

	stored    int64 // when the server stored it, and when its first copy, in Unix nanoseconds
	firstSeen int64
	counts
	redelivered bool

	// copied is set when a deferred copy or dead letter of the message is known
	// to be stored: it must not be handled again.
	copied bool

	// foreign is set when the stream of the message is known to be gone, and
	// another to have its name: no verdict may go there, as it would be one on the
	// message that has the same sequence now.
	foreign atomic.Bool

	prev, next *delivery
	touched    time.Duration
}

var _ stream.Delivery[*Msg] = (*delivery)(nil)

func newDelivery(r *run, m *nats.Msg, info ackInfo) *delivery {
	d := &delivery{
		msg: Msg{m: m, origin: origin{stream: r.set.Stream, seq: info.seq}},
		r:   r, seq: info.seq, stored: info.stored, firstSeen: info.stored, redelivered: info.delivered > 1,
	}
	if len(m.Header) > 0 {
		if hist, ok := readHistory(m.Header, m.Subject, &r.set.Config, info.stored); ok {
			d.msg.origin, d.firstSeen, d.counts = hist.origin, hist.firstSeen, hist.counts
			m.Subject = cmp.Or(hist.subject, m.Subject)
		}
		if len(m.Header) == 0 {
			m.Header = nil
		}
	}
	if r.set.NakDeferrals {
		// What another process deferred, or let fall, nobody can tell apart.
		d.deferrals += int(min(info.delivered-1, 1<<30))
	}
	return d
}

func (d *delivery) Message() *Msg { return &d.msg }

func (d *delivery) Meta() stream.Meta {
	return stream.Meta{
		Time: time.Unix(0, d.firstSeen), Attempts: d.attempts, Deferrals: d.deferrals, Order: d.order,
		Redelivered: d.redelivered, Bytes: d.msg.m.Size(),
	}
}

// Revoked returns nil: JetStream does not tell a consumer's member that a
// message has been given to another.
func (d *delivery) Revoked() <-chan struct{} { return nil }

// Ack acknowledges the message. Unless [Config.ConfirmAcks] is set, nil means
// that the acknowledgement will be sent, within a millisecond or so if the
// connection is there.
func (d *delivery) Ack(ctx context.Context) error {
	if d.r.set.ConfirmAcks {
		return d.done(ctx, ackDone)
	}
	if d.r.queueAck(d) {
		return nil
	}
	if d.foreign.Load() {
		return nil
	}
	if err := d.r.nc.Publish(d.msg.m.Reply, ackDone); err != nil {
		return fmt.Errorf("fluxnats: acknowledge %s: %w", d.msg.ID(), err)
	}
	return nil
}

func delayedNak(delay time.Duration) []byte {
	return fmt.Appendf(nil, `-NAK {"delay":%d}`, delay.Nanoseconds())
}

// done sends a verdict that ends the message.
func (d *delivery) done(ctx context.Context, verdict []byte) error {
	err := d.confirm(ctx, verdict)
	if err == nil {
		d.settled(false)
	}
	return err
}

// confirm sends a verdict and waits for the server to confirm it.
func (d *delivery) confirm(ctx context.Context, verdict []byte) error {
	switch gone, err := d.gone(); {
	case err != nil:
		return fmt.Errorf("fluxnats: settle %s: %w", d.msg.ID(), err)
	case gone:
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	if _, err := d.r.nc.RequestWithContext(ctx, d.msg.m.Reply, verdict); err != nil {
		return fmt.Errorf("fluxnats: settle %s: %w", d.msg.ID(), err)
	}
	return nil
}

// settled notes that the message is done with. One that was handed back by a
// negative acknowledgement is to come again.
func (d *delivery) settled(comesAgain bool) {
	d.r.mu.Lock()
	d.r.letGo(d)
	if !comesAgain && !d.foreign.Load() {
		d.r.recent.add(d)
	}
	d.r.mu.Unlock()
}

// Release hands the message back to the server, which gives it to whoever asks
// next. In a drain that happens once the server gives this source no more. At
// any other time the message comes again after releasePause, and not straight
// back into a gate that has just given it up.
func (d *delivery) Release() {
	r := d.r
	r.mu.Lock()
	if !r.letGo(d) {
		r.mu.Unlock()
		return
	}
	if r.ended() && !r.draining {
		r.released = append(r.released, d)
		r.mu.Unlock()
		return
	}
	pause := releasePause
	if r.draining {
		pause = 0
	}
	if d.copied && !d.foreign.Load() {
		r.recent.add(d)
	}
	r.mu.Unlock()
	r.giveBack(d, pause)
}

// giveBack makes the server deliver d again when pause is over. Without that it
// would do so when AckWait has passed; either way it counts as a delivery. A
// message that lives on as a copy is acknowledged instead.
func (r *run) giveBack(d *delivery, pause time.Duration) {
	if d.foreign.Load() {
		return
	}
	verdict := ackNak
	switch {
	case d.copied:
		verdict = ackDone
	case pause > 0:
		verdict = delayedNak(pause)
	}
	r.handBack(d, verdict)
	r.src.stats.returned.Add(1)
}

func (r *run) handBack(d *delivery, verdict []byte) {
	err := nats.ErrDisconnected
	if r.nc.IsConnected() || r.ended() {
		err = r.nc.Publish(d.msg.m.Reply, verdict)
	}
	if err != nil {
		r.set.log.Warn("cannot hand a message back, it comes again when AckWait has passed", "message", d.msg.ID(), "error", err)
	}
}
