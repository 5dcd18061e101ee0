package flux_test

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
)

// never is a limit that no benchmark reaches.
var never = gcra.Per(1_000_000_000, time.Second)

func newLimiter[K comparable](tb testing.TB, cfg flux.Config[K]) *flux.Limiter[K] {
	tb.Helper()
	lim, err := flux.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return lim
}

// BenchmarkClock is the part of the others that is not theirs.
func BenchmarkClock(b *testing.B) {
	base := time.Now()
	for b.Loop() {
		_ = time.Since(base)
	}
}

// BenchmarkTable is a decision with a reading of the clock and nothing else: what
// the limiter adds to it is the difference to BenchmarkCheck.
func BenchmarkTable(b *testing.B) {
	table, err := gcra.NewTable[string](gcra.TableConfig{Limit: never})
	if err != nil {
		b.Fatal(err)
	}
	base := time.Now()
	for b.Loop() {
		if d, err := table.TakeAt("tenant", nil, int64(time.Since(base)), 1); err != nil || !d.Allowed() {
			b.Fatal(d, err)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	plan := func(string) gcra.Limit { return never }
	for _, bb := range []struct {
		name  string
		cfg   flux.Config[string]
		setUp func(*flux.Limiter[string])
	}{
		{"allow", flux.Config[string]{Limit: never}, nil},
		{"deny", flux.Config[string]{Limit: gcra.Per(1, time.Hour)}, nil},
		{"LimitFor", flux.Config[string]{Limit: never, LimitFor: plan}, nil},
		{"other key set", flux.Config[string]{Limit: never}, func(lim *flux.Limiter[string]) {
			_ = lim.SetLimit("other", never, flux.Change{})
		}},
		{"key set", flux.Config[string]{Limit: never}, func(lim *flux.Limiter[string]) {
			_ = lim.SetLimit("tenant", never, flux.Change{})
		}},
		{"factor", flux.Config[string]{Limit: never}, func(lim *flux.Limiter[string]) { _ = lim.SetFactor(0.7) }},
		{"others wait", flux.Config[string]{Limit: never}, func(lim *flux.Limiter[string]) {
			_, _ = lim.Debt(context.Background(), "other", 1<<50)
			lim.WaitAsync(context.Background(), "other", 1)
		}},
		{"hook", flux.Config[string]{Limit: never, Hooks: []flux.Hook{afterCheck{}}}, nil},
	} {
		b.Run(bb.name, func(b *testing.B) {
			lim := newLimiter(b, bb.cfg)
			defer lim.Close()
			if bb.setUp != nil {
				bb.setUp(lim)
			}
			ctx, deny := b.Context(), bb.name == "deny"
			_, _ = lim.Check(ctx, "tenant", 1)
			b.ReportAllocs()
			for b.Loop() {
				if d, err := lim.Check(ctx, "tenant", 1); err != nil || d.Allowed() == deny {
					b.Fatal(d, err)
				}
			}
		})
	}
}

// afterCheck is the least that a hook can do.
type afterCheck struct{}

func (afterCheck) AfterCheck(context.Context, string, int64, flux.Decision) {}

func BenchmarkCheckAt(b *testing.B) {
	for _, bb := range []struct {
		name    string
		limit   gcra.Limit
		factors []float64 // one after the other
	}{
		{"allow", never, nil},
		{"deny", gcra.Per(1, time.Hour), nil},
		{"factor", never, []float64{0.7}},
		{"factor of 1 again", never, []float64{0.7, 1}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			lim := newLimiter(b, flux.Config[string]{Limit: bb.limit})
			for _, f := range bb.factors {
				_ = lim.SetFactor(f)
			}
			h := lim.Key("tenant")
			now, deny := lim.Now(), bb.name == "deny"
			_, _ = h.CheckAt(now, 1)
			b.ReportAllocs()
			for b.Loop() {
				now++
				if d, err := h.CheckAt(now, 1); err != nil || d.Allowed() == deny {
					b.Fatal(d, err)
				}
			}
		})
	}
}

func BenchmarkCheckAll(b *testing.B) {
	lim := newLimiter(b, flux.Config[string]{Limit: never})
	reqs := make([]flux.Request[string], 100)
	for i := range reqs {
		reqs[i] = flux.Request[string]{Key: strconv.Itoa(i), N: 1}
	}
	for name, mode := range map[string]flux.Mode{"each": flux.Each, "all": flux.AllOrNothing, "most": flux.AsManyAsPossible} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				_, _ = lim.CheckAll(b.Context(), reqs, mode)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(reqs)), "ns/request")
		})
	}
}

// BenchmarkWait reports the CPU time that an event costs which waits for its
// turn: 1,000 keys at 20 a second each, 10,000 waiters at once.
func BenchmarkWait(b *testing.B) {
	const keys, waits = 1000, 10
	names := make([]string, keys)
	for i := range names {
		names[i] = "tenant-" + strconv.Itoa(i)
	}
	for _, bb := range []struct {
		name string
		wait func(*flux.Limiter[string], context.Context, *sync.WaitGroup, string)
	}{
		{"goroutine", func(lim *flux.Limiter[string], ctx context.Context, wg *sync.WaitGroup, key string) {
			wg.Go(func() { _ = lim.Wait(ctx, key, 1) })
		}},
		{"async", nil},
	} {
		b.Run(bb.name, func(b *testing.B) {
			var cpu, events int64
			for b.Loop() {
				lim := newLimiter(b, flux.Config[string]{Limit: gcra.PerSecond(20).WithBurst(1)})
				for _, name := range names {
					_, _ = lim.Check(b.Context(), name, 1)
				}
				runtime.GC()
				start := cpuTime()
				var wg sync.WaitGroup
				var results []<-chan flux.Result
				if bb.wait == nil {
					results = make([]<-chan flux.Result, 0, keys*waits)
				}
				for range waits {
					for _, name := range names {
						if bb.wait != nil {
							bb.wait(lim, b.Context(), &wg, name)
						} else {
							results = append(results, lim.WaitAsync(b.Context(), name, 1))
						}
					}
				}
				wg.Wait()
				for _, res := range results {
					<-res
				}
				cpu += cpuTime() - start
				events += keys * waits
			}
			b.ReportMetric(float64(cpu)/float64(events), "cpu-ns/event")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkParked reports the heap that a parked WaitAsync takes, beside its
// channel and with it.
func BenchmarkParked(b *testing.B) {
	for _, bb := range []struct {
		name string
		ctx  func() (context.Context, context.CancelFunc)
	}{
		{"background", func() (context.Context, context.CancelFunc) { return context.Background(), func() {} }},
		{"shared context", func() (context.Context, context.CancelFunc) { return context.WithCancel(context.Background()) }},
	} {
		b.Run(bb.name, func(b *testing.B) {
			const n = 100_000
			for b.Loop() {
				lim := newLimiter(b, flux.Config[string]{Limit: gcra.Per(1, time.Hour), MaxKeyWaiters: n})
				ctx, cancel := bb.ctx()
				_, _ = lim.Check(ctx, "tenant", 1)
				results := make([]<-chan flux.Result, n)
				before := heap()
				for i := range results {
					results[i] = make(chan flux.Result, 1)
				}
				channels := heap() - before
				clear(results)
				before = heap()
				for i := range results {
					results[i] = lim.WaitAsync(ctx, "tenant", 1)
				}
				all := heap() - before
				b.ReportMetric(float64(all-channels)/n, "B/waiter")
				b.ReportMetric(float64(channels)/n, "B/channel")
				b.ReportMetric(0, "ns/op")
				runtime.KeepAlive(results)
				cancel()
				lim.Close()
			}
		})
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func cpuTime() int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(fmt.Sprint("getrusage: ", err))
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
