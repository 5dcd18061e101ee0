package main

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wmjetstream "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/jetstream"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// peer takes n messages of a fresh consumer to their end, acknowledgements
// included, and calls done at the last one.
type peer struct {
	name string
	run  func(ctx context.Context, nc *nats.Conn, n int, done func()) error
}

// peers are what is compared. The first is what the others are held against.
var peers = []peer{
	{"Consume + Ack", bareLoop},
	{"**gate + fluxnats**", gate},
	{"watermill-nats, asynchronous acks", watermillWith()},
	{"watermill-nats + its Throttle at 1,000,000/s", watermillWith(middleware.NewThrottle(1_000_000, time.Second).Middleware)},
}

// last returns a function that calls done at its nth call.
func last(n int, done func()) func() {
	var left atomic.Int64
	left.Store(int64(n))
	return func() {
		if left.Add(-1) == 0 {
			done()
		}
	}
}

func bareLoop(ctx context.Context, nc *nats.Conn, n int, done func()) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	con, err := js.Consumer(ctx, streamName, consumerName)
	if err != nil {
		return err
	}
	end := last(n, done)
	cc, err := con.Consume(func(m jetstream.Msg) {
		_ = m.Ack() // fails only on a closed connection
		end()
	})
	if err != nil {
		return err
	}
	<-ctx.Done()
	cc.Stop()
	<-cc.Closed()
	return nil
}

// gate is a limiter that limits nobody, a thousand tenants, and a handler that
// does nothing.
func gate(ctx context.Context, nc *nats.Conn, n int, done func()) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	src, err := fluxnats.New(js, fluxnats.Config{Stream: streamName, Consumer: consumerName})
	if err != nil {
		return err
	}
	lim, err := flux.New(flux.Config[string]{Limit: gcra.Unlimited()})
	if err != nil {
		return err
	}
	g, err := stream.New(stream.Config[*fluxnats.Msg]{Limiter: lim, Tenant: (*fluxnats.Msg).Subject})
	if err != nil {
		return err
	}
	end := last(n, done)
	return g.Run(ctx, src, func(context.Context, *fluxnats.Msg) error {
		end()
		return nil
	})
}

// watermillWith is a router with some middleware and a handler that does nothing.
func watermillWith(m ...message.HandlerMiddleware) func(context.Context, *nats.Conn, int, func()) error {
	return func(ctx context.Context, nc *nats.Conn, n int, done func()) error {
		own, err := nats.Connect(nc.ConnectedUrl()) // the subscriber closes it
		if err != nil {
			return err
		}
		sub, err := wmjetstream.NewSubscriber(wmjetstream.SubscriberConfig{
			Conn: own, Logger: watermill.NopLogger{}, AckAsync: true,
			ResourceInitializer: wmjetstream.ExistingConsumer(func(string, string) jetstream.ConsumerConfig {
				return jetstream.ConsumerConfig{Name: consumerName}
			}, ""),
		})
		if err != nil {
			return err
		}
		router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
		if err != nil {
			return err
		}
		router.AddMiddleware(m...)
		end := last(n, done)
		router.AddConsumerHandler("bench", streamName, sub, func(*message.Message) error {
			end()
			return nil
		})
		return errors.Join(router.Run(ctx), router.Close())
	}
}
