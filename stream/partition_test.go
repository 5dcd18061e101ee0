package stream_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux/stream"
	"github.com/fluxlimiter/flux/stream/streamtest"
)

func inPartition(partition, name string) *parcel {
	return &parcel{name: name, tenant: name, meta: stream.Meta{Partition: partition}}
}

// attempt calls Deliver from a goroutine and logs when it has returned.
func (r *rig) attempt(ctx context.Context, p *parcel) <-chan error {
	r.t.Helper()
	p.rig = r
	done := make(chan error, 1)
	go func() {
		done <- r.in.Deliver(ctx, p)
		r.note("%s delivered", p.name)
	}()
	synctest.Wait()
	return done
}

// TestPartitionWindow holds that Deliver blocks for messages of a partition that
// has its part of the window, and for no other's.
func TestPartitionWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, stream.Config[*parcel]{Window: 5, PartitionWindow: 2}, func(_ context.Context, p *parcel) error {
			time.Sleep(time.Second)
			return nil
		})
		r.deliver(inPartition("p", "p0"))
		time.Sleep(500 * time.Millisecond)
		r.deliver(inPartition("p", "p1"))
		third := r.attempt(t.Context(), inPartition("p", "p2"))
		ctx, cancel := context.WithCancel(t.Context())
		fourth := r.attempt(ctx, inPartition("p", "p3"))
		fifth := r.attempt(t.Context(), inPartition("p", "p4"))
		r.want("0s p0 run", "500ms p1 run")
		cancel()
		if err := <-fourth; !errors.Is(err, context.Canceled) {
			t.Errorf("Deliver = %v", err)
		}
		r.deliver(inPartition("q", "q0"), inPartition("", "x0"), inPartition("", "x1"))
		r.want("500ms p3 released", "500ms p3 delivered", "500ms q0 run", "500ms x0 run", "500ms x1 run")
		// The window is full now, but q is not.
		other := r.attempt(t.Context(), inPartition("q", "q1"))
		r.want()
		time.Sleep(500 * time.Millisecond)
		// p has a place, and q1 comes first.
		if err := <-other; err != nil {
			t.Error(err)
		}
		r.want("1s p0 ack", "1s q1 delivered", "1s q1 run")
		time.Sleep(500 * time.Millisecond)
		if err := <-third; err != nil {
			t.Error(err)
		}
		if err := <-fifth; err != nil {
			t.Error(err)
		}
		r.want("1.5s p1 ack", "1.5s q0 ack", "1.5s x0 ack", "1.5s x1 ack",
			"1.5s p2 delivered", "1.5s p2 run", "1.5s p4 delivered", "1.5s p4 run")
		last := r.attempt(t.Context(), inPartition("p", "p5"))
		r.stop()
		if err := <-last; !errors.Is(err, stream.ErrStopped) {
			t.Errorf("Deliver = %v at the drain", err)
		}
		r.end()
	})
}

// TestPartitionBytes holds the same of bytes.
func TestPartitionBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Of 1,000 bytes a partition may have 500.
		cfg := stream.Config[*parcel]{Window: 100, PartitionWindow: 50, WindowBytes: 1000}
		r := start(t, nil, cfg, func(_ context.Context, p *parcel) error {
			time.Sleep(time.Second)
			return nil
		})
		sized := func(partition, name string, bytes int) *parcel {
			p := inPartition(partition, name)
			p.meta.Bytes = bytes
			return p
		}
		r.deliver(sized("p", "p0", 499), sized("p", "p1", 100))
		third := r.attempt(t.Context(), sized("p", "p2", 1))
		r.deliver(sized("q", "q0", 400))
		r.want("0s p0 run", "0s p1 run", "0s q0 run")
		if bytes := r.gate.Stats().Bytes; bytes != 999 {
			t.Errorf("%d bytes held, want 999", bytes)
		}
		time.Sleep(time.Second)
		if err := <-third; err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		r.forget()
		r.end()
	})
}

// TestRevocationReopensPartition holds that a message which waits for room in
// its partition is revoked with it.
func TestRevocationReopensPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, stream.Config[*parcel]{Window: 8, PartitionWindow: 1}, func(ctx context.Context, p *parcel) error {
			<-ctx.Done()
			return nil
		})
		revoked := make(chan struct{})
		first, second := inPartition("p", "first"), inPartition("p", "second")
		first.revoked, second.revoked = revoked, revoked
		r.deliver(first)
		done := r.attempt(t.Context(), second)
		again := inPartition("p", "again") // of the next owner: it has room of its own
		r.deliver(again)
		r.want("0s first run", "0s again run")
		close(revoked)
		if err := <-done; err != nil {
			t.Error(err)
		}
		r.want("0s first released", "0s second delivered", "0s second released")
		r.stop()
		time.Sleep(time.Minute)
		if err := <-r.ended; !errors.Is(err, stream.ErrDrainTimeout) {
			t.Errorf("Run = %v", err)
		}
	})
}

// TestStuckPartition has a partition whose messages all wait for another
// attempt: the other partitions do not notice. With a window that the one may
// fill they do.
func TestStuckPartition(t *testing.T) {
	for _, part := range []int{0, 16, 64} {
		t.Run(fmt.Sprint(part), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lim := newScene(t, nil, stream.Config[*message]{}).lim
				gate, err := stream.New(stream.Config[*message]{
					Limiter: lim, Tenant: func(m *message) string { return m.Tenant },
					Window: 64, PartitionWindow: part,
					Policy: stream.Policy{MaxAttempts: -1, Backoff: func(int) time.Duration { return 4 * time.Second }},
				})
				if err != nil {
					t.Fatal(err)
				}
				broker := streamtest.NewBroker(streamtest.Config{Partitions: 4, Eager: true})
				begin := time.Now()
				for i := range 400 {
					broker.Publish(message{Tenant: fmt.Sprint("stuck", i), Partition: 0})
				}
				go func() {
					for range 500 {
						for p := 1; p < 4; p++ {
							broker.Publish(message{Tenant: "fine", Partition: p})
						}
						time.Sleep(20 * time.Millisecond)
					}
					broker.Close()
				}()
				if err := gate.Run(t.Context(), broker, broker.Record(func(_ context.Context, m *message) error {
					if m.Partition == 0 && time.Since(begin) < 12*time.Second {
						return errors.New("down")
					}
					return nil
				})); err != nil {
					t.Error(err)
				}
				longest := time.Duration(0)
				for _, dwell := range broker.History().Dwells("fine") {
					longest = max(longest, dwell)
				}
				if whole := part == 64; whole != (longest > 0) {
					t.Errorf("a message of another partition waited %v", longest)
				}
				if err := broker.History().Lost(nil); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
