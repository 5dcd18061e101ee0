package fluxkafka_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/segmentio/kafka-go/compress"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/fluxlimiter/flux/consumers/fluxkafka"
)

const (
	transactional = 0x10
	control       = 0x20
)

// logBatch describes a batch as it lies in a log.
type logBatch struct {
	base, last int64
	attrs      int16
	producer   int64
	offsets    []int64 // of the records that compaction left
	abort      bool    // of a control batch
}

func (b logBatch) bytes() []byte {
	var body []byte
	for _, offset := range b.offsets {
		r := kmsg.Record{OffsetDelta: int32(offset - b.base), TimestampDelta64: offset - b.base, Key: []byte("k"), Value: fmt.Append(nil, offset)}
		if b.attrs&control != 0 {
			r.Key = []byte{0, 0, 0, 1}
			if b.abort {
				r.Key[3] = 0
			}
		}
		r.Length = int32(len(r.AppendTo(nil))) - 1 // without the length itself, of one byte here
		body = r.AppendTo(body)
	}
	if codec := compress.Compression(b.attrs & 7).Codec(); codec != nil {
		var buf bytes.Buffer
		w := codec.NewWriter(&buf)
		_, _ = w.Write(body)
		w.Close()
		body = buf.Bytes()
	}
	rb := kmsg.RecordBatch{
		FirstOffset: b.base, Magic: 2, Attributes: b.attrs, LastOffsetDelta: int32(b.last - b.base), FirstTimestamp: 1000,
		MaxTimestamp: 9000, ProducerID: b.producer, NumRecords: int32(len(b.offsets)), Records: body, Length: int32(49 + len(body)),
	}
	return withChecksum(rb.AppendTo(nil))
}

func withChecksum(raw []byte) []byte {
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
	return raw
}

// TestRecordSizes reads batches of records of all sizes around those of the chunks
// that they are kept in.
func TestRecordSizes(t *testing.T) {
	sizes := []int{0, 1, 63, 64, 200, 8000, 8190, 8192, 8193, 9000, 20_000, 32_000, 32_760, 32_768, 33_000, 100_000}
	var raw []byte
	var want []int
	for first := range sizes {
		var body []byte
		n := 0
		for i := range 3 * len(sizes) {
			size := sizes[(first+i*(first+1))%len(sizes)]
			r := kmsg.Record{OffsetDelta: int32(n), Key: fmt.Append(nil, len(want)), Value: bytes.Repeat([]byte{byte(len(want))}, size)}
			// The length is that of what follows it.
			r.Length = int32(len(r.AppendTo(nil))) - 1
			body = r.AppendTo(body)
			want = append(want, size)
			n++
		}
		rb := kmsg.RecordBatch{
			FirstOffset: int64(len(want) - n), Magic: 2, LastOffsetDelta: int32(n - 1), NumRecords: int32(n), Records: body, Length: int32(49 + len(body)),
		}
		raw = append(raw, withChecksum(rb.AppendTo(nil))...)
	}
	records, position, err := fluxkafka.DecodeRecords(raw, false, nil)
	if err != nil || position != int64(len(want)) || len(records) != len(want) {
		t.Fatalf("%d records up to %d, error %v, want %d", len(records), position, err, len(want))
	}
	for i, r := range records {
		if string(r.Key) != fmt.Sprint(i) || !bytes.Equal(r.Value, bytes.Repeat([]byte{byte(i)}, want[i])) {
			t.Fatalf("record %d has key %q and %d bytes, want %d", i, r.Key, len(r.Value), want[i])
		}
	}
}

func TestDecodeRecords(t *testing.T) {
	for _, tt := range []struct {
		name     string
		log      []logBatch
		aborted  []fluxkafka.Aborted
		want     []int64
		dirty    []int64 // read uncommitted, nil if the same
		position int64
	}{
		{name: "plain", log: []logBatch{{base: 0, last: 2, offsets: []int64{0, 1, 2}}}, want: []int64{0, 1, 2}, position: 3},
		{
			// A reader that goes on behind the last record it saw would ask for 7
			// for ever.
			name: "compacted at the end", log: []logBatch{{base: 5, last: 9, offsets: []int64{5, 6}}, {base: 10, last: 12}},
			want: []int64{5, 6}, position: 13,
		},
		{
			name: "transactions",
			log: []logBatch{
				{base: 0, last: 1, attrs: transactional, producer: 1, offsets: []int64{0, 1}},
				{base: 2, last: 3, attrs: transactional, producer: 2, offsets: []int64{2, 3}},
				{base: 4, last: 4, offsets: []int64{4}},
				{base: 5, last: 5, attrs: transactional | control, producer: 1, offsets: []int64{5}, abort: true},
				{base: 6, last: 6, attrs: transactional | control, producer: 2, offsets: []int64{6}},
				{base: 7, last: 7, attrs: transactional, producer: 1, offsets: []int64{7}},
				{base: 8, last: 8, attrs: transactional | control, producer: 1, offsets: []int64{8}},
				{base: 9, last: 9, attrs: transactional, producer: 2, offsets: []int64{9}},
				{base: 10, last: 10, attrs: transactional | control, producer: 2, offsets: []int64{10}, abort: true},
			},
			// As brokers may: out of order.
			aborted: []fluxkafka.Aborted{{Producer: 2, First: 9}, {Producer: 1, First: 0}},
			want:    []int64{2, 3, 4, 7}, dirty: []int64{0, 1, 2, 3, 4, 7, 9}, position: 11,
		},
		{
			name: "a producer aborts twice",
			log: []logBatch{
				{base: 0, last: 0, attrs: transactional, producer: 1, offsets: []int64{0}},
				{base: 1, last: 1, attrs: transactional | control, producer: 1, offsets: []int64{1}, abort: true},
				{base: 2, last: 2, attrs: transactional, producer: 1, offsets: []int64{2}},
				{base: 3, last: 3, attrs: transactional | control, producer: 1, offsets: []int64{3}, abort: true},
				{base: 4, last: 4, attrs: transactional, producer: 1, offsets: []int64{4}},
			},
			aborted: []fluxkafka.Aborted{{Producer: 1, First: 0}, {Producer: 1, First: 2}},
			want:    []int64{4}, dirty: []int64{0, 2, 4}, position: 5,
		},
	} {
		for codec := range int16(5) {
			t.Run(fmt.Sprint(tt.name, "/", codec), func(t *testing.T) {
				var raw []byte
				for _, b := range tt.log {
					if b.attrs&control == 0 && len(b.offsets) > 0 {
						b.attrs |= codec
					}
					raw = append(raw, b.bytes()...)
				}
				for _, committed := range []bool{true, false} {
					want := tt.want
					if !committed && tt.dirty != nil {
						want = tt.dirty
					}
					// Whatever is cut off at the end is asked for again.
					for _, tail := range [][]byte{nil, raw[:1], raw[:40], raw[:len(raw)-1]} {
						if len(tail) == len(raw)-1 && len(tt.log) > 1 {
							continue
						}
						got, position, err := fluxkafka.DecodeRecords(append(slices.Clone(raw), tail...), committed, tt.aborted)
						var offsets []int64
						for _, r := range got {
							offsets = append(offsets, r.Offset)
							if string(r.Value) != fmt.Sprint(r.Offset) || string(r.Key) != "k" {
								t.Errorf("record %+v", r)
							}
						}
						if err != nil || !slices.Equal(offsets, want) || position != tt.position {
							t.Fatalf("committed %v: offsets %v, position %d, %v, want %v, %d", committed, offsets, position, err, want, tt.position)
						}
					}
				}
			})
		}
	}
}

func TestDecodeRecordsTime(t *testing.T) {
	const logAppend = 0x08
	for attrs, want := range map[int16]int64{0: 1002, logAppend: 9000} {
		b := logBatch{base: 10, last: 12, attrs: attrs, offsets: []int64{12}}
		got, _, err := fluxkafka.DecodeRecords(b.bytes(), true, nil)
		if err != nil || len(got) != 1 || got[0].Time.UnixMilli() != want {
			t.Errorf("attributes %d: %+v, %v, want the time %d", attrs, got, err, want)
		}
	}
}

// TestDecodeRecordsRefuses changes every byte of a batch: the checksum must tell.
func TestDecodeRecordsRefuses(t *testing.T) {
	raw := logBatch{base: 0, last: 2, offsets: []int64{0, 1, 2}}.bytes()
	for i := range raw {
		bad := slices.Clone(raw)
		bad[i] ^= 0x55
		got, _, err := fluxkafka.DecodeRecords(bad, true, nil)
		// The base offset and the leader's epoch are the broker's, which the
		// checksum leaves out.
		if err == nil && i >= 8 && (i < 12 || i >= 16) {
			t.Errorf("byte %d changed: %+v", i, got)
		}
	}
}

// FuzzDecodeRecords gives batches with right checksums and anything in them.
func FuzzDecodeRecords(f *testing.F) {
	f.Add(logBatch{base: 0, last: 2, offsets: []int64{0, 1, 2}}.bytes(), true)
	f.Add(logBatch{base: 0, last: 2, attrs: 4, offsets: []int64{0, 1, 2}}.bytes(), false)
	f.Add(logBatch{base: 5, last: 5, attrs: transactional | control, offsets: []int64{5}, abort: true}.bytes(), true)
	f.Fuzz(func(t *testing.T, raw []byte, committed bool) {
		raw = slices.Clone(raw)
		if len(raw) > 61 {
			binary.BigEndian.PutUint32(raw[8:], uint32(len(raw)-12))
			withChecksum(raw)
		}
		got, position, err := fluxkafka.DecodeRecords(raw, committed, []fluxkafka.Aborted{{Producer: 0, First: 1}})
		if err == nil && len(raw) == 0 && (len(got) > 0 || position != 0) {
			t.Errorf("something from nothing: %v, %d", got, position)
		}
		if len(got) > len(raw)*1100 {
			t.Errorf("%d records from %d bytes", len(got), len(raw))
		}
	})
}

// FuzzDecodeFetch gives fetch responses with anything in them.
func FuzzDecodeFetch(f *testing.F) {
	f.Add(int16(11), []byte("flux\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x01t"))
	f.Add(int16(4), []byte{})
	f.Fuzz(func(t *testing.T, version int16, raw []byte) {
		records, err := fluxkafka.DecodeFetch(version, raw)
		if err == nil && len(records) > len(raw) {
			t.Errorf("%d bytes of records in %d", len(records), len(raw))
		}
	})
}

// TestCompression consumes what each codec of another client wrote, with
// headers, null keys and values, empty ones, and large ones.
func TestCompression(t *testing.T) {
	for name, codec := range map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	} {
		t.Run(name, func(t *testing.T) {
			// The client pools zstd decoders, which have channels of the bubble
			// that made them: let none survive. A pool is empty after two collections.
			defer runtime.GC()
			defer runtime.GC()
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, 1, kfake.SeedTopics(1, "t"))
				defer c.close()
				cl := c.client(kgo.ProducerBatchCompression(codec))
				defer cl.Close()
				sent := []*kgo.Record{
					{Key: nil, Value: nil},
					{Key: []byte{}, Value: []byte{}},
					{Key: []byte("k"), Value: bytes.Repeat([]byte("large "), 50_000)},
					{Value: []byte("v"), Headers: []kgo.RecordHeader{{Key: "a"}, {Key: "", Value: []byte{}}, {Key: "a", Value: []byte("b")}}},
				}
				for i := range 500 {
					sent = append(sent, &kgo.Record{Key: fmt.Append(nil, "k", i), Value: fmt.Append(nil, i), Timestamp: time.UnixMilli(int64(i))})
				}
				for _, r := range sent {
					r.Topic = "t"
				}
				if err := cl.ProduceSync(t.Context(), sent...).FirstErr(); err != nil {
					t.Fatal(err)
				}
				n := 0
				cfg := c.config("t")
				cfg.Window, cfg.FetchBytes = 1, 1000 // one batch is larger than the fetch
				m := c.start(cfg, func(ctx context.Context, d delivery) error {
					got, want := d.Message(), sent[n]
					n++
					same := bytes.Equal(got.Key, want.Key) && bytes.Equal(got.Value, want.Value) && (got.Key == nil) == (want.Key == nil) &&
						(got.Value == nil) == (want.Value == nil) && len(got.Headers) == len(want.Headers) && got.Time.Equal(want.Timestamp.Truncate(time.Millisecond))
					for i := range min(len(got.Headers), len(want.Headers)) {
						same = same && got.Headers[i].Key == want.Headers[i].Key && bytes.Equal(got.Headers[i].Value, want.Headers[i].Value) &&
							(got.Headers[i].Value == nil) == (want.Headers[i].Value == nil)
					}
					if !same {
						t.Errorf("message %d: got %+v, want %+v", n-1, got, want)
					}
					return d.Ack(ctx)
				})
				c.allCommitted("t", 30*time.Second)
				m.stop()
				if n != len(sent) {
					t.Errorf("%d of %d messages", n, len(sent))
				}
			})
		})
	}
}
