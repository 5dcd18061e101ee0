package fluxkafka_test

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/fluxlimiter/flux/consumers/fluxkafka"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

var seeds = flag.Int("soak.seeds", 0, "seeds per soak (default: 4, or 1 where there is much to simulate)")

// A seed narrows a failure down; it does not replay it, as goroutines are
// scheduled anew each time.

// churn is what happens to a group while it works.
type churn struct {
	name     string
	crash    bool          // members die instead of leaving
	moves    bool          // leaders and the coordinator move
	faults   bool          // requests fail
	throttle bool          // limits are far below what is published: most messages are deferred
	interval time.Duration // up to that long between two events
	// duplicates is how many messages may be handled twice, for each event.
	duplicates int
}

func TestSoak(t *testing.T) {
	for _, ch := range []churn{
		{name: "graceful", interval: 6 * time.Second},
		// Kafka waits for a rebalance once; kfake starts the wait anew at each
		// join, so that crashes must be further apart than the rebalance timeout.
		{name: "crashes", crash: true, interval: 30 * time.Second, duplicates: 40},
		{name: "moves", moves: true, interval: 4 * time.Second},
		{name: "faults", faults: true, interval: 4 * time.Second, duplicates: 10},
		{name: "throttled", throttle: true, interval: 6 * time.Second},
		{name: "everything", crash: true, moves: true, faults: true, interval: 30 * time.Second, duplicates: 40},
		{name: "everything throttled", crash: true, moves: true, faults: true, throttle: true, interval: 30 * time.Second, duplicates: 40},
	} {
		t.Run(ch.name, func(t *testing.T) {
			total, n := 0, 4
			if ch.throttle {
				n = 1
			}
			n = cmp.Or(*seeds, n)
			for seed := range n {
				ok := t.Run(fmt.Sprint(seed), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { total += soak(t, ch, uint64(seed)) })
				})
				if !ok {
					return
				}
			}
			t.Logf("%d duplicates in %d messages", total, n*soakMessages)
		})
	}
}

const (
	soakMessages   = 1500
	soakKeys       = 40
	soakPartitions = 6
)

// soak runs one group through one seed's events and returns the duplicates.
func soak(t *testing.T, ch churn, seed uint64) int {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 6))
	c := newCluster(t, 3, kfake.SeedTopics(soakPartitions, "t"))
	defer c.close()
	h := newHistory()
	limit := gcra.Unlimited()
	if ch.throttle {
		limit = gcra.PerSecond(1)
	}
	cfg := c.config("t")
	cfg.Lanes, cfg.FetchWait = []time.Duration{time.Second}, 5*time.Second // less to simulate
	if ch.throttle {
		cfg.Lanes = append(cfg.Lanes, 8*time.Second)
	}
	start := func() *member {
		gate := gateConfig(t, limit) // each process has a limiter of its own
		gate.OrderKey, gate.Policy = gate.Tenant, stream.Policy{MaxWait: time.Second, MaxDeferrals: -1}
		gate.Window, gate.TenantWindow, gate.Workers = 500, 500, 100
		return c.startGate(cfg, gate, func(ctx context.Context, msg *kafka.Message) error {
			v, _ := strconv.Atoi(string(msg.Value))
			work := time.Duration(v%7)*20*time.Millisecond + time.Duration(v)*time.Microsecond // no two events at once
			if v%37 == 0 {                                                                     // of any key, or one key would take longer than all that happens
				work += 3 * time.Second
			}
			select {
			case <-time.After(work):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}, h.add)
	}
	watch := watchCommits(c, h, ch.throttle)

	stopProducing := make(chan struct{})
	var producing sync.WaitGroup
	producing.Go(func() {
		for i := 0; i < soakMessages; i += 50 {
			c.produce("t", i, i+50, soakKeys, soakPartitions)
			time.Sleep(time.Second)
		}
		close(stopProducing)
	})

	alive := []*member{start(), start()}
	var gone []*member
	events := 0
	for range 6 {
		time.Sleep(time.Duration(rnd.Int64N(int64(ch.interval))) + ch.interval/6)
		events++
		if ch.moves {
			// Where Kafka expires a member whose join was lost with its
			// coordinator, kfake may wait for it for ever.
			c.eventually(time.Minute, func() error {
				if g := c.GroupInfo(groupName); g == nil || g.State != "Stable" {
					return errors.New("the group is not stable")
				}
				return nil
			})
		}
		switch {
		case ch.moves && rnd.IntN(2) == 0:
			if rnd.IntN(2) == 0 {
				c.RehashCoordinators()
			} else {
				c.ShufflePartitionLeaders()
			}
		case ch.faults && rnd.IntN(2) == 0:
			c.Fault(randomFault(rnd, ch.throttle))
		case len(alive) < 2 || len(alive) < 5 && rnd.IntN(2) == 0:
			alive = append(alive, start())
		default:
			i := rnd.IntN(len(alive))
			if ch.crash {
				alive[i].crash()
				gone = append(gone, alive[i])
			} else {
				alive[i].stop()
			}
			alive = slices.Delete(alive, i, i+1)
		}
	}
	producing.Wait()
	if len(alive) == 0 {
		alive = append(alive, start())
	}
	c.eventually(3*time.Minute, func() error {
		if n := h.distinct(); n != soakMessages {
			var stats []fluxkafka.Stats
			for _, m := range alive {
				stats = append(stats, m.src.Stats())
			}
			return fmt.Errorf("lost: handled %d of %d; members %+v, group %+v", n, soakMessages, stats, c.GroupInfo(groupName))
		}
		return nil
	})
	c.allCommitted("t", time.Minute)
	for _, m := range alive {
		m.stop()
	}
	for _, m := range gone {
		<-m.done
	}
	if err := watch(); err != nil {
		t.Error(err)
	}
	if err := h.inOrder(); err != nil && !ch.throttle { // what another member deferred is overtaken
		t.Error(err)
	}
	if n := h.duplicates(); n > events*ch.duplicates {
		t.Errorf("%d duplicates in %d events", n, events)
	}
	return h.duplicates()
}

// randomFault is a request that fails a few times: of those to a lane, too, if
// messages are deferred.
func randomFault(rnd *rand.Rand, deferred bool) kfake.Fault {
	f := kfake.Fault{Count: 1 + rnd.IntN(6)}
	kinds := 6
	if deferred {
		kinds = 8
	}
	switch rnd.IntN(kinds) {
	case 6:
		f.Keys, f.Topic, f.Err = []kmsg.Key{kmsg.Produce}, "t.g.defer-1s", kerr.NotLeaderForPartition
	case 7:
		f.Keys, f.Topic, f.Err = []kmsg.Key{kmsg.Produce}, "t.g.defer-8s", kerr.PolicyViolation // the client does not try again by itself
	case 0:
		f.Keys, f.Err = []kmsg.Key{kmsg.Fetch}, kerr.NotLeaderForPartition
	case 1:
		f.Keys, f.Err = []kmsg.Key{kmsg.Fetch}, kerr.UnknownServerError
	case 2:
		f.Keys, f.Err = []kmsg.Key{kmsg.OffsetCommit}, kerr.NotCoordinator
	case 3:
		f.Keys, f.Err = []kmsg.Key{kmsg.OffsetCommit}, kerr.RebalanceInProgress
	case 4:
		f.Keys, f.Err = []kmsg.Key{kmsg.OffsetFetch}, kerr.CoordinatorLoadInProgress
	default:
		f.Keys, f.Err, f.Count = []kmsg.Key{kmsg.Heartbeat}, kerr.NotCoordinator, 1
	}
	return f
}

// watchCommits looks at what is committed, many times for each commit, until
// its result is called. It returns what was wrong: a committed offset that went
// back, or, unless messages are deferred, one that a message below was not handled
// of.
func watchCommits(c *cluster, h *history, deferred bool) func() error {
	stop, done := make(chan struct{}), make(chan struct{})
	var fault error
	last := make(map[int32]int64)
	look := func() {
		info := c.GroupInfo(groupName)
		if info == nil {
			return
		}
		for p, commit := range info.Commits["t"] {
			if commit.Offset < last[p] && fault == nil {
				fault = fmt.Errorf("partition %d: the committed offset went back from %d to %d", p, last[p], commit.Offset)
			}
			for offset := last[p]; offset < commit.Offset; offset++ {
				if v := valueAt(int(p), offset); !deferred && !h.has(v) && fault == nil {
					fault = fmt.Errorf("partition %d: committed %d, but the message at %d was not handled", p, commit.Offset, offset)
				}
			}
			last[p] = max(last[p], commit.Offset)
		}
	}
	go func() {
		defer close(done)
		for {
			look()
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	return func() error {
		close(stop)
		<-done
		look()
		return fault
	}
}

// valueAt returns the value that produce put at an offset, with soakKeys keys.
func valueAt(partition int, offset int64) int {
	n := int64(-1)
	for i := 0; ; i++ {
		if i%soakKeys%soakPartitions == partition {
			if n++; n == offset {
				return i
			}
		}
	}
}
