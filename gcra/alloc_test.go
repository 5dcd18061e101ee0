package gcra_test

import (
	"testing"
	"time"

	"github.com/fluxlimiter/flux/gcra"
)

func allocations[K comparable](t *testing.T, name string, keys ...K) {
	t.Helper()
	table := newTable[K](t, gcra.TableConfig{Limit: gcra.PerSecond(1000)})
	own := gcra.PerSecond(10)
	h := table.Key(keys[0])
	var now int64
	if n := testing.AllocsPerRun(1000, func() {
		now += int64(time.Millisecond)
		for _, key := range keys {
			table.TakeAt(key, nil, now, 1)
			table.TakeAt(key, nil, now, 1000) // refused
			table.TakeAt(key, nil, now, 0)
			table.DebtAt(key, nil, now, 1)
			table.RefundAt(key, nil, now, 1)
			table.RescaleAt(key, now, nil, nil)
			table.TakeAt(key, &own, now, 1)
		}
		h.TakeAt(nil, now, 1)
		h.RefundAt(nil, now, 1)
		h.DebtAt(nil, now, 1)
		h.TakeAt(&own, now, 1)
	}); n != 0 {
		t.Errorf("%s: %v allocations", name, n)
	}
}

func TestHitsAllocateNothing(t *testing.T) {
	type composite struct {
		tenant string
		region uint32
	}
	allocations(t, "string", "tenant-1", "tenant-2")
	allocations(t, "int", 1, 2)
	allocations(t, "struct", composite{"a", 1}, composite{"b", 2})
	allocations(t, "array", [16]byte{1}, [16]byte{2})
}

func TestNewKeysAllocateNextToNothing(t *testing.T) {
	table := newTable[int](t, gcra.TableConfig{Limit: gcra.PerHour(1)})
	const batch = 25_000
	i := 0
	if n := testing.AllocsPerRun(20, func() {
		for range batch {
			table.TakeAt(i, nil, 0, 1)
			i++
		}
	}); n > batch/100 {
		t.Errorf("%v allocations for %d new keys", n, batch)
	}
}
