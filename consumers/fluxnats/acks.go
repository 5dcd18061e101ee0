package fluxnats

import (
	"slices"
	"time"
)

const (
	// ackLinger is how long acknowledgements are collected while much is held,
	// unless ackBatch of them are there before. Workers that finish one after
	// another would make the connection write a packet for every few of them,
	// which costs a fifth of the throughput.
	ackLinger = time.Millisecond
	ackBatch  = 256

	// ackLingerHeld is how much that is. Fewer messages are a trickle, or a
	// consumer that waits for each acknowledgement.
	ackLingerHeld = 64

	// ackMemory is how many of the last acknowledgements are remembered.
	ackMemory = 4096

	// ackRetry is the pause after an acknowledgement that could not be sent.
	ackRetry = 100 * time.Millisecond
)

// recentAcks remembers the messages that were settled last, be it by a copy that
// lives on. An acknowledgement may be lost with the connection, or cross with a
// redelivery; the message then comes again, and must be acknowledged again and
// not be handled again.
type recentAcks struct {
	acks [ackMemory]acked
	next int
}

// acked names a message by more than its sequence, which another has after the
// stream was deleted and made anew.
type acked struct {
	seq    uint64
	stored int64
}

func (a *recentAcks) add(d *delivery) {
	a.acks[a.next] = acked{d.seq, d.stored}
	a.next = (a.next + 1) % ackMemory
}

// has takes a few microseconds. Only messages that the server delivered before
// are looked for.
func (a *recentAcks) has(d *delivery) bool {
	return slices.Contains(a.acks[:], acked{d.seq, d.stored})
}

// queueAck has d acknowledged soon. It reports false if the run is over.
func (r *run) queueAck(d *delivery) bool {
	r.mu.Lock()
	over := r.isIdle
	if !over {
		r.acks = append(r.acks, d)
	}
	n := len(r.acks)
	r.mu.Unlock()
	if n == 1 || n == ackBatch {
		poke(r.acking)
	}
	return !over
}

// acknowledge sends the acknowledgements, until nothing is held any more. A
// message counts as held until its acknowledgement is sent.
func (r *run) acknowledge() {
	var batch []*delivery
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-r.idle:
			return
		case <-r.acking:
		}
		r.mu.Lock()
		linger := r.held > ackLingerHeld && len(r.acks) < ackBatch
		r.mu.Unlock()
		if linger {
			timer.Reset(ackLinger)
			select {
			case <-timer.C:
			case <-r.acking:
			}
		}
		r.mu.Lock()
		batch, r.acks = r.acks, batch[:0]
		r.mu.Unlock()
		sent := r.sendAcks(batch)
		r.mu.Lock()
		for _, d := range batch[:sent] {
			r.letGo(d)
			r.recent.add(d)
		}
		r.acks = append(r.acks, batch[sent:]...)
		again := sent < len(batch)
		r.mu.Unlock()
		clear(batch)
		if again {
			time.Sleep(ackRetry)
			poke(r.acking)
		}
	}
}

// sendAcks returns how many of the acknowledgements are done with: all of them,
// but for those that may be sent later.
func (r *run) sendAcks(batch []*delivery) int {
	for i, d := range batch {
		if err := r.nc.Publish(d.msg.m.Reply, ackDone); err != nil {
			if r.ended() || r.nc.IsClosed() {
				r.set.log.Error("acknowledgements are lost, the messages come again", "count", len(batch)-i, "error", err)
				return len(batch)
			}
			return i
		}
	}
	return len(batch)
}
