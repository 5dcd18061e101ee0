package fluxnats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// requests accounts for the requests for messages that the server holds.
type requests struct {
	inbox    string // what replies to requests begin with
	epoch    int    // grows when all earlier requests are taken for lost
	asked    int    // messages asked for in this epoch and not yet received
	room     int    // of the gate, when it was asked last
	heard    time.Duration
	made     time.Duration // when the last of them was
	retryAt  time.Duration // no request before that
	failures int           // in a row
}

// low reports whether so little is on its way that more should be asked for. A
// request for every single message would double the work; to wait until nothing
// is on its way would let the gate run dry.
func (q *requests) low(waiting int) bool { return q.asked+waiting <= q.room/2 }

// lose takes all requests for lost: the next one is made at once, or after a
// pause that grows with every failure in a row. It reports whether it is time to
// look at the consumer. A change of leader makes a few failures in a row, and
// there is nobody to ask about the consumer before it is over.
func (q *requests) lose(now time.Duration, why error) (doubtful bool) {
	q.epoch++
	q.asked = 0
	q.heard = now
	q.retryAt = now
	if why == nil {
		return false
	}
	q.retryAt += min(25*time.Millisecond<<min(q.failures, 4), 250*time.Millisecond)
	q.failures++
	return q.failures%4 == 0 || !passing(why)
}

var (
	// errSilent is two heartbeats that did not come.
	errSilent = errors.New("the server is silent")

	// errOverdue is a request that is neither answered nor expired, when it
	// should have expired a heartbeat ago. It may be lost beside another one that
	// stands, or the server may have forgotten to look after it.
	errOverdue = errors.New("the server says nothing of a request that has expired")
)

// passing reports whether a fault is one that a change of leader explains.
func passing(why error) bool {
	return errors.Is(why, errSilent) || errors.Is(why, errOverdue) || errors.Is(why, nats.ErrNoResponders) || errors.Is(why, nats.ErrDisconnected)
}

// pull keeps as many messages on their way as the gate has room for.
func (r *run) pull(ctx context.Context) {
	q := &r.requests
	for {
		// What is on its way is read before the gate's room: a message that is
		// delivered in between is then counted twice, and not left out twice.
		r.mu.Lock()
		coming := q.asked + r.waiting
		r.mu.Unlock()
		room, err := r.in.Room(ctx, r.facts.Load().batch)
		if err != nil {
			r.fail(fmt.Errorf("fluxnats: the gate takes no more: %w", err))
			return
		}
		now := r.now()
		r.mu.Lock()
		q.room = room
		pause := q.retryAt - now
		ask := 0
		if pause <= 0 && q.low(r.waiting) {
			ask = room - coming
		}
		r.mu.Unlock()

		switch {
		case ask > 0 && !r.nc.IsConnected():
			// What is published now would be sent on top of what is asked for
			// after the reconnect.
			r.lost(nats.ErrDisconnected)
		case ask > 0:
			r.ask(ask)
		default:
			if !r.rest(pause) {
				return
			}
		}
	}
}

// rest waits until there may be a reason to ask for more, for at most pause if
// that is positive. It reports false if the run ends.
func (r *run) rest(pause time.Duration) bool {
	var again <-chan time.Time
	if pause > 0 {
		t := time.NewTimer(pause)
		defer t.Stop()
		again = t.C
	}
	select {
	case <-r.done:
		return false
	case <-r.hungry:
	case <-again:
	}
	return true
}

// ask requests n messages.
func (r *run) ask(n int) {
	f := r.facts.Load()
	r.mu.Lock()
	q := &r.requests
	q.made = r.now()
	if q.asked == 0 {
		q.heard = q.made
	}
	q.asked += n
	reply := q.inbox + strconv.Itoa(q.epoch)
	r.mu.Unlock()
	body, err := json.Marshal(struct {
		Expires   time.Duration `json:"expires"`
		Batch     int           `json:"batch"`
		Heartbeat time.Duration `json:"idle_heartbeat"`
	}{f.expires, n, f.heartbeat})
	if err == nil {
		r.src.stats.pulls.Add(1)
		err = r.nc.PublishRequest(f.pullSubject, reply, body)
	}
	if err != nil {
		r.lost(err)
	}
}

// lost notes that the requests that were made are lost.
func (r *run) lost(why error) {
	if r.nc.IsClosed() {
		r.fail(fmt.Errorf("fluxnats: %w", nats.ErrConnectionClosed))
		return
	}
	r.src.stats.renewals.Add(1)
	r.mu.Lock()
	doubtful := r.requests.lose(r.now(), why)
	first := r.requests.failures == 1
	r.mu.Unlock()
	if doubtful {
		poke(r.doubt)
	}
	if first {
		r.set.log.Warn("requests for messages were lost, asking anew", "error", why)
	}
	poke(r.hungry)
}

// receive is the subscription's callback. It never blocks.
func (r *run) receive(m *nats.Msg) {
	// A message has a reply subject for its acknowledgement. What the server
	// says of requests has none, and no header that a publisher sets can make
	// one look like the other.
	if m.Reply == "" {
		if epoch, ok := strings.CutPrefix(m.Subject, r.requests.inbox); ok {
			r.status(m, epoch)
		}
		return
	}
	info, ok := parseAck(m.Reply)
	if !ok {
		r.set.log.Error("message with a reply subject that is none of JetStream's", "subject", m.Subject, "reply", m.Reply)
		return
	}
	d := newDelivery(r, m, info)
	now := r.now()
	r.mu.Lock()
	q := &r.requests
	q.asked = max(q.asked-1, 0)
	q.heard, q.failures = now, 0
	if r.known(d, now) {
		// It takes no room, so there may be some for others.
		low := q.low(r.waiting)
		r.mu.Unlock()
		r.src.stats.swallowed.Add(1)
		poke(r.acking)
		if low {
			poke(r.hungry)
		}
		return
	}
	if n, ok := r.naks[d.seq]; ok && n.stored == d.stored {
		if early := time.Until(n.due); early > 0 && !r.ended() {
			// A server that was started again remembers the time to the second.
			low := q.low(r.waiting)
			r.mu.Unlock()
			r.src.stats.swallowed.Add(1)
			r.handBack(d, delayedNak(early))
			if low {
				poke(r.hungry)
			}
			return
		}
		delete(r.naks, d.seq)
		d.counts = n.counts
	}
	r.hold(d, now)
	ended := r.ended()
	first := false
	if !ended {
		r.queue = append(r.queue, d)
		r.waiting++
		first = len(r.queue) == 1
	}
	r.mu.Unlock()
	r.src.stats.received.Add(1)
	if ended {
		d.Release()
	} else if first {
		poke(r.arrived)
	}
}

// known reports whether d is a message that is still held, because the connection
// was lost for longer than AckWait, or one whose acknowledgement was lost: that is
// sent again. The lock must be held.
func (r *run) known(d *delivery, now time.Duration) bool {
	if d.seq > r.newest.seq {
		r.newest.seq, r.newest.stored = d.seq, max(r.newest.stored, d.stored)
		if !d.redelivered {
			return false
		}
	}
	// A new leader of the consumer may not know what the old one gave and heard
	// last, and gives it as if for the first time, but in the order of the stream.
	if d.stored > r.newest.stored {
		// The stream was deleted and made again, and its sequences begin anew.
		r.recent = recentAcks{}
		r.newest.seq, r.newest.stored = d.seq, d.stored
		r.unsure = true
		poke(r.doubt)
		return false
	}
	switch {
	case r.holds(d):
		return true
	case r.recent.has(d):
		r.hold(d, now)
		r.acks = append(r.acks, d)
		return true
	}
	return false
}

// status handles what the server says of a request.
func (r *run) status(m *nats.Msg, epoch string) {
	code, text := m.Header.Get("Status"), m.Header.Get("Description")
	left, _ := strconv.Atoi(m.Header.Get("Nats-Pending-Messages"))
	now := r.now()
	r.mu.Lock()
	q := &r.requests
	if epoch != strconv.Itoa(q.epoch) {
		r.mu.Unlock()
		return
	}
	q.heard = now
	if code == "409" && text == "Consumer Deleted" {
		// If it is made again, it is for whoever does so to say what it gives.
		r.recent = recentAcks{}
		r.unsure = true
	}
	switch code {
	case "100": // heartbeat
		q.failures = 0
		r.mu.Unlock()
	case "408": // expired
		q.asked = max(q.asked-max(left, 0), 0)
		q.failures = 0
		r.mu.Unlock()
		poke(r.hungry)
	case "503":
		r.mu.Unlock()
		r.lost(nats.ErrNoResponders)
	default:
		r.mu.Unlock()
		r.lost(fmt.Errorf("server says %s %s", code, text))
	}
}

// denied returns an error if the server has refused the source a subject that it
// cannot do without. The server does not answer what it refuses, it only sends
// an error to the connection.
func (r *run) denied() error {
	err := r.nc.LastError()
	if err == r.lastError || !errors.Is(err, nats.ErrPermissionViolation) { //nolint:errorlint // the same value, not the same kind
		return nil
	}
	for _, subject := range []string{r.facts.Load().pullSubject, r.requests.inbox, "$JS.ACK." + r.set.Stream + "." + r.set.Consumer} {
		if strings.Contains(strings.ToLower(err.Error()), strings.ToLower(subject)) {
			return fmt.Errorf("fluxnats: %w", err)
		}
	}
	return nil
}
