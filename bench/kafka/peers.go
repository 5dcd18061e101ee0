package main

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	wmkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/consumers/fluxkafka"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// consumer is what a peer is told: where to consume, and to call done for each
// message. Its context ends with the last one.
type consumer struct {
	brokers      []string
	topic, group string
	done         func()
}

// peer consumes until ctx ends.
type peer struct {
	name string
	run  func(ctx context.Context, c consumer) error
}

// peers are what is compared. The first is what the others are held against,
// the last has nothing around the client.
var peers = []peer{
	{"kafka.Reader, FetchMessage + CommitMessages", bareReader},
	{"**gate + fluxkafka**", gate},
	{"watermill-kafka", watermillWith()},
	{"watermill-kafka + its Throttle at 1,000,000/s", watermillWith(middleware.NewThrottle(1_000_000, time.Second).Middleware)},
	{"franz-go, nothing but polls", bareFranz},
}

// ends returns a function that calls first at its first call and then last at
// its nth.
func ends(n int, first, last func()) func() {
	var calls atomic.Int64
	begun := make(chan struct{})
	return func() {
		i := calls.Add(1)
		if i == 1 {
			first()
			close(begun)
		}
		if i == int64(n) {
			<-begun
			last()
		}
	}
}

// commitInterval is every peer's.
const commitInterval = 250 * time.Millisecond

func bareReader(ctx context.Context, c consumer) error {
	r := kafka.NewReader(kafka.ReaderConfig{
		Brokers: c.brokers, GroupID: c.group, Topic: c.topic, MinBytes: 1, MaxBytes: 1 << 20, MaxWait: 500 * time.Millisecond,
		CommitInterval: commitInterval, QueueCapacity: 1000, JoinGroupBackoff: 100 * time.Millisecond,
	})
	for {
		m, err := r.FetchMessage(ctx)
		if err == nil {
			c.done()
			err = r.CommitMessages(ctx, m)
		}
		if ctx.Err() != nil {
			return r.Close()
		}
		if err != nil {
			return errors.Join(err, r.Close())
		}
	}
}

// gate keeps the order of each of a thousand keys, has a limit for each of as
// many tenants that none of them reaches, and a handler that does nothing.
func gate(ctx context.Context, c consumer) error {
	lim, err := flux.New(flux.Config[string]{Limit: gcra.PerSecond(1_000_000)})
	if err != nil {
		return err
	}
	// The names of the tenants, so that none is made again for each message.
	names := make(map[string]string)
	for i := range keys {
		names[strconv.Itoa(i)] = strconv.Itoa(i)
	}
	tenant := func(m *kafka.Message) string { return names[string(m.Key)] }
	g, err := stream.New(stream.Config[*kafka.Message]{
		Limiter: lim, Tenant: tenant, OrderKey: tenant,
		Policy: stream.Policy{OnDenied: stream.Drop}, // it never is, and without lanes it cannot be deferred
	})
	if err != nil {
		return err
	}
	src, err := fluxkafka.New(fluxkafka.Config{
		Brokers: c.brokers, Group: c.group, Topics: []string{c.topic}, CommitInterval: commitInterval,
		Lanes: []time.Duration{}, DeadLetters: fluxkafka.NoDeadLetters, // no topics beside the peers'
	})
	if err != nil {
		return err
	}
	return g.Run(ctx, src, func(context.Context, *kafka.Message) error {
		c.done()
		return nil
	})
}

// watermillWith is a router with some middleware and a handler that does nothing.
func watermillWith(m ...message.HandlerMiddleware) func(context.Context, consumer) error {
	return func(ctx context.Context, c consumer) error {
		cfg := wmkafka.DefaultSaramaSubscriberConfig()
		cfg.Consumer.Offsets.Initial = sarama.OffsetOldest
		cfg.Consumer.Offsets.AutoCommit.Interval = commitInterval
		sub, err := wmkafka.NewSubscriber(wmkafka.SubscriberConfig{
			Brokers: c.brokers, ConsumerGroup: c.group, Unmarshaler: wmkafka.DefaultMarshaler{}, OverwriteSaramaConfig: cfg,
		}, watermill.NopLogger{})
		if err != nil {
			return err
		}
		router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
		if err != nil {
			return err
		}
		router.AddMiddleware(m...)
		router.AddConsumerHandler("bench", c.topic, sub, func(*message.Message) error {
			c.done()
			return nil
		})
		return errors.Join(router.Run(ctx), router.Close())
	}
}

func bareFranz(ctx context.Context, c consumer) error {
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(c.brokers...), kgo.ConsumerGroup(c.group), kgo.ConsumeTopics(c.topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.AutoCommitInterval(commitInterval),
	)
	if err != nil {
		return err
	}
	defer cl.Close()
	for ctx.Err() == nil {
		for range cl.PollFetches(ctx).NumRecords() {
			c.done()
		}
	}
	return nil
}
