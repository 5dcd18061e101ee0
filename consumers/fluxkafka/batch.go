package fluxkafka

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/compress"
)

const (
	batchOverhead = 61 // bytes of a batch before its first record
	batchPrefix   = 12 // of them before the length counts
	crcStart      = 21 // what the checksum covers

	attrCompression   = 0x07
	attrLogAppend     = 0x08
	attrTransactional = 0x10
	attrControl       = 0x20

	// maxInflated bounds what one compressed batch may grow to.
	maxInflated = 1 << 30

	// keepInflated bounds the buffer for it that is kept from one response to
	// the next.
	keepInflated = 8 << 20

	controlAbort = 0
)

var (
	errCorrupt = errors.New("corrupt record batch")
	errFormat  = errors.New("message format older than Kafka 0.11")
	// errPartial is a first batch that did not fit the response.
	errPartial = errors.New("record batch larger than the fetch")

	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// batches walks the record batches of a fetch response and filters out what a
// consumer must not see. The zero value with response set is ready.
type batches struct {
	response  *fetchResponse
	committed bool // leave out records of aborted transactions
	inflated  bytes.Buffer

	rest    []byte
	pending []abortedTxn       // by first offset
	active  map[int64]struct{} // producers whose transaction is being aborted
	seen    bool
}

// reset prepares b for another response. It keeps the buffers.
func (b *batches) reset(res *fetchResponse) {
	b.response, b.rest, b.seen = res, res.records, false
	b.pending = nil
	clear(b.active)
	if b.inflated.Cap() > keepInflated {
		b.inflated = bytes.Buffer{}
	}
	if b.committed && len(res.aborted) > 0 {
		b.pending = res.aborted
		slices.SortFunc(b.pending, func(x, y abortedTxn) int { return int(min(max(x.first-y.first, -1), 1)) })
	}
}

// batch is one record batch of the log.
type batch struct {
	base, last int64 // offsets, both inclusive
	firstTime  int64 // ms
	appendTime int64 // ms, when the broker stamped the batch, -1 otherwise
	count      int
	records    []byte // inflated; nil if none of it is for a consumer
}

// next returns the next batch, io.EOF after the last whole one.
func (b *batches) next() (batch, error) {
	raw := b.rest
	if len(raw) == 0 {
		return batch{}, io.EOF
	}
	if len(raw) > 16 && raw[16] != 2 {
		return batch{}, errFormat
	}
	if len(raw) < batchOverhead {
		return batch{}, b.cut()
	}
	size := int64(int32(binary.BigEndian.Uint32(raw[8:])))
	if size < batchOverhead-batchPrefix {
		return batch{}, fmt.Errorf("%w: length %d", errCorrupt, size)
	}
	if size+batchPrefix > int64(len(raw)) {
		return batch{}, b.cut()
	}
	raw = raw[:size+batchPrefix]
	d := reader{b: raw}
	out := batch{base: d.int64()}
	d.bytes(4 + 4 + 1) // length, leader epoch, magic
	if sum := uint32(d.int32()); sum != crc32.Checksum(raw[crcStart:], castagnoli) {
		return batch{}, fmt.Errorf("%w: checksum of the batch at offset %d", errCorrupt, out.base)
	}
	attrs := d.int16()
	out.last = out.base + int64(d.int32())
	out.firstTime = d.int64()
	out.appendTime = -1
	if maxTime := d.int64(); attrs&attrLogAppend != 0 {
		out.appendTime = maxTime
	}
	producer := d.int64()
	d.bytes(2 + 4) // producer epoch, first sequence
	out.count = int(d.int32())
	if out.last < out.base || out.count < 0 {
		return batch{}, fmt.Errorf("%w: the batch at offset %d ends at %d with %d records", errCorrupt, out.base, out.last, out.count)
	}
	records := d.b

	visible, err := b.visible(out, attrs, producer, records)
	if err == nil && visible {
		out.records, err = b.inflate(attrs, records)
	}
	if err != nil {
		return batch{}, fmt.Errorf("the batch at offset %d: %w", out.base, err)
	}
	b.rest = b.rest[len(raw):]
	b.seen = true
	return out, nil
}

// partial reports whether not even the first batch of records is all there.
func partial(records []byte) bool {
	return len(records) > 0 && (len(records) < batchPrefix ||
		int64(int32(binary.BigEndian.Uint32(records[8:])))+batchPrefix > int64(len(records)))
}

// cut is what a batch that is not all there means.
func (b *batches) cut() error {
	if b.seen {
		return io.EOF
	}
	return errPartial
}

// visible reports whether the records of a batch are for a consumer, and
// follows which transactions are being aborted. A broker lists the aborted
// transactions that touch the response; each lasts from its first offset to its
// abort marker.
func (b *batches) visible(out batch, attrs int16, producer int64, records []byte) (bool, error) {
	for len(b.pending) > 0 && b.pending[0].first <= out.last {
		if b.active == nil {
			b.active = make(map[int64]struct{})
		}
		b.active[b.pending[0].producer] = struct{}{}
		b.pending = b.pending[1:]
	}
	if attrs&attrControl != 0 {
		if out.count == 0 {
			return false, nil // compacted away
		}
		raw, err := b.inflate(attrs, records)
		if err != nil {
			return false, err
		}
		from, to, err := extent(raw)
		if err != nil {
			return false, err
		}
		rec := rawRecord{}
		if err := rec.parse(raw[from:to]); err != nil {
			return false, err
		}
		if len(rec.key) >= 4 && binary.BigEndian.Uint16(rec.key[2:]) == controlAbort {
			delete(b.active, producer)
		}
		return false, nil
	}
	if b.committed && attrs&attrTransactional != 0 {
		if _, aborted := b.active[producer]; aborted {
			return false, nil
		}
	}
	return true, nil
}

func (b *batches) inflate(attrs int16, records []byte) ([]byte, error) {
	kind := compress.Compression(attrs & attrCompression)
	if kind == compress.None {
		return records, nil
	}
	codec := kind.Codec()
	if codec == nil {
		return nil, fmt.Errorf("%w: unknown compression %d", errCorrupt, kind)
	}
	r := codec.NewReader(bytes.NewReader(records))
	defer func() { _ = r.Close() }() // gives the decoder back; what it reads was checked
	b.inflated.Reset()
	if _, err := b.inflated.ReadFrom(io.LimitReader(r, maxInflated+1)); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errCorrupt, codec.Name(), err)
	}
	if b.inflated.Len() > maxInflated {
		return nil, fmt.Errorf("%w: more than %d bytes inflated", errCorrupt, maxInflated)
	}
	return b.inflated.Bytes(), nil
}

// rawRecord is one record, its slices pointing into what it was read from.
type rawRecord struct {
	offsetDelta, timeDelta int64
	key, value             []byte // nil if null
	headers                []byte // count of them and what follows
	size                   int32
}

// extent returns where the body of the first record of b begins and ends.
func extent(b []byte) (from, to int, err error) {
	length, n := binary.Varint(b)
	if n <= 0 || length < 1 || length > int64(len(b)-n) {
		return 0, 0, fmt.Errorf("%w: record length", errCorrupt)
	}
	return n, n + int(length), nil
}

// parse reads the body of a record.
func (r *rawRecord) parse(body []byte) error {
	d := reader{b: body[1:]} // behind attributes, of which none exist
	r.timeDelta = d.varint()
	r.offsetDelta = d.varint()
	r.key = d.nullable()
	r.value = d.nullable()
	r.headers = d.b
	r.size = int32(len(body))
	if d.short {
		return fmt.Errorf("%w: record cut short", errCorrupt)
	}
	return nil
}

// nullable reads bytes with their length in front. It returns nil for null,
// and a slice that is not nil for no bytes.
func (d *reader) nullable() []byte {
	n := d.varint()
	if n < 0 {
		return nil
	}
	if n > int64(len(d.b)) {
		d.short = true
		return nil
	}
	return d.bytes(int(n))
}

// timestamp returns the record's time in the batch.
func (b *batch) timestamp(r *rawRecord) time.Time {
	ms := b.firstTime + r.timeDelta
	if b.appendTime >= 0 {
		ms = b.appendTime
	}
	return time.UnixMilli(ms)
}

// arena copies the records of a batch out of the buffers that fetches reuse, in
// chunks: a message that waits for long then holds on to one chunk, not to the
// whole response that it came with. A chunk is copied as it lies in the batch,
// which takes less than to copy the parts of each record out of it.
type arena struct {
	rest    []byte // of the batch
	chunk   []byte // a copy of what rest begins with
	headers []kafka.Header
	names   map[string]string
}

const (
	arenaChunk   = 32 << 10
	arenaHeaders = 64
	arenaNames   = 256
)

// reset begins with the records of another batch.
func (a *arena) reset(records []byte) { a.rest, a.chunk = records, nil }

// more reports whether there is another record.
func (a *arena) more() bool { return len(a.rest) > 0 }

// next reads the next record, whose slices nothing else uses.
func (a *arena) next(r *rawRecord) error {
	from, to, err := extent(a.rest)
	if err != nil {
		return err
	}
	if len(a.chunk) < to {
		size := to // a large one has a chunk of its own
		if to <= arenaChunk/4 {
			size = min(arenaChunk, len(a.rest))
		}
		a.chunk = bytes.Clone(a.rest[:size])
	}
	body := a.chunk[from:to:to]
	a.rest, a.chunk = a.rest[to:], a.chunk[to:]
	return r.parse(body)
}

// parseHeaders reads the headers of a record, whose values stay where they are.
func (a *arena) parseHeaders(b []byte) ([]kafka.Header, error) {
	d := reader{b: b}
	n := d.varint()
	if n == 0 && !d.short {
		return nil, nil
	}
	if d.short || n < 0 || n > int64(len(b)) {
		return nil, fmt.Errorf("%w: record headers", errCorrupt)
	}
	if cap(a.headers)-len(a.headers) < int(n) {
		a.headers = make([]kafka.Header, 0, max(arenaHeaders, int(n)))
	}
	from := len(a.headers)
	for range n {
		key, value := d.nullable(), d.nullable()
		a.headers = append(a.headers, kafka.Header{Key: a.name(key), Value: value})
	}
	if d.short {
		return nil, fmt.Errorf("%w: record headers", errCorrupt)
	}
	return a.headers[from:len(a.headers):len(a.headers)], nil
}

// name returns the header name as a string, one string for the many records
// that carry the same one.
func (a *arena) name(b []byte) string {
	if s, ok := a.names[string(b)]; ok {
		return s
	}
	s := string(b)
	if a.names == nil {
		a.names = make(map[string]string)
	}
	if len(a.names) < arenaNames {
		a.names[s] = s
	}
	return s
}
