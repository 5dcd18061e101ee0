package streamtest

import (
	"context"
	"errors"
	"strconv"

	"github.com/fluxlimiter/flux/stream"
)

// delivery is one delivery of a record.
type delivery struct {
	broker    *Broker
	record    *record
	epoch     *epoch
	partition *partition

	over bool // settled or released, or known to be lost; guarded by the broker's mutex
	mute bool // over, but the gate was not told
	lost bool // revoked before it was settled
}

func (d *delivery) Message() *Message        { return d.record.message }
func (d *delivery) Revoked() <-chan struct{} { return d.epoch.revoked }

func (d *delivery) Meta() stream.Meta {
	d.broker.mu.Lock()
	defer d.broker.mu.Unlock()
	r := d.record
	m := stream.Meta{
		Time: r.published, Attempts: r.attempts, Deferrals: r.deferrals,
		Redelivered: r.delivered > 1, Bytes: r.message.Bytes,
		Partition: strconv.Itoa(r.message.Partition),
	}
	switch d.broker.cfg.Order {
	case Position:
		m.Order = r.message.ID
	case Kept:
		m.Order = r.order
	}
	return m
}

func (d *delivery) Ack(ctx context.Context) error {
	return d.settle(ctx, Event{Kind: Acked}, func(r *record) { r.final = true })
}

func (d *delivery) Defer(ctx context.Context, to stream.Deferral) error {
	return d.settle(ctx, Event{Kind: Deferred, Until: to.Until, Reason: to.Reason}, func(r *record) {
		r.due, r.attempts, r.deferrals, r.order = to.Until, to.Attempts, to.Deferrals, to.Order
	})
}

func (d *delivery) DeadLetter(ctx context.Context, l stream.Letter) error {
	return d.settle(ctx, Event{Kind: DeadLettered, Reason: l.Reason, Letter: l}, func(r *record) { r.final = true })
}

// settle lets one settle take effect, unless it is made to fail.
func (d *delivery) settle(ctx context.Context, event Event, effect func(*record)) error {
	b, r := d.broker, d.record
	b.mu.Lock()
	r.tries[event.Kind]++
	try := r.tries[event.Kind]
	b.mu.Unlock()
	var fault error
	if b.cfg.Fault != nil {
		fault = b.cfg.Fault(event.Kind, r.message, try)
	}
	if fault != nil {
		b.mu.Lock()
		b.record(Event{Kind: Failed, Message: r.message, Err: fault})
		b.mu.Unlock()
		if !errors.Is(fault, ErrAnswerLost) {
			return fault
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}

	b.mu.Lock()
	defer b.mu.Unlock()
	event.Message = r.message
	if d.mute {
		d.answer(fault)
		return fault
	}
	if d.over {
		// The gate must not do this: the oracle finds it.
		event.Kind = SettledAgain
		b.record(event)
		return nil
	}
	d.over = true
	if d.lost {
		d.epoch.let(d)
		return stream.ErrRevoked
	}
	d.answer(fault)
	if r.final {
		return fault // its copy was settled
	}
	effect(r)
	b.record(event)
	if r.final {
		b.unsettled--
		b.settleLast()
		return fault
	}
	d.partition.back(r)
	return fault
}

// answer lets go of d, which is over, unless fault keeps the gate from knowing.
func (d *delivery) answer(fault error) {
	if d.mute = fault != nil; !d.mute {
		d.epoch.let(d)
	}
}

// Release implements [stream.Delivery].
func (d *delivery) Release() {
	b := d.broker
	b.mu.Lock()
	defer b.mu.Unlock()
	if d.over && !d.mute {
		b.record(Event{Kind: SettledAgain, Message: d.record.message})
		return
	}
	settled := d.mute
	d.over, d.mute = true, false
	d.epoch.let(d)
	b.record(Event{Kind: Released, Message: d.record.message})
	if !d.lost && !settled {
		d.partition.back(d.record)
	}
}

var _ stream.Delivery[*Message] = (*delivery)(nil)
