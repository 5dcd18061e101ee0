package gcra_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fluxlimiter/flux/gcra"
)

// Pitfalls 21 and 22: a flood of keys takes no more memory than its cap, and what it is
// given altogether is one limit's worth; those who were there before notice
// nothing.
func TestKeyFlood(t *testing.T) {
	const (
		maxKeys = 2000
		burst   = 10
	)
	table := newTable[int](t, gcra.TableConfig{Limit: gcra.PerHour(1).WithBurst(burst), MaxKeys: maxKeys})
	for i := range maxKeys {
		if d, err := table.TakeAt(i, nil, 0, 4); err != nil || !d.Allowed() {
			t.Fatal(d, err)
		}
	}
	slots := table.Stats().Slots
	admitted := 0
	for i := range 50_000 {
		d, err := table.TakeAt(-1-i, nil, 0, 1)
		if err != nil {
			t.Fatal(err)
		}
		if d.Allowed() {
			admitted++
		} else if d.RetryAfter != time.Hour {
			t.Fatalf("told to wait %v", d.RetryAfter)
		}
	}
	stats := table.Stats()
	if admitted != burst || stats.Tracked != maxKeys || stats.Slots != slots || stats.SharedCalls < 50_000 || stats.Evictions != 0 {
		t.Errorf("the flood was given %d of %d; %+v, %d slots before", admitted, burst, stats, slots)
	}
	for i := range maxKeys {
		if d, err := table.TakeAt(i, nil, 0, 6); err != nil || !d.Allowed() || d.Remaining() != 0 {
			t.Fatalf("key %d after the flood: %+v, %v", i, d, err)
		}
	}
	verify(t, table)

	// When all are fresh again, new keys find room, a page of old ones at a time.
	const later = int64(10 * time.Hour)
	for i := range 10 * maxKeys {
		if d, err := table.TakeAt(1e6+i, nil, later+int64(i), 10); i < maxKeys/2 && (err != nil || !d.Allowed()) {
			t.Fatalf("new key %d: %+v, %v", i, d, err)
		}
	}
	if stats := table.Stats(); stats.Tracked > maxKeys || stats.Tracked < maxKeys*9/10 || stats.Evictions < maxKeys*8/10 {
		t.Errorf("%+v", stats)
	}
	verify(t, table)
}

// Pitfall 22: whatever an attacker does with as many keys as he likes, and
// however often a key changes between having a state of its own and sharing
// one, no key is ever given more than its own limit.
func TestNobodyGainsByFlooding(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 31))
		limits := []gcra.Limit{
			gcra.PerSecond(10).WithBurst(5), gcra.PerSecond(100).WithBurst(20),
			gcra.PerSecond(7e8).WithBurst(300), gcra.PerSecond(1).WithBurst(3),
		}
		table := newTable[int](t, gcra.TableConfig{Limit: limits[0], MaxKeys: 1 + r.IntN(100)})
		model := map[int]*plainKey{} // forgets nothing, every key is alone
		limit := limits[0]
		now := int64(0)
		gained := 0
		for range 10_000 {
			key := r.IntN(600)
			k := model[key]
			if k == nil {
				k = &plainKey{tat: math.MinInt64}
				model[key] = k
			}
			var own *gcra.Limit
			l := &limit
			if key%4 != 0 { // a key is always under the same limit
				own = &limits[key%4]
				l = own
			}
			at := now - r.Int64N(int64(100*time.Millisecond))*int64(r.IntN(2))
			n := 1 + r.Int64N(l.Burst())
			switch r.IntN(12) {
			case 0:
				now += r.Int64N(int64(20 * time.Millisecond))
			case 1:
				if r.IntN(100) == 0 {
					now += r.Int64N(int64(time.Second))
				}
			case 2:
				if err := table.RefundAt(key, own, at, n); err != nil {
					t.Fatal(err)
				}
				k.tat, _ = l.Refund(k.tat, at, n)
			case 3:
				table.Sweep(now, r.IntN(1000))
			case 4:
				if r.IntN(50) != 0 {
					break
				}
				to := gcra.PerSecond(1 + r.Int64N(50)).WithBurst(1 + r.Int64N(20))
				for key, k := range model {
					if key%4 == 0 {
						k.tat = gcra.Rescale(k.tat, now, &limit, &to)
					}
				}
				limit = to
				if err := table.SetLimit(now, to); err != nil {
					t.Fatal(err)
				}
			case 5:
				if r.IntN(20) == 0 { // a small debt, for all share it
					if _, err := table.DebtAt(key, own, at, n); err != nil {
						t.Fatal(err)
					}
					k.tat, _, _ = l.Debt(k.tat, at, n)
				}
			case 6:
				if own == nil || r.IntN(50) != 0 {
					break
				}
				to := gcra.PerSecond(1 + r.Int64N(50)).WithBurst(own.Burst())
				for key2, k := range model {
					if key2%4 == key%4 {
						k.tat = gcra.Rescale(k.tat, now, own, &to)
						table.RescaleAt(key2, now, own, &to)
					}
				}
				limits[key%4] = to
			default:
				d, err := table.TakeAt(key, own, at, n)
				if err != nil {
					t.Fatal(err)
				}
				next, want, _ := l.Take(k.tat, at, n)
				if d.Allowed() && !want.Allowed() {
					t.Fatalf("seed %d: key %d was given %d, which alone it would not have been", seed, key, n)
				}
				if d.ResetAfter < want.ResetAfter && d.Allowed() == want.Allowed() {
					t.Fatalf("seed %d: key %d owes %v, alone it would owe %v", seed, key, d.ResetAfter, want.ResetAfter)
				}
				if d.Allowed() {
					k.tat = next
					gained++
				}
			}
		}
		shared := table.Stats().SharedCalls > 0
		if gained < 250 || !shared {
			t.Fatalf("seed %d: %d calls admitted, states shared: %v: the test shows nothing", seed, gained, shared)
		}
		verify(t, table)
	}
}

// With room for n keys, n keys are tracked, to the last.
func TestMaxKeysIsExact(t *testing.T) {
	for _, maxKeys := range []int{1, 2, 17, 1000} {
		table := newTable[int](t, gcra.TableConfig{Limit: gcra.PerHour(1), MaxKeys: maxKeys})
		for i := range maxKeys + 1 {
			table.TakeAt(i, nil, 0, 1)
			if want := min(i+1, maxKeys); table.Len() != want {
				t.Fatalf("room for %d: %d keys tracked after %d", maxKeys, table.Len(), i+1)
			}
		}
		if s := table.Stats(); s.SharedCalls != 1 {
			t.Errorf("room for %d: %d keys shared", maxKeys, s.SharedCalls)
		}
		verify(t, table)
	}
}

// Tokens of the shared state are not given back: they may not be those of the
// one who asks.
func TestSharedTokensAreNotRefunded(t *testing.T) {
	table := newTable[string](t, gcra.TableConfig{Limit: gcra.PerHour(1).WithBurst(2), MaxKeys: 1})
	for i, step := range []struct {
		key    string
		refund bool
		want   bool
	}{
		{"tracked", false, true},
		{"b", false, true},
		{"c", false, true},
		{"d", false, false},
		{"c", true, true},
		{"stranger", true, true},
		{"d", false, false},
		{"tracked", true, true},
		{"tracked", false, true},
		{"tracked", false, true},
		{"tracked", false, false},
	} {
		if step.refund {
			if err := table.RefundAt(step.key, nil, 0, 1); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if d, err := table.TakeAt(step.key, nil, 0, 1); err != nil || d.Allowed() != step.want {
			t.Fatalf("step %d: %+v, %v", i, d, err)
		}
	}
}

// A limit of few tokens does not keep those under another one out.
func TestLimitsShareApart(t *testing.T) {
	table := newTable[string](t, gcra.TableConfig{Limit: gcra.PerSecond(100), MaxKeys: 1})
	daily, hourly := gcra.Per(1, 24*time.Hour), gcra.PerHour(60)
	table.TakeAt("tracked", nil, 0, 100)
	for _, l := range []*gcra.Limit{&daily, &hourly, nil} {
		for i := range 2 {
			n := int64(1)
			if l == nil {
				n = 100
			} else if l == &hourly {
				n = 60
			}
			d, err := table.TakeAt(fmt.Sprint(i), l, 0, n)
			if err != nil || d.Allowed() != (i == 0) {
				t.Errorf("%v: key %d: %+v, %v", l, i, d, err)
			}
		}
	}
}

// Under a flood by many at once, too, the cap holds and the shared state is
// given out exactly once.
func TestFloodUnderRace(t *testing.T) {
	const (
		maxKeys = 1000
		burst   = 30_000
	)
	table := newTable[int](t, gcra.TableConfig{Limit: gcra.PerSecond(1).WithBurst(burst), MaxKeys: maxKeys})
	for i := range maxKeys {
		table.TakeAt(i, nil, 0, 1)
	}
	var admitted, known, asked atomic.Int64
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			h := table.Key(1e6 + g)
			for i, refused := 0, 0; refused < 10; i++ {
				d, err := table.TakeAt(1e9+i*8+g, nil, 0, 1)
				if err != nil {
					t.Error(err)
				}
				if d.Allowed() {
					admitted.Add(1)
				} else {
					refused++
				}
				if d, _ := h.TakeAt(nil, 0, 1); d.Allowed() {
					admitted.Add(1)
				}
				if d, _ := table.TakeAt(i%maxKeys, nil, 0, 1); d.Allowed() {
					known.Add(1)
				}
				asked.Add(1)
				if n := table.Len(); n > maxKeys+8 { // counted before it is known that there is no room
					t.Errorf("%d keys tracked", n)
				}
			}
		})
	}
	wg.Wait()
	if admitted.Load() != burst || known.Load() != asked.Load() || table.Len() != maxKeys {
		t.Errorf("the flood was given %d, want %d; known keys %d of %d; %d keys tracked", admitted.Load(), burst, known.Load(), asked.Load(), table.Len())
	}
	verify(t, table)
}
