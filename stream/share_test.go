package stream_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
	"github.com/fluxlimiter/flux/stream/streamtest"
)

func TestShareExceeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, limits{"a": gcra.PerSecond(1)}, stream.Config[*parcel]{
			Window: 8, TenantWindow: 2, Policy: stream.Policy{MaxWait: time.Minute},
		}, nil)
		r.deliver(named("a", 5)...)
		r.want("0s a0 run", "0s a0 ack", "0s a3 defer share_exceeded 2s", "0s a4 defer share_exceeded 3s")
		if s := r.gate.Stats(); s.Held != 2 || s.Waiting != 2 || s.Deferred != 2 || s.Processed != 1 {
			t.Errorf("Stats = %+v", s)
		}
		r.end()
	})
}

// TestShareOfBytes holds that a tenant's share of the window is the same in bytes.
func TestShareOfBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, limits{"a": gcra.PerSecond(1)}, stream.Config[*parcel]{
			Window: 100, TenantWindow: 30, WindowBytes: 1000, Policy: stream.Policy{MaxWait: time.Minute},
		}, nil)
		parcels := named("a", 5)
		for _, p := range parcels {
			p.meta.Bytes = 150
		}
		r.deliver(parcels...)
		r.want("0s a0 run", "0s a0 ack", "0s a3 defer share_exceeded 2s", "0s a4 defer share_exceeded 3s")
		if s := r.gate.Stats(); s.Bytes != 300 || s.Waiting != 2 {
			t.Errorf("Stats = %+v", s)
		}
		r.end()
	})
}

// TestShareOfBytesAlone holds that a tenant which waits for nothing but workers
// may have more than its share of the bytes, and gives that up for another.
func TestShareOfBytesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, stream.Config[*parcel]{Window: 100, TenantWindow: 30, WindowBytes: 1000, Workers: 1}, func(context.Context, *parcel) error {
			time.Sleep(time.Second)
			return nil
		})
		parcels := named("a", 10)
		for _, p := range parcels {
			p.meta.Bytes = 100
		}
		r.deliver(parcels...)
		r.want("0s a0 run")
		if err := <-r.attempt(t.Context(), &parcel{name: "b", tenant: "b"}); err != nil {
			t.Error(err)
		}
		if s := r.gate.Stats(); s.Bytes != 300 || s.Waiting != 3 || s.Deferred != 7 {
			t.Errorf("Stats = %+v, want 300 bytes", s)
		}
		r.stop()
		r.forget()
		r.end()
	})
}

// TestThrottledLeaveRoom holds that throttled tenants together never fill the
// window: each gets no more places than are still free.
func TestThrottledLeaveRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limits{}
		for _, tenant := range []string{"a", "b", "c", "d"} {
			l[tenant] = gcra.PerMinute(1)
		}
		r := start(t, l, stream.Config[*parcel]{Window: 60, TenantWindow: 60, Policy: stream.Policy{MaxWait: 100 * time.Hour}}, nil)
		for tenant := range l {
			r.deliver(named(tenant, 100)...)
			r.deliver(&parcel{name: "quiet", tenant: "quiet"})
		}
		time.Sleep(time.Millisecond)
		if s := r.gate.Stats(); s.Held >= 60 || s.Held < 50 {
			t.Errorf("%d of 60 places taken, want nearly but not all", s.Held)
		}
		r.end()
	})
}

// TestAlone holds what a tenant may do that waits for nothing but workers: use
// the whole window while it is alone, and no more than its share otherwise.
func TestAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, stream.Config[*parcel]{Window: 8, TenantWindow: 4, Workers: 1},
			func(context.Context, *parcel) error { time.Sleep(100 * time.Millisecond); return nil })
		r.deliver(named("a", 8)...)
		blocked := make(chan error, 1)
		go func() { blocked <- r.in.Deliver(t.Context(), &parcel{name: "a8", tenant: "a", rig: r}) }()
		r.want("0s a0 run")
		select {
		case err := <-blocked:
			t.Fatalf("Deliver = %v with a full window", err)
		default:
		}
		time.Sleep(150 * time.Millisecond)
		if err := <-blocked; err != nil {
			t.Fatal(err)
		}
		r.want("100ms a0 ack", "100ms a1 run")
		time.Sleep(850 * time.Millisecond)
		if s := r.gate.Stats(); s.Processed != 9 || s.Deferred != 0 {
			t.Errorf("Stats = %+v", s)
		}

		// Another tenant shows up while it has five waiting: its surplus is
		// deferred, even when the other's message is done.
		r.deliver(named("a", 8)...)
		time.Sleep(250 * time.Millisecond)
		r.deliver(&parcel{name: "b", tenant: "b"})
		time.Sleep(100 * time.Millisecond)
		r.forget()
		r.deliver(&parcel{name: "a9", tenant: "a"})
		// Five before it take 500ms, and it comes back when half of the share,
		// two of them, are left.
		r.want("1.35s a9 defer share_exceeded 1.65s")
		time.Sleep(100 * time.Millisecond)
		r.want("1.4s b ack", "1.4s a3 run")
		r.deliver(&parcel{name: "a10", tenant: "a"})
		r.want("1.45s a10 defer share_exceeded 1.7875s")

		// So it is for ten seconds after the last message of another tenant.
		time.Sleep(9801 * time.Millisecond)
		r.deliver(named("a", 8)...)
		if s := r.gate.Stats(); s.Held != 8 || s.Deferred != 2 {
			t.Errorf("Stats = %+v, want the whole window taken", s)
		}
		r.end()
	})
}

// TestBusyWorkers has a tenant with a backlog that waits for nothing but
// workers beside one with a message now and then: the surplus is deferred, so
// that the source is not held up, comes back when there is work for it, and the
// workers are never idle.
func TestBusyWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, work = 2000, 10 * time.Millisecond
		s := newScene(t, nil, stream.Config[*message]{Window: 64, Workers: 2})
		s.broker.Publish(message{Tenant: "quiet", Work: work})
		for range n {
			s.broker.Publish(message{Tenant: "busy", Work: work})
		}
		go func() {
			for range 90 {
				time.Sleep(100 * time.Millisecond)
				s.broker.Publish(message{Tenant: "quiet", Work: work})
			}
			s.broker.Close()
		}()
		begin := time.Now()
		if err := s.gate.Run(t.Context(), s.broker, s.broker.Record(s.handle)); err != nil {
			t.Error(err)
		}
		h := s.broker.History()
		s.check(h)
		if took, want := time.Since(begin), (n+91)*work/2; took > want*101/100 {
			t.Errorf("took %v, want %v: workers were idle", took, want)
		}
		for _, dwell := range h.Dwells("quiet") {
			if dwell > work {
				t.Errorf("a quiet message waited %v for its turn, want no more than %v", dwell, work)
				break
			}
		}
		deferred := h.Count(streamtest.Deferred)
		t.Logf("%d deferrals of %d messages", deferred, n)
		if deferred > n*13/10 {
			t.Errorf("%d deferrals of %d messages", deferred, n)
		}
	})
}

// TestAllBusy has several tenants with more than the workers can do: nobody is
// deferred for that, though each has more than its share.
func TestAllBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const each, work = 1500, 10 * time.Millisecond
		s := newScene(t, nil, stream.Config[*message]{Window: 64, TenantWindow: 16, Workers: 2})
		for range each {
			for _, tenant := range []string{"a", "b"} {
				s.broker.Publish(message{Tenant: tenant, Work: work})
			}
		}
		took := s.run()
		h := s.broker.History()
		s.check(h)
		if want := 2 * each * work / 2; took > want*101/100 {
			t.Errorf("took %v, want %v: workers were idle", took, want)
		}
		if deferred := h.Count(streamtest.Deferred); deferred > 0 {
			t.Errorf("%d deferrals", deferred)
		}
	})
}
