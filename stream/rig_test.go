package stream_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
	"github.com/fluxlimiter/flux/stream/streamtest"
)

// parcel is a message and its delivery in one. What becomes of it stands in the
// rig's log.
type parcel struct {
	name, tenant, key string
	cost              int64
	meta              stream.Meta
	revoked           chan struct{}

	// settle, if not nil, is asked before a settle takes effect.
	settle func(ctx context.Context, how string) error

	rig *rig
}

func (p *parcel) Message() *parcel  { return p }
func (p *parcel) Meta() stream.Meta { return p.meta }

func (p *parcel) Revoked() <-chan struct{} {
	return p.revoked
}

func (p *parcel) did(ctx context.Context, how, what string) error {
	if p.settle != nil {
		if err := p.settle(ctx, how); err != nil {
			p.rig.note("%s %s failed", p.name, how)
			return err
		}
	}
	p.rig.note("%s %s", p.name, what)
	return nil
}

func (p *parcel) Ack(ctx context.Context) error { return p.did(ctx, "ack", "ack") }

func (p *parcel) Defer(ctx context.Context, d stream.Deferral) error {
	what := fmt.Sprintf("defer %v %v", d.Reason, d.Until.Sub(p.rig.begin))
	if d.Attempts > 0 {
		what += fmt.Sprintf(" attempts %d", d.Attempts)
	}
	if d.Deferrals > 1 {
		what += fmt.Sprintf(" deferrals %d", d.Deferrals)
	}
	return p.did(ctx, "defer", what)
}

func (p *parcel) DeadLetter(ctx context.Context, l stream.Letter) error {
	p.rig.mu.Lock()
	p.rig.letters = append(p.rig.letters, l)
	p.rig.mu.Unlock()
	return p.did(ctx, "dead", fmt.Sprintf("dead %v", l.Reason))
}

func (p *parcel) Release() { p.rig.note("%s released", p.name) }

// rig is a gate whose messages a test delivers by hand, in a bubble.
type rig struct {
	t     *testing.T
	begin time.Time
	gate  *stream.Gate[*parcel]
	lim   *flux.Limiter[string]
	in    stream.Intake[*parcel]
	stop  context.CancelFunc
	ended chan error

	mu      sync.Mutex
	log     []string
	letters []stream.Letter
}

// limits is a limit for each tenant; others have none.
type limits map[string]gcra.Limit

// succeed is a handler.
func succeed(context.Context, *parcel) error { return nil }

// start runs a gate in the test's bubble. What cfg lacks is filled in, and
// handle defaults to success.
func start(t *testing.T, l limits, cfg stream.Config[*parcel], handle stream.Handler[*parcel]) *rig {
	t.Helper()
	if handle == nil {
		handle = succeed
	}
	return startWith(t, l, cfg, func(ctx context.Context, r *rig, src sourceFunc) error {
		return r.gate.Run(ctx, src, func(ctx context.Context, p *parcel) error {
			r.note("%s run", p.name)
			return handle(ctx, p)
		})
	})
}

// startBatch is start for batches, whose runs are logged as one.
func startBatch(t *testing.T, l limits, cfg stream.Config[*parcel], batch stream.BatchConfig, handle stream.BatchHandler[*parcel]) *rig {
	t.Helper()
	return startWith(t, l, cfg, func(ctx context.Context, r *rig, src sourceFunc) error {
		return r.gate.RunBatch(ctx, src, batch, func(ctx context.Context, items []*stream.Item[*parcel]) error {
			names := make([]string, len(items))
			for i, item := range items {
				names[i] = item.Message.name
			}
			r.note("run %s", strings.Join(names, " "))
			if handle == nil {
				return nil
			}
			return handle(ctx, items)
		})
	})
}

// startWith runs a gate by run.
func startWith(t *testing.T, l limits, cfg stream.Config[*parcel], run func(context.Context, *rig, sourceFunc) error) *rig {
	t.Helper()
	r := &rig{t: t, begin: time.Now(), ended: make(chan error, 1)}
	var err error
	r.lim, err = flux.New(flux.Config[string]{
		Limit:    gcra.Unlimited(),
		LimitFor: func(tenant string) gcra.Limit { return l[tenant] },
	})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Limiter == nil {
		cfg.Limiter = r.lim
	}
	if cfg.Tenant == nil {
		cfg.Tenant = func(p *parcel) string { return p.tenant }
	}
	if cfg.Cost == nil {
		cfg.Cost = func(p *parcel) int64 { return p.cost }
	}
	if r.gate, err = stream.New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	r.stop = stop
	started := make(chan struct{})
	go func() {
		r.ended <- run(ctx, r, func(ctx context.Context, in stream.Intake[*parcel]) error {
			r.in = in
			close(started)
			<-ctx.Done()
			// As the contract of a source says.
			for r.gate.Stats().Held > 0 {
				time.Sleep(time.Millisecond)
			}
			return nil
		})
	}()
	<-started
	return r
}

// sourceFunc is a source that is a function.
type sourceFunc func(ctx context.Context, in stream.Intake[*parcel]) error

func (f sourceFunc) Run(ctx context.Context, in stream.Intake[*parcel]) error { return f(ctx, in) }

// note logs something with the time since the start.
func (r *rig) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = append(r.log, fmt.Sprintf("%v ", time.Since(r.begin))+fmt.Sprintf(format, args...))
}

// deliver delivers parcels, which must not have to wait for room, one when all
// that the last one led to has happened.
func (r *rig) deliver(parcels ...*parcel) {
	r.t.Helper()
	for _, p := range parcels {
		p.rig = r
		if err := r.in.Deliver(r.t.Context(), p); err != nil {
			r.t.Fatalf("Deliver(%s) = %v", p.name, err)
		}
		synctest.Wait()
	}
}

// end stops the gate, whose Run must return nil.
func (r *rig) end() {
	r.t.Helper()
	r.stop()
	if err := <-r.ended; err != nil {
		r.t.Errorf("Run = %v", err)
	}
}

// forget empties the log.
func (r *rig) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = nil
}

// want fails the test unless exactly these things have been logged since the
// last call, in any order within one instant.
func (r *rig) want(want ...string) {
	r.t.Helper()
	r.compare(r.taken(), want)
}

// taken waits until all has happened that happens now, and returns what has been
// logged since the last call.
func (r *rig) taken() []string {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.log
	r.log = nil
	return got
}

// compare fails the test unless both logs are the same in some order.
func (r *rig) compare(got, want []string) {
	r.t.Helper()
	got, want = slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))
	if !slices.Equal(got, want) {
		r.t.Errorf("\ngot  %q\nwant %q", got, want)
	}
}

// panics fails the test unless call panics with want.
func panics(t *testing.T, want string, call func()) {
	t.Helper()
	defer func() {
		t.Helper()
		if v := recover(); v != want {
			t.Errorf("panic %v, want %q", v, want)
		}
	}()
	call()
}

// named returns n parcels of a tenant, named with a number.
func named(tenant string, n int) []*parcel {
	parcels := make([]*parcel, n)
	for i := range parcels {
		parcels[i] = &parcel{name: fmt.Sprintf("%s%d", tenant, i), tenant: tenant}
	}
	return parcels
}

type message = streamtest.Message

// scene is a gate on a broker of streamtest.
type scene struct {
	t      *testing.T
	limits limits
	broker *streamtest.Broker
	lim    *flux.Limiter[string]
	gate   *stream.Gate[*message]
	handle stream.Handler[*message]
}

// newScene makes a gate on a broker with one partition. The handler succeeds
// after the time that each message's Work says.
func newScene(t *testing.T, l limits, cfg stream.Config[*message]) *scene {
	t.Helper()
	s := &scene{t: t, limits: l, broker: streamtest.NewBroker(streamtest.Config{})}
	var err error
	s.lim, err = flux.New(flux.Config[string]{
		Limit:    gcra.Unlimited(),
		LimitFor: func(tenant string) gcra.Limit { return l[tenant] },
	})
	if err != nil {
		t.Fatal(err)
	}
	s.use(cfg)
	s.handle = func(ctx context.Context, m *message) error {
		time.Sleep(m.Work)
		return nil
	}
	return s
}

// use makes the gate of cfg the scene's: with its limiter, and the cost of messages,
// unless cfg has others.
func (s *scene) use(cfg stream.Config[*message]) {
	s.t.Helper()
	if cfg.Limiter == nil {
		cfg.Limiter = s.lim
	}
	cfg.Tenant = func(m *message) string { return m.Tenant }
	if cfg.Cost == nil {
		cfg.Cost = func(m *message) int64 { return m.Cost }
	}
	var err error
	if s.gate, err = stream.New(cfg); err != nil {
		s.t.Fatal(err)
	}
}

// inOrder returns cfg with the keys of messages as order keys.
func inOrder(cfg stream.Config[*message]) stream.Config[*message] {
	cfg.OrderKey = func(m *message) string { return m.Key }
	return cfg
}

func (s *scene) publish(tenant string, n int) {
	for range n {
		s.broker.Publish(message{Tenant: tenant})
	}
}

// run runs the gate until all that was published is settled.
func (s *scene) run() time.Duration {
	s.t.Helper()
	s.broker.Close()
	begin := time.Now()
	if err := s.gate.Run(s.t.Context(), s.broker, s.broker.Record(s.handle)); err != nil {
		s.t.Errorf("Run = %v", err)
	}
	return time.Since(begin)
}

// check asks the oracles that hold for every run without faults.
func (s *scene) check(h streamtest.History) {
	s.t.Helper()
	for name, err := range map[string]error{
		"lost":            h.Lost(nil),
		"settled once":    h.SettledOnce(),
		"processed once":  h.ProcessedOnce(),
		"never early":     h.NeverEarly(),
		"rate":            h.Rate(func(tenant string) gcra.Limit { return s.limit(tenant) }),
		"nothing is left": streamtest.Left(s.gate.Stats()),
	} {
		if err != nil {
			s.t.Errorf("%s: %v", name, err)
		}
	}
}

func (s *scene) limit(tenant string) gcra.Limit {
	if l, ok := s.limits[tenant]; ok {
		return l
	}
	return gcra.Unlimited()
}

// gateOf returns a gate of parcels with the limiter of the scene.
func (s *scene) gateOf(tenant func(*parcel) string) *stream.Gate[*parcel] {
	s.t.Helper()
	gate, err := stream.New(stream.Config[*parcel]{Limiter: s.lim, Tenant: tenant})
	if err != nil {
		s.t.Fatal(err)
	}
	return gate
}
