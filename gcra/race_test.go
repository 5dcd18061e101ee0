package gcra_test

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fluxlimiter/flux/gcra"
)

// unrest keeps a table in motion until stop is closed: new keys that make pages
// fill and split, sweeps that purge and merge them, and a limit that changes
// there and back.
func unrest(wg *sync.WaitGroup, table *gcra.Table[int], now int64, stop <-chan struct{}, limits ...gcra.Limit) {
	running := func() bool {
		select {
		case <-stop:
			return false
		default:
			return true
		}
	}
	wg.Go(func() {
		for i := 1 << 30; running(); i++ {
			// Fresh again a nanosecond later: the next sweep takes them.
			table.TakeAt(i, nil, now-int64(time.Hour), 1)
		}
	})
	wg.Go(func() {
		for running() {
			table.Sweep(now, 5000)
		}
	})
	wg.Go(func() {
		for i := 0; running() && len(limits) > 0; i++ {
			if err := table.SetLimit(now, limits[i%len(limits)]); err != nil {
				panic(err)
			}
		}
	})
}

// Pitfall 16: at a frozen clock a burst is given out exactly once, by key or by
// handle, whatever happens to the table meanwhile and whichever limit it is
// counted in.
func TestExactUnderRace(t *testing.T) {
	const (
		burst      = 30_000
		goroutines = 8
		now        = int64(1e15)
	)
	per := func(n int64) gcra.Limit { return gcra.PerHour(n).WithBurst(burst) }
	for name, limits := range map[string][]gcra.Limit{
		"one limit":       {per(3600)},
		"a limit changes": {per(3600), per(7200), per(36), per(3600)},
	} {
		t.Run(name, func(t *testing.T) {
			table := newTable[int](t, gcra.TableConfig{Limit: limits[0]})
			var took [3]atomic.Int64
			stop := make(chan struct{})
			var takers, others sync.WaitGroup
			unrest(&others, table, now, stop, limits...)
			for table.Stats().Rebuilds == 0 {
				runtime.Gosched()
			}
			for range goroutines {
				takers.Go(func() {
					handle := table.Key(2)
					for misses := 0; misses < 50; {
						misses++
						for key := range took {
							take := func() (gcra.Decision, error) { return table.TakeAt(key, nil, now, 1) }
							if key == 2 {
								take = func() (gcra.Decision, error) { return handle.TakeAt(nil, now, 1) }
							}
							d, err := take()
							if err != nil {
								t.Error(err)
								return
							}
							if d.Allowed() {
								took[key].Add(1)
								misses = 0
							}
						}
					}
				})
			}
			takers.Wait()
			close(stop)
			others.Wait()
			for key := range took {
				if n := took[key].Load(); n != burst {
					t.Errorf("key %d: %d tokens of a burst of %d", key, n, burst)
				}
			}
			verify(t, table)
		})
	}
}

// Pitfalls 16 and 17: one key that everybody wants, and nothing else. Whoever
// loses a race tries again: nobody gets an error, and no token is left over.
func TestHotKeyUnderRace(t *testing.T) {
	const burst = 400_000
	table := newTable[string](t, gcra.TableConfig{Limit: gcra.PerSecond(1).WithBurst(burst)})
	var took atomic.Int64
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			h := table.Key("hot")
			n := int64(0)
			for {
				var d gcra.Decision
				var err error
				if g%2 == 0 {
					d, err = h.TakeAt(nil, 0, 1)
				} else {
					d, err = table.TakeAt("hot", nil, 0, 1)
				}
				if err != nil {
					t.Error(err)
				}
				if !d.Allowed() {
					break
				}
				n++
			}
			took.Add(n)
		})
	}
	wg.Wait()
	if n := took.Load(); n != burst {
		t.Errorf("%d tokens of a burst of %d", n, burst)
	}
}

// The first calls for a key, all at once, find it new only once.
func TestFirstUseUnderRace(t *testing.T) {
	const (
		keys = 60_000
		now  = int64(1e15)
	)
	table := newTable[int](t, gcra.TableConfig{Limit: gcra.PerHour(1).WithBurst(1)})
	took := make([]atomic.Int32, keys)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for key := range keys {
				if d, _ := table.TakeAt(key, nil, now, 1); d.Allowed() {
					took[key].Add(1)
				}
			}
		})
	}
	wg.Wait()
	for key := range took {
		if n := took[key].Load(); n != 1 {
			t.Fatalf("key %d was given %d", key, n)
		}
	}
	verify(t, table)
}

// Pitfall 24: a key is fresh, and forgotten by a sweep, at the very time at which it is
// used: it is given its burst, once.
func TestSweepAgainstFirstUse(t *testing.T) {
	const (
		keys   = 400
		rounds = 150
		burst  = 3
	)
	table := newTable[int](t, gcra.TableConfig{Limit: gcra.PerSecond(1).WithBurst(burst)})
	handles := make([]*gcra.Handle, keys)
	for key := range handles {
		handles[key] = table.Key(key)
	}
	for round := range int64(rounds) {
		now := round * burst * int64(time.Second)
		var took [keys]atomic.Int32
		var takers, sweeper sync.WaitGroup
		var stop atomic.Bool
		sweeper.Go(func() {
			for !stop.Load() {
				table.Sweep(now, 1)
			}
		})
		for range 2 {
			takers.Go(func() {
				for key, h := range handles {
					for {
						d, _ := h.TakeAt(nil, now, 1)
						if !d.Allowed() {
							break
						}
						took[key].Add(1)
					}
				}
			})
		}
		takers.Wait()
		stop.Store(true)
		sweeper.Wait()
		for key := range took {
			if n := took[key].Load(); n != burst {
				t.Fatalf("round %d: key %d was given %d of a burst of %d", round, key, n, burst)
			}
		}
	}
	verify(t, table)
}

// What is taken and given back, and booked as debt, adds up to the nanosecond.
func TestBalanceUnderRace(t *testing.T) {
	const (
		goroutines = 8
		rounds     = 3000
		now        = int64(1e15)
	)
	limit := gcra.PerHour(3600).WithBurst(4 * goroutines * rounds)
	table := newTable[int](t, gcra.TableConfig{Limit: limit})
	own := limit
	stop := make(chan struct{})
	var workers, others sync.WaitGroup
	unrest(&others, table, now, stop)
	for g := range goroutines {
		workers.Go(func() {
			h := table.Key(1)
			for i := range rounds {
				l := &own // the key gets a limit of its own and loses it
				if (i+g)%3 == 0 {
					l = nil
				}
				if d, err := h.TakeAt(l, now, 1); err != nil || !d.Allowed() {
					t.Error(d, err)
				}
				if _, err := table.DebtAt(1, l, now, 2); err != nil {
					t.Error(err)
				}
				if err := h.RefundAt(l, now, 1); err != nil {
					t.Error(err)
				}
				if i%100 == 0 {
					table.RescaleAt(1, now, l, &own)
				}
			}
		})
	}
	workers.Wait()
	close(stop)
	others.Wait()
	d, err := table.TakeAt(1, nil, now, 0)
	if want := 2 * goroutines * rounds * time.Second; err != nil || d.ResetAfter != want {
		t.Errorf("the key owes %v, want %v (%v)", d.ResetAfter, want, err)
	}
	verify(t, table)
}

// Pitfall 23 and 24: keys that come to be fresh and are forgotten just while
// they are used again are never given more than their limit.
func TestForgottenUnderRace(t *testing.T) {
	const (
		keys     = 500
		burst    = 3
		interval = int64(time.Millisecond)
		span     = 100 * interval
	)
	table := newTable[int](t, gcra.TableConfig{Limit: gcra.Per(1, time.Duration(interval)).WithBurst(burst)})
	var clock atomic.Int64
	var took [keys]atomic.Int64
	var wg sync.WaitGroup
	for g := range uint64(4) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(g, 21))
			handles := map[int]*gcra.Handle{}
			for {
				now := clock.Add(r.Int64N(interval / 50))
				if now > span {
					return
				}
				key := r.IntN(keys)
				late := now - r.Int64N(3*interval) // and not all of them in time
				var d gcra.Decision
				var err error
				if key%2 == 0 {
					if handles[key] == nil {
						handles[key] = table.Key(key)
					}
					d, err = handles[key].TakeAt(nil, late, 1)
				} else {
					d, err = table.TakeAt(key, nil, late, 1)
				}
				if err != nil {
					t.Error(err)
					return
				}
				if d.Allowed() {
					took[key].Add(1)
				}
				if r.IntN(20) == 0 {
					table.Sweep(now, 1000)
				}
			}
		})
	}
	wg.Wait()
	// From the first call, at -3 intervals at the earliest, to the last.
	most := burst + (clock.Load()+3*interval)/interval
	for key := range took {
		if n := took[key].Load(); n > most {
			t.Errorf("key %d: %d tokens, %d were due", key, n, most)
		}
	}
	verify(t, table)
}

// Whichever of the two limits a key's debt is counted in at the end, no token
// was lost and none counted twice on the way: a key of its own limit is not touched by
// the table's.
func TestOwnLimitsStayWhenTheTablesChanges(t *testing.T) {
	const now = int64(1e15)
	slow, fast, own := gcra.PerHour(60).WithBurst(100), gcra.PerHour(3600).WithBurst(100), gcra.PerHour(60).WithBurst(100)
	table := newTable[int](t, gcra.TableConfig{Limit: slow})
	const keys = 20_000
	for i := range keys {
		l := &own
		if i%2 == 0 {
			l = nil
		}
		table.TakeAt(i, l, now, int64(1+i%50))
	}
	if err := table.SetLimit(now, fast); err != nil {
		t.Fatal(err)
	}
	verify(t, table)
	for i := range keys {
		l, price := &own, time.Minute
		if i%2 == 0 {
			l, price = nil, time.Second
		}
		d, err := table.TakeAt(i, l, now, 0)
		if want := time.Duration(1+i%50) * price; err != nil || d.ResetAfter != want {
			t.Fatalf("key %d owes %v, want %v (%v)", i, d.ResetAfter, want, err)
		}
	}
}

// A limit is changed for calls that run while SetLimit is still at work, too.
func TestSetLimitFails(t *testing.T) {
	table := newTable[int](t, gcra.TableConfig{Limit: gcra.PerSecond(10)})
	table.TakeAt(1, nil, 0, 10)
	if err := unless(table.SetLimit(0, gcra.PerSecond(0)), gcra.ErrInvalidLimit); err != nil {
		t.Error(err)
	}
	if err := unless(table.SetLimit(1<<62, gcra.PerSecond(20)), gcra.ErrTime); err != nil {
		t.Error(err)
	}
	if err := table.SetLimit(0, gcra.PerSecond(10)); err != nil || table.Stats().Rebuilds != 0 {
		t.Errorf("the limit that it has: %v, %d rebuilds", err, table.Stats().Rebuilds)
	}
	if d, _ := table.TakeAt(1, nil, 0, 0); d.Limit() != gcra.PerSecond(10) || d.ResetAfter != time.Second {
		t.Errorf("%v under %v", d.ResetAfter, d.Limit())
	}
}

// A handle that nobody uses keeps nothing of the pages that its key was in.
func TestHandlesKeepNoOldPages(t *testing.T) {
	table := newTable[int](t, gcra.TableConfig{Limit: gcra.PerHour(1)})
	var handles []*gcra.Handle
	check := func(when string) {
		t.Helper()
		for i, h := range handles {
			if h.HoldsOldPage() {
				t.Fatalf("%s: handle %d holds a page that its key is no longer in", when, i)
			}
		}
	}
	for i := range 50_000 {
		if i%100 == 0 {
			handles = append(handles, table.Key(i))
		}
		table.TakeAt(i, nil, 0, 1)
	}
	check("after growth")
	if err := table.SetLimit(0, gcra.PerHour(2)); err != nil {
		t.Fatal(err)
	}
	check("after a change")
	sweepAll(table, int64(time.Hour), 1000)
	check("after a sweep")
	for i, h := range handles {
		if d, err := h.TakeAt(nil, int64(time.Hour), 2); err != nil || !d.Allowed() {
			t.Fatalf("handle %d: %+v, %v", i, d, err)
		}
	}
	check("after use")
}
