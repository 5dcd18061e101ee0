package stream_test

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
	"golang.org/x/sync/errgroup"
)

// benchMessage is a message and its delivery in one, so that the source of a
// benchmark allocates nothing.
type benchMessage struct {
	tenant, key string
	settled     *atomic.Int64
}

func (m *benchMessage) Message() *benchMessage    { return m }
func (m *benchMessage) Meta() stream.Meta         { return stream.Meta{} }
func (m *benchMessage) Revoked() <-chan struct{}  { return nil }
func (m *benchMessage) Ack(context.Context) error { m.settled.Add(1); return nil }

func (m *benchMessage) Defer(context.Context, stream.Deferral) error { m.settled.Add(1); return nil }

func (m *benchMessage) DeadLetter(context.Context, stream.Letter) error {
	m.settled.Add(1)
	return nil
}
func (m *benchMessage) Release() { m.settled.Add(1) }

// benchSource delivers messages in rounds of all tenants, and of all keys of each,
// until each of n is delivered, and returns when all are settled.
type benchSource struct {
	messages []benchMessage
	n        int
	settled  atomic.Int64
}

func newBenchSource(tenants, keys int) *benchSource {
	s := &benchSource{messages: make([]benchMessage, 0, tenants*keys)}
	for key := range keys {
		name := fmt.Sprintf("key-%d", key)
		for tenant := range tenants {
			s.messages = append(s.messages, benchMessage{fmt.Sprintf("tenant-%d", tenant), name, &s.settled})
		}
	}
	return s
}

func (s *benchSource) Run(ctx context.Context, in stream.Intake[*benchMessage]) error {
	batch := make([]stream.Delivery[*benchMessage], 0, 16)
	for i := 0; i < s.n; {
		room, err := in.Room(ctx, s.n-i)
		if err != nil {
			return err
		}
		for room > 0 {
			batch = batch[:min(room, cap(batch))]
			for j := range batch {
				batch[j] = &s.messages[i%len(s.messages)]
				i++
			}
			if err := in.Deliver(ctx, batch...); err != nil {
				return err
			}
			room -= len(batch)
		}
	}
	return nil
}

// BenchmarkGate is the cost of a message that nothing holds back: 1,000
// tenants, a handler that does nothing. The first rounds, in which tenants are
// set up, are not counted.
func BenchmarkGate(b *testing.B) {
	for _, limit := range []gcra.Limit{gcra.Unlimited(), gcra.PerSecond(1_000_000_000)} {
		b.Run(limit.String(), func(b *testing.B) { benchGate(b, limit, stream.Hooks{}) })
	}
}

func benchGate(b *testing.B, limit gcra.Limit, hooks stream.Hooks) {
	b.Helper()
	lim, err := flux.New(flux.Config[string]{Limit: limit})
	if err != nil {
		b.Fatal(err)
	}
	gate, err := stream.New(stream.Config[*benchMessage]{
		Limiter: lim, Tenant: func(m *benchMessage) string { return m.tenant }, Hooks: hooks,
	})
	if err != nil {
		b.Fatal(err)
	}
	src := newBenchSource(1000, 1)
	src.n = b.N + warmUp
	runBench(b, gate, src)
	if n := src.settled.Load(); n != int64(src.n) {
		b.Fatalf("%d settled, want %d", n, src.n)
	}
}

// warmUp is how many messages are processed before the measurement begins.
const warmUp = 10_000

// runBench measures gate with what src delivers, and a handler that does nothing.
func runBench[M any](b *testing.B, gate *stream.Gate[M], src stream.Source[M]) {
	b.Helper()
	b.ReportAllocs()
	var count atomic.Int64
	if err := gate.Run(b.Context(), src, func(context.Context, M) error {
		if count.Add(1) == warmUp {
			b.ResetTimer()
		}
		return nil
	}); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "Mmsg/s")
}

// logMessage is a message of a partition of a log.
type logMessage struct {
	benchMessage
	meta    stream.Meta
	revoked chan struct{}
}

func (m *logMessage) Message() *logMessage     { return m }
func (m *logMessage) Meta() stream.Meta        { return m.meta }
func (m *logMessage) Revoked() <-chan struct{} { return m.revoked }

// logSource delivers as benchSource does, but from eight partitions at once, a
// hundred messages of each at a time.
type logSource struct {
	partitions [8][]logMessage
	n          int // of each partition
	settled    atomic.Int64
}

func newLogSource(tenants int) *logSource {
	s := new(logSource)
	revoked := make(chan struct{})
	for i := range tenants {
		p := i % len(s.partitions)
		s.partitions[p] = append(s.partitions[p], logMessage{
			benchMessage: benchMessage{tenant: fmt.Sprintf("tenant-%d", i), settled: &s.settled},
			meta:         stream.Meta{Time: time.Now(), Order: 1, Bytes: 200, Partition: fmt.Sprintf("topic/%d", p)},
			revoked:      revoked,
		})
	}
	return s
}

func (s *logSource) Run(ctx context.Context, in stream.Intake[*logMessage]) error {
	var group errgroup.Group
	for _, messages := range s.partitions {
		group.Go(func() error {
			batch := make([]stream.Delivery[*logMessage], 0, 100)
			for i := 0; i < s.n; {
				if _, err := in.Room(ctx, 100); err != nil {
					return err
				}
				batch = batch[:min(100, s.n-i)]
				for j := range batch {
					batch[j] = &messages[i%len(messages)]
					i++
				}
				if err := in.Deliver(ctx, batch...); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// BenchmarkGateLog is BenchmarkGate with messages of a log: of eight partitions
// that can be revoked, with sizes, and in the order of their tenants.
func BenchmarkGateLog(b *testing.B) {
	lim, err := flux.New(flux.Config[string]{Limit: gcra.PerSecond(1_000_000_000)})
	if err != nil {
		b.Fatal(err)
	}
	tenant := func(m *logMessage) string { return m.tenant }
	gate, err := stream.New(stream.Config[*logMessage]{Limiter: lim, Tenant: tenant, OrderKey: tenant})
	if err != nil {
		b.Fatal(err)
	}
	src := newLogSource(1000)
	src.n = (b.N + warmUp + len(src.partitions) - 1) / len(src.partitions)
	runBench(b, gate, src)
	if n := src.settled.Load(); n != int64(src.n*len(src.partitions)) {
		b.Fatalf("%d settled, want %d", n, src.n*len(src.partitions))
	}
}

// BenchmarkHooks is the cost of a message with hooks that do nothing, beside one
// without hooks.
func BenchmarkHooks(b *testing.B) {
	for name, hooks := range map[string]stream.Hooks{
		"none": {},
		"all": {
			Parked:        func(stream.Info, time.Duration) {},
			Admitted:      func(stream.Info) {},
			Failed:        func(stream.Info, error, stream.Outcome, time.Duration) {},
			Settled:       func(stream.Info, stream.Outcome, stream.Reason) {},
			SettleFailed:  func(stream.Info, stream.Outcome, error, time.Duration) {},
			Released:      func(stream.Info, bool) {},
			LimiterFailed: func(string, error) {},
		},
	} {
		b.Run(name, func(b *testing.B) { benchGate(b, gcra.Unlimited(), hooks) })
	}
}

// BenchmarkGateBatch is BenchmarkGate with a handler of batches.
func BenchmarkGateBatch(b *testing.B) {
	for _, mixed := range []bool{false, true} {
		b.Run(fmt.Sprintf("mixed=%v", mixed), func(b *testing.B) {
			lim, err := flux.New(flux.Config[string]{Limit: gcra.PerSecond(1_000_000_000)})
			if err != nil {
				b.Fatal(err)
			}
			gate, err := stream.New(stream.Config[*benchMessage]{
				Limiter: lim, Tenant: func(m *benchMessage) string { return m.tenant },
			})
			if err != nil {
				b.Fatal(err)
			}
			src := newBenchSource(10, 1)
			src.n = b.N
			b.ReportAllocs()
			var batches atomic.Int64
			if err := gate.RunBatch(b.Context(), src, stream.BatchConfig{Mixed: mixed}, func(context.Context, []*stream.Item[*benchMessage]) error {
				batches.Add(1)
				return nil
			}); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "Mmsg/s")
			b.ReportMetric(float64(b.N)/float64(max(1, batches.Load())), "msg/batch")
			if n := src.settled.Load(); n != int64(src.n) {
				b.Fatalf("%d settled, want %d", n, src.n)
			}
		})
	}
}

// TestAllocations holds that a message costs no allocation once its tenant is
// known, of the handler's context neither: but for a few per thousand when the
// source goes to sleep. So it is with an order, where tenants have few keys or
// many, and of those that it has messages of, one or more at once.
func TestAllocations(t *testing.T) {
	byKey := func(m *benchMessage) string { return m.key }
	for name, c := range map[string]struct {
		tenants, keys int
		order         stream.Order
		orderKey      func(*benchMessage) string
	}{
		"unordered":            {tenants: 1000, keys: 1},
		"per tenant":           {tenants: 1000, keys: 1, order: stream.PerTenant},
		"per key":              {tenants: 1000, keys: 1, orderKey: byKey},
		"per key, ten in turn": {tenants: 1000, keys: 10, orderKey: byKey},
		"per key, ten at once": {tenants: 10, keys: 10, orderKey: byKey},
		"per key, many":        {tenants: 10, keys: 2000, orderKey: byKey},
	} {
		t.Run(name, func(t *testing.T) {
			lim, err := flux.New(flux.Config[string]{Limit: gcra.PerSecond(1_000_000_000)})
			if err != nil {
				t.Fatal(err)
			}
			gate, err := stream.New(stream.Config[*benchMessage]{
				Limiter: lim, Tenant: func(m *benchMessage) string { return m.tenant }, Order: c.order, OrderKey: c.orderKey,
			})
			if err != nil {
				t.Fatal(err)
			}
			const warm, n = 20_000, 70_000
			src := newBenchSource(c.tenants, c.keys)
			src.n = n
			var before, after runtime.MemStats
			var count atomic.Int64
			if err := gate.Run(t.Context(), src, func(context.Context, *benchMessage) error {
				switch count.Add(1) {
				case warm:
					runtime.ReadMemStats(&before)
				case n:
					runtime.ReadMemStats(&after)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			perMessage := float64(after.Mallocs-before.Mallocs) / (n - warm)
			t.Logf("%.4f allocations and %.2f bytes per message", perMessage, float64(after.TotalAlloc-before.TotalAlloc)/(n-warm))
			if perMessage > 0.02 {
				t.Errorf("%.4f allocations per message, want none", perMessage)
			}
		})
	}
}

// BenchmarkParked parks ten messages of each of 100,000 throttled tenants: a
// million; and of a tenth as many, to compare. Half of them wait, in virtual
// time, until they are processed, and the others are released. See
// TestParkedMemory for what one takes in memory.
func BenchmarkParked(b *testing.B) {
	const each = 11
	for _, tenants := range []int{10_000, 100_000} {
		b.Run(fmt.Sprint(tenants), func(b *testing.B) {
			for b.Loop() {
				synctest.Test(new(testing.T), func(*testing.T) {
					park(b, tenants, each, func(gate *stream.Gate[*benchMessage]) {})
				})
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(tenants*each), "ns/event")
		})
	}
}

// TestParkedMemory holds that a parked message takes no more than 200 bytes of
// the gate, its tenant with ten of them included.
func TestParkedMemory(t *testing.T) {
	const tenants, each, most = 10_000, 11, 200
	least := math.Inf(1)
	// What the runtime allocates meanwhile counts as well, and can only add to it.
	for range 5 {
		if least <= most {
			break
		}
		synctest.Test(t, func(t *testing.T) {
			var before, parked uint64
			before = heapInUse()
			park(t, tenants, each, func(gate *stream.Gate[*benchMessage]) {
				parked = heapInUse()
				if stats := gate.Stats(); stats.Waiting != tenants*(each-1) {
					t.Errorf("%d messages parked, want %d", stats.Waiting, tenants*(each-1))
				}
			})
			// The messages themselves, one for each tenant, take 64 bytes with their
			// names.
			least = min(least, (float64(parked)-float64(before)-64*tenants)/(tenants*(each-1)))
		})
	}
	t.Logf("%.1f bytes per parked message", least)
	if least > most {
		t.Errorf("%.1f bytes per parked message, want at most %d", least, most)
	}
}

// park runs a gate with so many messages of each of so many tenants, of which
// one a second is admitted. half is called when all but one of each are parked.
// When half of them are processed the gate drains.
func park(tb testing.TB, tenants, each int, half func(*stream.Gate[*benchMessage])) {
	tb.Helper()
	lim, err := flux.New(flux.Config[string]{Limit: gcra.PerSecond(1)})
	if err != nil {
		tb.Fatal(err)
	}
	gate, err := stream.New(stream.Config[*benchMessage]{
		Limiter: lim, Tenant: func(m *benchMessage) string { return m.tenant },
		Window: 2 * tenants * each, Policy: stream.Policy{MaxWait: time.Hour},
	})
	if err != nil {
		tb.Fatal(err)
	}
	src := newBenchSource(tenants, 1)
	src.n = tenants * each
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(500*time.Millisecond, func() { half(gate) })
	time.AfterFunc(time.Duration(each/2)*time.Second+500*time.Millisecond, cancel)
	if err := gate.Run(ctx, src, func(context.Context, *benchMessage) error { return nil }); err != nil {
		tb.Fatal(err)
	}
	if n := src.settled.Load(); n != int64(src.n) {
		tb.Fatalf("%d settled, want %d", n, src.n)
	}
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
