package fluxkafka_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/consumers/fluxkafka"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// BenchmarkSource compares a gate on a source, ordered by key and with a limit
// for each of 1,000 tenants that none reaches, with the bare loop that people
// write on kafka.Reader in group mode, and with franz-go's bare group consumer as
// the ceiling. Each consumes the same 200-byte messages of 8 partitions to their
// end, in turns. Its metrics are medians over the turns: messages a second,
// CPU per message of this process (on the in-process cluster that is the
// broker's too), and "x/reader", the throughput over the bare reader's of the
// same turn.
//
// It runs on an in-process cluster, and with FLUX_KAFKA_ADDR on the real one
// there.
func BenchmarkSource(b *testing.B) {
	const messages, partitions, keys = 400_000, 8, 1000
	addr := os.Getenv("FLUX_KAFKA_ADDR")
	if addr == "" {
		c, err := kfake.NewCluster(kfake.NumBrokers(1))
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		addr = c.ListenAddrs()[0]
	}
	topic := fmt.Sprint("bench-", time.Now().UnixNano())
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		b.Fatal(err)
	}
	defer cl.Close()
	if _, err := kadm.NewClient(cl).CreateTopic(b.Context(), partitions, 1, nil, topic); err != nil {
		b.Fatal(err)
	}
	value := make([]byte, 200)
	for i := range messages {
		k := i % keys
		cl.Produce(b.Context(), &kgo.Record{Topic: topic, Partition: int32(k % partitions), Key: strconv.AppendInt(nil, int64(k), 10), Value: value}, nil)
	}
	if err := cl.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}

	group := 0
	consumers := []struct {
		name string
		run  func(b *testing.B, addr, topic, group string, messages int)
	}{
		{"reader", benchReader},
		{"flux", benchGate},
		{"franz", benchFranz},
	}
	rate, cpu, ratio := make(map[string][]float64), make(map[string][]float64), make(map[string][]float64)
	for b.Loop() {
		for range 5 {
			for _, c := range consumers {
				group++
				began, used := time.Now(), cpuTime()
				c.run(b, addr, topic, fmt.Sprint("g", time.Now().UnixNano(), group), messages)
				rate[c.name] = append(rate[c.name], messages/time.Since(began).Seconds())
				cpu[c.name] = append(cpu[c.name], float64(cpuTime()-used)/messages)
				ratio[c.name] = append(ratio[c.name], rate[c.name][len(rate[c.name])-1]/rate["reader"][len(rate["reader"])-1])
			}
		}
	}
	for _, c := range consumers {
		b.ReportMetric(median(rate[c.name]), c.name+"-msg/s")
		b.ReportMetric(median(cpu[c.name]), c.name+"-cpu-ns/msg")
		b.ReportMetric(median(ratio[c.name]), c.name+"-x/reader")
	}
	b.ReportMetric(0, "ns/op")
}

func median(x []float64) float64 {
	slices.Sort(x)
	return x[len(x)/2]
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchReader(b *testing.B, addr, topic, group string, messages int) {
	b.Helper()
	r := kafka.NewReader(kafka.ReaderConfig{
		Brokers: []string{addr}, GroupID: group, Topic: topic, MinBytes: 1, MaxBytes: 1 << 20, CommitInterval: time.Second, QueueCapacity: 1000,
		JoinGroupBackoff: 100 * time.Millisecond, MaxWait: 500 * time.Millisecond,
	})
	for range messages {
		m, err := r.FetchMessage(b.Context())
		if err == nil {
			err = r.CommitMessages(b.Context(), m)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	r.Close()
}

func benchFranz(b *testing.B, addr, topic, group string, messages int) {
	b.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		b.Fatal(err)
	}
	for n := 0; n < messages; {
		n += cl.PollFetches(b.Context()).NumRecords()
	}
	cl.Close()
}

func benchGate(b *testing.B, addr, topic, group string, messages int) {
	b.Helper()
	limiter, err := flux.New(flux.Config[string]{Limit: gcra.PerSecond(1_000_000)})
	if err != nil {
		b.Fatal(err)
	}
	// The names of the tenants, so that none is made again for each message.
	names := make(map[string]string)
	for i := range 1000 {
		names[strconv.Itoa(i)] = strconv.Itoa(i)
	}
	tenant := func(m *kafka.Message) string { return names[string(m.Key)] }
	gate, err := stream.New(stream.Config[*kafka.Message]{Limiter: limiter, Tenant: tenant, OrderKey: tenant})
	if err != nil {
		b.Fatal(err)
	}
	src, err := fluxkafka.New(fluxkafka.Config{
		Brokers: []string{addr}, Group: group, Topics: []string{topic}, Lanes: []time.Duration{}, DeadLetters: fluxkafka.NoDeadLetters,
		CommitInterval: time.Second,
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	var n atomic.Int64
	err = gate.Run(ctx, src, func(context.Context, *kafka.Message) error {
		if n.Add(1) == int64(messages) {
			cancel()
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}
