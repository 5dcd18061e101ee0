package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"
	"golang.org/x/sync/errgroup"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/consumers/fluxkafka"
	"github.com/fluxlimiter/flux/examples/internal/program"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

type config struct {
	brokers      []string
	dialer       *kafka.Dialer
	topic, group string
	rate         int64
	duration     time.Duration
	out          io.Writer
}

const partitions = 4

// tenants publish so many messages a second: the first far more than the rest,
// and than it may have processed.
var tenants = []struct {
	name string
	rate int
}{{"acme", 400}, {"bolt", 20}, {"cara", 10}}

// throttle runs the messages of source through a limit for each tenant to handle,
// until ctx ends. With newSource, this is all that it takes.
func throttle(ctx context.Context, source *fluxkafka.Source, limit gcra.Limit, hooks stream.Hooks, handle stream.Handler[*kafka.Message]) error {
	limiter, err := flux.New(flux.Config[string]{Limit: limit})
	if err != nil {
		return err
	}
	gate, err := stream.New(stream.Config[*kafka.Message]{
		Limiter:  limiter,
		Tenant:   tenantOf,
		OrderKey: func(m *kafka.Message) string { return string(m.Key) },
		Policy:   stream.Policy{MaxWait: time.Second},
		Hooks:    hooks,
	})
	if err != nil {
		return err
	}
	return gate.Run(ctx, source, handle)
}

// newSource returns what reads the topic as a member of the group.
func newSource(cfg config) (*fluxkafka.Source, error) {
	source, err := fluxkafka.New(fluxkafka.Config{
		Brokers: cfg.brokers, Dialer: cfg.dialer, Group: cfg.group, Topics: []string{cfg.topic},
		Lanes: []time.Duration{time.Second, 5 * time.Second, time.Minute}, CreateTopics: true,
	})
	if err != nil {
		return nil, program.Usagef("-topic %q -group %q: %w", cfg.topic, cfg.group, err)
	}
	return source, nil
}

// tenantOf reads the tenant from a header. A message without one becomes a dead
// letter.
func tenantOf(m *kafka.Message) string {
	for _, h := range slices.Backward(m.Headers) {
		if h.Key == "tenant" {
			return string(h.Value)
		}
	}
	return ""
}

// demo makes the topic, publishes for all tenants and prints what they get.
func demo(ctx context.Context, cfg config) error {
	if cfg.dialer == nil {
		cfg.dialer = &kafka.Dialer{Timeout: 10 * time.Second}
	}
	source, err := newSource(cfg) // before anything is made
	if err != nil {
		return err
	}
	limit := gcra.PerSecond(cfg.rate)
	transport := &kafka.Transport{Dial: cfg.dialer.DialFunc}
	defer transport.CloseIdleConnections()
	client := &kafka.Client{Addr: kafka.TCP(cfg.brokers...), Transport: transport, Timeout: 10 * time.Second}
	if err := makeTopic(ctx, client, cfg); err != nil {
		return err
	}
	writer := &kafka.Writer{
		Addr: client.Addr, Topic: cfg.topic, Transport: transport, Balancer: &kafka.Hash{},
		RequiredAcks: kafka.RequireAll, BatchTimeout: 5 * time.Millisecond,
	}
	defer func() { _ = writer.Close() }()

	ctx, cancel := context.WithTimeout(ctx, cfg.duration)
	defer cancel()
	board := newBoard(cfg.out)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return publish(ctx, writer) })
	group.Go(func() error { return board.print(ctx) })
	group.Go(func() error {
		return throttle(ctx, source, limit, stream.Hooks{Admitted: board.admitted, Settled: board.settled}, func(context.Context, *kafka.Message) error { return nil })
	})
	if err := group.Wait(); err != nil {
		return err
	}
	return board.final(limit)
}

// makeTopic makes the topic if it is not there.
func makeTopic(ctx context.Context, client *kafka.Client, cfg config) error {
	// Asked first, as what is wrong with a connection is better said by this.
	if _, err := client.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{cfg.topic}}); err != nil {
		return fmt.Errorf("-brokers %s: %w", strings.Join(cfg.brokers, ","), err)
	}
	made, err := client.CreateTopics(ctx, &kafka.CreateTopicsRequest{
		Topics: []kafka.TopicConfig{{Topic: cfg.topic, NumPartitions: partitions, ReplicationFactor: -1}},
	})
	if err == nil {
		err = made.Errors[cfg.topic]
	}
	if err != nil && !errors.Is(err, kafka.TopicAlreadyExists) {
		return fmt.Errorf("-topic %q: cannot make it: %w", cfg.topic, err)
	}
	return nil
}

// publish publishes what the tenants send, ten times a second.
func publish(ctx context.Context, w *kafka.Writer) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		var batch []kafka.Message
		for _, t := range tenants {
			for i := range t.rate / 10 {
				batch = append(batch, kafka.Message{
					Key: []byte(t.name + strconv.Itoa(i%10)), Value: []byte(strconv.Itoa(n)), Time: time.Now(),
					Headers: []kafka.Header{{Key: "tenant", Value: []byte(t.name)}},
				})
			}
		}
		if err := w.WriteMessages(ctx, batch...); err != nil && ctx.Err() == nil {
			return fmt.Errorf("publishing: %w", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
