package fluxkafka

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/segmentio/kafka-go/protocol"
)

// Versions of the Fetch API that fetchRequest can speak: from the first with
// aborted transactions (Kafka 0.11) to the last before flexible encodings,
// which Kafka 4 still speaks.
const (
	fetchMinVersion = 4
	fetchMaxVersion = 11
)

// maxResponse bounds what one fetch may allocate, whatever size a broker
// announces. The largest batch that a broker can be configured to store is
// smaller.
const maxResponse = 1 << 30

var (
	errOldBroker = errors.New("broker speaks no fetch version from 4 to 11")
	errResponse  = errors.New("malformed fetch response")
)

// fetchRequest asks one broker for records of one partition.
//
// It is written and read here and not by the client's codec, which drops the
// last offset of a batch (so that a reader stands still before a batch whose
// records were compacted away) and spends more time on a record than all the
// rest of this package together. [protocol.RawExchanger] is the client's own
// way to do that: routing, connections, TLS and SASL stay with it.
type fetchRequest struct {
	topic     string
	partition int32
	offset    int64
	maxWait   int32 // ms
	maxBytes  int32
	committed bool
	clientID  string
	buf       []byte // where the response is read to; the broker's connection owns it until the round trip returned

	version int16
}

var (
	_ protocol.BrokerMessage = (*fetchRequest)(nil)
	_ protocol.RawExchanger  = (*fetchRequest)(nil)
)

func (r *fetchRequest) ApiKey() protocol.ApiKey { return protocol.Fetch }

// Broker routes the request to the partition's leader.
func (r *fetchRequest) Broker(cluster protocol.Cluster) (protocol.Broker, error) {
	topic, ok := cluster.Topics[r.topic]
	if !ok {
		return protocol.Broker{ID: -1}, protocol.NewErrNoTopic(r.topic)
	}
	part, ok := topic.Partitions[r.partition]
	if !ok {
		return protocol.Broker{ID: -1}, protocol.NewErrNoPartition(r.topic, r.partition)
	}
	leader, ok := cluster.Brokers[part.Leader]
	if !ok {
		return protocol.Broker{ID: -1}, protocol.NewErrNoLeader(r.topic, r.partition)
	}
	return leader, nil
}

func (r *fetchRequest) Required(versions map[protocol.ApiKey]int16) bool {
	r.version = versions[protocol.Fetch]
	return true
}

func (r *fetchRequest) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	if r.version < fetchMinVersion || r.version > fetchMaxVersion {
		return nil, errOldBroker
	}
	if _, err := rw.Write(r.encode()); err != nil {
		return nil, err
	}
	var size [4]byte
	if _, err := io.ReadFull(rw, size[:]); err != nil {
		return nil, err
	}
	n := int64(binary.BigEndian.Uint32(size[:]))
	if n < 4 || n > maxResponse {
		return nil, fmt.Errorf("%w: %d bytes", errResponse, n)
	}
	if int64(cap(r.buf)) < n {
		r.buf = make([]byte, n+n/8) // or every answer that is a little longer than the last would make another
	}
	buf := r.buf[:n]
	if _, err := io.ReadFull(rw, buf); err != nil {
		return nil, err
	}
	return r.decode(buf)
}

// correlationID can be constant: a connection of the client carries one
// request at a time.
const correlationID = 0x666c7578

func (r *fetchRequest) encode() []byte {
	be := binary.BigEndian
	b := make([]byte, 4, 128+len(r.topic)+len(r.clientID))
	b = be.AppendUint16(b, uint16(protocol.Fetch))
	b = be.AppendUint16(b, uint16(r.version))
	b = be.AppendUint32(b, correlationID)
	b = appendString(b, r.clientID)
	b = be.AppendUint32(b, ^uint32(0)) // replica: a consumer
	b = be.AppendUint32(b, uint32(r.maxWait))
	b = be.AppendUint32(b, 1) // min bytes
	b = be.AppendUint32(b, uint32(r.maxBytes))
	if r.committed {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	if r.version >= 7 {
		b = be.AppendUint32(b, 0)          // session id: none
		b = be.AppendUint32(b, ^uint32(0)) // session epoch: a full fetch
	}
	b = be.AppendUint32(b, 1)
	b = appendString(b, r.topic)
	b = be.AppendUint32(b, 1)
	b = be.AppendUint32(b, uint32(r.partition))
	if r.version >= 9 {
		b = be.AppendUint32(b, ^uint32(0)) // leader epoch: unknown
	}
	b = be.AppendUint64(b, uint64(r.offset))
	if r.version >= 5 {
		b = be.AppendUint64(b, ^uint64(0)) // log start: only followers know it
	}
	b = be.AppendUint32(b, uint32(r.maxBytes))
	if r.version >= 7 {
		b = be.AppendUint32(b, 0) // forgotten topics
	}
	if r.version >= 11 {
		b = appendString(b, "") // rack
	}
	be.PutUint32(b, uint32(len(b)-4))
	return b
}

func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// abortedTxn is a transaction of which read-committed readers must not see the
// records.
type abortedTxn struct {
	producer int64
	first    int64
}

// fetchResponse is a broker's answer. records, and the batches in it, are valid
// until buf is used for another request.
type fetchResponse struct {
	code          int16
	highWatermark int64
	stable        int64 // the offset up to which every transaction is decided
	logStart      int64
	aborted       []abortedTxn
	records       []byte
	buf           []byte
}

func (r *fetchResponse) ApiKey() protocol.ApiKey { return protocol.Fetch }

func (r *fetchRequest) decode(buf []byte) (*fetchResponse, error) {
	d := reader{b: buf}
	res := &fetchResponse{buf: buf, logStart: -1}
	if id := d.int32(); id != correlationID {
		return nil, fmt.Errorf("%w: answer to request %d", errResponse, id)
	}
	d.int32() // throttle time: the broker waits by itself
	if r.version >= 7 {
		res.code = d.int16()
		d.int32() // session
	}
	switch topics := d.int32(); {
	case topics == 0 && res.code != 0:
		return res, nil
	case topics != 1:
		return nil, fmt.Errorf("%w: %d topics", errResponse, topics)
	}
	if topic := d.bytes(int(d.int16())); string(topic) != r.topic {
		return nil, fmt.Errorf("%w: topic %q", errResponse, topic)
	}
	if n := d.int32(); n != 1 {
		return nil, fmt.Errorf("%w: %d partitions", errResponse, n)
	}
	if p := d.int32(); p != r.partition {
		return nil, fmt.Errorf("%w: partition %d", errResponse, p)
	}
	if code := d.int16(); code != 0 {
		res.code = code
	}
	res.highWatermark = d.int64()
	res.stable = d.int64()
	if r.version >= 5 {
		res.logStart = d.int64()
	}
	if n := int(d.int32()); n > 0 {
		if n > len(d.b)/16 {
			return nil, fmt.Errorf("%w: %d aborted transactions", errResponse, n)
		}
		res.aborted = make([]abortedTxn, n)
		for i := range res.aborted {
			res.aborted[i] = abortedTxn{producer: d.int64(), first: d.int64()}
		}
	}
	if r.version >= 11 {
		d.int32() // preferred replica: given only to readers that name a rack
	}
	if n := d.int32(); n > 0 {
		res.records = d.bytes(int(n))
	}
	if d.short {
		return nil, fmt.Errorf("%w: cut short", errResponse)
	}
	return res, nil
}

// reader reads big-endian fields. Reading beyond the end gives zeros and sets
// short.
type reader struct {
	b     []byte
	short bool
}

func (d *reader) bytes(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.short = true
		d.b = nil
		return nil
	}
	b := d.b[:n:n]
	d.b = d.b[n:]
	return b
}

func (d *reader) int16() int16 {
	if b := d.bytes(2); b != nil {
		return int16(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (d *reader) int32() int32 {
	if b := d.bytes(4); b != nil {
		return int32(binary.BigEndian.Uint32(b))
	}
	return 0
}

func (d *reader) int64() int64 {
	if b := d.bytes(8); b != nil {
		return int64(binary.BigEndian.Uint64(b))
	}
	return 0
}

// varint reads a zigzag varint.
func (d *reader) varint() int64 {
	if len(d.b) > 0 && d.b[0] < 0x80 { // as most are
		u := d.b[0]
		d.b = d.b[1:]
		return int64(u>>1) ^ -int64(u&1)
	}
	return d.longVarint()
}

func (d *reader) longVarint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.short = true
		d.b = nil
		return 0
	}
	d.b = d.b[n:]
	return v
}
