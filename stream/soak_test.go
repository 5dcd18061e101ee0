package stream_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
	"github.com/fluxlimiter/flux/stream/streamtest"
)

var (
	soakSeeds    = flag.Int("soak.seeds", 50, "how many seeds the soak runs")
	soakFirst    = flag.Uint64("soak.first", 1, "first seed of the soak")
	soakMessages = flag.Int("soak.messages", 1000, "messages per seed")
)

// TestSoak runs gates of many shapes against brokers, handlers and limiters
// that fail in many ways, and asks every oracle that applies.
func TestSoak(t *testing.T) {
	for seed := *soakFirst; seed < *soakFirst+uint64(*soakSeeds); seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { newSoak(t, seed).run(*soakMessages) })
		})
	}
}

// TestBatchSoak is TestSoak with handlers of batches.
func TestBatchSoak(t *testing.T) {
	for seed := *soakFirst; seed < *soakFirst+uint64(*soakSeeds); seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newSoak(t, seed)
				s.batch = &stream.BatchConfig{Size: 1 + s.rng.IntN(s.cfg.Window/2), Mixed: s.rng.IntN(2) == 0}
				if part := s.cfg.PartitionWindow; part > 0 {
					s.batch.Size = max(1, min(s.batch.Size, part/2))
				}
				if share := s.cfg.TenantWindow; share > 0 {
					s.batch.Size = min(s.batch.Size, share)
				}
				if s.rng.IntN(2) == 0 {
					s.batch.Linger = time.Duration(s.rng.IntN(200)) * time.Millisecond
				}
				s.run(*soakMessages)
			})
		})
	}
}

// soak is one random scenario.
type soak struct {
	*streamtest.Rand // of what runs concurrently

	t      *testing.T
	rng    *rand.Rand // of the scenario
	cfg    stream.Config[*streamtest.Message]
	limits map[string]gcra.Limit
	names  []string
	lim    *flux.Limiter[string]
	broker *streamtest.Broker

	keyed, revokes, restarts, faults, failing, remote bool
	lossy, doubled, skewed                            bool // answers are lost, messages are doubled, the broker's clock is set

	batch *stream.BatchConfig // nil: messages run one by one

	skew atomic.Int64 // of the broker's clock

	mu   sync.Mutex   // guards what follows
	told stream.Stats // what the hooks say that there was
}

// hooks count what they are told.
func (s *soak) hooks() stream.Hooks {
	count := func(n *int64) {
		s.mu.Lock()
		defer s.mu.Unlock()
		*n++
	}
	return stream.Hooks{
		Settled: func(_ stream.Info, outcome stream.Outcome, _ stream.Reason) {
			count(map[stream.Outcome]*int64{
				stream.Process: &s.told.Processed, stream.Defer: &s.told.Deferred,
				stream.DeadLetter: &s.told.DeadLettered, stream.Drop: &s.told.Dropped,
			}[outcome])
		},
		SettleFailed: func(stream.Info, stream.Outcome, error, time.Duration) { count(&s.told.SettleErrors) },
		Released: func(_ stream.Info, revoked bool) {
			if revoked {
				count(&s.told.Revoked)
			} else {
				count(&s.told.Released)
			}
		},
	}
}

func newSoak(t *testing.T, seed uint64) *soak {
	t.Helper()
	s := &soak{
		t: t, rng: rand.New(rand.NewPCG(seed, 1)), Rand: streamtest.NewRand(seed),
		limits: make(map[string]gcra.Limit),
	}
	one := func(n int) bool { return s.rng.IntN(n) == 0 }
	s.keyed, s.revokes, s.restarts = one(2), one(3), one(3)
	s.faults, s.failing, s.remote = one(2), one(2), one(3)

	s.lossy, s.doubled, s.skewed = one(4), one(5), one(5)

	kinds := []gcra.Limit{
		gcra.Unlimited(), gcra.PerSecond(1000).WithBurst(100), gcra.PerSecond(20).WithBurst(20),
		gcra.PerSecond(50).WithBurst(4), gcra.PerSecond(7).WithBurst(4), gcra.PerMinute(100).WithBurst(5),
	}
	for i := range 2 + s.rng.IntN(20) {
		name := fmt.Sprintf("t%d", i)
		s.names = append(s.names, name)
		s.limits[name] = kinds[s.rng.IntN(len(kinds))]
	}
	lim, err := flux.New(flux.Config[string]{Limit: kinds[0], LimitFor: func(k string) gcra.Limit { return s.limits[k] }})
	if err != nil {
		t.Fatal(err)
	}
	s.lim = lim

	s.cfg = stream.Config[*streamtest.Message]{
		Limiter: lim,
		Tenant:  func(m *streamtest.Message) string { return m.Tenant },
		Cost:    func(m *streamtest.Message) int64 { return m.Cost },
		Window:  4 + s.rng.IntN(200),
		Workers: 1 + s.rng.IntN(12),
		Policy:  stream.Policy{MaxAttempts: -1},
		Hooks:   s.hooks(),
	}
	s.cfg.TenantWorkers = 1 + s.rng.IntN(s.cfg.Workers)
	if s.keyed {
		s.cfg.OrderKey = func(m *streamtest.Message) string { return m.Key }
	}
	if one(2) {
		s.cfg.Weight = func(tenant string) int64 { return int64(1 + len(tenant)%3) }
	}
	if one(3) {
		s.cfg.Policy.MaxWait = time.Duration(s.rng.IntN(3000)-100) * time.Millisecond
	}
	if one(3) {
		s.cfg.Policy.MaxHold = max(s.cfg.Policy.MaxWait, time.Duration(s.rng.IntN(3000))*time.Millisecond)
		if s.cfg.Policy.MaxWait == 0 {
			s.cfg.Policy.MaxWait = s.cfg.Policy.MaxHold
		}
	}
	if s.cfg.Policy.MaxWait != 0 {
		// Some take longer than that to earn: those may be denied any number of times.
		s.cfg.Policy.MaxDeferrals = -1
	}
	if one(3) {
		s.cfg.WindowBytes = 200 + s.rng.IntN(100*s.cfg.Window)
	}
	if one(3) {
		s.cfg.PartitionWindow = 1 + s.rng.IntN(s.cfg.Window)
	}
	if one(3) {
		s.cfg.TenantWindow = 1 + s.rng.IntN(s.cfg.Window/2)
	}
	if s.remote {
		s.cfg.Limiter = &remoteChecker{lim: lim, soak: s}
	}
	order := streamtest.Position
	if !s.revokes && one(2) {
		order = streamtest.Kept
	}
	broker := streamtest.Config{Partitions: 1 + s.rng.IntN(4), Fault: s.fault, Eager: one(2), Tail: !s.keyed && one(2), Order: order}
	if s.doubled {
		broker.Duplicate = func(*streamtest.Message) bool { return s.Chance(50) }
	}
	if s.skewed {
		broker.Clock = func() time.Time { return time.Now().Add(time.Duration(s.skew.Load())) }
	}
	s.broker = streamtest.NewBroker(broker)
	return s
}

func (s *soak) fault(op streamtest.Kind, m *streamtest.Message, try int) error {
	if s.faults && s.Chance(4) {
		time.Sleep(s.UpTo(200 * time.Millisecond))
	}
	if s.faults && s.Chance(10) {
		return errors.New("broker fault")
	}
	if s.lossy && s.Chance(20) {
		return streamtest.ErrAnswerLost
	}
	return nil
}

// handle works for a while, and fails in all ways if the scenario says so.
func (s *soak) handle(ctx context.Context, m *streamtest.Message) error {
	select {
	case <-time.After(m.Work):
	case <-ctx.Done():
		return ctx.Err()
	}
	if !s.failing {
		return nil
	}
	switch {
	case s.Chance(30):
		return errors.New("failed")
	case s.Chance(100):
		return stream.RetryLater(s.UpTo(10*time.Second), errors.New("busy"))
	case s.Chance(150):
		panic("handler panics")
	case s.Chance(200):
		runtime.Goexit()
	case s.Chance(100):
		return stream.Permanent(errors.New("broken"))
	}
	return nil
}

func (s *soak) publish(messages int) {
	partitions := 4
	for i := range messages {
		tenant := s.names[min(s.rng.IntN(len(s.names)), s.rng.IntN(len(s.names)))]
		m := streamtest.Message{
			Tenant: tenant, Cost: 1 + s.rng.Int64N(4), Work: time.Duration(s.rng.IntN(20)) * time.Millisecond,
		}
		if s.keyed && s.rng.IntN(4) > 0 {
			m.Key = fmt.Sprintf("k%d", s.rng.IntN(5))
		}
		if s.rng.IntN(100) == 0 {
			m.Work *= 30
		}
		// A key stays in its partition, as with any partitioner.
		m.Partition = (len(tenant) + len(m.Key)*int(tenant[len(tenant)-1])) % partitions % s.partitions()
		s.broker.Publish(m)
		if i%50 == 0 {
			time.Sleep(time.Duration(s.rng.IntN(400)) * time.Millisecond)
		}
	}
	s.broker.Close()
}

func (s *soak) partitions() int { return s.broker.Partitions() }

func (s *soak) run(messages int) {
	gate, err := stream.New(s.cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	var helpers sync.WaitGroup
	helpers.Go(func() { s.publish(messages) })
	if s.revokes {
		helpers.Go(func() {
			for ctx.Err() == nil {
				time.Sleep(s.UpTo(5 * time.Second))
				s.broker.Revoke(int(s.UpTo(time.Duration(s.partitions()))))
			}
		})
	}
	if !s.remote && !s.keyed && !s.failing && s.batch == nil {
		helpers.Go(func() { s.watch(ctx, gate) })
	}
	helpers.Go(func() { s.look(ctx, gate) })
	if s.skewed {
		helpers.Go(func() {
			for ctx.Err() == nil {
				time.Sleep(s.UpTo(5 * time.Second))
				// Back and forth, but never ahead: a broker in memory would bring a
				// message back at once, time and again, while no time passes.
				s.skew.Store(-int64(s.UpTo(10 * time.Second)))
			}
		})
	}
	for runs := 0; !s.done(); runs++ {
		runCtx, stop := context.WithCancel(ctx)
		if s.restarts && runs < 10 {
			time.AfterFunc(s.UpTo(10*time.Second), stop)
		}
		if err := s.runGate(runCtx, gate); err != nil {
			s.t.Errorf("run %d: %v", runs, err)
		}
		stop()
		if err := streamtest.Left(gate.Stats()); err != nil {
			s.t.Error(err)
		}
		if runs > 1000 {
			s.t.Fatal("does not come to an end")
		}
	}
	cancel()
	helpers.Wait()
	s.check(gate)
}

func (s *soak) runGate(ctx context.Context, gate *stream.Gate[*streamtest.Message]) error {
	if s.batch != nil {
		return gate.RunBatch(ctx, s.broker, *s.batch, s.broker.RecordBatch(s.handleBatch))
	}
	return gate.Run(ctx, s.broker, s.broker.Record(s.handle))
}

// handleBatch works on each message by itself, or fails with all of them.
func (s *soak) handleBatch(ctx context.Context, batch []*stream.Item[*streamtest.Message]) error {
	keys := make(map[string]bool)
	for _, item := range batch {
		m := item.Message
		if key := m.Tenant + " " + m.Key; m.Key != "" && s.keyed {
			if keys[key] {
				s.t.Errorf("two of key %q in a batch", key)
			}
			keys[key] = true
		}
		if !s.batch.Mixed && m.Tenant != batch[0].Message.Tenant {
			s.t.Errorf("tenants %q and %q in a batch", m.Tenant, batch[0].Message.Tenant)
		}
	}
	if len(batch) > s.batch.Size {
		s.t.Errorf("%d messages in a batch, want at most %d", len(batch), s.batch.Size)
	}
	for _, item := range batch {
		if s.Chance(3) {
			continue // it has the result of the batch
		}
		item.Done(s.handle(ctx, item.Message))
	}
	if s.failing && s.Chance(20) {
		return errors.New("all failed")
	}
	return nil
}

// watch looks at the gate at random instants when nothing more happens in them.
func (s *soak) watch(ctx context.Context, gate *stream.Gate[*streamtest.Message]) {
	for ctx.Err() == nil {
		time.Sleep(s.UpTo(100 * time.Millisecond))
		synctest.Wait()
		b := streamtest.Busy{Stats: gate.Stats(), Workers: s.cfg.Workers, TenantWorkers: s.cfg.TenantWorkers, Window: s.cfg.Window}
		for _, name := range s.names {
			tenant := streamtest.BusyTenant{Name: name}
			load := gate.Load(name)
			tenant.Waiting, tenant.Running = load.Waiting, load.Running
			d, err := s.lim.Check(ctx, name, 0)
			if err != nil {
				s.t.Error(err)
			}
			// No message costs more than 4.
			if tenant.Admitted = d.Delay(4) == 0; !tenant.Admitted && d.Delay(1) > 0 {
				tenant.Share = s.cfg.Window / 2
			}
			b.Tenants = append(b.Tenants, tenant)
		}
		if err := errors.Join(b.WorkConserving(), b.WindowShares()); err != nil {
			s.t.Error(err)
		}
	}
}

// look takes snapshots at any time.
func (s *soak) look(ctx context.Context, gate *stream.Gate[*streamtest.Message]) {
	for ctx.Err() == nil {
		time.Sleep(s.UpTo(time.Second))
		snap := gate.Snapshot(3)
		if snap.Settling < 0 || snap.Held > snap.Window || len(snap.ByWaited) > 3 || len(snap.ByDenied) > 3 {
			s.t.Errorf("%+v", snap)
		}
	}
}

func (s *soak) done() bool {
	select {
	case <-s.broker.Done():
		return true
	default:
		return false
	}
}

func (s *soak) check(gate *stream.Gate[*streamtest.Message]) {
	h := s.broker.History()
	checks := map[string]error{
		"lost":          h.Lost(nil),
		"settled twice": h.SettledOnce(),
	}
	if !s.remote && !s.doubled {
		checks["never early"] = h.NeverEarly()
	}
	if !s.remote {
		checks["rate"] = h.Rate(func(tenant string) gcra.Limit { return s.limits[tenant] })
	}
	if !s.revokes && !s.restarts && !s.lossy && !s.doubled {
		checks["processed twice"] = h.ProcessedOnce()
	}
	// What was deferred while the answer was lost, and revoked before it was asked
	// for again, is not known to be behind those that follow.
	if s.keyed && !s.restarts && (!s.revokes || !s.lossy && !s.doubled) {
		checks["key order"] = h.KeyOrder()
	}
	for name, err := range checks {
		if err != nil {
			s.t.Errorf("%s: %v", name, err)
		}
	}
	if s.t.Failed() {
		s.t.Logf("keyed %v revokes %v restarts %v faults %v failing %v remote %v lossy %v doubled %v skewed %v, window %d workers %d/%d MaxWait %v",
			s.keyed, s.revokes, s.restarts, s.faults, s.failing, s.remote, s.lossy, s.doubled, s.skewed, s.cfg.Window, s.cfg.Workers, s.cfg.TenantWorkers, s.cfg.Policy.MaxWait)
	}
	if stats := gate.Stats(); stats != s.told {
		s.t.Errorf("stats %+v: hooks were told of %+v", stats, s.told)
	}
	if s.lossy || s.doubled {
		return // the broker and the gate rightly count differently
	}
	fates := make(map[stream.Fate]int64)
	for _, e := range h {
		switch e.Kind {
		case streamtest.Acked:
			fates[stream.Fate{Outcome: stream.Process}]++
		case streamtest.Deferred:
			fates[stream.Fate{Outcome: stream.Defer, Reason: e.Reason}]++
		case streamtest.DeadLettered:
			if e.Reason == stream.ReasonDeferrals {
				s.t.Errorf("given up: %v", e)
			}
			fates[stream.Fate{Outcome: stream.DeadLetter, Reason: e.Reason}]++
		}
	}
	for _, fate := range gate.Snapshot(0).Fates {
		n := fate.Count
		if fate.Count = 0; fates[fate] != n {
			s.t.Errorf("%d messages: %v, %v; the history says %d", n, fate.Outcome, fate.Reason, fates[fate])
		}
		delete(fates, fate)
	}
	if len(fates) > 0 {
		s.t.Errorf("the snapshot lacks %v", fates)
	}
	if stats := gate.Stats(); stats.Processed+stats.DeadLettered != int64(h.Count(streamtest.Acked)+h.Count(streamtest.DeadLettered)) {
		s.t.Errorf("stats %+v: %d acknowledged, %d dead-lettered", stats, h.Count(streamtest.Acked), h.Count(streamtest.DeadLettered))
	}
}

// remoteChecker is a limiter that may block, and that fails.
type remoteChecker struct {
	lim  *flux.Limiter[string]
	soak *soak
}

func (c *remoteChecker) Check(ctx context.Context, key string, n int64) (flux.Decision, error) {
	select {
	case <-time.After(c.soak.UpTo(3 * time.Millisecond)):
	case <-ctx.Done():
		return flux.Decision{}, ctx.Err()
	}
	if c.soak.Chance(50) {
		return flux.Decision{}, errors.New("limiter fault")
	}
	return c.lim.Check(ctx, key, n)
}
