package stream_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
	"github.com/fluxlimiter/flux/stream/streamtest"
)

func TestSmoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim, err := flux.New(flux.Config[string]{Limit: gcra.PerSecond(10).WithBurst(1)})
		if err != nil {
			t.Fatal(err)
		}
		b := streamtest.NewBroker(streamtest.Config{})
		for i := range 1000 {
			b.Publish(streamtest.Message{Tenant: string(rune('a' + i%3))})
		}
		b.Close()
		g, err := stream.New(stream.Config[*streamtest.Message]{
			Limiter: lim, Tenant: func(m *streamtest.Message) string { return m.Tenant },
		})
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if err := g.Run(t.Context(), b, b.Record(func(ctx context.Context, m *streamtest.Message) error { return nil })); err != nil {
			t.Fatal(err)
		}
		h := b.History()
		t.Log(time.Since(begin), g.Stats(), h.Count(streamtest.Acked), h.Count(streamtest.Deferred))
	})
}
