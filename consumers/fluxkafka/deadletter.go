package fluxkafka

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/segmentio/kafka-go"

	"github.com/fluxlimiter/flux/stream"
)

// Headers of dead letters that others define: KIP-1191 for the broker's own
// dead letters, Spring for Apache Kafka, and Kafka Connect.
const (
	dlqPrefix     = "__dlq.errors."
	springPrefix  = "kafka_dlt-"
	connectPrefix = "__connect.errors."
)

// How much of an error and of a panic's stack goes into a header.
const (
	maxErrorText = 1 << 10
	maxStackText = 8 << 10
)

// bury publishes r to the dead letters.
func (s *session) bury(ctx context.Context, r *record, l stream.Letter) error {
	topic := s.cfg.deadLetterTopic(r.msg.Topic)
	if topic == "" {
		return ErrNoDeadLetters
	}
	m := kafka.Message{
		Topic: topic, WriterData: r.msg.Partition,
		Key: r.msg.Key, Value: r.msg.Value, Headers: s.letterHeaders(r, l), Time: r.msg.Time,
	}
	err := s.publisher.publish(ctx, m)
	if errors.Is(err, kafka.InvalidTimestamp) {
		// The topic takes no time so far from now. A header has it.
		m.Time = time.Now()
		err = s.publisher.publish(ctx, m)
	}
	if tooLarge(err) {
		// The message itself was small enough once: leave out what we added for
		// the reader's comfort.
		l.Stack = nil
		if l.Err != nil {
			l.Err = errors.New("see the service's log")
		}
		m.Headers = s.letterHeaders(r, l)
		err = s.publisher.publish(ctx, m)
	}
	return err
}

// letterHeaders returns the headers of a dead letter: the message's own, with
// those that an earlier death left replaced.
func (s *session) letterHeaders(r *record, l stream.Letter) []kafka.Header {
	text := l.Reason.String()
	if l.Err != nil {
		text = cut(l.Err.Error(), maxErrorText)
	}
	headers := slices.DeleteFunc(s.factHeaders(r, l.Tenant, l.Reason.String(), l.Attempts, l.Deferrals), func(h kafka.Header) bool {
		return strings.HasPrefix(h.Key, dlqPrefix) ||
			s.cfg.DeadLetterHeaders&SpringHeaders != 0 && strings.HasPrefix(h.Key, springPrefix) ||
			s.cfg.DeadLetterHeaders&ConnectHeaders != 0 && strings.HasPrefix(h.Key, connectPrefix)
	})
	if len(l.Stack) > 0 {
		headers = append(headers, textHeader(headerStack, cut(string(l.Stack), maxStackText)))
	}
	partition, offset := strconv.Itoa(r.msg.Partition), strconv.FormatInt(r.msg.Offset, 10)
	headers = append(headers,
		textHeader(dlqPrefix+"topic", r.msg.Topic),
		textHeader(dlqPrefix+"partition", partition),
		textHeader(dlqPrefix+"offset", offset),
		textHeader(dlqPrefix+"group", s.cfg.Group),
		textHeader(dlqPrefix+"delivery.count", strconv.Itoa(l.Attempts)),
		textHeader(dlqPrefix+"message", text),
	)
	if s.cfg.DeadLetterHeaders&SpringHeaders != 0 {
		headers = append(headers,
			textHeader(springPrefix+"original-topic", r.msg.Topic),
			kafka.Header{Key: springPrefix + "original-partition", Value: binary.BigEndian.AppendUint32(nil, uint32(r.msg.Partition))},
			kafka.Header{Key: springPrefix + "original-offset", Value: binary.BigEndian.AppendUint64(nil, uint64(r.msg.Offset))},
			kafka.Header{Key: springPrefix + "original-timestamp", Value: binary.BigEndian.AppendUint64(nil, uint64(r.msg.Time.UnixMilli()))},
			textHeader(springPrefix+"original-timestamp-type", "CreateTime"),
			textHeader(springPrefix+"original-consumer-group", s.cfg.Group),
			textHeader(springPrefix+"exception-fqcn", fmt.Sprintf("%T", l.Err)),
			textHeader(springPrefix+"exception-message", text),
			textHeader(springPrefix+"exception-stacktrace", cut(string(l.Stack), maxStackText)),
		)
	}
	if s.cfg.DeadLetterHeaders&ConnectHeaders != 0 {
		headers = append(headers,
			textHeader(connectPrefix+"topic", r.msg.Topic),
			textHeader(connectPrefix+"partition", partition),
			textHeader(connectPrefix+"offset", offset),
			textHeader(connectPrefix+"connector.name", s.cfg.Group),
			textHeader(connectPrefix+"stage", "TASK_PUT"),
			textHeader(connectPrefix+"exception.class.name", fmt.Sprintf("%T", l.Err)),
			textHeader(connectPrefix+"exception.message", text),
			textHeader(connectPrefix+"exception.stacktrace", cut(string(l.Stack), maxStackText)),
		)
	}
	return headers
}

// cut returns the first n bytes of s, or a few less so that no character is
// broken.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
