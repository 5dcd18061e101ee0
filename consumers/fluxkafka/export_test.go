package fluxkafka

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/segmentio/kafka-go"
)

// Tracker is the tracker with offsets in place of records.
type Tracker struct {
	t    tracker
	held map[int64]*record
}

func NewTracker(position int64, ahead [][2]int64) *Tracker {
	t := &Tracker{held: make(map[int64]*record)}
	var spans []span
	for _, s := range ahead {
		spans = append(spans, span{s[0], s[1]})
	}
	t.t.reset(position, spans)
	return t
}

// Take does what a partition does with a record of the log; it reports whether
// the record is to be delivered.
func (t *Tracker) Take(offset int64) bool {
	t.t.pass(offset)
	if offset < t.t.position {
		return false
	}
	t.held[offset] = &record{offset: offset}
	t.t.add(t.held[offset])
	return true
}

func (t *Tracker) Pass(offset int64)   { t.t.pass(offset) }
func (t *Tracker) Remove(offset int64) { t.t.remove(t.held[offset]); delete(t.held, offset) }
func (t *Tracker) Commit() int64       { return t.t.commit() }
func (t *Tracker) Position() int64     { return t.t.position }
func (t *Tracker) Metadata() string    { return encodeCompleted(t.t.commit(), t.t.completed()) }
func (t *Tracker) Crowded() bool       { return t.t.crowded() }
func (t *Tracker) Replace(offset int64) {
	r := &record{offset: offset}
	t.t.replace(t.held[offset], r)
	t.held[offset] = r
}

// Gaps returns the number of gaps as counted, and as they are.
func (t *Tracker) Gaps() (counted, real int) {
	for r := t.t.head; r != nil && r.next != nil; r = r.next {
		real += gap(r, r.next)
	}
	return t.t.gaps, real
}

// EncodeCompleted and DecodeCompleted are the completed map's.
func EncodeCompleted(base int64, done [][2]int64) string {
	return encodeCompleted(base, func(yield func(span) bool) {
		for _, s := range done {
			if !yield(span{s[0], s[1]}) {
				return
			}
		}
	})
}

func DecodeCompleted(metadata string, base int64) (done [][2]int64, ok bool) {
	spans, ok := decodeCompleted(metadata, base)
	for _, s := range spans {
		done = append(done, [2]int64{s.from, s.to})
	}
	return done, ok
}

const MaxMetadata = maxMetadata

// Parcel returns how many maps of those sizes go into one commit.
func Parcel(sizes []int) int {
	var news []snapshot
	for _, size := range sizes {
		news = append(news, snapshot{part: &partition{topic: "t"}, done: string(make([]byte, size))})
	}
	return parcel(news, 1)
}

// Assign is the sticky balancer's assignment.
func Assign(members []kafka.GroupMember, counts map[string]int, base func(string) string) kafka.GroupMemberAssignments {
	return assign(members, counts, base)
}

// Record is a record as a consumer sees it.
type Record struct {
	Offset     int64
	Time       time.Time
	Key, Value []byte
	Headers    []kafka.Header
}

// Aborted is an aborted transaction of a fetch response.
type Aborted struct{ Producer, First int64 }

// DecodeRecords returns what a consumer sees of a fetch response's records, and
// the position behind them. The buffers that they were read from are used for
// something else by then.
func DecodeRecords(records []byte, committed bool, aborted []Aborted) (out []Record, position int64, err error) {
	res := &fetchResponse{records: slices.Clone(records)}
	for _, a := range aborted {
		res.aborted = append(res.aborted, abortedTxn{a.Producer, a.First})
	}
	b := batches{committed: committed}
	b.reset(res)
	defer func() {
		clear(res.records)
		clear(b.inflated.AvailableBuffer()[:b.inflated.Available()])
		clear(b.inflated.Bytes())
	}()
	var a arena
	for {
		batch, err := b.next()
		if errors.Is(err, io.EOF) {
			return out, position, nil
		}
		if err != nil {
			return out, position, err
		}
		a.reset(batch.records)
		for i := 0; i < batch.count && a.more(); i++ {
			var raw rawRecord
			if err := a.next(&raw); err != nil {
				return out, position, err
			}
			headers, err := a.parseHeaders(raw.headers)
			if err != nil {
				return out, position, err
			}
			out = append(out, Record{batch.base + raw.offsetDelta, batch.timestamp(&raw), raw.key, raw.value, headers})
		}
		position = batch.last + 1
	}
}

// DecodeFetch reads a fetch response of a topic "t", partition 0.
func DecodeFetch(version int16, b []byte) (records []byte, err error) {
	r := fetchRequest{topic: "t", version: version}
	res, err := r.decode(b)
	if err != nil {
		return nil, err
	}
	return res.records, nil
}

// Homes is the table of the partitions that tenants were seen in.
type Homes struct{ a *affinity }

func NewHomes() Homes { return Homes{newAffinity()} }

func (h Homes) Visit(tenant, topic string, partition int) (first string, strays bool) {
	at, strays := h.a.visit(tenant, topic, partition)
	return fmt.Sprintf("%s/%d", at.topic, at.id), strays
}

func (h Homes) Forget() { h.a.forget() }

func (h Homes) Len() (n int) {
	for _, bucket := range h.a.table {
		for _, at := range bucket {
			if at.topic != "" {
				n++
			}
		}
	}
	return n
}
