package fluxnats

import (
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The source's own headers, described in the package's documentation.
const (
	hdrOrigin    = "Flux-Origin"
	hdrFirstSeen = "Flux-First-Seen"
	hdrDeferrals = "Flux-Deferrals"
	hdrAttempts  = "Flux-Attempts"
	hdrTenant    = "Flux-Tenant"
	hdrReason    = "Flux-Reason"
	hdrOrder     = "Flux-Order"
	hdrDue       = "Flux-Due"
	hdrMsgID     = "Flux-Msg-Id"
	hdrError     = "Flux-Error"
	hdrStack     = "Flux-Stack"
	hdrStream    = "Flux-Stream"
	hdrConsumer  = "Flux-Consumer"
	hdrSubject   = "Flux-Subject"
	hdrSequence  = "Flux-Sequence"
	hdrTime      = "Flux-Time"
)

var ownHeaders = map[string]bool{
	hdrOrigin: true, hdrFirstSeen: true, hdrDeferrals: true, hdrAttempts: true, hdrTenant: true,
	hdrReason: true, hdrOrder: true, hdrDue: true, hdrMsgID: true, hdrError: true, hdrStack: true, hdrStream: true,
	hdrConsumer: true, hdrSubject: true, hdrSequence: true, hdrTime: true,
}

// reserved reports whether a header is the server's or the source's own, and so
// must not be copied from one message to another: an Expected-Last-Sequence
// would refuse the copy, a Rollup delete what is before it.
func reserved(key string) bool {
	const server = "Nats-"
	return len(key) >= len(server) && strings.EqualFold(key[:len(server)], server) || ownHeaders[key]
}

// copyHeaders returns a new header with the user's headers of a message. Keys
// that the client library refuses to send, which other clients may have sent,
// are left out: they would make the copy impossible.
func copyHeaders(from nats.Header) nats.Header {
	to := make(nats.Header, len(from)+12)
	for key, values := range from {
		if !reserved(key) && validKey(key) {
			to[key] = values
		}
	}
	if id := from.Get(jetstream.MsgIDHeader); id != "" {
		setText(to, hdrMsgID, id)
	}
	return to
}

// validKey reports whether the client library sends a header with such a key. Its
// rule is stricter than the protocol's, and than what it receives.
func validKey(key string) bool {
	return key != "" && !strings.ContainsFunc(key, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"()/,:;<=>?@[\]{}`, r)
	})
}

// setText sets a header to any text. Everything but printable ASCII is
// percent-encoded, and so are percent signs and outer spaces, which the protocol
// does not keep: [url.PathUnescape] gives the text back.
func setText(h nats.Header, key, text string) {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(text) {
		c := text[i]
		if c > ' ' && c < 0x7f && c != '%' || c == ' ' && i > 0 && i < len(text)-1 {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	h[key] = []string{b.String()}
}

func text(h nats.Header, key string) string {
	s, err := url.PathUnescape(h.Get(key))
	if err != nil {
		return ""
	}
	return s
}

func setCount(h nats.Header, key string, n int) { h[key] = []string{strconv.Itoa(n)} }

func count(h nats.Header, key string) int {
	n, err := strconv.ParseInt(h.Get(key), 10, 32)
	if err != nil || n < 0 {
		return 0
	}
	return int(n)
}

// setTime sets a header to a time in Unix nanoseconds.
func setTime(h nats.Header, key string, at int64) {
	h[key] = []string{time.Unix(0, at).UTC().Format(time.RFC3339Nano)}
}

// history is what the headers of a deferred copy say of the message.
type history struct {
	origin    origin
	subject   string
	firstSeen int64
	counts
}

// counts are what the gate wants to know again of a message that it deferred.
type counts struct {
	attempts  int
	deferrals int
	order     int64
}

// readHistory reads the headers of a message that the server's scheduler made
// from a copy of set's, and takes them and the server's off, so that the handler
// sees the message as it was published. It reports false for any other message,
// whatever its headers say.
//
// The server takes a Nats-Scheduler header from publishers, too, so a message may
// only pretend to be a copy. The subject that it came under cannot be pretended:
// what Flux-Subject says counts for nothing unless that is one for copies alone.
func readHistory(h nats.Header, subject string, set *Config, stored int64) (history, bool) {
	seq, ok := below(h.Get(jetstream.SchedulerHeader), set.DeferSubject)
	if !ok || set.NakDeferrals {
		return history{}, false
	}
	from, ok := parseOrigin(h.Get(hdrOrigin))
	if !ok || from.stream != set.Stream {
		return history{}, false
	}
	hist := history{origin: from, subject: subject, firstSeen: stored}
	if set.ReturnSubject != "" {
		if back, ok := below(subject, set.ReturnSubject); !ok || back != seq {
			return history{}, false
		}
		hist.subject = text(h, hdrSubject)
	}
	hist.attempts, hist.deferrals = count(h, hdrAttempts), count(h, hdrDeferrals)
	hist.order, _ = strconv.ParseInt(h.Get(hdrOrder), 10, 64)
	if t, err := time.Parse(time.RFC3339Nano, h.Get(hdrFirstSeen)); err == nil && t.After(time.Unix(0, 0)) && t.Before(time.Unix(0, stored)) {
		hist.firstSeen = t.UnixNano()
	}
	id := text(h, hdrMsgID)
	for key := range h {
		if reserved(key) {
			delete(h, key)
		}
	}
	if id != "" {
		h[jetstream.MsgIDHeader] = []string{id}
	}
	return hist, true
}

// below returns what a subject has after a prefix and a dot, if it has that.
func below(subject, prefix string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(subject, prefix)
	if !ok || len(rest) < 2 || rest[0] != '.' {
		return "", false
	}
	return rest[1:], true
}
