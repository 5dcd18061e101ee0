package fluxkafka_test

import (
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/fluxlimiter/flux/consumers/fluxkafka"
)

// A broker that takes connections and does not answer, as one that is frozen
// does, is given up like one that is gone: while the client logs in, too.
func TestFrozenBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{t: t}
		var err error
		c.Cluster, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(9092), kfake.ListenFn(c.net.Listen),
			kfake.EnableSASL(), kfake.Superuser("PLAIN", "user", "secret"), kfake.SeedTopics(1, "t"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		cfg := c.config("t")
		var frozen atomic.Bool
		cfg.Dialer = &kafka.Dialer{
			Timeout: 5 * time.Second, SASLMechanism: plain.Mechanism{Username: "user", Password: "secret"},
			DialFunc: func(ctx context.Context, network, addr string) (net.Conn, error) {
				if !frozen.Load() {
					return c.net.DialContext(ctx, network, addr)
				}
				ours, theirs := net.Pipe()
				go func() { _, _ = io.Copy(io.Discard, theirs) }()
				return ours, nil
			},
		}
		m := c.start(cfg, ack)
		time.Sleep(5 * time.Second)
		if !m.src.Stats().Member {
			t.Fatalf("no member: %+v", m.src.Stats())
		}
		frozen.Store(true)
		c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat}, Err: kerr.NotCoordinator, Count: 1})
		time.Sleep(time.Minute)
		if s := m.src.Stats(); s.Member || s.Fault == nil || time.Since(s.Since) < 50*time.Second {
			t.Errorf("with a frozen broker: %+v", s)
		}
		frozen.Store(false)
		time.Sleep(30 * time.Second)
		if s := m.src.Stats(); !s.Member || s.Fault != nil {
			t.Errorf("after it thawed: %+v", s)
		}
		m.stop()
	})
}

// A source that has not been a member yet says since when, and why.
func TestStatsBeforeTheFirstJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, kfake.SeedTopics(1, "t"))
		defer c.close()
		for _, key := range []kmsg.Key{kmsg.ApiVersions, kmsg.CreateTopics, kmsg.JoinGroup} {
			f := kfake.Fault{Keys: []kmsg.Key{key}, TopLevel: true, Err: kerr.CoordinatorNotAvailable, Count: -1}
			if key == kmsg.CreateTopics {
				f.TopLevel, f.Err = false, kerr.NotController
			}
			fault := c.Fault(f)
			m := c.start(c.config("t"), ack)
			time.Sleep(4 * time.Second)
			if s := m.src.Stats(); s.Member || s.Fault == nil || time.Since(s.Since) != 4*time.Second {
				t.Errorf("%s fails: %+v", key.Name(), s)
			}
			m.stop()
			fault.Remove()
		}
	})
}

// Run ends soon and cleanly whenever its context does.
func TestRunEndsAtAnyTime(t *testing.T) {
	for after := time.Duration(0); after < 6*time.Second; after = after*3/2 + 1 {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 2, kfake.SeedTopics(4, "t"))
			defer time.Sleep(time.Second) // for answers that are still on their way
			defer c.close()
			c.produce("t", 0, 100, 10, 4)
			// Each answer takes a while, so that there is much to cut off.
			cfg := c.config("t")
			cfg.Dialer.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := c.net.DialContext(ctx, network, addr)
				return slowConn{conn}, err
			}
			h := newHistory()
			m := c.start(cfg, h.handle)
			time.Sleep(after)
			began := time.Now()
			m.stop()
			if took := time.Since(began); took > 8*time.Second {
				t.Errorf("cancelled after %v, Run ended %v later", after, took)
			}
			if m.src.Stats().Member {
				t.Error("a member still")
			}
			// It has left nothing behind that keeps the next one waiting.
			m = c.start(cfg, h.handle)
			c.allCommitted("t", 30*time.Second)
			m.stop()
			if h.distinct() != 100 || h.duplicates() > 0 {
				t.Errorf("cancelled after %v: handled %d of 100, %d twice", after, h.distinct(), h.duplicates())
			}
		})
	}
}

// slowConn is a connection on which answers take a while.
type slowConn struct{ net.Conn }

func (c slowConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	time.Sleep(20 * time.Millisecond)
	return n, err
}

// A coordinator that does not answer a kind of request is given up after a
// while, the stats show it meanwhile, and nothing is lost or repeated.
func TestSilentCoordinator(t *testing.T) {
	for _, tt := range []struct {
		silent kmsg.Key
		shows  func(s fluxkafka.Stats) bool
	}{
		{kmsg.FindCoordinator, away},
		{kmsg.JoinGroup, away},
		{kmsg.SyncGroup, away},
		{kmsg.OffsetFetch, away},
		{kmsg.Heartbeat, func(s fluxkafka.Stats) bool { return s.Generations > 5 }},
		{kmsg.OffsetCommit, func(s fluxkafka.Stats) bool { return s.CommitErrors > 5 }},
	} {
		t.Run(tt.silent.Name(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, 1, kfake.SeedTopics(2, "t"))
				defer c.close()
				h := newHistory()
				m := c.start(c.config("t"), h.handle)
				c.produce("t", 0, 50, 10, 2)
				c.allCommitted("t", 20*time.Second)
				var silent atomic.Bool
				silent.Store(true)
				c.ControlKey(int16(tt.silent), func(kmsg.Request) (kmsg.Response, error, bool) {
					c.KeepControl()
					return nil, nil, silent.Load()
				})
				// It has to join again.
				c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat}, Err: kerr.NotCoordinator, Count: 1})
				time.Sleep(time.Second)
				c.produce("t", 50, 100, 10, 2)
				time.Sleep(59 * time.Second)
				if s := m.src.Stats(); !tt.shows(s) {
					t.Errorf("after a minute: %+v", s)
				}
				silent.Store(false)
				c.allCommitted("t", time.Minute)
				time.Sleep(10 * time.Second)
				if s := m.src.Stats(); !s.Member || s.Fault != nil {
					t.Errorf("after it answers again: %+v", s)
				}
				m.stop()
				h.exactly(t, 100)
			})
		})
	}
}

// away reports whether s shows a source that has not been a member for long,
// and why.
func away(s fluxkafka.Stats) bool {
	return !s.Member && s.Fault != nil && time.Since(s.Since) > 50*time.Second
}
