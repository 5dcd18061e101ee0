package fluxnats

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
)

var ackProgress = []byte("+WPI")

// hold begins to keep d from redelivery. The lock must be held.
func (r *run) hold(d *delivery, now time.Duration) {
	r.held++
	r.touch(d, now)
}

// holds reports whether a message is held, as another delivery. It goes through
// all of them: it is only asked for messages that may have been delivered before.
// An index would cost each message more than its keep-alive does.
func (r *run) holds(again *delivery) bool {
	for d := r.oldest.next; d != &r.oldest; d = d.next {
		if d.seq == again.seq && d.stored == again.stored {
			return true
		}
	}
	return false
}

// touch notes that the server counts d's AckWait from now. The lock must be
// held.
func (r *run) touch(d *delivery, now time.Duration) {
	d.unlink()
	d.touched = now
	last := r.oldest.prev
	d.prev, d.next = last, &r.oldest
	last.next, r.oldest.prev = d, d
}

// letGo ends what hold began. It reports false if that was done before. The
// lock must be held.
func (r *run) letGo(d *delivery) bool {
	if d.next == nil {
		return false
	}
	r.held--
	d.unlink()
	if r.draining && r.held == 0 {
		r.setIdle()
	}
	return true
}

func (d *delivery) unlink() {
	if d.next != nil {
		d.prev.next, d.next.prev = d.next, d.prev
		d.prev, d.next = nil, nil
	}
}

// tend keeps all that is held from redelivery, sees that requests are answered,
// and follows the state of the connection, until nothing is held any more.
func (r *run) tend() {
	states := r.nc.StatusChanged(nats.CONNECTED, nats.CLOSED)
	defer r.nc.RemoveStatusListener(states)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-r.idle:
			return
		case state := <-states:
			switch state {
			case nats.CONNECTED:
				if !r.ended() {
					poke(r.doubt)
					r.lost(nil)
				}
			case nats.CLOSED:
				r.fail(fmt.Errorf("fluxnats: %w", nats.ErrConnectionClosed))
				states = nil
			}
		case <-timer.C:
		}
		now := r.now()
		timer.Reset(max(min(r.keepAlive(now), r.watch(now)), time.Millisecond))
	}
}

// keepAlive tells the server of all messages that it has heard nothing of for a
// third of AckWait that they are in progress, and returns when to do so again.
// The third is shortened by up to a quarter, differently every time, so that
// the many sources of a consumer do not all do it at the same moment.
func (r *run) keepAlive(now time.Duration) time.Duration {
	third := r.facts.Load().ackWait / 3
	if !r.nc.IsConnected() {
		return third / 4
	}
	age := third - time.Duration(rand.Int64N(int64(third/4)+1))
	var due []string
	r.mu.Lock()
	for d := r.oldest.next; d != &r.oldest && now-d.touched >= age; d = r.oldest.next {
		r.touch(d, now)
		if !d.foreign.Load() {
			due = append(due, d.msg.m.Reply)
		}
	}
	next := age
	if d := r.oldest.next; d != &r.oldest {
		next = d.touched + age - now
	}
	r.mu.Unlock()
	for _, reply := range due {
		if err := r.nc.Publish(reply, ackProgress); err != nil {
			r.set.log.Warn("cannot keep a message from redelivery", "error", err)
			break
		}
	}
	r.src.stats.keepAlives.Add(int64(len(due)))
	return next
}

// watch renews the requests for messages if the server has been silent for two
// heartbeats, or sends them for nothing, and returns when to look again.
func (r *run) watch(now time.Duration) time.Duration {
	f := r.facts.Load()
	limit := 2 * f.heartbeat
	if r.ended() {
		return limit
	}
	if err := r.denied(); err != nil {
		r.fail(err)
		return limit
	}
	r.mu.Lock()
	asked := r.requests.asked > 0
	// Without a request nobody tells a gate that is full what becomes of the
	// consumer.
	unseen := r.held > 0 && !asked && now-r.requests.heard >= limit
	if unseen {
		r.requests.heard = now
	}
	unsure := r.unsure
	silent := r.requests.heard + limit - now
	overdue := r.requests.made + f.expires + f.heartbeat - now
	r.mu.Unlock()
	if unseen || unsure {
		poke(r.doubt)
	}
	switch {
	case !asked, !r.nc.IsConnected():
		return limit
	case silent <= 0:
		r.lost(errSilent)
	case overdue <= 0:
		r.lost(errOverdue)
	default:
		return min(silent, overdue)
	}
	return limit
}
