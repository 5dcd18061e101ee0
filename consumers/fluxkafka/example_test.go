package fluxkafka_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/consumers/fluxkafka"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// Each customer, the key of a message, may have 100 orders a second processed.
// What is more waits, or comes back from a lane when its turn has come.
func Example() {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "orders"))
	if err != nil {
		log.Fatal(err)
	}
	defer cluster.Close()
	publish(cluster.ListenAddrs())

	limiter, err := flux.New(flux.Config[string]{Limit: gcra.PerSecond(100)})
	if err != nil {
		log.Fatal(err)
	}
	customer := func(m *kafka.Message) string { return string(m.Key) }
	gate, err := stream.New(stream.Config[*kafka.Message]{Limiter: limiter, Tenant: customer, OrderKey: customer})
	if err != nil {
		log.Fatal(err)
	}
	source, err := fluxkafka.New(fluxkafka.Config{
		Brokers: cluster.ListenAddrs(), Group: "billing", Topics: []string{"orders"}, CreateTopics: true,
	})
	if err != nil {
		log.Fatal(err)
	}

	ctx, stop := context.WithCancel(context.Background())
	err = gate.Run(ctx, source, func(_ context.Context, m *kafka.Message) error {
		fmt.Printf("%s: %s\n", m.Key, m.Value)
		if string(m.Value) == "the last one" {
			stop() // a service runs until it is told to end
		}
		return nil
	})
	fmt.Println("ended:", err)
	// Output:
	// acme: a chair
	// acme: a table
	// acme: the last one
	// ended: <nil>
}

// publish publishes some orders.
func publish(brokers []string) {
	w := kafka.Writer{Addr: kafka.TCP(brokers...), Topic: "orders", RequiredAcks: kafka.RequireAll, BatchTimeout: time.Millisecond}
	for _, order := range []string{"a chair", "a table", "the last one"} {
		if err := w.WriteMessages(context.Background(), kafka.Message{Key: []byte("acme"), Value: []byte(order)}); err != nil {
			log.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		log.Fatal(err)
	}
}
