package fluxnats_test

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/stream"
	"github.com/fluxlimiter/flux/stream/streamtest"
)

// recorder notes what becomes of messages between a source and a gate, for the
// oracles of streamtest. Payloads are the messages' numbers, counted from one.
type recorder struct {
	messages []*streamtest.Message
	pause    func() // before each settle

	mu      sync.Mutex
	history streamtest.History
	ended   map[int64]bool
	again   int // ends of messages that had ended
}

func newRecorder(messages []*streamtest.Message) *recorder {
	return &recorder{messages: messages, ended: make(map[int64]bool)}
}

func (r *recorder) message(m *fluxnats.Msg) *streamtest.Message {
	return r.messages[number(m.Data())-1]
}

func (r *recorder) note(e streamtest.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Kind == streamtest.Acked || e.Kind == streamtest.DeadLettered {
		// After a fault a message may come again and end again, which the
		// oracles do not forgive and the budget for duplicates does.
		if r.ended[e.Message.ID] {
			r.again++
			return
		}
		r.ended[e.Message.ID] = true
	}
	e.At = time.Now()
	r.history = append(r.history, e)
}

// done reports whether all messages have ended.
func (r *recorder) done() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.ended) == len(r.messages)
}

// source returns src with its deliveries noted.
func (r *recorder) source(src stream.Source[*fluxnats.Msg]) stream.Source[*fluxnats.Msg] {
	return recordedSource{src, r}
}

type recordedSource struct {
	stream.Source[*fluxnats.Msg]
	r *recorder
}

func (s recordedSource) Run(ctx context.Context, in stream.Intake[*fluxnats.Msg]) error {
	return s.Source.Run(ctx, recordedIntake{in, s.r})
}

type recordedIntake struct {
	stream.Intake[*fluxnats.Msg]
	r *recorder
}

func (in recordedIntake) Deliver(ctx context.Context, deliveries ...delivery) error {
	recorded := make([]delivery, len(deliveries))
	for i, d := range deliveries {
		in.r.note(streamtest.Event{Kind: streamtest.Delivered, Message: in.r.message(d.Message())})
		recorded[i] = &recordedDelivery{d, in.r}
	}
	return in.Intake.Deliver(ctx, recorded...)
}

type recordedDelivery struct {
	delivery
	r *recorder
}

func (d *recordedDelivery) settled(err error, e streamtest.Event) error {
	e.Message = d.r.message(d.Message())
	if err != nil {
		e = streamtest.Event{Kind: streamtest.Failed, Message: e.Message, Err: err}
	}
	d.r.note(e)
	return err
}

func (d *recordedDelivery) Ack(ctx context.Context) error {
	d.r.pause()
	return d.settled(d.delivery.Ack(ctx), streamtest.Event{Kind: streamtest.Acked})
}

func (d *recordedDelivery) Defer(ctx context.Context, f stream.Deferral) error {
	d.r.pause()
	return d.settled(d.delivery.Defer(ctx, f), streamtest.Event{Kind: streamtest.Deferred, Until: f.Until, Reason: f.Reason})
}

func (d *recordedDelivery) DeadLetter(ctx context.Context, l stream.Letter) error {
	d.r.pause()
	return d.settled(d.delivery.DeadLetter(ctx, l), streamtest.Event{Kind: streamtest.DeadLettered, Letter: l, Reason: l.Reason})
}

func (d *recordedDelivery) Release() {
	d.r.note(streamtest.Event{Kind: streamtest.Released, Message: d.r.message(d.Message())})
	d.delivery.Release()
}

// handler returns handle with its calls noted.
func (r *recorder) handler(handle func(context.Context, *streamtest.Message) error) stream.Handler[*fluxnats.Msg] {
	return func(ctx context.Context, m *fluxnats.Msg) error {
		info, _ := stream.FromContext(ctx)
		msg := r.message(m)
		r.note(streamtest.Event{Kind: streamtest.Started, Message: msg, Info: info})
		err := handle(ctx, msg)
		r.note(streamtest.Event{Kind: streamtest.Ended, Message: msg, Err: err})
		return err
	}
}

// payload is what a message is recognised by.
func payload(m *streamtest.Message) []byte { return strconv.AppendInt(nil, m.ID, 10) }
