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

func BenchmarkCheck(b *testing.B) {
	for _, bb := range []struct {
		name  string
		limit gcra.Limit
	}{
		{"allow", never},
		{"deny", gcra.Per(1, time.Hour)},
	} {
		b.Run(bb.name, func(b *testing.B) {
			lim := newLimiter(b, flux.Config[string]{Limit: bb.limit})
			b.ReportAllocs()
			for b.Loop() {
				_, _ = lim.Check(b.Context(), "tenant", 1)
			}
		})
	}
}

func BenchmarkCheckAt(b *testing.B) {
	lim := newLimiter(b, flux.Config[string]{Limit: never})
	h := lim.Key("tenant")
	now := lim.Now()
	b.ReportAllocs()
	for b.Loop() {
		now++
		_, _ = h.CheckAt(now, 1)
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
