package fluxkafka_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/fluxlimiter/flux/consumers/fluxkafka"
)

func TestConfigRefuses(t *testing.T) {
	good := fluxkafka.Config{Brokers: []string{"localhost:9092"}, Group: "g", Topics: []string{"t"}}
	if _, err := fluxkafka.New(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*fluxkafka.Config){
		"Brokers":            func(c *fluxkafka.Config) { c.Brokers = nil },
		`Brokers = [""]`:     func(c *fluxkafka.Config) { c.Brokers = []string{""} },
		"Group":              func(c *fluxkafka.Config) { c.Group = "" },
		"Topics":             func(c *fluxkafka.Config) { c.Topics = nil },
		`"" is not`:          func(c *fluxkafka.Config) { c.Topics = []string{"t", ""} },
		"Topics = [t t]":     func(c *fluxkafka.Config) { c.Topics = []string{"t", "t"} },
		`"dlq.t.a b" is not`: func(c *fluxkafka.Config) { c.Group, c.Lanes = "a b", []time.Duration{} },
		"Window":             func(c *fluxkafka.Config) { c.Window = -1 },
		"WindowBytes":        func(c *fluxkafka.Config) { c.WindowBytes = -1 },
		"FetchBytes":         func(c *fluxkafka.Config) { c.FetchBytes = 1 << 30 },
		"Start":              func(c *fluxkafka.Config) { c.Start = fluxkafka.Fail },
		"OutOfRange":         func(c *fluxkafka.Config) { c.OutOfRange = 7 },
		"DeadLetterHeaders":  func(c *fluxkafka.Config) { c.DeadLetterHeaders = 8 },
		"FetchWait":          func(c *fluxkafka.Config) { c.FetchWait = -1 },
		"SessionTimeout":     func(c *fluxkafka.Config) { c.SessionTimeout = time.Microsecond },
		"DrainTimeout = 28":  func(c *fluxkafka.Config) { c.DrainTimeout = 28*time.Second + 1 },
		"want at most 3s":    func(c *fluxkafka.Config) { c.RebalanceTimeout = 5 * time.Second },
		"Lanes":              func(c *fluxkafka.Config) { c.Lanes = []time.Duration{time.Second, 0} },
		"Lanes = [1s 1s]":    func(c *fluxkafka.Config) { c.Lanes = []time.Duration{time.Second, time.Second} },
		"{group}":            func(c *fluxkafka.Config) { c.LaneTopic = "{topic}-{delay}" },
		"{delay}":            func(c *fluxkafka.Config) { c.LaneTopic = "{topic}-{group}" },
		"TenantAffinity = 3": func(c *fluxkafka.Config) { c.TenantAffinity = 3 },
		"Tenant = nil":       func(c *fluxkafka.Config) { c.TenantAffinity = fluxkafka.WarnAffinity },
		"DeadLetters":        func(c *fluxkafka.Config) { c.DeadLetters = "dlq" },
	} {
		cfg := good
		change(&cfg)
		src, err := fluxkafka.New(cfg)
		if !errors.Is(err, fluxkafka.ErrInvalidConfig) || !strings.Contains(fmt.Sprint(err), name) || src != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// refuses runs a source that must not start, and returns its error and how long
// it took.
func refuses(c *cluster, cfg fluxkafka.Config) (took time.Duration, err error) {
	began := time.Now()
	err = c.start(cfg, ack).ends(5 * time.Minute)
	return time.Since(began), err
}

func TestRefusesToStart(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(c *cluster, cfg *fluxkafka.Config)
		want   error
		says   string
		within time.Duration
	}{
		{"unreachable", func(_ *cluster, cfg *fluxkafka.Config) {
			cfg.Dialer = &kafka.Dialer{DialFunc: func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no route") }}
		}, fluxkafka.ErrUnreachable, "no route", 31 * time.Second},
		{"silent", func(_ *cluster, cfg *fluxkafka.Config) {
			cfg.Dialer = &kafka.Dialer{DialFunc: func(ctx context.Context, _, _ string) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}}
		}, fluxkafka.ErrUnreachable, "localhost:9092", 36 * time.Second},
		{"no such topic", func(_ *cluster, cfg *fluxkafka.Config) { cfg.Topics = []string{"t", "nope"} }, fluxkafka.ErrTopic, `"nope" does not exist`, 10 * time.Second},
		{"no lanes", func(_ *cluster, cfg *fluxkafka.Config) { cfg.CreateTopics = false }, fluxkafka.ErrTopic, `"t.g.defer-2s" does not exist: make it with 3 partitions`, 10 * time.Second},
		{"no dead letters", func(_ *cluster, cfg *fluxkafka.Config) {
			cfg.CreateTopics, cfg.Lanes = false, []time.Duration{}
		}, fluxkafka.ErrTopic, `"dlq.t.g" does not exist`, 10 * time.Second},
		{"lane with fewer partitions", func(c *cluster, cfg *fluxkafka.Config) {
			cfg.CreateTopics, cfg.Lanes, cfg.DeadLetters = false, []time.Duration{time.Minute}, fluxkafka.NoDeadLetters
			if err := c.CreateTopic("t.g.defer-1m", 2, nil); err != nil {
				c.t.Fatal(err)
			}
		}, fluxkafka.ErrTopic, `"t.g.defer-1m" has fewer partitions than its topic: give it 3`, 10 * time.Second},
		{"lane with more partitions", func(c *cluster, _ *fluxkafka.Config) {
			if err := c.CreateTopic("t.g.defer-2s", 4, nil); err != nil {
				c.t.Fatal(err)
			}
		}, fluxkafka.ErrTopic, `"t.g.defer-2s" has 4 partitions, its topic 3`, 10 * time.Second},
		{"group refused", func(c *cluster, _ *fluxkafka.Config) {
			c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.JoinGroup}, TopLevel: true, Err: kerr.GroupAuthorizationFailed, Count: -1})
		}, fluxkafka.ErrRefused, `group "g"`, 10 * time.Second},
		{"topic refused", func(c *cluster, _ *fluxkafka.Config) {
			c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Topic: "t", Err: kerr.TopicAuthorizationFailed, Count: -1})
		}, fluxkafka.ErrRefused, `topic "t"`, 10 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, 1, kfake.SeedTopics(3, "t"))
				defer c.close()
				cfg := c.config("t")
				tt.change(c, &cfg)
				took, err := refuses(c, cfg)
				if !errors.Is(err, tt.want) || !strings.Contains(fmt.Sprint(err), tt.says) || took > tt.within {
					t.Errorf("after %v: %v", took, err)
				}
			})
		})
	}
}

// A broker that goes away later is waited for: the stats say so and nothing is
// lost.
func TestBrokerAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, kfake.SeedTopics(2, "t"))
		defer c.close()
		h := newHistory()
		cfg := c.config("t")
		m := c.start(cfg, h.handle)
		c.produce("t", 0, 50, 10, 2)
		c.allCommitted("t", 10*time.Second)
		if s := m.src.Stats(); !s.Member || len(s.Partitions) != 10 || s.Fault != nil {
			t.Errorf("before: %+v", s)
		}
		// Every request fails.
		fault := c.Fault(
			kfake.Fault{Keys: []kmsg.Key{kmsg.FindCoordinator, kmsg.JoinGroup}, TopLevel: true, Err: kerr.CoordinatorNotAvailable, Count: -1},
			kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat, kmsg.Fetch, kmsg.OffsetCommit, kmsg.OffsetFetch}, Err: kerr.NotCoordinator, Count: -1},
		)
		c.produce("t", 50, 100, 10, 2)
		time.Sleep(10 * time.Minute)
		s := m.src.Stats()
		if s.Member || s.Fault == nil || time.Since(s.Since) < 9*time.Minute || s.JoinErrors == 0 {
			t.Errorf("away: %+v", s)
		}
		fault.Remove()
		c.allCommitted("t", time.Minute)
		if s := m.src.Stats(); !s.Member || s.Fault != nil {
			t.Errorf("after: %+v", s)
		}
		m.stop()
		if h.distinct() != 100 {
			t.Errorf("handled %d of 100", h.distinct())
		}
	})
}

// Start and the offsets that are not there.
func TestOffsetPolicies(t *testing.T) {
	type policies struct{ start, outOfRange fluxkafka.Offset }
	for _, tt := range []struct {
		name  string
		with  policies
		event func(c *cluster) // after 0..9 were handled and the member stopped
		want  []int            // handled later
		err   error
	}{
		{"truncated, first", policies{}, func(c *cluster) {
			c.produce("t", 10, 30, 1, 1)
			c.must(c.DeleteRecords("t", 0, 20))
		}, span(20, 40), nil},
		{"truncated, last", policies{outOfRange: fluxkafka.Last}, func(c *cluster) {
			c.produce("t", 10, 30, 1, 1)
			c.must(c.DeleteRecords("t", 0, 20))
		}, span(30, 40), nil},
		{"truncated, fail", policies{outOfRange: fluxkafka.Fail}, func(c *cluster) {
			c.produce("t", 10, 30, 1, 1)
			c.must(c.DeleteRecords("t", 0, 20))
		}, nil, fluxkafka.ErrOffset},
		{"made anew, first", policies{}, func(c *cluster) {
			c.remake("t")
			c.produce("t", 10, 15, 1, 1)
		}, span(10, 15), nil},
		{"made anew, fail", policies{outOfRange: fluxkafka.Fail}, func(c *cluster) {
			c.remake("t")
			c.produce("t", 10, 15, 1, 1)
		}, nil, fluxkafka.ErrOffset},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, 1, kfake.SeedTopics(1, "t"))
				defer c.close()
				h := newHistory()
				cfg := c.config("t")
				cfg.Start, cfg.OutOfRange = tt.with.start, tt.with.outOfRange
				c.produce("t", 0, 10, 1, 1)
				m := c.start(cfg, h.handle)
				c.allCommitted("t", 10*time.Second)
				m.stop()
				tt.event(c)
				m = c.start(cfg, h.handle)
				if tt.err != nil {
					if err := m.ends(time.Minute); !errors.Is(err, tt.err) || !strings.Contains(err.Error(), "t/0") {
						t.Errorf("Run: %v", err)
					}
					return
				}
				time.Sleep(5 * time.Second)
				if n := m.src.Stats().Relocated; n != 1 {
					t.Errorf("Relocated = %d", n)
				}
				if len(tt.want) == 10 || tt.want[len(tt.want)-1] == 39 {
					c.produce("t", 30, 40, 1, 1)
				}
				c.allCommitted("t", 10*time.Second)
				m.stop()
				if got := h.distinct(); got != 10+len(tt.want) {
					t.Errorf("handled %d values, want %d", got, 10+len(tt.want))
				}
				for _, v := range tt.want {
					if !h.has(v) {
						t.Errorf("%d was not handled", v)
					}
				}
			})
		})
	}
}

func span(from, to int) []int {
	var s []int
	for i := from; i < to; i++ {
		s = append(s, i)
	}
	return s
}

func (c *cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// remake deletes a topic and makes it again, while the group keeps its offsets.
func (c *cluster) remake(topic string) {
	c.t.Helper()
	before := c.committed(topic, 0)
	c.must(c.DeleteTopic(topic))
	c.must(c.CreateTopic(topic, 1, nil))
	offsets := make(kadm.Offsets)
	offsets.AddOffset(topic, 0, before, -1)
	// A client that knew the topic would ask for the old one.
	c.cl.Close()
	c.cl = c.client()
	c.must(kadm.NewClient(c.cl).CommitAllOffsets(c.t.Context(), groupName, offsets))
	if got := c.committed(topic, 0); got != before {
		c.t.Fatalf("the group is at %d, want %d", got, before)
	}
}

// A group that begins at the end keeps that place even if it stops before it
// commits anything else, and reads partitions that come later from their start.
func TestStartLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, kfake.SeedTopics(1, "t"))
		defer c.close()
		h := newHistory()
		cfg := c.config("t")
		cfg.Start = fluxkafka.Last
		c.produce("t", 0, 10, 1, 1)
		m := c.start(cfg, h.handle)
		time.Sleep(5 * time.Second)
		m.stop()
		c.produce("t", 10, 20, 1, 1)
		m = c.start(cfg, h.handle)
		time.Sleep(5 * time.Second)
		if h.distinct() != 10 || h.has(9) {
			t.Errorf("handled %d values; before the group's start: %v", h.distinct(), h.has(9))
		}
		// A second partition, and messages in it before the member knows.
		if _, err := kadm.NewClient(c.cl).CreatePartitions(t.Context(), 1, "t"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		cl := c.client()
		defer cl.Close()
		for i := 20; i < 30; i++ {
			r := &kgo.Record{Topic: "t", Partition: 1, Key: []byte("new"), Value: fmt.Append(nil, i)}
			if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		c.handled(h, 20, time.Minute)
		if n := len(c.PartitionInfos("t.g.defer-2s")); n != 2 {
			t.Errorf("the lane has %d partitions", n)
		}
		m.stop()
	})
}

func TestTopicDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, kfake.SeedTopics(1, "t", "u"))
		defer c.close()
		h := newHistory()
		m := c.start(c.config("t", "u"), h.handle)
		time.Sleep(3 * time.Second)
		c.must(c.DeleteTopic("t"))
		// The other topic goes on meanwhile.
		time.Sleep(5 * time.Second)
		c.produce("u", 0, 5, 1, 1)
		c.allCommitted("u", 5*time.Second)
		if err := m.ends(2 * time.Minute); !errors.Is(err, fluxkafka.ErrTopic) || !strings.Contains(err.Error(), `"t" was deleted`) {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestPattern(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		defer c.close()
		h := newHistory()
		cfg := c.config()
		cfg.Pattern = regexp.MustCompile("orders")
		m := c.start(cfg, h.handle)
		time.Sleep(30 * time.Second) // nothing matches yet
		if s := m.src.Stats(); s.Member || !errors.Is(s.Fault, fluxkafka.ErrTopic) {
			t.Errorf("with no topic: %+v", s)
		}
		for i, topic := range []string{"orders.eu", "orders.us"} {
			// Lanes and dead letters of another group match, but are not ours to read.
			c.must(c.CreateTopic(topic+".other.defer-1m30s", 1, nil))
			c.must(c.CreateTopic("dlq."+topic+".other", 1, nil))
			c.must(c.CreateTopic(topic, 2, nil))
			c.produce(topic, i*10, i*10+10, 4, 2)
			c.produce(topic+".other.defer-1m30s", 100, 105, 1, 1)
			c.produce("dlq."+topic+".other", 100, 105, 1, 1)
			c.handled(h, i*10+10, time.Minute)
		}
		c.must(c.DeleteTopic("orders.eu"))
		time.Sleep(time.Minute) // until it is believed
		c.produce("orders.us", 20, 30, 4, 2)
		c.allCommitted("orders.us", 30*time.Second)
		for topic := range c.GroupInfo(groupName).Commits {
			if strings.Contains(topic, "other") {
				t.Errorf("committed an offset of %s", topic)
			}
		}
		m.stop()
		h.exactly(t, 30)
	})
}

// A topic that matches the pattern later and has no lanes, which may not be made,
// ends Run as it would at the start.
func TestPatternMatchesWithoutLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, kfake.SeedTopics(1, "orders.eu", "orders.eu.g.defer-1s", "dlq.orders.eu.g"))
		defer c.close()
		cfg := c.config()
		cfg.Pattern, cfg.Lanes, cfg.CreateTopics = regexp.MustCompile("^orders"), []time.Duration{time.Second}, false
		m := c.start(cfg, ack)
		c.produce("orders.eu", 0, 10, 1, 1)
		c.allCommitted("orders.eu", 30*time.Second)
		c.must(c.CreateTopic("orders.us", 1, nil))
		if err := m.ends(time.Minute); !errors.Is(err, fluxkafka.ErrTopic) || !strings.Contains(err.Error(), `"orders.us.g.defer-1s" does not exist`) {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestTLSAndSASL(t *testing.T) {
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256"} {
		t.Run(mechanism, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
				if err != nil {
					t.Fatal(err)
				}
				template := &x509.Certificate{
					SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
					DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
				}
				der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
				if err != nil {
					t.Fatal(err)
				}
				cert, _ := x509.ParseCertificate(der)
				roots := x509.NewCertPool()
				roots.AddCert(cert)
				server := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
				c := &cluster{t: t}
				c.Cluster, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(9092), kfake.ListenFn(c.net.Listen), kfake.TLS(server),
					kfake.EnableSASL(), kfake.Superuser(mechanism, "user", "secret"), kfake.SeedTopics(1, "t"))
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				c.must(c.CreateTopic("x", 1, nil))
				cfg := c.config("t")
				cfg.Dialer.TLS = &tls.Config{RootCAs: roots}
				login := func(password string) {
					if mechanism == "PLAIN" {
						cfg.Dialer.SASLMechanism = plain.Mechanism{Username: "user", Password: password}
						return
					}
					if cfg.Dialer.SASLMechanism, err = scram.Mechanism(scram.SHA256, "user", password); err != nil {
						t.Fatal(err)
					}
				}
				login("wrong")
				// This cluster hangs up on a wrong password, where Kafka says why.
				if took, err := refuses(c, cfg); !errors.Is(err, fluxkafka.ErrUnreachable) || took > 31*time.Second {
					t.Errorf("with the wrong password, after %v: %v", took, err)
				}
				login("secret")
				d := *cfg.Dialer
				w := &kafka.Writer{
					Addr: kafka.TCP(c.ListenAddrs()...), Topic: "t", RequiredAcks: kafka.RequireAll, BatchTimeout: time.Millisecond,
					Transport: &kafka.Transport{Dial: d.DialFunc, TLS: d.TLS, SASL: d.SASLMechanism},
				}
				if err := w.WriteMessages(t.Context(), kafka.Message{Key: []byte("k"), Value: []byte("0")}); err != nil {
					t.Fatal(err)
				}
				w.Close()
				w.Transport.(*kafka.Transport).CloseIdleConnections()
				m := c.start(cfg, ack)
				c.allCommitted("t", 20*time.Second)
				m.stop()
			})
		})
	}
}
