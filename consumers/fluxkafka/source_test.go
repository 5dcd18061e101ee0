package fluxkafka_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// A gate learns that there is nothing to defer to before it begins.
func TestCannotDeferWithoutLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, kfake.SeedTopics(1, "t"))
		defer c.close()
		gate := gateConfig(t, gcra.PerSecond(1))
		gate.Policy.OnDenied = stream.Defer
		for _, lanes := range [][]time.Duration{{}, {time.Second}} {
			cfg := c.config("t")
			cfg.Lanes = lanes
			m := c.startGate(cfg, gate, func(context.Context, *kafka.Message) error { return nil }, func(*kafka.Message) {})
			time.Sleep(5 * time.Second)
			m.cancel()
			<-m.done
			if refused := m.err != nil; refused != (len(lanes) == 0) {
				t.Errorf("lanes %v: Run = %v", lanes, m.err)
			}
		}
	})
}

func TestDeliversCommitsAndResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, kfake.SeedTopics(4, "t"))
		defer c.close()
		h := newHistory()
		for round := range 3 {
			c.produce("t", round*100, (round+1)*100, 10, 4)
			m := c.start(c.config("t"), h.handle)
			c.handled(h, (round+1)*100, 10*time.Second)
			m.stop()
			c.allCommitted("t", 0)
		}
		if h.duplicates() != 0 {
			t.Errorf("%d duplicates", h.duplicates())
		}
		if err := h.inOrder(); err != nil {
			t.Error(err)
		}
	})
}

// A message that was settled cannot be settled again, nor given up.
func TestSettlesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, kfake.SeedTopics(1, "t"))
		defer c.close()
		h := newHistory()
		m := c.start(c.config("t"), func(ctx context.Context, d delivery) error {
			err := h.handle(ctx, d)
			for name, settle := range map[string]func() error{
				"ack":         func() error { return d.Ack(ctx) },
				"defer":       func() error { return d.Defer(ctx, stream.Deferral{Deferrals: 1}) },
				"dead letter": func() error { return d.DeadLetter(ctx, stream.Letter{}) },
			} {
				if again := settle(); again == nil || !strings.Contains(again.Error(), fmt.Sprint("t/0/", d.Message().Offset)) {
					t.Errorf("%s after an acknowledgement: %v", name, again)
				}
			}
			d.Release()
			return err
		})
		c.produce("t", 0, 3, 1, 1)
		c.allCommitted("t", 10*time.Second)
		time.Sleep(10 * time.Second)
		m.stop()
		h.exactly(t, 3)
		if len(c.consume("t.g.defer-2s", 0))+len(c.consume("dlq.t.g", 0)) > 0 {
			t.Error("there are copies")
		}
	})
}

// The stats tell the lag of each partition, and what of it is with the gate.
func TestLag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, kfake.SeedTopics(2, "t"))
		defer c.close()
		letGo := make(chan struct{})
		cfg := c.config("t")
		cfg.Lanes = []time.Duration{}
		m := c.start(cfg, func(ctx context.Context, d delivery) error {
			if d.Message().Offset >= 10 {
				<-letGo
			}
			return d.Ack(ctx)
		})
		c.produce("t", 0, 60, 60, 2) // 30 each
		time.Sleep(5 * time.Second)
		for _, p := range m.src.Stats().Partitions {
			if p.End != 30 || p.Committed != 10 || p.Oldest != 10 || p.Out != 20 || p.Position != 30 || p.OutBytes <= 0 || p.Stuck < 4*time.Second {
				t.Errorf("held back: %+v", p)
			}
		}
		close(letGo)
		c.allCommitted("t", 10*time.Second)
		for _, p := range m.src.Stats().Partitions {
			if p.End != 30 || p.Committed != 30 || p.Oldest != 30 || p.Position != 30 || p.Out+p.OutBytes != 0 || p.Stuck != 0 {
				t.Errorf("at the end: %+v", p)
			}
		}
		m.stop()
	})
}
