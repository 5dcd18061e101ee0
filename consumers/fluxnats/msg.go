package fluxnats

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Msg is a message as the handler sees it. It has no way to settle itself: that
// is the gate's. Its contents must not be changed while the handler runs.
type Msg struct {
	m      *nats.Msg // under its first subject, and without the headers of its deferrals
	origin origin
	core   *coreDelivery // nil: it is JetStream's
}

// Subject returns the subject that the message was published to. That of a
// deferred message is the one it had at first.
func (m *Msg) Subject() string { return m.m.Subject }

// Data returns the payload.
func (m *Msg) Data() []byte { return m.m.Data }

// Headers returns the headers that the message was published with, nil if it
// had none.
func (m *Msg) Headers() nats.Header { return m.m.Header }

// ID names the message for good, as in "ORDERS:17": the stream and the sequence
// that it was first stored with. It is the same after any redelivery or
// deferral, so a handler can use it to recognise what it has done before. That of
// a message of a [Core] is its Nats-Msg-Id, and empty if it has none.
func (m *Msg) ID() string {
	if m.core != nil {
		return m.m.Header.Get(jetstream.MsgIDHeader)
	}
	return m.origin.String()
}

// Respond answers a request, with headers or without. It returns [ErrNoRequest]
// for a message that is none: one that came from JetStream, or that was published
// without a reply subject. A handler that fails after it has responded is called
// again, and then responds twice. It may be called by any number of goroutines at
// once, and does not wait for the server.
func (m *Msg) Respond(header nats.Header, data []byte) error {
	if m.core == nil || m.m.Reply == "" {
		return ErrNoRequest
	}
	err := m.core.r.src.nc.PublishMsg(&nats.Msg{Subject: m.m.Reply, Header: header, Data: data})
	if err != nil {
		return fmt.Errorf("fluxnats: respond: %w", err)
	}
	m.core.answered.Store(true)
	return nil
}

// origin is where a message was first stored.
type origin struct {
	stream string
	seq    uint64
}

func (o origin) String() string { return o.stream + ":" + strconv.FormatUint(o.seq, 10) }

func parseOrigin(s string) (origin, bool) {
	i := strings.LastIndexByte(s, ':')
	if i <= 0 {
		return origin{}, false
	}
	seq, err := strconv.ParseUint(s[i+1:], 10, 64)
	return origin{stream: s[:i], seq: seq}, err == nil && validName(s[:i])
}

// ackInfo is what the reply subject of a delivered message says of it.
type ackInfo struct {
	delivered uint64 // how often the server delivered it to the consumer
	seq       uint64 // in the stream
	stored    int64  // when, in Unix nanoseconds
	pending   uint64 // messages that the server had for the consumer after it
}

// parseAck reads a reply subject, which is
//
//	$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>
//	$JS.ACK.<domain>.<account>.<stream>.<consumer>.<delivered>. ... .<pending>[.<random>]
func parseAck(reply string) (ackInfo, bool) {
	const prefix = "$JS.ACK."
	if !strings.HasPrefix(reply, prefix) {
		return ackInfo{}, false
	}
	rest := reply[len(prefix):]
	skip := 2
	switch n := strings.Count(rest, ".") + 1; {
	case n == 7:
	case n >= 9:
		skip = 4
	default:
		return ackInfo{}, false
	}
	for range skip {
		_, rest, _ = strings.Cut(rest, ".")
	}
	var nums [5]uint64
	for i := range nums {
		var token string
		token, rest, _ = strings.Cut(rest, ".")
		if token == "" {
			return ackInfo{}, false
		}
		var n uint64
		for _, c := range []byte(token) {
			if c < '0' || c > '9' {
				return ackInfo{}, false
			}
			n = n*10 + uint64(c-'0')
		}
		nums[i] = n
	}
	return ackInfo{delivered: nums[0], seq: nums[1], stored: int64(nums[3]), pending: nums[4]}, true
}
