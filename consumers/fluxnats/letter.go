package fluxnats

import (
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// DeadLetter is a dead letter as it stands in its stream. What its headers do not
// say is zero: they may have been written by anyone who may publish there.
type DeadLetter struct {
	Sequence uint64    // in the dead-letter stream
	Time     time.Time // when it was stored there

	Subject  string // that the message was first published to
	Stream   string // that it was taken from, empty if it came by core NATS
	Consumer string

	Reason    string // as in "max_attempts"
	Tenant    string
	Error     string // what the handler returned
	Attempts  int
	Deferrals int

	Data    []byte
	Headers nats.Header // of the message and of the dead letter; not to be changed
}

func readDeadLetter(m *jetstream.RawStreamMsg) *DeadLetter {
	h := m.Header
	return &DeadLetter{
		Sequence: m.Sequence, Time: m.Time,
		Subject: text(h, hdrSubject), Stream: text(h, hdrStream), Consumer: text(h, hdrConsumer),
		Reason: text(h, hdrReason), Tenant: text(h, hdrTenant), Error: text(h, hdrError),
		Attempts: count(h, hdrAttempts), Deferrals: count(h, hdrDeferrals),
		Data: m.Data, Headers: h,
	}
}
