package fluxnats

import (
	"net/http"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fluxlimiter/flux/stream"
)

// The headers of a refusal. The first two are those of an error of a service of
// the client library's package micro, the third that of HTTP, in whole seconds.
const (
	hdrErrorCode    = "Nats-Service-Error-Code"
	hdrErrorReason  = "Nats-Service-Error"
	hdrRetryAfter   = "Retry-After"
	hdrRetryAfterMs = "Retry-After-Ms"
)

// Refusal is what a [Core] with AnswerRefused says of a request that was not
// carried out.
type Refusal struct {
	// Code is a status of HTTP: 429 for a request beyond its tenant's limit or
	// share, 400 for one without a tenant, 413 for one that costs more than its
	// tenant may ever have, 503 if the service could not decide or is about to
	// end, and 500 if its handler failed.
	Code int

	// Reason is one of [stream.Reason], or "released" if the service is about to
	// end.
	Reason string

	// RetryAfter is when the request would have had its turn. It is 0 if asking
	// again may help at any time, or never.
	RetryAfter time.Duration
}

// ReadRefusal reads the answer to a request. It reports false if that is no
// refusal. Any service may have sent it: clients of package micro understand a
// refusal of this package's, and ReadRefusal an error of theirs.
func ReadRefusal(answer *nats.Msg) (Refusal, bool) {
	if answer == nil {
		return Refusal{}, false
	}
	h := answer.Header
	code, err := strconv.Atoi(h.Get(hdrErrorCode))
	if err != nil {
		return Refusal{}, false
	}
	r := Refusal{Code: code, Reason: h.Get(hdrErrorReason)}
	if n, err := strconv.ParseUint(h.Get(hdrRetryAfterMs), 10, 40); err == nil {
		r.RetryAfter = time.Duration(n) * time.Millisecond
	} else if n, err := strconv.ParseUint(h.Get(hdrRetryAfter), 10, 30); err == nil {
		r.RetryAfter = time.Duration(n) * time.Second
	}
	return r, true
}

// refusal answers the request that was sent with a reply subject.
func refusal(reply, reason string, l stream.Letter) *nats.Msg {
	h := nats.Header{
		hdrErrorCode:   {strconv.Itoa(codeOf(l.Reason))},
		hdrErrorReason: {reason},
	}
	if turn := l.Turn; !turn.IsZero() {
		// Never too early, so rounded up, and at least the smallest there is.
		ms := max(1, (time.Until(turn)+time.Millisecond-1)/time.Millisecond)
		h[hdrRetryAfterMs] = []string{strconv.FormatInt(int64(ms), 10)}
		h[hdrRetryAfter] = []string{strconv.FormatInt(int64((ms+999)/1000), 10)}
	}
	return &nats.Msg{Subject: reply, Header: h}
}

func codeOf(r stream.Reason) int {
	switch r {
	case stream.ReasonQuota, stream.ReasonShare, stream.ReasonExpired:
		return http.StatusTooManyRequests
	case stream.ReasonNoTenant:
		return http.StatusBadRequest
	case stream.ReasonOversize:
		return http.StatusRequestEntityTooLarge
	case stream.ReasonNone, stream.ReasonLimiter: // none: it was released
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
