package fluxkafka

import (
	"context"
	"fmt"
	"hash/fnv"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/fluxlimiter/flux/stream"
)

// record is a message that was delivered, and the way to settle it. What a lane
// brings back looks as it did when it was first published: msg has the topic,
// partition, offset and time of then.
type record struct {
	msg    kafka.Message
	part   *partition
	offset int64 // in part
	stay   *stay // nil: it comes from no lane

	size        int32
	redelivered bool

	// Guarded by part.mu.
	state      state
	prev, next *record
}

// stay is what a lane's record says of its deferral.
type stay struct {
	// due is when it may leave the lane, until when its time has come, which is
	// later if no lane is long enough.
	due, until time.Time

	tenant, reason      string
	attempts, deferrals int
}

type state uint8

const (
	stateHeld     state = iota // not taken by the gate
	stateOut                   // with the gate
	stateReleased              // given up by the gate
	stateDone
)

var _ stream.Delivery[*kafka.Message] = (*record)(nil)

func (r *record) Message() *kafka.Message { return &r.msg }

func (r *record) Meta() stream.Meta {
	m := stream.Meta{
		Time: r.msg.Time, Redelivered: r.redelivered, Order: r.part.order(r.msg.Offset), Bytes: int(r.size), Partition: r.part.name,
	}
	if r.stay != nil {
		m.Attempts, m.Deferrals = r.stay.attempts, r.stay.deferrals
	}
	return m
}

func (r *record) Revoked() <-chan struct{} { return r.part.gen.revoked }

// Ack marks the message done. The offset goes to the broker with one of the
// next commits.
func (r *record) Ack(context.Context) error { return r.part.settle(r) }

func (r *record) Defer(ctx context.Context, d stream.Deferral) error {
	if err := r.part.owned(r); err != nil {
		return err
	}
	if err := r.part.gen.session.hold(ctx, r, d, d.Reason.String()); err != nil {
		return fmt.Errorf("fluxkafka: deferring %s: %w", r.id(), err)
	}
	return r.part.settle(r)
}

func (r *record) DeadLetter(ctx context.Context, l stream.Letter) error {
	if err := r.part.owned(r); err != nil {
		return err
	}
	if err := r.part.gen.session.bury(ctx, r, l); err != nil {
		return fmt.Errorf("fluxkafka: dead letter for %s: %w", r.id(), err)
	}
	return r.part.settle(r)
}

func (r *record) Release() { r.part.release(r) }

// order returns the place among the messages of its key, which are of one
// partition, of that at an offset: the offset, and a mark of the topic, so that
// two topics with the same key do not get in each other's way.
func (p *partition) order(offset int64) int64 { return (offset+1)<<16 | p.mark }

// mark returns 16 bits that two topics hardly share.
func mark(topic string) int64 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(topic)) // it never fails
	return int64(h.Sum32() >> 16)
}

// id names the message by where it was first published.
func (r *record) id() string {
	return fmt.Sprintf("%s/%d/%d", r.msg.Topic, r.msg.Partition, r.msg.Offset)
}
