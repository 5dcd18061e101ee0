package fluxnats

import (
	"time"

	"github.com/nats-io/nats.go"
)

// What follows opens the package to its tests.

type AckInfo struct {
	Delivered, Seq, Pending uint64
	Stored                  time.Time
}

func ParseAck(reply string) (AckInfo, bool) {
	i, ok := parseAck(reply)
	return AckInfo{i.delivered, i.seq, i.pending, time.Unix(0, i.stored)}, ok
}

var (
	Covers       = covers
	Overlaps     = overlaps
	ValidPattern = validPattern
	SetText      = setText
	Text         = text
	CopyHeaders  = copyHeaders
)

type History struct {
	Origin, Subject     string
	FirstSeen           time.Time
	Deferrals, Attempts int
	Order               int64
}

func ReadHistory(h nats.Header, subject string, cfg Config, stored time.Time) (History, bool) {
	x, ok := readHistory(h, subject, &cfg, stored.UnixNano())
	return History{x.origin.String(), x.subject, time.Unix(0, x.firstSeen), x.deferrals, x.attempts, x.order}, ok
}

// AckMemory is for how many sequences RecentAcks remembers.
const AckMemory = ackMemory

type RecentAcks struct{ recentAcks }

func (a *RecentAcks) Add(seq uint64)      { a.add(&delivery{seq: seq}) }
func (a *RecentAcks) Has(seq uint64) bool { return a.has(&delivery{seq: seq}) }
