package fluxkafka_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/consumers/fluxkafka"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

const groupName = "g"

// cluster is an in-process Kafka in virtual time, and the clients of a test.
type cluster struct {
	*kfake.Cluster
	t   *testing.T
	net kfake.VirtualNetwork
	cl  *kgo.Client
}

// newCluster starts a cluster with brokers nodes. It must be called in a
// bubble.
func newCluster(t *testing.T, brokers int, opts ...kfake.Opt) *cluster {
	t.Helper()
	c := &cluster{t: t}
	ports := make([]int, brokers)
	for i := range ports {
		ports[i] = 9092 + i
	}
	opts = append(opts, kfake.NumBrokers(brokers), kfake.Ports(ports...), kfake.ListenFn(c.net.Listen))
	var err error
	if c.Cluster, err = kfake.NewCluster(opts...); err != nil {
		t.Fatal(err)
	}
	c.cl = c.client()
	return c
}

func (c *cluster) close() {
	c.cl.Close()
	c.Close()
}

func (c *cluster) client(opts ...kgo.Opt) *kgo.Client {
	c.t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(c.ListenAddrs()...), kgo.Dialer(c.net.DialContext), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
	}, opts...)...)
	if err != nil {
		c.t.Fatal(err)
	}
	return cl
}

// produce publishes values from..to-1 with one of so many keys; the key decides
// the partition.
func (c *cluster) produce(topic string, from, to, keys, partitions int) {
	c.t.Helper()
	var records []*kgo.Record
	for i := from; i < to; i++ {
		k := i % keys
		records = append(records, &kgo.Record{
			Topic: topic, Partition: int32(k % partitions), Key: []byte("k" + strconv.Itoa(k)), Value: []byte(strconv.Itoa(i)),
		})
	}
	if err := c.cl.ProduceSync(c.t.Context(), records...).FirstErr(); err != nil {
		c.t.Fatal(err)
	}
}

// config returns a config with short timeouts.
func (c *cluster) config(topics ...string) fluxkafka.Config {
	return fluxkafka.Config{
		Brokers: c.ListenAddrs(), Group: groupName, Topics: topics, CreateTopics: true,
		Dialer:         &kafka.Dialer{DialFunc: c.net.DialContext, Timeout: 5 * time.Second},
		CommitInterval: 200 * time.Millisecond, SessionTimeout: 10 * time.Second, RebalanceTimeout: 10 * time.Second,
		DrainTimeout: 4 * time.Second,
	}
}

// committed returns what the group committed for a partition, -1 for nothing.
func (c *cluster) committed(topic string, partition int) int64 {
	info := c.GroupInfo(groupName)
	if info == nil {
		return -1
	}
	commit, ok := info.Commits[topic][int32(partition)]
	if !ok {
		return -1
	}
	return commit.Offset
}

// allCommitted waits until every partition of topic is committed to its end.
func (c *cluster) allCommitted(topic string, limit time.Duration) {
	c.t.Helper()
	c.eventually(limit, func() error {
		for _, p := range c.PartitionInfos(topic) {
			if got := c.committed(topic, int(p.Partition)); got != p.HighWatermark && p.HighWatermark > 0 {
				return fmt.Errorf("%s/%d: committed %d of %d", topic, p.Partition, got, p.HighWatermark)
			}
		}
		return nil
	})
}

// eventually waits, in virtual time, until check returns nil.
func (c *cluster) eventually(limit time.Duration, check func() error) {
	c.t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("not within %v: %v", limit, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// handled waits until so many values were handled.
func (c *cluster) handled(h *history, n int, limit time.Duration) {
	c.t.Helper()
	c.eventually(limit, func() error {
		if got := h.distinct(); got != n {
			return fmt.Errorf("handled %d of %d", got, n)
		}
		return nil
	})
}

// member is one process: a source and a gate. Its connections can be cut.
type member struct {
	t      *testing.T
	src    *fluxkafka.Source
	gate   *gate
	cancel context.CancelFunc
	done   chan struct{}
	err    error
	dead   atomic.Bool
	mu     sync.Mutex
	conns  []net.Conn
}

// start starts a member that passes every message to handle, which settles it.
func (c *cluster) start(cfg fluxkafka.Config, handle func(ctx context.Context, d delivery) error) *member {
	c.t.Helper()
	m := &member{}
	m.gate = &gate{window: cmp.Or(cfg.Window, 1000), handle: func(ctx context.Context, d delivery) error {
		if m.dead.Load() {
			return errors.New("dead")
		}
		return handle(ctx, d)
	}}
	c.launch(m, cfg, m.gate.run)
	return m
}

// startGate starts a member with a gate of package stream. done is told of each
// message that was handled while the member lived.
func (c *cluster) startGate(cfg fluxkafka.Config, gateConfig stream.Config[*kafka.Message], work stream.Handler[*kafka.Message], done func(*kafka.Message)) *member {
	c.t.Helper()
	gate, err := stream.New(gateConfig)
	if err != nil {
		c.t.Fatal(err)
	}
	m := &member{}
	c.launch(m, cfg, func(ctx context.Context, src *fluxkafka.Source) error {
		return gate.Run(ctx, src, func(ctx context.Context, msg *kafka.Message) error {
			err := work(ctx, msg)
			if m.dead.Load() {
				return errors.New("dead")
			}
			if err == nil {
				done(msg)
			}
			return err
		})
	})
	return m
}

func (c *cluster) launch(m *member, cfg fluxkafka.Config, run func(context.Context, *fluxkafka.Source) error) {
	c.t.Helper()
	m.t, m.done = c.t, make(chan struct{})
	dial := cfg.Dialer.DialFunc
	conf := *cfg.Dialer
	conf.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if m.dead.Load() {
			return nil, errors.New("dead")
		}
		conn, err := dial(ctx, network, addr)
		if err == nil {
			m.mu.Lock()
			m.conns = append(m.conns, conn)
			m.mu.Unlock()
		}
		return conn, err
	}
	cfg.Dialer = &conf
	var err error
	if m.src, err = fluxkafka.New(cfg); err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	go func() {
		defer close(m.done)
		m.err = run(ctx, m.src)
	}()
}

// stop ends the member as a deployment does.
func (m *member) stop() {
	m.t.Helper()
	m.cancel()
	<-m.done
	if m.err != nil {
		m.t.Errorf("Run: %v", m.err)
	}
}

// ends waits until Run has ended by itself, and returns its error.
func (m *member) ends(limit time.Duration) error {
	m.t.Helper()
	select {
	case <-m.done:
	case <-time.After(limit):
		m.stop()
		m.t.Fatalf("Run goes on after %v: %+v", limit, m.src.Stats())
	}
	return m.err
}

// crash ends the member without another byte to anybody.
func (m *member) crash() {
	m.dead.Store(true)
	m.mu.Lock()
	for _, c := range m.conns {
		c.Close()
	}
	m.mu.Unlock()
	m.cancel()
}

type delivery = stream.Delivery[*kafka.Message]

// ack settles any message.
func ack(ctx context.Context, d delivery) error { return d.Ack(ctx) }

// gateConfig returns a gate's config with a limit for each key of messages.
func gateConfig(tb testing.TB, limit gcra.Limit) stream.Config[*kafka.Message] {
	tb.Helper()
	limiter, err := flux.New(flux.Config[string]{Limit: limit})
	if err != nil {
		tb.Fatal(err)
	}
	return stream.Config[*kafka.Message]{Limiter: limiter, Tenant: func(m *kafka.Message) string { return string(m.Key) }}
}

// gate is the simplest thing that keeps a gate's contract: a window, order by
// message key, settling what is done, releasing what is not when it ends or the
// message is revoked. handle settles.
type gate struct {
	window int
	handle func(context.Context, delivery) error

	mu     sync.Mutex
	held   int
	lanes  map[string][]delivery
	room   chan struct{}
	back   map[<-chan struct{}]bool // recalled
	end    chan struct{}
	wg     sync.WaitGroup
	faults []error
}

func (g *gate) run(ctx context.Context, src *fluxkafka.Source) error {
	g.lanes = make(map[string][]delivery)
	g.back = make(map[<-chan struct{}]bool)
	g.room = make(chan struct{}, 1)
	g.end = make(chan struct{})
	context.AfterFunc(ctx, func() { close(g.end) })
	err := src.Run(ctx, g)
	g.wg.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held > 0 {
		return fmt.Errorf("source returned before %d messages were settled", g.held)
	}
	return err
}

func (g *gate) Room(ctx context.Context, most int) (int, error) { return most, ctx.Err() }

func (g *gate) Window(most int) int { return most }

func (g *gate) Recall(revoked <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.back[revoked] = true
}

func (g *gate) Deliver(ctx context.Context, deliveries ...delivery) error {
	for i, d := range deliveries {
		if err := g.take(ctx, d); err != nil {
			for _, d := range deliveries[i:] {
				d.Release()
			}
			return err
		}
	}
	return nil
}

func (g *gate) take(ctx context.Context, d delivery) error {
	for {
		select {
		case <-g.end:
			return stream.ErrStopped
		default:
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		g.mu.Lock()
		if g.held < g.window {
			break
		}
		g.mu.Unlock()
		select {
		case <-g.room:
		case <-ctx.Done():
		case <-g.end:
		}
	}
	g.held++
	key := string(d.Message().Key)
	queue, busy := g.lanes[key]
	g.lanes[key] = append(queue, d)
	if !busy {
		g.wg.Go(func() { g.work(key) })
	}
	g.mu.Unlock()
	return nil
}

func (g *gate) work(key string) {
	for {
		g.mu.Lock()
		if len(g.lanes[key]) == 0 {
			delete(g.lanes, key)
			g.mu.Unlock()
			return
		}
		d := g.lanes[key][0]
		g.lanes[key] = g.lanes[key][1:]
		recalled := g.back[d.Revoked()]
		g.mu.Unlock()

		wanted := g.end
		if recalled {
			wanted = make(chan struct{})
			close(wanted)
		}
		select {
		case <-wanted:
			d.Release()
		case <-d.Revoked():
			d.Release()
		default:
			if err := g.handle(context.Background(), d); err != nil {
				g.mu.Lock()
				g.faults = append(g.faults, err)
				g.mu.Unlock()
				d.Release()
			}
		}
		g.mu.Lock()
		g.held--
		g.mu.Unlock()
		select {
		case g.room <- struct{}{}:
		default:
		}
	}
}

// history records what handlers saw.
type history struct {
	mu    sync.Mutex
	seen  map[string]int   // value: times handled
	first map[string][]int // key: values in the order of their first handling
	total int
}

func newHistory() *history {
	return &history{seen: make(map[string]int), first: make(map[string][]int)}
}

func (h *history) add(m *kafka.Message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.total++
	if h.seen[string(m.Value)]++; h.seen[string(m.Value)] == 1 {
		v, _ := strconv.Atoi(string(m.Value))
		h.first[string(m.Key)] = append(h.first[string(m.Key)], v)
	}
}

// handle notes a message and settles it.
func (h *history) handle(ctx context.Context, d delivery) error {
	h.add(d.Message())
	return d.Ack(ctx)
}

func (h *history) has(value int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seen[strconv.Itoa(value)] > 0
}

func (h *history) distinct() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.seen)
}

// duplicates returns how many handlings were repetitions.
func (h *history) duplicates() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.total - len(h.seen)
}

// exactly fails the test unless n values were handled, each once.
func (h *history) exactly(tb testing.TB, n int) {
	tb.Helper()
	if got, twice := h.distinct(), h.duplicates(); got != n || twice > 0 {
		tb.Errorf("handled %d of %d, %d twice", got, n, twice)
	}
}

// inOrder checks that each key's values were first handled in order.
func (h *history) inOrder() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for key, values := range h.first {
		if !slices.IsSorted(values) {
			return fmt.Errorf("key %s was handled in the order %v", key, values)
		}
	}
	return nil
}
