package stream

import (
	"context"
	"time"
)

// Source takes messages of type M from a broker and hands them to the gate.
type Source[M any] interface {
	// Run delivers messages into in until ctx ends or the broker can give no
	// more. When ctx has ended it delivers nothing further, but it stays alive,
	// keeping held messages from being redelivered, until every message that it
	// delivered has been settled or released; then it returns. The gate settles
	// or releases all of them within its drain timeout.
	//
	// It returns nil when ctx ended or a finite source is exhausted. Faults
	// that pass (a lost connection, a leader change) it retries itself; an
	// error ends the gate's run.
	Run(ctx context.Context, in Intake[M]) error
}

// Deferrer is a [Source] that says whether it can hand messages back to be
// delivered again later. One without this method can.
//
// With a source that cannot, Run refuses a policy that defers what the limiter
// or the window denies, a handler's message waits in memory for its next
// attempt, however long that is, and Defer is never called.
type Deferrer interface {
	CanDefer() bool
}

// Intake is the gate's side of a [Source]. Its methods may be called by several
// goroutines at once, one per partition, say.
type Intake[M any] interface {
	// Room waits until the gate has room for a message and returns for how
	// many, from 1 to most. It reserves nothing: it tells how much a source
	// should fetch so that little of it has to wait outside of the gate.
	Room(ctx context.Context, most int) (int, error)

	// Window returns how many messages the gate holds at once. A source whose broker
	// lets it hold no more than most at a time says so here, before it delivers the
	// first: until the end of the run the gate's window, and every share of it, is
	// then no larger than that. Without it the places that the gate keeps free for
	// other tenants would be none that the broker fills.
	Window(most int) int

	// Deliver hands messages over, in their order. One call for those that came
	// together costs less than one for each. It blocks while the gate's window is
	// full, or the part of it that the next message's partition may have, and so
	// holds back the goroutine that calls it and no other. The gate owns the
	// messages from then on and settles or releases every one: after an error, which
	// is ctx's or [ErrStopped], those that it could not take are released already.
	Deliver(ctx context.Context, deliveries ...Delivery[M]) error

	// Recall asks for messages back that will soon be revoked: those whose
	// Revoked is that channel. What is parked is released at once; what a handler
	// has, or is being settled, goes on until the channel is closed, but is not
	// tried again. What is delivered later, or waits in Deliver, is released as soon
	// as there is room for it. A source calls it when it will deliver no more of
	// them, so that nothing but handlers keeps the next owner waiting.
	Recall(revoked <-chan struct{})
}

// Delivery is one message and the ways to settle it. The gate calls exactly
// one of Ack, Defer and DeadLetter until it succeeds, or Release, and each from
// one goroutine at a time.
//
// A settle returns nil only when it took effect, and [ErrRevoked] when the
// message is not this consumer's any more. Any other error means that it may or
// may not have taken effect; the gate tries again.
type Delivery[M any] interface {
	// Message returns the message itself.
	Message() M

	// Meta returns what the source knows of the message.
	Meta() Meta

	// Ack tells the broker that the message is done.
	Ack(ctx context.Context) error

	// Defer hands the message back to be delivered again at d.Until. It is
	// durable: it returns after the broker confirmed. A source whose delays are
	// coarse must not deliver it before that, or the gate has to defer it again,
	// each time behind all others. Half of [Policy.MaxWait] late does no harm, but
	// where order matters messages should be late in their order.
	Defer(ctx context.Context, d Deferral) error

	// DeadLetter moves the message to where it waits for a person. It is
	// durable: the dead letter is confirmed before the message is let go.
	DeadLetter(ctx context.Context, l Letter) error

	// Release gives the message up unsettled; the broker will redeliver it, to
	// whoever owns it by then. It does not block.
	Release()

	// Revoked is closed when this consumer no longer owns the message. It is
	// nil where that cannot happen. Messages that are revoked together should
	// share one channel: the gate keeps a goroutine for each channel.
	Revoked() <-chan struct{}
}

// Meta is what a [Source] knows of a message.
type Meta struct {
	// Time is when the message was first published. Age and dwell count from
	// it, through all deferrals.
	Time time.Time

	// Attempts is how often a handler has already failed with the message, and
	// Deferrals how often it was handed back without having been processed, as
	// [Policy.MaxDeferrals] counts: two counts, never mixed.
	Attempts  int
	Deferrals int

	// Redelivered reports that the broker delivered the message before and does
	// not know what became of it. The gate treats such a message like any other.
	Redelivered bool

	// Order is the message's place among those of its order key: of two of
	// them, that with the lower Order is to be processed first. It stays the same
	// through redeliveries and deferrals, as the position in the log that the
	// message was first read from does. A source without positions gives 0 for a
	// new message, which is then numbered as it arrives, and [Deferral.Order]
	// for one that comes back. If it cannot keep that either, a message that
	// comes back is taken for the first of its key that is expected.
	Order int64

	// Bytes is the size of the message, headers included, 0 if it is not known.
	// It counts against [Config.WindowBytes].
	Bytes int

	// Partition names the part of the source that the message came from, where
	// messages are settled in order: whatever is settled there counts only when
	// all before it is, too. It is empty where each message is settled by itself.
	// Messages of a partition that have different channels for their revocation
	// are taken for those of different partitions.
	Partition string
}

// Deferral says when a message is to come back, and with which counts.
type Deferral struct {
	Until     time.Time
	Reason    Reason
	Tenant    string
	Attempts  int
	Deferrals int
	Order     int64 // the message's [Meta.Order] from now on
}

// Letter says why a message became a dead letter.
type Letter struct {
	Reason    Reason
	Err       error  // what the handler returned, nil if it was not asked
	Stack     []byte // of the handler's panic, if it panicked
	Tenant    string
	Attempts  int
	Deferrals int

	// Turn is when the message could have run, had it been allowed to wait. It is
	// zero if it was denied for another reason than a lack of tokens or places, or
	// if its turn would never have come.
	Turn time.Time
}
