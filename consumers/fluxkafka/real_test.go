package fluxkafka_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fluxlimiter/flux/consumers/fluxkafka"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// realKafka is an Apache Kafka in a process of its own, on real time. Nothing
// here asserts a duration: it waits for what must come, with patience.
type realKafka struct {
	t    *testing.T
	dir  string
	addr string
	cl   *kgo.Client
	adm  *kadm.Client
}

const patience = 2 * time.Minute

func startRealKafka(t *testing.T) *realKafka {
	t.Helper()
	if os.Getenv("FLUX_KAFKA") == "" {
		t.Skip("set FLUX_KAFKA=1 to run on a real Apache Kafka, which needs Java 17 and mvn")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := &realKafka{t: t, dir: t.TempDir(), addr: l.Addr().String()}
	l.Close()
	k.start()
	t.Cleanup(func() {
		k.cl.Close()
		k.script("stop", k.dir)
	})
	k.cl = k.client()
	k.adm = kadm.NewClient(k.cl)
	return k
}

func (k *realKafka) script(args ...string) {
	k.t.Helper()
	cmd := exec.Command(filepath.Join("..", "..", "internal", "brokers", "kafka"), args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		k.t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

// start starts the broker and waits until it is ready for a group.
func (k *realKafka) start() {
	k.t.Helper()
	_, port, _ := strings.Cut(k.addr, ":")
	k.script("start", k.dir, port)
	cl := k.client()
	defer cl.Close()
	k.eventually(func() error {
		coordinators := kadm.NewClient(cl).FindGroupCoordinators(k.t.Context(), groupName)
		return coordinators.Error()
	})
}

func (k *realKafka) client(opts ...kgo.Opt) *kgo.Client {
	k.t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(k.addr), kgo.RecordPartitioner(kgo.ManualPartitioner())}, opts...)...)
	if err != nil {
		k.t.Fatal(err)
	}
	return cl
}

func (k *realKafka) eventually(check func() error) {
	k.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			k.t.Fatal(err)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-k.t.Context().Done():
			k.t.Fatal(err)
		}
	}
}

func (k *realKafka) create(topic string, partitions int) {
	k.t.Helper()
	if _, err := k.adm.CreateTopic(k.t.Context(), int32(partitions), 1, nil, topic); err != nil {
		k.t.Fatal(err)
	}
}

func (k *realKafka) produce(topic string, from, to, keys, partitions int) {
	k.t.Helper()
	var records []*kgo.Record
	for i := from; i < to; i++ {
		key := i % keys
		records = append(records, &kgo.Record{
			Topic: topic, Partition: int32(key % partitions), Key: []byte("k" + strconv.Itoa(key)), Value: []byte(strconv.Itoa(i)),
		})
	}
	if err := k.cl.ProduceSync(k.t.Context(), records...).FirstErr(); err != nil {
		k.t.Fatal(err)
	}
}

// allCommitted waits until the group has committed the ends of a topic.
func (k *realKafka) allCommitted(topic string) {
	k.t.Helper()
	k.eventually(func() error {
		ends, err := k.adm.ListEndOffsets(k.t.Context(), topic)
		if err != nil {
			return err
		}
		offsets, err := k.adm.FetchOffsets(k.t.Context(), groupName)
		if err != nil {
			return err
		}
		var fault error
		ends.Each(func(end kadm.ListedOffset) {
			if o, ok := offsets.Lookup(topic, end.Partition); end.Offset > 0 && (!ok || o.At != end.Offset) {
				fault = fmt.Errorf("%s/%d: committed %d of %d", topic, end.Partition, o.At, end.Offset)
			}
		})
		return fault
	})
}

func (k *realKafka) config(topic string) fluxkafka.Config {
	return fluxkafka.Config{
		Brokers: []string{k.addr}, Group: groupName, Topics: []string{topic}, CreateTopics: true,
		SessionTimeout: 10 * time.Second, RebalanceTimeout: 10 * time.Second, HeartbeatInterval: 300 * time.Millisecond,
		Lanes: []time.Duration{time.Second},
	}
}

// member runs a source and a gate until its result is called.
func (k *realKafka) member(cfg fluxkafka.Config, limit gcra.Limit, policy stream.Policy, handle stream.Handler[*kafka.Message]) (src *fluxkafka.Source, stop func()) {
	k.t.Helper()
	gateConfig := gateConfig(k.t, limit)
	gateConfig.OrderKey, gateConfig.Policy = gateConfig.Tenant, policy
	gate, err := stream.New(gateConfig)
	if err != nil {
		k.t.Fatal(err)
	}
	if src, err = fluxkafka.New(cfg); err != nil {
		k.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- gate.Run(ctx, src, handle) }()
	return src, sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			k.t.Errorf("Run: %v", err)
		}
	})
}

// watch looks at the committed offsets until its result is called, which
// returns an error if one went back.
func (k *realKafka) watch(topic string) func() error {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		last := make(map[int32]int64)
		var fault error
		for ctx.Err() == nil {
			offsets, err := k.adm.FetchOffsets(ctx, groupName)
			if err == nil {
				offsets.Each(func(o kadm.OffsetResponse) {
					if o.Topic != topic {
						return
					}
					if o.At < last[o.Partition] && fault == nil {
						fault = fmt.Errorf("partition %d: the committed offset went back from %d to %d", o.Partition, last[o.Partition], o.At)
					}
					last[o.Partition] = max(last[o.Partition], o.At)
				})
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
		}
		done <- fault
	}()
	return func() error {
		cancel()
		return <-done
	}
}

func TestRealKafka(t *testing.T) {
	k := startRealKafka(t)
	t.Run("transactions", k.testTransactions)
	t.Run("lanes", k.testLanes)
	t.Run("compaction", k.testCompaction)
	t.Run("changes", k.testChanges)
	t.Run("rebalances", k.testRebalances)
	t.Run("kill", k.testKill)
}

func (k *realKafka) in(t *testing.T) *realKafka {
	t.Helper()
	sub := *k
	sub.t = t
	return &sub
}

// testTransactions runs a producer that aborts every other transaction beside
// one without transactions.
func (k *realKafka) testTransactions(t *testing.T) {
	k = k.in(t)
	k.create("tx", 1)
	h := newHistory()
	_, stop := k.member(k.config("tx"), gcra.Unlimited(), stream.Policy{}, func(_ context.Context, m *kafka.Message) error {
		h.add(m)
		return nil
	})
	defer stop()
	cl := k.client(kgo.TransactionalID("tx"))
	defer cl.Close()
	want := 0
	for i := range 40 {
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		value, end := i, kgo.TryCommit
		if i%2 == 1 {
			value, end = -1, kgo.TryAbort
		} else {
			want += 2
		}
		for j := range 2 {
			if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "tx", Key: []byte("t"), Value: strconv.AppendInt(nil, int64(value*10+j), 10)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		k.produce("tx", 1000+i, 1001+i, 1, 1)
		want++
		if err := cl.EndTransaction(t.Context(), end); err != nil {
			t.Fatal(err)
		}
	}
	k.allCommitted("tx")
	if h.distinct() != want || h.duplicates() != 0 || h.has(-10) || h.has(-9) {
		t.Errorf("handled %d values of %d, %d twice; an aborted one: %v", h.distinct(), want, h.duplicates(), h.has(-10) || h.has(-9))
	}
}

// testLanes defers what a limit does not let through, and loses the rest to
// the dead letters.
func (k *realKafka) testLanes(t *testing.T) {
	k = k.in(t)
	const messages, tenants = 120, 4
	k.create("lanes", 2)
	k.produce("lanes", 0, messages, tenants, 2)
	h := newHistory()
	var deferred atomic.Int64
	_, stop := k.member(k.config("lanes"), gcra.PerSecond(10), stream.Policy{MaxWait: 100 * time.Millisecond, MaxDeferrals: -1}, func(ctx context.Context, m *kafka.Message) error {
		v, _ := strconv.Atoi(string(m.Value))
		if info, _ := stream.FromContext(ctx); info.Deferrals > 0 {
			deferred.Add(1)
		}
		if v%10 == 0 {
			return stream.Permanent(fmt.Errorf("no %d", v))
		}
		h.add(m)
		return nil
	})
	defer stop()
	k.eventually(func() error {
		ends, err := k.adm.ListEndOffsets(t.Context(), "dlq.lanes.g")
		if err != nil {
			return err
		}
		letters := int64(0)
		ends.Each(func(o kadm.ListedOffset) { letters += o.Offset })
		if h.distinct() != messages*9/10 || letters != messages/10 {
			return fmt.Errorf("handled %d, %d dead letters", h.distinct(), letters)
		}
		return nil
	})
	k.allCommitted("lanes")
	k.allCommitted("lanes.g.defer-1s")
	if h.duplicates() != 0 || deferred.Load() == 0 {
		t.Errorf("%d duplicates, %d were deferred", h.duplicates(), deferred.Load())
	}
}

// testCompaction reads a log that the broker has compacted: compressed batches
// with holes in them, tombstones, and the marker of a transaction at the end.
func (k *realKafka) testCompaction(t *testing.T) {
	k = k.in(t)
	const keys, rounds = 100, 5
	configs := make(map[string]*string)
	for name, value := range map[string]string{
		"cleanup.policy": "compact", "segment.ms": "200", "min.cleanable.dirty.ratio": "0.001", "max.compaction.lag.ms": "1000",
	} {
		configs[name] = &value
	}
	if _, err := k.adm.CreateTopic(t.Context(), 1, 1, configs, "compact"); err != nil {
		t.Fatal(err)
	}
	cl := k.client(kgo.TransactionalID("compact"), kgo.ProducerBatchCompression(kgo.ZstdCompression()), kgo.ProducerLinger(50*time.Millisecond))
	defer cl.Close()
	// transact publishes values from..to-1, of which every tenth is a tombstone.
	transact := func(from, to int) {
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		var records []*kgo.Record
		for i := from; i < to; i++ {
			r := &kgo.Record{Topic: "compact", Key: []byte("k" + strconv.Itoa(i%keys)), Value: []byte(strconv.Itoa(i))}
			if i%10 == 0 {
				r.Value = nil
			}
			records = append(records, r)
		}
		if err := cl.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := cl.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
			t.Fatal(err)
		}
	}
	left := 0
	for i := range rounds {
		transact(i*keys, (i+1)*keys)
	}
	// A segment that is written to is not compacted: another one begins when the
	// next record comes.
	k.eventually(func() error {
		transact(1, 2)
		left = k.count("compact")
		if left > keys*2 {
			return fmt.Errorf("%d records are left", left)
		}
		return nil
	})
	h := newHistory()
	var tombstones atomic.Int64
	_, stop := k.member(k.config("compact"), gcra.Unlimited(), stream.Policy{}, func(_ context.Context, m *kafka.Message) error {
		if m.Value == nil {
			tombstones.Add(1)
		}
		h.add(m)
		return nil
	})
	defer stop()
	k.allCommitted("compact")
	h.mu.Lock()
	defer h.mu.Unlock()
	// The broker may have gone on with it meanwhile.
	if h.total > left || h.total < keys*9/10 || tombstones.Load() > keys/10 {
		t.Errorf("handled %d of %d records, %d tombstones", h.total, left, tombstones.Load())
	}
	t.Logf("handled %d of %d records that %d are left of, %d tombstones", h.total, rounds*keys, left, tombstones.Load())
}

// count returns how many records a topic of one partition has.
func (k *realKafka) count(topic string) (n int) {
	k.t.Helper()
	ends, err := k.adm.ListEndOffsets(k.t.Context(), topic)
	if err != nil {
		k.t.Fatal(err)
	}
	end, _ := ends.Lookup(topic, 0)
	cl := k.client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}), kgo.KeepControlRecords())
	defer cl.Close()
	for next := int64(0); next < end.Offset; {
		for _, r := range cl.PollFetches(k.t.Context()).Records() {
			next = r.Offset + 1
			if !r.Attrs.IsControl() {
				n++
			}
		}
	}
	return n
}

// testChanges adds partitions and deletes a lane and the dead letters while a
// member is at work.
func (k *realKafka) testChanges(t *testing.T) {
	k = k.in(t)
	const keys = 10
	k.create("changes", 1)
	cfg := k.config("changes")
	cfg.WatchInterval = time.Second
	h := newHistory()
	src, stop := k.member(cfg, gcra.Unlimited(), stream.Policy{MaxWait: 100 * time.Millisecond, Backoff: func(int) time.Duration { return time.Second }}, func(ctx context.Context, m *kafka.Message) error {
		v, _ := strconv.Atoi(string(m.Value))
		if info, _ := stream.FromContext(ctx); v%3 == 0 && info.Attempt == 1 {
			return errors.New("later") // by the lane
		}
		if v%5 == 0 {
			h.add(m)
			return stream.Permanent(fmt.Errorf("no %d", v))
		}
		h.add(m)
		return nil
	})
	defer stop()
	handled := func(n int) {
		k.eventually(func() error {
			if got := h.distinct(); got < n {
				return fmt.Errorf("handled %d of %d; %+v", got, n, src.Stats())
			}
			return nil
		})
		k.allCommitted("changes")
	}
	k.produce("changes", 0, 60, keys, 1)
	handled(60)
	if _, err := k.adm.CreatePartitions(t.Context(), 2, "changes"); err != nil {
		t.Fatal(err)
	}
	k.eventually(func() error {
		topics, err := k.adm.ListTopics(t.Context(), "changes", "changes.g.defer-1s")
		if err == nil && len(topics["changes.g.defer-1s"].Partitions) != 3 {
			err = fmt.Errorf("the lane has %d partitions", len(topics["changes.g.defer-1s"].Partitions))
		}
		return err
	})
	k.cl.ForceMetadataRefresh()
	k.eventually(func() error {
		return k.cl.ProduceSync(t.Context(), &kgo.Record{Topic: "changes", Partition: 2, Key: []byte("new"), Value: []byte("61")}).FirstErr()
	})
	handled(61)
	for _, topic := range []string{"changes.g.defer-1s", "dlq.changes.g"} {
		if _, err := k.adm.DeleteTopic(t.Context(), topic); err != nil {
			t.Fatal(err)
		}
	}
	k.produce("changes", 62, 122, keys, 1)
	handled(121)
	if h.duplicates() > 0 {
		t.Errorf("%d handled twice", h.duplicates())
	}
}

// testRebalances lets members come and go under load.
func (k *realKafka) testRebalances(t *testing.T) {
	k = k.in(t)
	const messages, keys, partitions = 20_000, 100, 8
	k.create("churn", partitions)
	h := newHistory()
	handle := func(ctx context.Context, m *kafka.Message) error {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
		h.add(m)
		return nil
	}
	watch := k.watch("churn")
	var stops []func()
	member := func() {
		_, stop := k.member(k.config("churn"), gcra.Unlimited(), stream.Policy{}, handle)
		stops = append(stops, stop)
	}
	member()
	for i := range 20 {
		k.produce("churn", i*messages/20, (i+1)*messages/20, keys, partitions)
		switch i % 5 {
		case 1, 2:
			member()
		case 3, 4:
			stops[0]()
			stops = stops[1:]
		}
	}
	k.allCommitted("churn")
	for _, stop := range stops {
		stop()
	}
	if err := watch(); err != nil {
		t.Error(err)
	}
	if err := h.inOrder(); err != nil {
		t.Error(err)
	}
	h.exactly(t, messages)
}

// testKill kills the broker in mid-stream, twice.
func (k *realKafka) testKill(t *testing.T) {
	k = k.in(t)
	const messages, keys, partitions = 30_000, 100, 4
	k.create("kill", partitions)
	h := newHistory()
	src, stop := k.member(k.config("kill"), gcra.Unlimited(), stream.Policy{}, func(_ context.Context, m *kafka.Message) error {
		time.Sleep(200 * time.Microsecond)
		h.add(m)
		return nil
	})
	defer stop()
	for i := range 2 {
		k.produce("kill", i*messages/3, (i+1)*messages/3, keys, partitions)
		k.eventually(func() error {
			if h.distinct() < i*messages/3+messages/10 {
				return fmt.Errorf("handled %d", h.distinct())
			}
			return nil
		})
		k.script("kill", k.dir)
		k.eventually(func() error {
			if s := src.Stats(); s.Member && s.Fault == nil {
				return fmt.Errorf("the source does not notice that the broker is gone: %+v", s)
			}
			return nil
		})
		k.start()
	}
	k.produce("kill", messages*2/3, messages, keys, partitions)
	k.allCommitted("kill")
	if err := h.inOrder(); err != nil {
		t.Error(err)
	}
	// What was out when the broker died is delivered again: no more than the
	// gate holds, each time.
	if h.distinct() != messages || h.duplicates() > 2*2048 {
		t.Errorf("handled %d of %d, %d twice", h.distinct(), messages, h.duplicates())
	}
	t.Logf("%d handled twice; %+v", h.duplicates(), src.Stats())
}
