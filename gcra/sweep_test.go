package gcra_test

import (
	"testing"
	"time"

	"github.com/fluxlimiter/flux/gcra"
)

// Pitfalls 23 and 25: a sweep goes on where it was, in steps no larger than its
// budget and a page, and forgets exactly the keys that are as good as new, to the
// nanosecond.
func TestSweepInSteps(t *testing.T) {
	table := newTable[int](t, gcra.TableConfig{Limit: gcra.PerSecond(1).WithBurst(10)})
	const keys = 20_000
	for i := range keys {
		if _, err := table.TakeAt(i, nil, 0, int64(1+i%4)); err != nil { // fresh at 1 to 4 s
			t.Fatal(err)
		}
	}
	// sweep sweeps once, and returns the number of steps.
	sweep := func(now int64, budget int) (removed, steps int) {
		for done := false; !done; steps++ {
			var n int
			n, done = table.Sweep(now, budget)
			removed += n
		}
		return removed, steps
	}
	pages := table.Stats().Slots / gcra.PageSlots
	for budget, want := range map[int]int{0: pages, 1: pages, 1 << 30: 1} {
		if n, steps := sweep(0, budget); n != 0 || steps != want {
			t.Errorf("budget %d: %d keys in debt are gone in %d steps, want %d", budget, n, steps, want)
		}
	}
	for second := range 4 {
		at := int64(second+1) * int64(time.Second)
		if n := sweepAll(table, at-1, 500); n != 0 {
			t.Errorf("%d forgotten a nanosecond early", n)
		}
		for at, want := range map[int64]int{at - 1: keys / 4 * (4 - second), at: keys / 4 * (3 - second)} {
			if n := table.Live(at); n != want {
				t.Errorf("%d live at %d ns, want %d", n, at, want)
			}
		}
		const budget = 500
		n, steps := sweep(at, budget)
		if n != keys/4 {
			t.Errorf("%d forgotten at %d s, want %d", n, second+1, keys/4)
		}
		if most := (keys+pages)/budget + 1; steps < 2 || steps > most {
			t.Errorf("%d steps in %d pages, want 2 to %d", steps, pages, most)
		}
		// Pages that are known to have no fresh key are passed over.
		if n, steps := sweep(at, pages); n != 0 || steps != 1 {
			t.Errorf("swept again: %d forgotten, %d steps", n, steps)
		}
		verify(t, table)
		for i := range keys {
			d, err := table.TakeAt(i, nil, at, 0)
			if want := max(0, i%4-second); err != nil || d.ResetAfter != time.Duration(want)*time.Second {
				t.Fatalf("key %d at %d s: fresh in %v, want %d s (%v)", i, second+1, d.ResetAfter, want, err)
			}
		}
	}
	if table.Len() != 0 || table.Stats().Slots != 0 {
		t.Errorf("%d keys, %d slots left", table.Len(), table.Stats().Slots)
	}
}

// Pitfall 24: keys that are only refused are swept too once they owe nothing,
// though they are looked at all the time.
func TestRefusedKeysAreSwept(t *testing.T) {
	table := newTable[int](t, gcra.TableConfig{Limit: gcra.Per(1, time.Minute)})
	h := table.Key(7)
	if d, err := h.TakeAt(nil, 0, 1); err != nil || !d.Allowed() {
		t.Fatal(d, err)
	}
	for now := int64(0); now < int64(time.Minute); now += int64(time.Second) {
		if d, err := h.TakeAt(nil, now, 1); err != nil || d.Allowed() {
			t.Fatal(d, err)
		}
		if sweepAll(table, now, 1); table.Len() != 1 {
			t.Fatalf("a key in debt is gone after %v", time.Duration(now))
		}
	}
	if n := sweepAll(table, int64(time.Minute), 1); n != 1 || table.Len() != 0 {
		t.Errorf("%d swept, %d left", n, table.Len())
	}
	if d, err := h.TakeAt(nil, int64(time.Minute), 1); err != nil || !d.Allowed() || table.Len() != 1 {
		t.Errorf("%+v, %v, %d tracked", d, err, table.Len())
	}
}

// Pitfall 2: who comes with an earlier time than a sweep's gets nothing for it.
func TestLateCallAfterASweep(t *testing.T) {
	limit := gcra.PerSecond(10).WithBurst(5)
	for name, forget := range map[string]func(table *gcra.Table[int], now int64){
		"sweep": func(table *gcra.Table[int], now int64) { sweepAll(table, now, 1) },
		"growth": func(table *gcra.Table[int], now int64) {
			for i := range 20 * gcra.FullAt * gcra.NumShards {
				table.TakeAt(1000+i, nil, now, 1)
			}
		},
	} {
		table := newTable[int](t, gcra.TableConfig{Limit: limit})
		tat := int64(0)
		h := table.Key(1)
		spend := func(now int64) bool {
			next, want, _ := limit.Take(tat, now, 1)
			got, err := h.TakeAt(nil, now, 1)
			if err != nil {
				t.Fatal(err)
			}
			if got.Allowed() && !want.Allowed() {
				t.Fatalf("%s: admitted at %v what a key that was not forgotten would not be", name, time.Duration(now))
			}
			if got.Allowed() {
				tat = next
			}
			return got.Allowed()
		}
		for range 5 {
			spend(0)
		}
		fresh := int64(500 * time.Millisecond)
		forget(table, fresh)
		for now := int64(100 * time.Millisecond); now <= fresh; now += int64(20 * time.Millisecond) {
			for spend(now) {
			}
		}
		if d, _ := table.TakeAt(2, nil, fresh, 5); !d.Allowed() {
			t.Errorf("%s: a call that is not late pays for one that was", name)
		}
	}
}
