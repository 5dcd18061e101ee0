package stream_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// near reports whether a duration is off by no more than two of the gate's ticks
// per message.
func near(got, want time.Duration) bool { return (got - want).Abs() <= 10*time.Millisecond }

// TestRanking holds that the largest figures are kept, in their order and those of
// one size in theirs, and no tenant twice.
func TestRanking(t *testing.T) {
	for _, c := range []struct {
		top           int
		tenants, want string
		figures       []int64
	}{
		{2, "abcd", "db", []int64{1, 3, 2, 4}},
		{3, "abcd", "dab", []int64{2, 2, 2, 3}},
		{2, "abc", "a", []int64{5, 0, -1}},
		{3, "abab", "ab", []int64{5, 4, 7, 3}},
		{0, "a", "", nil},
	} {
		if got := stream.Ranked(c.top, c.tenants, c.figures...); got != c.want {
			t.Errorf("the first %d of %s with %v: %q, want %q", c.top, c.tenants, c.figures, got, c.want)
		}
	}
}

func TestSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limits{"slow": gcra.PerSecond(1).WithBurst(1), "never": gcra.DenyAll()}
		r := start(t, l, stream.Config[*parcel]{Window: 32, Workers: 2}, func(_ context.Context, p *parcel) error {
			switch p.tenant {
			case "busy":
				time.Sleep(time.Minute)
			case "bad":
				return stream.Permanent(errors.New("oh"))
			}
			return nil
		})
		if s := r.gate.Snapshot(3); s.Held != 0 || s.Tenants != 0 || len(s.Fates)+len(s.ByWaited)+len(s.ByDenied) != 0 {
			t.Errorf("of nothing: %+v", s)
		}
		r.deliver(named("slow", 3)...)
		r.deliver(named("never", 2)...)
		r.deliver(named("bad", 1)...)
		r.deliver(named("busy", 1)...)
		time.Sleep(1500 * time.Millisecond)

		// Of slow's messages one ran at once, one after a second; one waits.
		s := r.gate.Snapshot(3)
		if s.Window != 32 || s.Held != 2 || s.Waiting != 1 || s.Running != 1 || s.Settling != 0 || s.Tenants != 2 || s.Blocked != 0 {
			t.Errorf("%+v", s)
		}
		want := []stream.Fate{
			{Outcome: stream.Process, Reason: stream.ReasonNone, Count: 2},
			{Outcome: stream.Defer, Reason: stream.ReasonQuota, Count: 2},
			{Outcome: stream.DeadLetter, Reason: stream.ReasonPermanent, Count: 1},
		}
		if !slices.Equal(s.Fates, want) {
			t.Errorf("fates %v, want %v", s.Fates, want)
		}
		if len(s.ByWaited) != 1 || s.ByWaited[0].Tenant != "slow" || s.ByWaited[0].Waiting != 1 || !near(s.ByWaited[0].Waited, 2500*time.Millisecond) {
			t.Errorf("by what they waited: %+v", s.ByWaited)
		}
		if len(s.ByDenied) != 1 || s.ByDenied[0] != (stream.TenantLoad{Tenant: "never", Denied: 2}) {
			t.Errorf("by what they were denied: %+v", s.ByDenied)
		}
		if l := r.gate.Load("slow"); l != s.ByWaited[0] {
			t.Errorf("Load = %+v, want %+v as in the snapshot", l, s.ByWaited[0])
		}
		for _, name := range []string{"unheard of", ""} {
			if l := r.gate.Load(name); l != (stream.TenantLoad{Tenant: name}) {
				t.Errorf("Load(%q) = %+v", name, l)
			}
		}

		// Two half-lives later little of it counts.
		time.Sleep(140 * time.Second)
		if s := r.gate.Snapshot(3); len(s.ByDenied) != 0 || len(s.ByWaited) != 1 || s.ByWaited[0].Waited > time.Second {
			t.Errorf("later: %+v, %+v", s.ByWaited, s.ByDenied)
		}
		if s := r.gate.Snapshot(0); len(s.ByWaited)+len(s.ByDenied) != 0 || len(s.Fates) != 3 {
			t.Errorf("without tenants: %+v", s)
		}
		r.end()

		s = r.gate.Snapshot(3)
		want[0].Count += 2
		if s.Held != 0 || s.Tenants != 0 || !slices.Equal(s.Fates, want) {
			t.Errorf("after the run: %+v", s)
		}
	})
}

// TestSnapshotTop holds that the right tenants are in the lists, and in order.
func TestSnapshotTop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limits{}
		for i := range 200 {
			l[fmt.Sprint("t", i)] = gcra.PerMinute(1).WithBurst(1)
		}
		r := start(t, l, stream.Config[*parcel]{Policy: stream.Policy{MaxWait: time.Hour, OnDenied: stream.Drop}, TenantWindow: 1024}, nil)
		for i := range 200 {
			n := i * 37 % 200
			r.deliver(named(fmt.Sprint("t", n), 1+n/50)...)
			if n >= 195 {
				for j := range n - 194 { // too much for the limit
					r.deliver(&parcel{name: fmt.Sprint("x", j), tenant: fmt.Sprint("t", n), cost: 1 << 30})
				}
			}
		}
		time.Sleep(10 * time.Second)
		s := r.gate.Snapshot(5)
		for i, load := range s.ByWaited {
			if load.Waiting != 3 || !near(load.Waited, 30*time.Second) {
				t.Errorf("by what they waited, %d: %+v", i, load)
			}
		}
		if len(s.ByWaited) != 5 || s.Tenants != 150 {
			t.Errorf("%d waited longest, %d tenants", len(s.ByWaited), s.Tenants)
		}
		var denied []string
		for _, load := range s.ByDenied {
			denied = append(denied, fmt.Sprint(load.Tenant, " ", load.Denied))
		}
		if want := []string{"t199 5", "t198 4", "t197 3", "t196 2", "t195 1"}; !slices.Equal(denied, want) {
			t.Errorf("denied %v, want %v", denied, want)
		}
		r.end()
	})
}

// TestSnapshotMemory holds that a snapshot takes memory for its result only,
// whatever the number of tenants, and that it is right meanwhile.
func TestSnapshotMemory(t *testing.T) {
	const tenants, each = 25_000, 2
	synctest.Test(t, func(t *testing.T) {
		park(t, tenants, each, func(gate *stream.Gate[*benchMessage]) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			s := gate.Snapshot(10)
			runtime.ReadMemStats(&after)
			if n := after.TotalAlloc - before.TotalAlloc; n > 100_000 {
				t.Errorf("%d bytes allocated", n)
			}
			if s.Tenants != tenants || s.Waiting != tenants*(each-1) || len(s.ByWaited) != 10 {
				t.Errorf("%d tenants, %d waiting, %d of them shown", s.Tenants, s.Waiting, len(s.ByWaited))
			}
		})
	})
}

// BenchmarkSnapshot is the cost of a snapshot of a hundred thousand tenants.
func BenchmarkSnapshot(b *testing.B) {
	const tenants = 100_000
	lim, err := flux.New(flux.Config[string]{Limit: gcra.PerHour(1)})
	if err != nil {
		b.Fatal(err)
	}
	gate, err := stream.New(stream.Config[*benchMessage]{
		Limiter: lim, Tenant: func(m *benchMessage) string { return m.tenant },
		Window: 4 * tenants, Policy: stream.Policy{MaxWait: 2 * time.Hour},
	})
	if err != nil {
		b.Fatal(err)
	}
	messages := newBenchSource(tenants, 1).messages
	ctx, stop := context.WithCancel(b.Context())
	delivered := make(chan error)
	ended := make(chan error)
	go func() {
		ended <- gate.Run(ctx, benchFeed(func(ctx context.Context, in stream.Intake[*benchMessage]) error {
			for i := range 2 * tenants {
				if err := in.Deliver(ctx, &messages[i%tenants]); err != nil {
					delivered <- err
					return err
				}
			}
			delivered <- nil
			<-ctx.Done()
			return nil
		}), func(context.Context, *benchMessage) error { return nil })
	}()
	if err := <-delivered; err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		gate.Snapshot(10)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/tenants, "ns/tenant")
	stop()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
}

// benchFeed is a source that is a function.
type benchFeed func(ctx context.Context, in stream.Intake[*benchMessage]) error

func (f benchFeed) Run(ctx context.Context, in stream.Intake[*benchMessage]) error { return f(ctx, in) }
