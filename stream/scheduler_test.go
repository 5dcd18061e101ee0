package stream_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/fluxlimiter/flux/stream"
)

// TestHeap compares the heap with a sorted list, over random operations. Equal
// keys leave in the order in which they came, and keys may wrap around.
func TestHeap(t *testing.T) {
	type entry struct {
		item *stream.HeapItem
		key  int64
	}
	for _, base := range []int64{0, math.MaxInt64 - 50} {
		rng := rand.New(rand.NewPCG(1, 2))
		var h stream.Heap
		var model []entry // in the order of leaving
		insert := func(e entry) {
			i := len(model)
			for i > 0 && model[i-1].key-e.key > 0 {
				i--
			}
			model = slices.Insert(model, i, e)
		}
		for step := range 200_000 {
			switch op := rng.IntN(10); {
			case op < 4 && len(model) < 2000 || len(model) == 0:
				e := entry{&stream.HeapItem{ID: step}, base + rng.Int64N(100)}
				h.Push(e.item, e.key)
				insert(e)
			case op < 6:
				i := rng.IntN(len(model))
				e := model[i]
				model = slices.Delete(model, i, i+1)
				e.key = base + rng.Int64N(100)
				h.Fix(e.item, e.key)
				insert(e)
			case op < 8:
				i := rng.IntN(len(model))
				h.Remove(model[i].item)
				if model[i].item.In() {
					t.Fatal("a removed item says that it is in the heap")
				}
				model = slices.Delete(model, i, i+1)
			default:
				item, key := h.Top()
				if item != model[0].item || key != model[0].key {
					t.Fatalf("step %d: top is %d with key %d, want %d with %d", step, item.ID, key, model[0].item.ID, model[0].key)
				}
				h.Remove(item)
				model = model[1:]
			}
			if h.Len() != len(model) {
				t.Fatalf("step %d: %d items, want %d", step, h.Len(), len(model))
			}
		}
	}
}

// TestHeapShrinks empties a heap that had many items, in which some stay, and
// fills it again: each leaves in its turn.
func TestHeapShrinks(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	var h stream.Heap
	in := make(map[*stream.HeapItem]int64)
	put := func(n int) {
		for i := range n {
			item := &stream.HeapItem{ID: i}
			in[item] = rng.Int64N(1e9)
			h.Push(item, in[item])
		}
	}
	for range 3 {
		put(40_000)
		for item := range in { // in any order
			if len(in) <= 50 {
				break
			}
			h.Remove(item)
			delete(in, item)
		}
		put(100)
		last := int64(-1)
		for len(in) > 20 {
			item, key := h.Top()
			if key != in[item] || key < last {
				t.Fatalf("top is %d with key %d after %d, want %d", item.ID, key, last, in[item])
			}
			last = key
			h.Remove(item)
			delete(in, item)
		}
	}
	if h.Len() != len(in) {
		t.Errorf("%d items, want %d", h.Len(), len(in))
	}
	if room := h.Room(); room > 16384 {
		t.Errorf("room for %d items, of which there are %d", room, h.Len())
	}
}

// TestHeapSteps holds that an event of a throttled tenant, its grant and the
// wait for the next one, takes as many steps as the logarithm of their number:
// each of the two moves one tenant on each level of the heap, and a few besides.
func TestHeapSteps(t *testing.T) {
	const events = 100
	for _, tenants := range []int{100, 10_000, 100_000} {
		rng := rand.New(rand.NewPCG(uint64(tenants), 4))
		var h stream.Heap
		for i := range tenants {
			h.Push(&stream.HeapItem{ID: i}, rng.Int64N(1e9))
		}
		moves, most := 0, 0
		for range events {
			item, at := h.Top()
			n := h.Moves(func() { h.Remove(item) }) + h.Moves(func() { h.Push(item, at+rng.Int64N(2e9)) })
			moves += n
			most = max(most, n)
		}
		depth := 0
		for n := tenants; n > 0; n /= 4 {
			depth++
		}
		t.Logf("%d tenants: %.1f steps per event, %d at most", tenants, float64(moves)/events, most)
		if bound := 2*depth + 4; most > bound {
			t.Errorf("%d tenants: an event took %d steps, want %d at most", tenants, most, bound)
		}
	}
}

// TestFairnessBound drives the scheduler with random weights and costs, tenants
// that come and go and wait for limits, and checks the bound of start-time fair
// queueing for each pair over each stretch in which both could run all along.
// Virtual time wraps around on the way.
func TestFairnessBound(t *testing.T) {
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 3))
		begin := int64(0)
		if seed%2 == 1 {
			begin = math.MaxInt64 - stream.Charge(500, 1)
		}
		s := stream.NewSched(begin, math.MaxInt32)
		const tenants, maxCost = 6, 9
		var weight, backlog, waits [tenants]int64
		for i := range tenants {
			weight[i] = 1 + rng.Int64N(4)
		}
		name := func(i int) string { return fmt.Sprint("tenant", i) }
		// Differences of normalised work, times both weights, and their extremes
		// since both began to have work.
		var lag, low, high [tenants][tenants]int64
		restart := func(i int) {
			for j := range tenants {
				lag[i][j], low[i][j], high[i][j] = 0, 0, 0
				lag[j][i], low[j][i], high[j][i] = 0, 0, 0
			}
		}
		eligible := func(i int, now int64) bool { return backlog[i] > 0 && waits[i] <= now }
		for now := int64(1); now < 5000; now++ {
			for i := range tenants {
				if eligible(i, now) && waits[i] == now {
					restart(i) // its wait is over
				}
			}
			if i := rng.IntN(tenants); rng.IntN(3) == 0 || backlog[i] == 0 {
				if backlog[i] == 0 {
					restart(i)
				}
				for range 1 + rng.IntN(4) {
					s.Push(name(i), weight[i], 1+rng.Int64N(maxCost), now)
					backlog[i]++
				}
			}
			if i := rng.IntN(tenants); rng.IntN(50) == 0 && backlog[i] > 0 {
				waits[i] = now + 1 + rng.Int64N(40)
				s.Wait(name(i), waits[i], now)
			}
			got, cost, done, ok := s.Next(now)
			if !ok {
				for i := range tenants {
					if eligible(i, now) {
						t.Fatalf("seed %d: nobody's turn, and tenant %d has work", seed, i)
					}
				}
				continue
			}
			done()
			i, err := strconv.Atoi(strings.TrimPrefix(got, "tenant"))
			if err != nil {
				t.Fatal(err)
			}
			if !eligible(i, now) {
				t.Fatalf("seed %d: tenant %d runs and has no work or waits", seed, i)
			}
			backlog[i]--
			for j := range tenants {
				if j == i || !eligible(j, now) {
					continue
				}
				lag[i][j] += cost * weight[j]
				lag[j][i] -= cost * weight[j]
				low[i][j], high[i][j] = min(low[i][j], lag[i][j]), max(high[i][j], lag[i][j])
				low[j][i], high[j][i] = min(low[j][i], lag[j][i]), max(high[j][i], lag[j][i])
				bound := maxCost*weight[j] + maxCost*weight[i]
				if high[i][j]-low[i][j] > bound {
					t.Fatalf("seed %d: lag of tenants %d and %d is %d, bound %d", seed, i, j, high[i][j]-low[i][j], bound)
				}
			}
			if backlog[i] == 0 {
				restart(i)
			}
		}
	}
}

// TestWaitingCostsNothing holds that a tenant that waits for its limit is in no
// heap of those that are ready, and back when its time has come.
func TestWaitingCostsNothing(t *testing.T) {
	s := stream.NewSched(0, 10)
	s.Push("a", 1, 1, 0)
	s.Push("b", 1, 1, 0)
	s.Wait("a", 100, 0)
	if ready, waiting := s.Places(); ready != 1 || waiting != 1 {
		t.Errorf("%d ready, %d waiting, want 1 and 1", ready, waiting)
	}
	if name, _, _, _ := s.Next(99); name != "b" {
		t.Errorf("%q goes at 99, want b", name)
	}
	if _, _, _, ok := s.Next(99); ok {
		t.Error("a message of a goes at 99, it was to wait until 100")
	}
	if name, _, _, _ := s.Next(100); name != "a" {
		t.Errorf("%q goes at 100, want a", name)
	}
}

// TestTenantWorkers holds that a tenant runs no more than its bound, and others
// go on.
func TestTenantWorkers(t *testing.T) {
	s := stream.NewSched(0, 2)
	for range 5 {
		s.Push("a", 100, 1, 0)
	}
	s.Push("b", 1, 1, 0)
	var running []func()
	var order []string
	for {
		name, _, done, ok := s.Next(0)
		if !ok {
			break
		}
		order = append(order, name)
		running = append(running, done)
	}
	slices.Sort(order)
	if !slices.Equal(order, []string{"a", "a", "b"}) {
		t.Errorf("running %q, want two of a and one of b", order)
	}
	for _, done := range running {
		done()
	}
	if name, _, _, ok := s.Next(0); !ok || name != "a" {
		t.Errorf("next is %q, want a", name)
	}
}

// TestIdleTenantHoardsNothing holds that a tenant that was idle for long starts
// where the others are: it neither catches up nor queues behind.
func TestIdleTenantHoardsNothing(t *testing.T) {
	s := stream.NewSched(0, 1000)
	next := func() string {
		name, _, done, _ := s.Next(0)
		done()
		return name
	}
	s.Push("quiet", 1, 1, 0)
	next()
	for range 1000 {
		s.Push("noisy", 1, 1, 0)
		next()
	}
	for range 10 {
		s.Push("noisy", 1, 1, 0)
		s.Push("quiet", 1, 1, 0)
	}
	var got strings.Builder
	for range 10 {
		got.WriteString(next()[:1])
	}
	if got.String() != "qnqnqnqnqn" && got.String() != "nqnqnqnqnq" {
		t.Errorf("order %q, want them to alternate", got.String())
	}
}

func TestCharge(t *testing.T) {
	for _, tt := range []struct{ cost, weight, want int64 }{
		{1, 1, 1 << 20},
		{3, 2, 3 << 19},
		{1, 1 << 40, 1},
		{math.MaxInt64, 1, stream.MaxCharge},
		{math.MaxInt64, math.MaxInt64, 1 << 20},
		{1 << 40, 1, stream.MaxCharge},
	} {
		if got := stream.Charge(tt.cost, tt.weight); got != tt.want {
			t.Errorf("Charge(%d, %d) = %d, want %d", tt.cost, tt.weight, got, tt.want)
		}
	}
}

// TestEmptiedQueueHasPaid holds that a tenant whose queue is empty after each
// message still pays for what it had: here for messages of a hundred times the
// cost.
func TestEmptiedQueueHasPaid(t *testing.T) {
	s := stream.NewSched(0, 1000)
	for range 1000 {
		s.Push("small", 1, 1, 0)
	}
	s.Push("big", 1, 100, 0)
	big := 0
	for range 1000 {
		name, _, done, _ := s.Next(0)
		done()
		if name == "big" {
			big++
			s.Push("big", 1, 100, 0)
		}
	}
	if big < 9 || big > 11 {
		t.Errorf("%d messages of cost 100 beside 1000 of cost 1, want 10", big)
	}
}

// TestFirstStartsAreSpread holds that tenants which appear together, after a
// restart say, do not all go first whatever their weight: one of weight 1 among
// twenty of weight 20 comes at any time within its first round, evenly over names,
// and at the same for the same name.
func TestFirstStartsAreSpread(t *testing.T) {
	const heavy, weight, names = 20, 20, 400
	turn := func(light string) (n int) {
		s := stream.NewSched(0, 1)
		s.Push(light, 1, 1, 0)
		for i := range heavy {
			s.Push(fmt.Sprint("heavy", i), weight, 1, 0)
		}
		for {
			name, _, done, ok := s.Next(0)
			if !ok {
				t.Fatal("nobody is ready")
			}
			if name == light {
				return n
			}
			s.Push(name, weight, 1, 0)
			done()
			n++
		}
	}
	const round = heavy * weight
	var quarters [4]int
	for i := range names {
		light := fmt.Sprint("light", i)
		n := turn(light)
		if again := turn(light); again != n {
			t.Errorf("%s had turn %d, and then %d", light, n, again)
		}
		if n >= round+heavy {
			t.Errorf("%s had turn %d, want it within the first round of %d", light, n, round)
		}
		quarters[min(n*4/round, 3)]++
	}
	for i, n := range quarters {
		if n < names/8 || n > names/2 {
			t.Errorf("%d of %d names came in quarter %d of the round, want about a fourth", n, names, i+1)
		}
	}
}
