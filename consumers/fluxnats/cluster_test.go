package fluxnats_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

const (
	// clusterMessages are what each test of a cluster stores before it begins.
	clusterMessages = 30_000

	// clusterPending is how many of them the server gives out at once, at most.
	// Those that are on their way when a server goes come again after AckWait.
	clusterPending = 2048
)

// TestClusterFailover takes servers out of a cluster of three while a gate takes
// messages from it. These are the only tests against the real clock: what they
// claim is about real servers, and the bound leaves room for a busy machine.
//
// A consumer without a leader gives no messages to anyone. A server that stops
// in good order passes its leadership on. One that is killed is missed by the
// others after 4 to 9 seconds, which nobody can configure (nats-server v2.15.2,
// server/raft.go), so what counts is how soon messages flow once there is a leader.
//
// With FLUX_NATS_CLUSTER=bare it also shows what a loop of Consume and Ack makes
// of the same.
func TestClusterFailover(t *testing.T) {
	c := startCluster(t)
	consumer := func(con, _ *node) []*node { return []*node{con} }
	for _, s := range []failover{
		{name: "ConsumerLeaderKilled", victims: consumer},
		{name: "ConsumerLeaderKilledWithTheConnection", victims: consumer, connected: true},
		{name: "ConsumerLeaderStopped", victims: consumer, connected: true, orderly: true},
		{name: "StreamLeaderKilled", victims: func(_, str *node) []*node { return []*node{str} }, apart: true},
		{name: "AllKilled", victims: func(_, _ *node) []*node { return c.nodes }},
	} {
		t.Run(s.name, func(t *testing.T) {
			f := c.within(t).prepare(s)
			f.throughGate()
			t.Log(f)
			if f.lost() > 0 {
				t.Errorf("%d of %d messages are lost", f.lost(), clusterMessages)
			}
			if f.twice() > f.unsettled {
				t.Errorf("%d messages were processed twice, and %d were unsettled when the servers went", f.twice(), f.unsettled)
			}
			if took := f.resumed(); took > 3*time.Second {
				t.Errorf("nothing was processed for %v with a leader to give it, want at most 3s", took)
			}
			if s.apart && f.longest > 3*time.Second {
				t.Errorf("nothing was processed for %v, although the consumer had its leader all along", f.longest)
			}
		})
	}
	if os.Getenv("FLUX_NATS_CLUSTER") == "bare" {
		t.Run("BareLoop", func(t *testing.T) {
			f := c.within(t).prepare(failover{name: "BareLoop", victims: consumer})
			f.throughLoop()
			t.Log(f)
		})
	}
}

// failover is one thing that can happen to a cluster.
type failover struct {
	name      string
	victims   func(consumer, stream *node) []*node // by the leaders of the two
	connected bool                                 // to the consumer's leader, and else to another
	apart     bool                                 // the leaders of stream and consumer are two servers
	orderly   bool                                 // the servers are told to stop, and not killed
}

// flow is a consumer in mid-stream, and what came of it.
type flow struct {
	*cluster
	failover
	src     *fluxnats.Source
	js      jetstream.JetStream
	victim  []*node
	halfway chan struct{} // closed when a third of the messages is processed
	all     chan struct{} // closed when all were

	mu        sync.Mutex
	seen      []bool
	processed []int
	first     int // messages that came at all
	done      int // messages that are processed
	last      time.Time
	longest   time.Duration // that nothing came, while there was something to give
	flowing   time.Time     // and when that was over
	elected   time.Time     // when there was a leader again
	unsettled int           // when the servers went
}

// prepare stores the messages of a test and finds the servers to kill.
func (c *cluster) prepare(s failover) *flow {
	c.Helper()
	f := &flow{
		cluster: c, failover: s, halfway: make(chan struct{}), all: make(chan struct{}),
		seen: make([]bool, clusterMessages), processed: make([]int, clusterMessages),
	}
	_, f.js = c.connect(c.nodes[0])
	cfg := fluxnats.Config{Stream: s.name, Consumer: "c", Logger: slog.New(slog.NewTextHandler(c.Output(), nil))}
	src, err := fluxnats.New(f.js, cfg)
	if err != nil {
		c.Fatal(err)
	}
	layout := fluxnats.Layout{Subjects: []string{"in." + s.name + ".*"}, Replicas: 3, AckWait: 5 * time.Second, MaxAckPending: clusterPending}
	c.until("provision", func(ctx context.Context) error {
		_, err := src.Provision(ctx, layout)
		return err
	})
	payload := make([]byte, 190)
	for i := range clusterMessages {
		if _, err := f.js.PublishAsync(fmt.Sprintf("in.%s.%d", s.name, i%1000), append(strconv.AppendInt(nil, int64(i), 10), payload...), jetstream.WithStallWait(10*time.Second)); err != nil {
			c.Fatal(err)
		}
	}
	select {
	case <-f.js.PublishAsyncComplete():
	case <-time.After(30 * time.Second):
		c.Fatal("the messages are not stored")
	}
	var con, str *node
	c.until("leaders", func(ctx context.Context) error {
		consumer, err := f.js.Consumer(ctx, s.name, "c")
		if err != nil {
			return err
		}
		stream, err := f.js.Stream(ctx, s.name)
		if err != nil {
			return err
		}
		for _, info := range []*jetstream.ClusterInfo{consumer.CachedInfo().Cluster, stream.CachedInfo().Cluster} {
			if info == nil || info.Leader == "" || len(info.Replicas) != 2 || !info.Replicas[0].Current || !info.Replicas[1].Current {
				return fmt.Errorf("not settled: %+v", info)
			}
		}
		if info := stream.CachedInfo(); info.State.Msgs != clusterMessages {
			return fmt.Errorf("%d of %d messages are stored", info.State.Msgs, clusterMessages)
		}
		con, str = c.node(consumer.CachedInfo().Cluster.Leader), c.node(stream.CachedInfo().Cluster.Leader)
		if s.apart && con == str {
			_, err := f.js.Conn().RequestWithContext(ctx, "$JS.API.CONSUMER.LEADER.STEPDOWN."+s.name+".c", nil)
			return errors.Join(errors.New("one server leads both"), err)
		}
		return nil
	})
	f.victim = s.victims(con, str)
	first := con
	for _, n := range c.nodes {
		if !s.connected && n != con && n != str {
			first = n
		}
	}
	_, f.js = c.connect(first)
	if f.src, err = fluxnats.New(f.js, cfg); err != nil {
		c.Fatal(err)
	}
	return f
}

// came notes that message i was handed over, and reports whether it was before.
func (f *flow) came(i int) (before bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := time.Now(); f.first < clusterMessages-clusterPending {
		if still := now.Sub(f.last); f.first > 0 && still > f.longest {
			f.longest, f.flowing = still, now
		}
		f.last = now
	}
	before = f.seen[i]
	if !before {
		f.seen[i] = true
		if f.first++; f.first == clusterMessages/3 {
			close(f.halfway)
		}
	}
	return before
}

// over notes that message i is processed.
func (f *flow) over(i int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.processed[i]++; f.processed[i] == 1 {
		if f.done++; f.done == clusterMessages {
			close(f.all)
		}
	}
}

func (f *flow) lost() int { return clusterMessages - f.done }

func (f *flow) twice() (n int) {
	for _, times := range f.processed {
		n += max(0, times-1)
	}
	return n
}

// resumed is how long it took from the return of a leader to the next message.
func (f *flow) resumed() time.Duration { return max(0, min(f.longest, f.flowing.Sub(f.elected))) }

func (f *flow) String() string {
	return fmt.Sprintf("%s: nothing came for %v at most, of them %v with a leader; %d unsettled before, %d processed twice, %d lost; %+v",
		f.name, f.longest.Round(time.Millisecond), f.resumed().Round(time.Millisecond), f.unsettled, f.twice(), f.lost(), f.src.Stats())
}

// nemesis takes the servers away in mid-stream and brings them back.
func (f *flow) nemesis(unsettled func() int) {
	f.Helper()
	f.wait(f.halfway, "a third of the messages")
	f.unsettled = unsettled()
	f.end(f.orderly, f.victim...)
	elected := make(chan struct{})
	go func() {
		defer close(elected)
		f.elected = f.leader()
	}()
	time.Sleep(time.Second)
	for _, n := range f.victim {
		f.start(n)
	}
	f.wait(f.all, "all messages")
	<-elected
}

// leader waits until the consumer has a leader that is there, and returns when
// that was.
func (f *flow) leader() time.Time {
	f.Helper()
	_, js := f.connect(f.nodes[0])
	f.until("a leader", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		defer cancel()
		con, err := js.Consumer(ctx, f.name, "c")
		if err == nil && (con.CachedInfo().Cluster == nil || con.CachedInfo().Cluster.Leader == "") {
			err = errors.New("one that is none has answered")
		}
		return err
	})
	return time.Now()
}

func (f *flow) wait(c <-chan struct{}, what string) {
	f.Helper()
	select {
	case <-c:
	case <-time.After(60 * time.Second):
		f.mu.Lock()
		defer f.mu.Unlock()
		f.Errorf("not done with %s: %d came, %d are processed", what, f.first, f.done)
	}
}

// throughGate takes the messages through a gate. Some are deferred once, and
// some become dead letters.
func (f *flow) throughGate() {
	f.Helper()
	lim, err := flux.New(flux.Config[string]{Limit: gcra.Unlimited()})
	if err != nil {
		f.Fatal(err)
	}
	gate, err := stream.New(stream.Config[*fluxnats.Msg]{
		Limiter: lim, Tenant: (*fluxnats.Msg).Subject, Policy: stream.Policy{MaxWait: 100 * time.Millisecond},
	})
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(f.Context())
	ran := make(chan error, 1)
	go func() {
		ran <- gate.Run(ctx, f.src, func(ctx context.Context, m *fluxnats.Msg) error {
			i := number(m.Data())
			before := f.came(i)
			if info, _ := stream.FromContext(ctx); i%100 == 0 && !before && info.Deferrals == 0 {
				return stream.RetryLater(time.Second, errors.New("not yet"))
			}
			f.over(i)
			if i%1000 == 1 {
				return stream.Permanent(errors.New("never"))
			}
			return nil
		})
	}()
	f.nemesis(func() int { return gate.Stats().Held })
	f.until("everything is settled", func(ctx context.Context) error {
		con, err := f.js.Consumer(ctx, f.name, "c")
		if err != nil {
			return err
		}
		dead, err := f.js.Stream(ctx, "DLQ_"+f.name)
		if err != nil {
			return err
		}
		info, letters := con.CachedInfo(), dead.CachedInfo().State.Msgs
		if info.NumPending+uint64(info.NumAckPending) != 0 || letters != clusterMessages/1000 {
			return fmt.Errorf("pending %d, ack pending %d, dead letters %d", info.NumPending, info.NumAckPending, letters)
		}
		return nil
	})
	cancel()
	if err := <-ran; err != nil {
		f.Errorf("Run: %v", err)
	}
}

// throughLoop takes the messages through what most programs do.
func (f *flow) throughLoop() {
	f.Helper()
	con, err := f.js.Consumer(f.Context(), f.name, "c")
	if err != nil {
		f.Fatal(err)
	}
	cc, err := con.Consume(func(m jetstream.Msg) {
		i := number(m.Data())
		f.came(i)
		f.over(i)
		_ = m.Ack()
	})
	if err != nil {
		f.Fatal(err)
	}
	defer cc.Stop()
	f.nemesis(func() int {
		info, err := con.Info(f.Context())
		if err != nil {
			f.Fatal(err)
		}
		return info.NumAckPending
	})
}

// number is what a message's payload begins with.
func number(b []byte) (n int) {
	for _, c := range b {
		if c < '0' || c > '9' {
			break
		}
		n = n*10 + int(c-'0')
	}
	return n
}

// within returns the cluster for a test within the one that started it.
func (c *cluster) within(tb testing.TB) *cluster {
	tb.Helper()
	return &cluster{TB: tb, binary: c.binary, dir: c.dir, ctx: c.ctx, nodes: c.nodes}
}
