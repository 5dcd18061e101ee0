package fluxkafka

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"iter"
	"math"
	"strings"
)

// A commit names one offset, below which everything is done. The completed map
// that travels with it as metadata names what is done above it, so that the
// next owner of the partition does not repeat it. The idea is that of
// Confluent's Parallel Consumer.
//
// Encoded, it is "flux1" and base64 of: the encoding, 'r' or 'b'; varint of the
// committed offset; the body; CRC-32C of all before. The body is the shorter of
// alternating run lengths as varints, open runs first, and a bitmap with one
// bit for each offset from the committed one.
const (
	mapMagic = "flux1"
	mapRuns  = 'r'
	mapBits  = 'b'

	// maxMetadata is what brokers accept for metadata by default, their
	// offset.metadata.max.bytes.
	maxMetadata = 4096

	// fullMetadata is the size from which a partition takes no new offsets: the
	// map must keep its place when the ones that are out finish in the worst
	// order.
	fullMetadata = maxMetadata * 3 / 4
)

// span is a run of offsets, the end exclusive.
type span struct{ from, to int64 }

// encodeCompleted encodes the spans of done offsets above base, which must be
// sorted, apart, and not touch base.
func encodeCompleted(base int64, done iter.Seq[span]) string {
	var runs, bits []byte
	at := base
	bitmap := true
	for s := range done {
		runs = binary.AppendUvarint(runs, uint64(s.from-at))
		runs = binary.AppendUvarint(runs, uint64(s.to-s.from))
		at = s.to
		if bitmap = bitmap && at-base <= maxMetadata*8; bitmap {
			for int64(len(bits))*8 < at-base {
				bits = append(bits, 0)
			}
			for o := s.from - base; o < s.to-base; o++ {
				bits[o/8] |= 1 << (o % 8)
			}
		}
	}
	if at == base {
		return ""
	}
	kind, body := byte(mapRuns), runs
	if bitmap && len(bits) < len(runs) {
		kind, body = mapBits, bits
	}
	raw := make([]byte, 0, 1+binary.MaxVarintLen64+len(body)+4)
	raw = append(raw, kind)
	raw = binary.AppendUvarint(raw, uint64(base))
	raw = append(raw, body...)
	raw = binary.BigEndian.AppendUint32(raw, crc32.Checksum(raw, castagnoli))
	return mapMagic + base64.RawStdEncoding.EncodeToString(raw)
}

// decodeCompleted returns the done spans above base that metadata names. It
// returns ok = false for what is not a whole map for that very offset: the
// caller then repeats work, which is safe, as skipping it would not be.
func decodeCompleted(metadata string, base int64) (done []span, ok bool) {
	body, found := strings.CutPrefix(metadata, mapMagic)
	if !found || len(metadata) > 16*maxMetadata || base < 0 {
		return nil, false
	}
	raw, err := base64.RawStdEncoding.Strict().DecodeString(body)
	if err != nil || len(raw) < 1+1+4 {
		return nil, false
	}
	sum := binary.BigEndian.Uint32(raw[len(raw)-4:])
	raw = raw[:len(raw)-4]
	if crc32.Checksum(raw, castagnoli) != sum {
		return nil, false
	}
	kind := raw[0]
	at, n := binary.Uvarint(raw[1:])
	if n <= 0 || at != uint64(base) {
		return nil, false
	}
	raw = raw[1+n:]
	switch kind {
	case mapRuns:
		return decodeRuns(raw, base)
	case mapBits:
		return decodeBits(raw, base)
	}
	return nil, false
}

func decodeRuns(raw []byte, base int64) (done []span, ok bool) {
	at := base
	for len(raw) > 0 {
		open, n := binary.Uvarint(raw)
		if n <= 0 {
			return nil, false
		}
		length, m := binary.Uvarint(raw[n:])
		if m <= 0 || open == 0 || length == 0 || open > math.MaxInt64 || length > math.MaxInt64 {
			return nil, false
		}
		raw = raw[n+m:]
		from := at + int64(open)
		to := from + int64(length)
		if from < at || to < from {
			return nil, false
		}
		done = append(done, span{from, to})
		at = to
	}
	return done, true
}

func decodeBits(raw []byte, base int64) (done []span, ok bool) {
	if len(raw) == 0 || raw[0]&1 != 0 || raw[len(raw)-1] == 0 || base > math.MaxInt64-int64(len(raw))*8 {
		return nil, false
	}
	for i := range int64(len(raw)) * 8 {
		if raw[i/8]&(1<<(i%8)) == 0 {
			continue
		}
		if last := len(done) - 1; last >= 0 && done[last].to == base+i {
			done[last].to++
		} else {
			done = append(done, span{base + i, base + i + 1})
		}
	}
	return done, true
}
