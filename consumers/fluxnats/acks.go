package fluxnats

import "time"

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

	// ackMemory is for how many of the last sequences of the stream it is
	// remembered whether they were acknowledged: those of half a minute, if the
	// stream is fast, in 128 KiB.
	ackMemory = 1 << 20

	// ackRetry is the pause after an acknowledgement that could not be sent.
	ackRetry = 100 * time.Millisecond
)

// recentAcks remembers the sequences of the messages that were settled lately, be
// it by a copy that lives on. An acknowledgement may be lost with the connection
// or with the leader of the consumer, or cross with a redelivery; the message then
// comes again, after AckWait, say, and must be acknowledged again and not be
// handled again.
type recentAcks struct {
	words [ackMemory / 64]uint64 // a bit for each sequence, in a ring
	top   uint64                 // the word of the highest sequence
}

func (a *recentAcks) add(d *delivery) {
	word := d.seq / 64
	if word > a.top {
		for n := min(word-a.top, uint64(len(a.words))); n > 0; n-- {
			a.words[(word-n+1)%uint64(len(a.words))] = 0
		}
		a.top = word
	}
	if a.covers(word) {
		a.words[word%uint64(len(a.words))] |= 1 << (d.seq % 64)
	}
}

func (a *recentAcks) has(d *delivery) bool {
	word := d.seq / 64
	return a.covers(word) && a.words[word%uint64(len(a.words))]&(1<<(d.seq%64)) != 0
}

func (a *recentAcks) covers(word uint64) bool {
	return word <= a.top && a.top-word < uint64(len(a.words))
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
		if r.sure() != nil {
			time.Sleep(ackRetry)
			poke(r.acking)
			continue
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
			if !d.foreign.Load() {
				r.recent.add(d)
			}
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
		if d.foreign.Load() {
			continue
		}
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
