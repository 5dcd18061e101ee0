package fluxkafka_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

func TestDeliversCommitsAndResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, kfake.SeedTopics(4, "t"))
		defer c.close()
		h := newHistory()
		handle := func(ctx context.Context, d delivery) error {
			h.add(d.Message())
			return d.Ack(ctx)
		}
		for round := range 3 {
			c.produce("t", round*100, (round+1)*100, 10, 4)
			m := c.start(c.config("t"), handle)
			c.eventually(10*time.Second, func() error {
				if n := h.distinct(); n != (round+1)*100 {
					return fmt.Errorf("handled %d", n)
				}
				return nil
			})
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
