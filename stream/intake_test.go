package stream_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// TestDeliverMany holds that the messages of one call come in as those of many
// calls do: in their order, as far as there is room, the next when there is. What
// has not come in when the caller gives up, or the gate takes no more, is released.
func TestDeliverMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, stream.Config[*parcel]{Window: 2, TenantWindow: 2, Workers: 2}, func(context.Context, *parcel) error {
			time.Sleep(time.Second)
			return nil
		})
		deliver := func(ctx context.Context, tenant string, n int) <-chan error {
			done := make(chan error, 1)
			var deliveries []stream.Delivery[*parcel]
			for _, p := range named(tenant, n) {
				p.rig = r
				deliveries = append(deliveries, p)
			}
			go func() {
				done <- r.in.Deliver(ctx, deliveries...)
				r.note("%s delivered", tenant)
			}()
			synctest.Wait()
			return done
		}
		if err := <-deliver(t.Context(), "none", 0); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		first, second := deliver(t.Context(), "a", 5), deliver(ctx, "b", 20)
		r.want("0s none delivered", "0s a0 run", "0s a1 run")
		time.Sleep(1500 * time.Millisecond)
		// b0 waited before a3 did.
		r.want("1s a0 ack", "1s a1 ack", "1s a2 run", "1s b0 run")
		time.Sleep(time.Second)
		r.want("2s a2 ack", "2s b0 ack", "2s a3 run", "2s b1 run")
		cancel()
		if err := <-second; !errors.Is(err, context.Canceled) {
			t.Errorf("Deliver = %v", err)
		}
		got := r.taken()
		for i := 2; i < 20; i++ {
			if want := fmt.Sprintf("2.5s b%d released", i); !slices.Contains(got, want) {
				t.Errorf("no %q in %q", want, got)
			}
		}
		if len(got) != 19 {
			t.Errorf("got %q, want 18 released and the return", got)
		}
		time.Sleep(time.Second)
		if err := <-first; err != nil {
			t.Error(err)
		}
		r.want("3s a3 ack", "3s b1 ack", "3s a4 run", "3s a delivered")
		third := deliver(t.Context(), "c", 3)
		r.want("3.5s c0 run")
		r.stop()
		if err := <-third; !errors.Is(err, stream.ErrStopped) {
			t.Errorf("Deliver = %v at the drain", err)
		}
		r.want("3.5s c1 released", "3.5s c2 released", "3.5s c delivered")
		if err := <-r.ended; err != nil {
			t.Errorf("Run = %v", err)
		}
		r.want("4s a4 ack", "4.5s c0 ack")
		if s := r.gate.Stats(); s.Processed != 8 || s.Released != 0 {
			t.Errorf("Stats = %+v", s)
		}
	})
}

// TestDeliverBlocks holds that Deliver blocks while the window is full, lets
// callers in as they came, and releases what one had that gave up.
func TestDeliverBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
		r.want("0s second released", "0s second delivered", "1s a0 ack", "1s a1 ack", "1s first delivered", "1s first run", "1s third delivered", "1s third run")
		r.stop()
		if err := <-fourth; !errors.Is(err, stream.ErrStopped) {
			t.Errorf("Deliver = %v at the drain", err)
		}
		r.end()
	})
}

// TestWindowBytes holds that the gate takes messages while it has less than the
// bytes that it may have, and that Room says so.
func TestWindowBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, stream.Config[*parcel]{Window: 100, WindowBytes: 1000}, func(context.Context, *parcel) error {
			time.Sleep(time.Second)
			return nil
		})
		room := func(want int) {
			t.Helper()
			if n, err := r.in.Room(t.Context(), 1000); n != want || err != nil {
				t.Errorf("Room = %d, %v; want %d", n, err, want)
			}
		}
		sized := func(name string, bytes int) *parcel {
			return &parcel{name: name, tenant: name, meta: stream.Meta{Bytes: bytes}}
		}
		room(100)
		r.deliver(sized("a", 0))
		room(99)
		r.deliver(sized("b", 300))
		room(4) // of 150 each
		r.deliver(sized("c", 450), sized("d", 240))
		room(1)
		r.deliver(sized("e", 5000))
		if bytes := r.gate.Stats().Bytes; bytes != 5990 {
			t.Errorf("%d bytes held, want 5990", bytes)
		}
		waiting := r.attempt(t.Context(), sized("f", 0))
		time.Sleep(500 * time.Millisecond)
		r.want("0s a run", "0s b run", "0s c run", "0s d run", "0s e run")
		time.Sleep(500 * time.Millisecond)
		if err := <-waiting; err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		if bytes := r.gate.Stats().Bytes; bytes != 0 {
			t.Errorf("%d bytes held at the end", bytes)
		}
		r.forget()
		r.end()
	})
}

// TestWindowOfASource holds that a source makes the window and its parts as small
// as it needs them, and never larger, until the run ends.
func TestWindowOfASource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := stream.Config[*parcel]{Window: 100, PartitionWindow: 60, TenantWindow: 40, Workers: 1, Policy: stream.Policy{MaxWait: 100 * time.Hour}}
		r := start(t, limits{"a": gcra.PerHour(1).WithBurst(1)}, cfg, func(context.Context, *parcel) error { return nil })
		for _, c := range []struct{ most, want int }{{1 << 30, 100}, {100, 100}, {10, 10}, {50, 10}} {
			if got := r.in.Window(c.most); got != c.want {
				t.Errorf("Window(%d) = %d, want %d", c.most, got, c.want)
			}
		}
		if n, err := r.in.Room(t.Context(), 1000); n != 10 || err != nil {
			t.Errorf("Room = %d, %v", n, err)
		}
		if got := r.gate.Snapshot(0).Window; got != 10 {
			t.Errorf("the window is %d", got)
		}
		// One runs, and four may wait.
		r.deliver(named("a", 8)...)
		time.Sleep(time.Second)
		if waiting := r.gate.Load("a").Waiting; waiting != 4 {
			t.Errorf("%d wait, want 4", waiting)
		}
		if got := r.in.Window(-1); got != 1 {
			t.Errorf("Window(-1) = %d", got)
		}
		r.forget()
		r.end()
		if got := r.gate.Snapshot(0).Window; got != 100 {
			t.Errorf("the window is %d after the run", got)
		}
	})
}

// TestTenantBytes holds that a message for which its tenant had bytes left keeps its
// place until its turn, however large it is, and that the next one has none.
func TestTenantBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Of 1,000 bytes a tenant may have 500.
		cfg := stream.Config[*parcel]{Window: 100, WindowBytes: 1000}
		r := start(t, limits{"a": gcra.PerSecond(1).WithBurst(1), "b": gcra.PerSecond(1).WithBurst(1)}, cfg, nil)
		for _, p := range []struct {
			tenant, name string
			bytes        int
		}{{"a", "a1", 10}, {"a", "a2", 400}, {"a", "a3", 400}, {"a", "a4", 400}, {"b", "b1", 10}, {"b", "b2", 5000}} {
			r.deliver(&parcel{tenant: p.tenant, name: p.name, meta: stream.Meta{Bytes: p.bytes}})
		}
		r.want("0s a1 run", "0s a1 ack", "0s a4 defer share_exceeded 3s", "0s b1 run", "0s b1 ack")
		time.Sleep(2 * time.Second)
		r.want("1s a2 run", "1s a2 ack", "1s b2 run", "1s b2 ack", "2s a3 run", "2s a3 ack")
		r.end()
	})
}

// TestCancelRacesWithRoom has callers give up in the instant in which room is
// made: each message is either taken and settled, or refused.
func TestCancelRacesWithRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, stream.Config[*parcel]{Window: 1, Workers: 1}, func(context.Context, *parcel) error {
			time.Sleep(time.Millisecond)
			return nil
		})
		const rounds, callers = 300, 3
		taken, refused := int64(0), 0
		for range rounds {
			// The acknowledgement of the one in the window makes them give up, and
			// makes room.
			ctx, cancel := context.WithCancel(t.Context())
			r.deliver(&parcel{name: "x", tenant: "a", settle: func(context.Context, string) error { cancel(); return nil }})
			taken++
			outcome := make(chan error, callers)
			for range callers {
				go func() {
					outcome <- r.in.Deliver(ctx, &parcel{name: "y", tenant: "a", rig: r})
				}()
			}
			for range callers {
				switch err := <-outcome; {
				case err == nil:
					taken++
				case errors.Is(err, context.Canceled):
					refused++
				default:
					t.Fatal(err)
				}
			}
			time.Sleep(10 * time.Millisecond)
			if s := r.gate.Stats(); s.Processed != taken || s.Held != 0 {
				t.Fatalf("%d taken, Stats = %+v", taken, s)
			}
		}
		if taken == rounds || refused == 0 {
			t.Errorf("%d taken, %d refused: no race", taken, refused)
		}
		r.end()
	})
}

func TestRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
		r.end()
	})
}

// TestRoomWhileIdle holds that a source is told of a single place if there is
// nothing to run, however much is parked.
func TestRoomWhileIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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

// TestRevocationMakesRoom holds that places which a revocation frees are given
// to those that wait for them.
func TestRevocationMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, stream.Config[*parcel]{Window: 5, TenantWindow: 5, Workers: 1}, func(ctx context.Context, p *parcel) error {
			select {
			case <-time.After(5 * time.Second):
			case <-ctx.Done():
			}
			return nil
		})
		revoked := make(chan struct{})
		r.deliver(&parcel{name: "x", tenant: "a"})
		for _, p := range named("a", 4) {
			p.revoked = revoked
			r.deliver(p)
		}
		room := make(chan int, 1)
		delivered := make(chan error, 1)
		go func() { delivered <- r.in.Deliver(t.Context(), &parcel{name: "b", tenant: "b", rig: r}) }()
		synctest.Wait()
		go func() { n, _ := r.in.Room(t.Context(), 10); room <- n }()
		synctest.Wait()
		close(revoked)
		if err := <-delivered; err != nil {
			t.Error(err)
		}
		if n := <-room; n != 3 {
			t.Errorf("Room = %d, want 3", n)
		}
		if waited := time.Since(r.begin); waited != 0 {
			t.Errorf("waited %v", waited)
		}
		r.end()
	})
}
