package gcra_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fluxlimiter/flux/gcra"
)

// The benchmarks say "clock" where the call reads it, as a caller would who has
// no time at hand: compare with BenchmarkClock in the same run.

var (
	base = time.Now()

	// never is a limit that no benchmark reaches.
	never = gcra.PerSecond(1e9)
)

func clock() int64 { return int64(time.Since(base)) }

func BenchmarkClock(b *testing.B) {
	for b.Loop() {
		clock()
	}
}

func BenchmarkTake(b *testing.B) {
	for name, l := range map[string]gcra.Limit{"whole": never, "uneven": gcra.PerSecond(7e8)} {
		b.Run(name, func(b *testing.B) {
			var key, now int64
			for b.Loop() {
				now += 10
				key, _, _ = l.Take(key, now, 1)
			}
		})
	}
}

// count makes the compiler keep what a call decided, at the cost of a caller
// that looks at it.
func count(n *int, d gcra.Decision, err error) {
	if d.Allowed() && err == nil {
		*n++
	}
}

func BenchmarkHotKey(b *testing.B) {
	type composite struct {
		tenant string
		region uint32
	}
	hotKey(b, "string", "tenant-1234567")
	hotKey(b, "int", 1234567)
	hotKey(b, "struct", composite{"tenant-1234567", 3})
}

func hotKey[K comparable](b *testing.B, name string, key K) {
	b.Helper()
	for answer, l := range map[string]gcra.Limit{"allow": never, "deny": gcra.PerHour(1)} {
		table := newTable[K](b, gcra.TableConfig{Limit: l})
		table.TakeAt(key, nil, clock(), 1)
		n := 0
		b.Run(name+"/"+answer+"/clock", func(b *testing.B) {
			for b.Loop() {
				d, err := table.TakeAt(key, nil, clock(), 1)
				count(&n, d, err)
			}
		})
		b.Run(name+"/"+answer, func(b *testing.B) {
			now := clock()
			for b.Loop() {
				now += 10
				d, err := table.TakeAt(key, nil, now, 1)
				count(&n, d, err)
			}
		})
		b.Run(name+"/"+answer+"/handle", func(b *testing.B) {
			h, now := table.Key(key), clock()
			for b.Loop() {
				now += 10
				d, err := h.TakeAt(nil, now, 1)
				count(&n, d, err)
			}
		})
	}
}

// names returns n keys of 14 bytes.
func names(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("tenant-%07d", i)
	}
	return keys
}

func BenchmarkThousandKeys(b *testing.B) {
	keys := names(1000)
	table := newTable[string](b, gcra.TableConfig{Limit: never})
	b.RunParallel(func(pb *testing.PB) {
		n := 0
		for i := rand.IntN(len(keys)); pb.Next(); i++ {
			d, err := table.TakeAt(keys[i%len(keys)], nil, clock(), 1)
			count(&n, d, err)
		}
	})
}

var million = sync.OnceValue(func() []string { return names(1_000_000) })

// filled returns a table of a million keys that owe something for a long time.
func filled(b *testing.B) *gcra.Table[string] {
	b.Helper()
	table := newTable[string](b, gcra.TableConfig{Limit: gcra.PerHour(1e6).WithBurst(1e9)})
	for _, key := range million() {
		table.TakeAt(key, nil, 0, 1e8)
	}
	return table
}

func BenchmarkMillionKeys(b *testing.B) {
	keys, table := million(), filled(b)
	const draws = 1 << 22
	r := rand.New(rand.NewPCG(1, 2))
	uniform, zipf := make([]string, draws), make([]string, draws)
	z := rand.NewZipf(r, 1.1, 1, uint64(len(keys)-1))
	shuffled := r.Perm(len(keys))
	for i := range draws {
		uniform[i] = keys[r.IntN(len(keys))]
		zipf[i] = keys[shuffled[z.Uint64()]]
	}
	for name, drawn := range map[string][]string{"uniform": uniform, "zipf": zipf} {
		b.Run(name, func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				n := 0
				for i := rand.IntN(draws); pb.Next(); i++ {
					d, err := table.TakeAt(drawn[i%draws], nil, clock(), 1)
					count(&n, d, err)
				}
			})
		})
	}
}

func BenchmarkNewKey(b *testing.B) {
	keys := million()
	b.ReportAllocs()
	var table *gcra.Table[string]
	i := len(keys)
	for b.Loop() {
		if i == len(keys) {
			i, table = 0, newTable[string](b, gcra.TableConfig{Limit: gcra.PerHour(1)})
		}
		table.TakeAt(keys[i], nil, clock(), 1)
		i++
	}
}

// BenchmarkFlood is a new key that there is no room for: all others owe.
func BenchmarkFlood(b *testing.B) {
	keys := million()
	table := newTable[string](b, gcra.TableConfig{Limit: gcra.PerHour(1), MaxKeys: 100_000})
	for _, key := range keys[:100_000] {
		table.TakeAt(key, nil, 0, 1)
	}
	i := 100_000
	for b.Loop() {
		table.TakeAt(keys[i], nil, 0, 1)
		if i++; i == len(keys) {
			i = 100_000
		}
	}
}

// BenchmarkMemory reports what a million keys take, and what a full garbage
// collection takes with them and without.
func BenchmarkMemory(b *testing.B) {
	million()
	collect := func() time.Duration {
		quickest := time.Hour
		for range 5 {
			start := time.Now()
			runtime.GC()
			quickest = min(quickest, time.Since(start))
		}
		return quickest
	}
	for b.Loop() {
		var before, after runtime.MemStats
		without := collect()
		runtime.ReadMemStats(&before)
		table := filled(b)
		with := collect()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(table.Len()), "B/key")
		b.ReportMetric(float64(with-without)/1e6, "gc-ms")
	}
}

// longest times calls one by one, and is the longest of them.
type longest time.Duration

func (l *longest) time(call func()) {
	start := clock()
	call()
	*l = max(*l, longest(clock()-start))
}

// BenchmarkLongestCall reports the longest single call while a table grows from
// nothing to a million keys, while it is swept of them, and while its limit
// changes. A busy machine interrupts: the quickest of a few rounds is the table's.
func BenchmarkLongestCall(b *testing.B) {
	keys := million()
	b.Run("grow", func(b *testing.B) {
		quickest := longest(time.Hour)
		for b.Loop() {
			var l longest
			table := newTable[string](b, gcra.TableConfig{Limit: gcra.PerHour(1)})
			for _, key := range keys {
				l.time(func() { table.TakeAt(key, nil, 0, 1) })
			}
			quickest = min(quickest, l)
		}
		b.ReportMetric(float64(quickest)/1e3, "longest-µs")
	})
	busy := func(b *testing.B, what func(table *gcra.Table[string])) {
		b.Helper()
		quickest := longest(time.Hour)
		for b.Loop() {
			var l longest
			var done atomic.Bool
			var wg sync.WaitGroup
			table := filled(b)
			wg.Go(func() {
				for i := 0; !done.Load(); i++ {
					l.time(func() { table.TakeAt(keys[i*7919%len(keys)], nil, 0, 1) })
				}
			})
			what(table)
			done.Store(true)
			wg.Wait()
			quickest = min(quickest, l)
		}
		b.ReportMetric(float64(quickest)/1e3, "longest-µs")
	}
	b.Run("sweep", func(b *testing.B) {
		busy(b, func(table *gcra.Table[string]) { sweepAll(table, int64(200*time.Hour), 4096) })
	})
	b.Run("limit", func(b *testing.B) {
		busy(b, func(table *gcra.Table[string]) {
			if err := table.SetLimit(0, gcra.PerHour(2e6).WithBurst(1e9)); err != nil {
				b.Fatal(err)
			}
		})
	})
}

// BenchmarkSweep is a sweep of a million keys in steps of 4096.
func BenchmarkSweep(b *testing.B) {
	for name, at := range map[string]time.Duration{"stay": 0, "go": 200 * time.Hour} {
		b.Run(name, func(b *testing.B) {
			quickest, step := time.Hour, longest(time.Hour)
			for b.Loop() {
				b.StopTimer()
				table := filled(b)
				b.StartTimer()
				var l longest
				start := time.Now()
				for done := false; !done; {
					l.time(func() { _, done = table.Sweep(int64(at), 4096) })
				}
				quickest, step = min(quickest, time.Since(start)), min(step, l)
			}
			b.ReportMetric(float64(quickest)/1e6, "ms")
			b.ReportMetric(float64(step)/1e3, "longest-step-µs")
		})
	}
}

func BenchmarkSetLimit(b *testing.B) {
	table := filled(b)
	b.ResetTimer()
	i := int64(0)
	for b.Loop() {
		i++
		if err := table.SetLimit(0, gcra.PerHour(1e6+i).WithBurst(1e9)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(i)/1e6, "ns/key")
}
