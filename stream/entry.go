package stream

import (
	"math"
	"time"
)

// state says where in the gate an entry is; it decides who may touch it.
type state uint8

const (
	stateQueued     state = iota + 1 // in its tenant's queue, its turn may come
	stateEarly                       // in its tenant's heap of older messages, likewise
	stateBlocked                     // behind another message of its order key
	stateGathered                    // granted, in a batch that is not with a worker yet
	stateRunning                     // owned by a worker
	stateBackoff                     // waits for its next attempt
	stateSettle                      // waits for a settler
	stateSettling                    // owned by a settler
	stateSettleWait                  // waits to be settled again after a failure
	stateLeaving                     // being released
	stateLost                        // likewise, because it was revoked
)

// marks are what else is true of an entry, in a byte of their own because one
// more would make each entry 16 bytes larger.
type marks uint8

const (
	markOrdered marks = 1 << iota // order is from the source, not that of arrival
	markParked                    // Hooks.Parked was told that it has to wait
	markPassed                    // it was the next of its tenant, and someone else had its tokens
)

func (m marks) has(mark marks) bool { return m&mark != 0 }

// entry is a message that the gate holds. It is kept small, because there may
// be a million: what only few messages need is in its fate.
type entry[M any] struct {
	delivery Delivery[M]
	tenant   *tenant[M]
	key      *orderKey[M] // nil: no order
	watch    *watch[M]    // nil: cannot be revoked

	prev, next   *entry[M] // in the list that state says
	older, newer *entry[M] // among the entries of watch

	arrival   int64 // its place among those of its tenant, in the order in which they arrived or became the first of their key
	order     int64 // Meta.Order
	cost      int64
	bytes     int64
	published int64 // Unix nanoseconds, 0: unknown
	delivered int64 // on the gate's clock

	fate *fate // nil until it is decided to be anything but processed

	attempts, deferrals int32
	index               int32 // in the heap that state says
	state               state
	settling            bool // counted as such in its tenant
	abandoned           bool // released while its worker was still at it
	marks               marks
}

func (e *entry[M]) setIndex(i int32) { e.index = i }

// fate is what becomes of a message that is not simply acknowledged.
type fate struct {
	outcome Outcome
	reason  Reason
	err     error
	stack   []byte
	until   time.Time
	granted int64
	failed  bool // because an attempt failed, which is counted already
	tries   int  // failed settles
}

// revoked reports whether e is known to be another consumer's by now.
func (e *entry[M]) revoked() bool { return e.watch != nil && e.watch.gone.Load() }

// revocation returns the channel that is closed when e is revoked, nil if there is
// none.
func (e *entry[M]) revocation() <-chan struct{} {
	if e.watch == nil {
		return nil
	}
	return e.watch.id.revoked
}

// list is an intrusive list of entries.
type list[M any] struct {
	first, last *entry[M]
	n           int
}

// push appends e.
func (l *list[M]) push(e *entry[M]) { l.insert(e, l.last) }

// insert puts e behind at, or first if at is nil.
func (l *list[M]) insert(e, at *entry[M]) {
	e.prev = at
	if at == nil {
		e.next, l.first = l.first, e
	} else {
		e.next, at.next = at.next, e
	}
	if e.next == nil {
		l.last = e
	} else {
		e.next.prev = e
	}
	l.n++
}

func (l *list[M]) remove(e *entry[M]) {
	if e.prev == nil {
		l.first = e.next
	} else {
		e.prev.next = e.next
	}
	if e.next == nil {
		l.last = e.prev
	} else {
		e.next.prev = e.prev
	}
	e.prev, e.next = nil, nil
	l.n--
}

// pop removes and returns the first entry, nil if there is none.
func (l *list[M]) pop() *entry[M] {
	e := l.first
	if e != nil {
		l.remove(e)
	}
	return e
}

// unixNano is t.UnixNano without its undefined values: times that do not fit
// become the nearest that do, and the zero time becomes 0.
func unixNano(t time.Time) int64 {
	switch s := t.Unix(); {
	case t.IsZero():
		return 0
	case s >= math.MaxInt64/int64(time.Second):
		return math.MaxInt64
	case s <= math.MinInt64/int64(time.Second):
		return math.MinInt64
	default:
		return t.UnixNano()
	}
}

// fromUnixNano is the inverse of unixNano.
func fromUnixNano(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns)
}
