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

// recentAcks remembers the sequences of the messages that were acknowledged last.
// An acknowledgement may be lost with the connection; the message then comes
// again, and must be acknowledged again and not be handled again.
type recentAcks struct {
	seqs [ackMemory]uint64
	next int
}

func (a *recentAcks) add(seq uint64) {
	a.seqs[a.next] = seq
	a.next = (a.next + 1) % ackMemory
}

// has takes a microsecond or two. Only messages that the server delivered before
// are looked for.
func (a *recentAcks) has(seq uint64) bool { return slices.Contains(a.seqs[:], seq) }

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
			r.recent.add(d.seq)
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
