package main

import (
	"strings"
	"testing"
)

// BenchmarkCalls is the table of calls on few keys.
func BenchmarkCalls(b *testing.B) { benchmark(b, workloads, peers) }

// BenchmarkInHand is the table of calls with the key in hand.
func BenchmarkInHand(b *testing.B) { benchmark(b, inHandWorkloads, inHand) }

func benchmark(b *testing.B, workloads []workload, peers []peer) {
	b.Helper()
	for _, w := range workloads {
		b.Run(plain(w.name), func(b *testing.B) {
			keys := w.keys()
			for _, p := range peers {
				if w.skips(p) {
					continue
				}
				b.Run(plain(p.name), func(b *testing.B) {
					lim := w.prepare(p, keys)
					defer lim.done()
					measureCalls(b, w, lim, keys)
				})
			}
		})
	}
}

// measureCalls makes b.N calls in all; with several workers a multiple of them.
func measureCalls(b *testing.B, w workload, lim limiter, keys []string) {
	b.Helper()
	b.ReportAllocs()
	b.ResetTimer()
	w.run(lim, keys, (b.N+w.workers-1)/w.workers)
}

// manyKeys is the number of keys of the benchmarks below.
const manyKeys = 1_000_000

// BenchmarkManyKeys is calls among a million keys that are all in debt.
func BenchmarkManyKeys(b *testing.B) {
	many := manyWorkloads(manyKeys)
	drawn := make([][]string, len(many))
	for i, w := range many {
		drawn[i] = w.keys()
	}
	keys := keySet(manyKeys)
	for _, p := range peers {
		if p.floor {
			continue
		}
		b.Run(plain(p.name), func(b *testing.B) {
			lim := p.start(live)
			defer lim.done()
			lim.insert(keys)
			for i, w := range many {
				b.Run(plain(w.name), func(b *testing.B) { measureCalls(b, w, lim, drawn[i]) })
			}
		})
	}
}

// BenchmarkNewKey is calls with keys that were never seen, up to a million of
// them before it starts over.
func BenchmarkNewKey(b *testing.B) {
	keys := keySet(manyKeys)
	for _, p := range peers {
		if p.floor {
			continue
		}
		b.Run(plain(p.name), func(b *testing.B) {
			b.ReportAllocs()
			lim := p.start(live)
			i := 0
			for b.Loop() {
				if i == len(keys) {
					b.StopTimer()
					lim.done()
					lim, i = p.start(live), 0
					b.StartTimer()
				}
				lim.allow(keys[i])
				i++
			}
			lim.done()
		})
	}
}

// plain makes a name fit for -bench.
func plain(name string) string {
	return strings.NewReplacer("*", "", "/", "-", ", ", ",", " ", "_", "'", "").Replace(name)
}
