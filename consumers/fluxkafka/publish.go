package fluxkafka

import (
	"context"
	"errors"
	"time"

	"github.com/segmentio/kafka-go"
)

// Brokers take batches of a megabyte by default. What is larger by itself goes
// alone, and the broker says whether it takes it.
const (
	batchBytes = 1 << 20
	largeBytes = batchBytes - 64<<10
)

// publisher publishes messages to the partition that they came from, and
// returns when every in-sync replica has them.
type publisher struct {
	batches *kafka.Writer
	alone   *kafka.Writer // for one message at a time, compressed
}

// newPublisher returns a publisher on a transport. A writer of this client
// without RequiredAcks waits for nobody, and one without BatchTimeout a second.
func newPublisher(cfg *Config, transport *kafka.Transport) *publisher {
	writer := func(size, bytes int, compression kafka.Compression) *kafka.Writer {
		return &kafka.Writer{
			Addr: kafka.TCP(cfg.Brokers...), Transport: transport, Balancer: sourcePartition{},
			RequiredAcks: kafka.RequireAll, BatchSize: size, BatchBytes: int64(bytes), BatchTimeout: 5 * time.Millisecond, Compression: compression,
			MaxAttempts: 3, WriteTimeout: cfg.RequestTimeout, ReadTimeout: cfg.RequestTimeout,
		}
	}
	return &publisher{
		batches: writer(1000, batchBytes, 0),
		// What its producer compressed may fit the topic only compressed. Every
		// broker knows gzip.
		alone: writer(1, maxResponse, kafka.Gzip),
	}
}

func (p *publisher) publish(ctx context.Context, m kafka.Message) error {
	if size(&m) <= largeBytes {
		// It may be the batch that is too large for the topic.
		if err := write(ctx, p.batches, m); !tooLarge(err) {
			return err
		}
	}
	return write(ctx, p.alone, m)
}

func write(ctx context.Context, w *kafka.Writer, m kafka.Message) error {
	err := w.WriteMessages(ctx, m)
	if all, ok := errors.AsType[kafka.WriteErrors](err); ok && len(all) == 1 {
		return all[0]
	}
	return err
}

// tooLarge reports whether the broker refused a batch for its size.
func tooLarge(err error) bool {
	return errors.Is(err, kafka.MessageSizeTooLarge) || errors.Is(err, kafka.RecordListTooLarge)
}

// close waits for what is under way.
func (p *publisher) close() {
	_ = p.batches.Close()
	_ = p.alone.Close()
}

// size is about what a message takes in a batch.
func size(m *kafka.Message) int {
	n := 64 + len(m.Key) + len(m.Value)
	for _, h := range m.Headers {
		n += 16 + len(h.Key) + len(h.Value)
	}
	return n
}
