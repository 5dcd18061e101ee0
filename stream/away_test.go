package stream_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/fluxlimiter/flux/stream"
)

// TestAway compares the deferred messages of a key with a list that is looked
// through from one end to the other.
func TestAway(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 11))
		var a stream.Away
		var model []stream.Deferred
		for step := range int64(3000) {
			order := rng.Int64N(1 + rng.Int64N(200))
			switch {
			case rng.IntN(20) == 0 && step%500 > 300:
				until := rng.Int64N(1000)
				before := len(model)
				model = slices.DeleteFunc(model, func(d stream.Deferred) bool { return d.Until < until })
				if n := a.Sweep(until); n != before-len(model) {
					t.Fatalf("seed %d, step %d: %d swept, want %d", seed, step, n, before-len(model))
				}
			case rng.IntN(5) < 2 && len(model) > 0:
				i := rng.IntN(len(model))
				if rng.IntN(2) == 0 {
					i = 0
				}
				d := model[i]
				model = slices.Delete(model, i, i+1)
				if n := a.Remove(d.Order, d.Arrival); n != 1 {
					t.Fatalf("seed %d, step %d: %d removed of %+v", seed, step, n, d)
				}
			default:
				if rng.IntN(2) == 0 {
					order = step // as new ones come
				}
				d := stream.Deferred{Order: order, Arrival: step, Until: rng.Int64N(1000)}
				a.Add(d)
				model = append(model, d)
				slices.SortFunc(model, func(a, b stream.Deferred) int { return int(a.Order - b.Order) })
			}
			last, precedes, earliest := int64(-1), false, int64(1000)
			for _, d := range model {
				earliest = min(earliest, d.Until)
				if d.Order < order {
					last, precedes = max(last, d.Until), true
				}
			}
			if got := a.LastBefore(order); got != last || a.Precedes(order) != precedes || a.Len() != len(model) {
				t.Fatalf("seed %d, step %d: last before %d is %d, want %d; %d of %d", seed, step, order, got, last, a.Len(), len(model))
			}
			if len(model) > 0 && a.Earliest() != earliest {
				t.Fatalf("seed %d, step %d: the earliest is %d, want %d", seed, step, a.Earliest(), earliest)
			}
		}
	}
}

// BenchmarkAway defers the first of so many messages once more, and one more behind
// them, as with a backlog of one key that comes back to no place.
func BenchmarkAway(b *testing.B) {
	for _, n := range []int64{16, 16 << 10, 256 << 10} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var a stream.Away
			for i := range n {
				a.Add(stream.Deferred{Order: i, Arrival: i, Until: i})
			}
			first, last := int64(0), n
			for b.Loop() {
				a.Remove(first, first)
				a.Add(stream.Deferred{Order: first, Arrival: first, Until: first})
				a.Remove(first, first)
				first++
				a.LastBefore(last)
				a.Add(stream.Deferred{Order: last, Arrival: last, Until: last})
				last++
			}
		})
	}
}
