package streamtest

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/fluxlimiter/flux/stream"
)

// Kind is what an [Event] is about.
type Kind uint8

// The kinds of events. Those up to SettledAgain the broker records by itself,
// Started and Ended come from a handler wrapped by [Broker.Record].
const (
	Published    Kind = iota + 1
	Delivered         // to the gate, though it may still have to wait for room
	Acked             // processed, or dropped
	Deferred          // until Until
	DeadLettered      // for Reason
	Released          // unsettled
	Failed            // a settle, with Err
	Revoked           // a partition
	SettledAgain      // although it was settled or released before
	Started           // a handler, with Info
	Ended             // a handler, with Err
)

var kindNames = [...]string{
	Published: "published", Delivered: "delivered", Acked: "acked", Deferred: "deferred",
	DeadLettered: "dead-lettered", Released: "released", Failed: "failed", Revoked: "revoked",
	SettledAgain: "settled again", Started: "started", Ended: "ended",
}

// String returns the kind's name.
func (k Kind) String() string {
	if int(k) < len(kindNames) && kindNames[k] != "" {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Event is something that happened. Which fields mean something depends on its
// Kind.
type Event struct {
	At        time.Time
	Kind      Kind
	Message   *Message
	Partition int
	Count     int // of deliveries
	Until     time.Time
	Reason    stream.Reason
	Letter    stream.Letter
	Info      stream.Info
	Err       error
}

// String returns the event as in "1.5s started 7 (tenant a)", with the time of
// day.
func (e Event) String() string {
	s := fmt.Sprintf("%s %v", e.At.Format("15:04:05.000000"), e.Kind)
	if e.Message != nil {
		s += fmt.Sprintf(" %d (tenant %q, key %q)", e.Message.ID, e.Message.Tenant, e.Message.Key)
	}
	if e.Reason != stream.ReasonNone {
		s += fmt.Sprintf(", %v", e.Reason)
	}
	if !e.Until.IsZero() {
		s += e.Until.Format(" until 15:04:05.000000")
	}
	if e.Err != nil {
		s += fmt.Sprintf(": %v", e.Err)
	}
	return s
}

// record appends an event. The caller holds the mutex.
func (b *Broker) record(e Event) {
	e.At = time.Now()
	// In pieces, because copying a long history time and again is most of the
	// work otherwise.
	last := len(b.history) - 1
	if last < 0 || len(b.history[last]) == cap(b.history[last]) {
		b.history = append(b.history, make(History, 0, 1024))
		last++
	}
	b.history[last] = append(b.history[last], e)
}

// Record wraps a handler so that its calls stand in the history.
func (b *Broker) Record(handle stream.Handler[*Message]) stream.Handler[*Message] {
	return func(ctx context.Context, m *Message) (err error) {
		info, _ := stream.FromContext(ctx)
		b.mu.Lock()
		b.record(Event{Kind: Started, Message: m, Info: info})
		b.mu.Unlock()
		returned := false
		defer func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			if !returned {
				err = errNotReturned
			}
			b.record(Event{Kind: Ended, Message: m, Err: err})
		}()
		err = handle(ctx, m)
		returned = true
		return err
	}
}

// RecordBatch is Record for a handler of batches.
func (b *Broker) RecordBatch(handle stream.BatchHandler[*Message]) stream.BatchHandler[*Message] {
	return func(ctx context.Context, batch []*stream.Item[*Message]) (err error) {
		b.mu.Lock()
		for _, item := range batch {
			b.record(Event{Kind: Started, Message: item.Message, Info: item.Info()})
		}
		b.mu.Unlock()
		returned := false
		defer func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			if !returned {
				err = errNotReturned
			}
			for _, item := range batch {
				result := err
				if done, own := item.Result(); done {
					result = own
				}
				b.record(Event{Kind: Ended, Message: item.Message, Err: result})
			}
		}()
		err = handle(ctx, batch)
		returned = true
		return err
	}
}

var errNotReturned = fmt.Errorf("streamtest: handler panicked or ended its goroutine")

// History returns what has happened so far.
func (b *Broker) History() History {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Concat(b.history...)
}

// History is a list of events in the order in which they happened.
type History []Event

// Count returns the number of events of a kind.
func (h History) Count(kind Kind) (n int) {
	for i := range h {
		if h[i].Kind == kind {
			n++
		}
	}
	return n
}

// Of returns the events of one message.
func (h History) Of(id int64) (events History) {
	for _, e := range h {
		if e.Message != nil && e.Message.ID == id {
			events = append(events, e)
		}
	}
	return events
}
