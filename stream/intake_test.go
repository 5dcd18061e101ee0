package stream_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// TestDeliverBlocks holds that Deliver blocks while the window is full, lets
// callers in as they came, and takes nothing from a caller that gave up.
func TestDeliverBlocks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := start(t, nil, stream.Config[*parcel]{Window: 2, Workers: 2}, func(context.Context, *parcel) error {
			time.Sleep(time.Second)
			return nil
		})
		r.deliver(named("a", 2)...)
		deliver := func(ctx context.Context, name string) <-chan error {
			done := make(chan error, 1)
			go func() {
				done <- r.in.Deliver(ctx, &parcel{name: name, tenant: name, rig: r})
				r.note("%s delivered", name)
			}()
			synctest.Wait()
			return done
		}
		first := deliver(t.Context(), "first")
		ctx, cancel := context.WithCancel(t.Context())
		second := deliver(ctx, "second")
		third := deliver(t.Context(), "third")
		fourth := deliver(t.Context(), "fourth")
		r.want("0s a0 run", "0s a1 run")
		cancel()
		if err := <-second; !errors.Is(err, context.Canceled) {
			t.Errorf("Deliver = %v", err)
		}
		time.Sleep(1500 * time.Millisecond)
		if err := errors.Join(<-first, <-third); err != nil {
			t.Error(err)
		}
		r.want("0s second delivered", "1s a0 ack", "1s a1 ack", "1s first delivered", "1s first run", "1s third delivered", "1s third run")
		r.stop()
		if err := <-fourth; !errors.Is(err, stream.ErrStopped) {
			t.Errorf("Deliver = %v at the drain", err)
		}
		<-r.ended
	})
}

// TestCancelRacesWithRoom has callers give up in the instant in which room is
// made: each message is either taken and settled, or refused.
func TestCancelRacesWithRoom(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := start(t, nil, stream.Config[*parcel]{Window: 1, Workers: 1}, func(context.Context, *parcel) error {
			time.Sleep(time.Millisecond)
			return nil
		})
		taken := make(chan bool)
		const n = 500
		for range n {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				taken <- r.in.Deliver(ctx, &parcel{name: "x", tenant: "a", rig: r}) == nil
			}()
		}
		count := int64(0)
		for range n {
			if <-taken {
				count++
			}
		}
		time.Sleep(time.Second)
		if s := r.gate.Stats(); s.Processed != count || s.Held != 0 || count < 90 {
			t.Errorf("%d taken, Stats = %+v", count, s)
		}
		r.end()
	})
}

func TestRoom(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := start(t, nil, stream.Config[*parcel]{Window: 10, TenantWindow: 10, Workers: 10}, func(_ context.Context, p *parcel) error {
			time.Sleep(time.Duration(p.cost) * time.Second)
			return nil
		})
		room := func(most, want int) {
			t.Helper()
			if n, err := r.in.Room(t.Context(), most); n != want || err != nil {
				t.Errorf("Room(%d) = %d, %v, want %d", most, n, err, want)
			}
		}
		room(100, 10)
		room(3, 3)
		room(0, 1)
		for i, p := range named("a", 10) {
			p.cost = int64(i + 1)
			r.deliver(p)
		}
		room(100, 1) // when the first is done
		if took := time.Since(r.begin); took != time.Second {
			t.Errorf("room after %v, want 1s", took)
		}
		r.deliver(&parcel{name: "x", tenant: "b", cost: 5})
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if _, err := r.in.Room(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Room = %v", err)
		}
		room(100, 1)
		if took := time.Since(r.begin); took != 2*time.Second {
			t.Errorf("room after %v, want 2s", took)
		}
		r.deliver(&parcel{name: "y", tenant: "b", cost: 5})
		refused := make(chan error)
		go func() { _, err := r.in.Room(t.Context(), 1); refused <- err }()
		synctest.Wait()
		r.stop()
		if err := <-refused; !errors.Is(err, stream.ErrStopped) {
			t.Errorf("Room = %v at the drain", err)
		}
		<-r.ended
	})
}

// TestRoomWhileIdle holds that a source is told of a single place if there is
// nothing to run, however much is parked.
func TestRoomWhileIdle(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := start(t, nil, stream.Config[*parcel]{Window: 100, Policy: stream.Policy{MaxWait: time.Hour}}, nil)
		// A hundred throttled tenants with one message each fill the window.
		var names []string
		for _, a := range "abcdefghij" {
			for _, b := range "0123456789" {
				names = append(names, string(a)+string(b))
			}
		}
		if err := r.lim.SetDefault(gcra.PerMinute(1).WithBurst(1), 1); err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if _, err := r.lim.Check(t.Context(), name, 1); err != nil {
				t.Fatal(err)
			}
			r.deliver(&parcel{name: name, tenant: name})
			time.Sleep(time.Millisecond)
		}
		if s := r.gate.Stats(); s.Waiting != 100 {
			t.Fatalf("Stats = %+v", s)
		}
		if n, err := r.in.Room(t.Context(), 50); n != 1 || err != nil {
			t.Errorf("Room = %d, %v, want 1", n, err)
		}
		if took := time.Since(r.begin); took != time.Minute {
			t.Errorf("room after %v, want 1m, when the first leaves", took)
		}
		r.end()
	})
}
