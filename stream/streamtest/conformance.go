package streamtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fluxlimiter/flux/stream"
)

// Fixture is a source to be tested by [TestSource], and its broker.
type Fixture[M any] struct {
	// Source is not running. TestSource runs it several times, one after
	// another.
	Source stream.Source[M]

	// Publish publishes a message and returns when the broker has it.
	Publish func(body string) error

	// Body returns what a message was published with.
	Body func(M) string

	// DeadLetters returns the bodies of all dead letters.
	DeadLetters func() ([]string, error)

	// Revoke takes the messages that the source holds from it, as a rebalance
	// does, and returns when the source has been told. Nil: that cannot happen.
	Revoke func() error

	// Patience is how long to wait for what should happen, such as the
	// redelivery of a released message, and for what should not.
	// Defaults to a minute, which takes no time in a testing/synctest bubble.
	Patience time.Duration
}

// TestSource tests that a source keeps the contract of [stream.Source] and
// [stream.Delivery]: all that the gate relies on and that can be seen without
// a fault of the broker. Each of its subtests calls setup once, which calls test
// with a fixture of its own; it may do so in a testing/synctest bubble.
func TestSource[M any](t *testing.T, setup func(t *testing.T, test func(t *testing.T, f Fixture[M]))) {
	t.Helper()
	for _, test := range []struct {
		name string
		run  func(*conformance[M])
	}{
		{"delivers each message once", (*conformance[M]).delivers},
		{"lets go of what is acknowledged", (*conformance[M]).acknowledges},
		{"waits for room", (*conformance[M]).waitsForRoom},
		{"keeps what the gate refuses", (*conformance[M]).keepsRefused},
		{"defers until it is time", (*conformance[M]).defers},
		{"keeps counts through a redelivery", (*conformance[M]).keepsCounts},
		{"moves dead letters", (*conformance[M]).deadLetters},
		{"redelivers what is released", (*conformance[M]).releases},
		{"revokes", (*conformance[M]).revokes},
		{"ends when all it delivered is let go", (*conformance[M]).drains},
		{"settles what it delivered before an end", (*conformance[M]).settlesAfterEnd},
	} {
		t.Run(test.name, func(t *testing.T) {
			setup(t, func(t *testing.T, f Fixture[M]) {
				t.Helper()
				if f.Patience == 0 {
					f.Patience = time.Minute
				}
				test.run(&conformance[M]{t: t, Fixture: f})
			})
		})
	}
}

// conformance is one test of a source.
type conformance[M any] struct {
	t *testing.T
	Fixture[M]
}

// session is a source that runs, and the gate that it runs with.
type session[M any] struct {
	c      *conformance[M]
	cancel context.CancelFunc
	ended  chan error
	queue  chan *held[M]
	room   chan struct{} // closed when there is room
	refuse bool

	mu   sync.Mutex
	held []*held[M]
}

// held is a delivery, and whether it was let go.
type held[M any] struct {
	stream.Delivery[M]
	over bool
}

func (h *held[M]) done(err error) error {
	h.over = h.over || err == nil || errors.Is(err, stream.ErrRevoked)
	return err
}

func (h *held[M]) Ack(ctx context.Context) error { return h.done(h.Delivery.Ack(ctx)) }

func (h *held[M]) Defer(ctx context.Context, d stream.Deferral) error {
	return h.done(h.Delivery.Defer(ctx, d))
}

func (h *held[M]) DeadLetter(ctx context.Context, l stream.Letter) error {
	return h.done(h.Delivery.DeadLetter(ctx, l))
}

func (h *held[M]) Release() {
	h.over = true
	h.Delivery.Release()
}

// run starts the source. room says whether the gate has room from the start.
func (c *conformance[M]) run(room bool) *session[M] {
	return c.start(&session[M]{c: c, room: make(chan struct{})}, room)
}

func (c *conformance[M]) start(s *session[M], room bool) *session[M] {
	s.ended, s.queue = make(chan error, 1), make(chan *held[M], 1000)
	if room {
		close(s.room)
	}
	ctx, cancel := context.WithCancel(c.t.Context())
	s.cancel = cancel
	c.t.Cleanup(func() {
		// After a failure the source must be able to end, or nothing would.
		cancel()
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, h := range s.held {
			if !h.over {
				h.Release()
			}
		}
	})
	go func() { s.ended <- c.Source.Run(ctx, s) }()
	return s
}

// Room implements [stream.Intake].
func (s *session[M]) Room(ctx context.Context, most int) (int, error) {
	select {
	case <-s.room:
		return max(1, min(most, 16)), ctx.Err()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// Window implements [stream.Intake].
func (s *session[M]) Window(most int) int { return min(most, 16) }

// Deliver implements [stream.Intake].
func (s *session[M]) Deliver(ctx context.Context, deliveries ...stream.Delivery[M]) error {
	for i, d := range deliveries {
		if err := s.accept(ctx, d); err != nil {
			for _, d := range deliveries[i:] {
				d.Release()
			}
			return err
		}
	}
	return nil
}

func (s *session[M]) accept(ctx context.Context, d stream.Delivery[M]) error {
	if s.refuse {
		return stream.ErrStopped
	}
	select {
	case <-s.room:
	case <-ctx.Done():
		return ctx.Err()
	}
	h := &held[M]{Delivery: d}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = append(s.held, h)
	s.queue <- h
	return nil
}

// Recall implements [stream.Intake].
func (s *session[M]) Recall(<-chan struct{}) {}

// next returns the next delivery.
func (s *session[M]) next() stream.Delivery[M] {
	s.c.t.Helper()
	select {
	case d := <-s.queue:
		return d
	case err := <-s.ended:
		s.c.t.Fatalf("Run = %v, want another delivery", err)
	case <-time.After(s.c.Patience):
		s.c.t.Fatalf("no delivery within %v", s.c.Patience)
	}
	return nil
}

// nothing fails the test if there is another delivery within the patience.
func (s *session[M]) nothing() {
	s.c.t.Helper()
	select {
	case d := <-s.queue:
		s.c.t.Errorf("%q was delivered, %+v", s.c.Body(d.Message()), d.Meta())
		d.Release()
	case <-time.After(s.c.Patience):
	}
}

// stop ends the source, whose Run must return nil.
func (s *session[M]) stop() {
	s.c.t.Helper()
	s.cancel()
	s.wait()
}

func (s *session[M]) wait() {
	s.c.t.Helper()
	select {
	case err := <-s.ended:
		if err != nil && !errors.Is(err, context.Canceled) {
			s.c.t.Errorf("Run = %v", err)
		}
	case <-time.After(s.c.Patience):
		s.c.t.Errorf("Run goes on for %v after it was told to end and everything was let go", s.c.Patience)
	}
}

// publish publishes n messages and returns their bodies.
func (c *conformance[M]) publish(n int) []string {
	c.t.Helper()
	bodies := make([]string, n)
	for i := range bodies {
		bodies[i] = fmt.Sprint("message ", i)
		if err := c.Publish(bodies[i]); err != nil {
			c.t.Fatal(err)
		}
	}
	return bodies
}

// take returns the next n deliveries, by body.
func (s *session[M]) take(n int) map[string]stream.Delivery[M] {
	s.c.t.Helper()
	taken := make(map[string]stream.Delivery[M], n)
	for range n {
		d := s.next()
		body := s.c.Body(d.Message())
		if taken[body] != nil {
			s.c.t.Errorf("%q was delivered twice", body)
		}
		taken[body] = d
	}
	return taken
}

// ack acknowledges.
func (c *conformance[M]) ack(d stream.Delivery[M]) {
	c.t.Helper()
	if err := d.Ack(c.t.Context()); err != nil {
		c.t.Errorf("Ack = %v", err)
	}
}

// gone runs the source once more and fails the test if there is anything left.
func (c *conformance[M]) gone() {
	c.t.Helper()
	s := c.run(true)
	s.nothing()
	s.stop()
}

func (c *conformance[M]) counts(d stream.Delivery[M], attempts, deferrals int) {
	c.t.Helper()
	if m := d.Meta(); m.Attempts != attempts || m.Deferrals != deferrals {
		c.t.Errorf("%d attempts and %d deferrals, want %d and %d", m.Attempts, m.Deferrals, attempts, deferrals)
	}
}

func (c *conformance[M]) delivers() {
	before := time.Now()
	bodies := c.publish(20)
	s := c.run(true)
	for body, d := range s.take(len(bodies)) {
		if !slices.Contains(bodies, body) {
			c.t.Errorf("%q was delivered, but not published", body)
		}
		c.counts(d, 0, 0)
		m := d.Meta()
		if m.Redelivered {
			c.t.Errorf("%q is said to be redelivered", body)
		}
		// A second for clocks that are not the same.
		if !m.Time.IsZero() && (m.Time.Before(before.Add(-time.Second)) || m.Time.After(time.Now().Add(time.Second))) {
			c.t.Errorf("%q is said to be published at %v, but was between %v and %v", body, m.Time, before, time.Now())
		}
		c.ack(d)
	}
	s.nothing()
	s.stop()
}

func (c *conformance[M]) acknowledges() {
	c.publish(3)
	s := c.run(true)
	for _, d := range s.take(3) {
		c.ack(d)
	}
	s.stop()
	c.gone()
}

func (c *conformance[M]) waitsForRoom() {
	c.publish(1)
	s := c.run(false)
	s.nothing()
	close(s.room)
	c.ack(s.next())
	s.stop()
}

func (c *conformance[M]) keepsRefused() {
	c.publish(2)
	s := c.start(&session[M]{c: c, room: make(chan struct{}), refuse: true}, true)
	// The gate stops: the source is told by Deliver, and then by its context.
	time.Sleep(c.Patience / 10)
	s.stop()
	s = c.run(true)
	for _, d := range s.take(2) {
		c.counts(d, 0, 0)
		c.ack(d)
	}
	s.stop()
}

// canDefer skips the test if the source cannot defer.
func (c *conformance[M]) canDefer() {
	c.t.Helper()
	if s, ok := c.Source.(stream.Deferrer); ok && !s.CanDefer() {
		c.t.Skip("this source cannot defer")
	}
}

// putOff defers a message and returns it as it comes back.
func (s *session[M]) putOff(d stream.Delivery[M]) stream.Delivery[M] {
	c := s.c
	c.t.Helper()
	body, until := c.Body(d.Message()), time.Now().Add(c.Patience/10)
	err := d.Defer(c.t.Context(), stream.Deferral{
		Until: until, Reason: stream.ReasonQuota, Tenant: "tenant", Attempts: 2, Deferrals: 3, Order: d.Meta().Order,
	})
	if err != nil {
		c.t.Fatalf("Defer = %v", err)
	}
	back := s.next()
	if now := time.Now(); now.Before(until) {
		c.t.Errorf("it came back %v too early", until.Sub(now))
	}
	if got := c.Body(back.Message()); got != body {
		c.t.Errorf("%q came back, want %q", got, body)
	}
	if got, want := back.Meta().Time, d.Meta().Time; got.Sub(want).Abs() > time.Millisecond {
		c.t.Errorf("it is said to be published at %v, and %v before", got, want)
	}
	c.counts(back, 2, 3)
	return back
}

func (c *conformance[M]) defers() {
	c.canDefer()
	c.publish(1)
	s := c.run(true)
	c.ack(s.putOff(s.next()))
	s.nothing()
	s.stop()
	c.gone()
}

func (c *conformance[M]) keepsCounts() {
	c.canDefer()
	c.publish(1)
	s := c.run(true)
	back := s.putOff(s.next())
	back.Release()
	again := s.next()
	c.counts(again, 2, 3)
	s.cancel()
	again.Release()
	s.wait()
	s = c.run(true)
	again = s.next()
	c.counts(again, 2, 3)
	c.ack(again)
	s.stop()
}

func (c *conformance[M]) deadLetters() {
	bodies := c.publish(2)
	s := c.run(true)
	taken := s.take(2)
	err := taken[bodies[0]].DeadLetter(c.t.Context(), stream.Letter{
		Reason: stream.ReasonPermanent, Err: errors.New("broken"), Stack: []byte("stack"), Tenant: "tenant", Attempts: 1,
	})
	if err != nil {
		c.t.Errorf("DeadLetter = %v", err)
	}
	// It is durable by now, whatever comes next.
	if dead, err := c.DeadLetters(); err != nil || !slices.Equal(dead, bodies[:1]) {
		c.t.Errorf("dead letters %q, %v, want %q", dead, err, bodies[:1])
	}
	c.ack(taken[bodies[1]])
	s.nothing()
	s.stop()
	c.gone()
	if dead, err := c.DeadLetters(); err != nil || !slices.Equal(dead, bodies[:1]) {
		c.t.Errorf("dead letters %q, %v in the end, want %q", dead, err, bodies[:1])
	}
}

func (c *conformance[M]) releases() {
	bodies := c.publish(2)
	s := c.run(true)
	taken := s.take(2)
	taken[bodies[0]].Release()
	back := s.next()
	if got := c.Body(back.Message()); got != bodies[0] {
		c.t.Errorf("%q came back, want %q", got, bodies[0])
	}
	c.counts(back, 0, 0)
	c.ack(back)
	c.ack(taken[bodies[1]])
	s.nothing()
	s.stop()
}

func (c *conformance[M]) revokes() {
	if c.Revoke == nil {
		c.t.Skip("this source's messages cannot be revoked")
	}
	c.publish(2)
	s := c.run(true)
	taken := s.take(2)
	if err := c.Revoke(); err != nil {
		c.t.Fatal(err)
	}
	for body, d := range taken {
		select {
		case <-d.Revoked():
		case <-time.After(c.Patience):
			c.t.Errorf("%q was revoked, and nobody is told", body)
		}
	}
	i := 0
	for body, d := range taken {
		if i++; i == 1 {
			if err := d.Ack(c.t.Context()); !errors.Is(err, stream.ErrRevoked) {
				c.t.Errorf("Ack of %q, which was revoked, = %v", body, err)
			}
			continue
		}
		d.Release()
	}
	for _, d := range s.take(2) {
		c.ack(d)
	}
	s.nothing()
	s.stop()
}

func (c *conformance[M]) drains() {
	bodies := c.publish(2)
	s := c.run(true)
	taken := s.take(2)
	s.cancel()
	if err := c.Publish("too late"); err != nil {
		c.t.Fatal(err)
	}
	s.nothing()
	select {
	case err := <-s.ended:
		c.t.Fatalf("Run = %v while two messages are held", err)
	default:
	}
	c.ack(taken[bodies[0]])
	taken[bodies[1]].Release()
	s.wait()

	s = c.run(true)
	rest := s.take(2)
	for _, body := range []string{bodies[1], "too late"} {
		if rest[body] == nil {
			c.t.Fatalf("%q is not delivered to the next run", body)
		}
		c.ack(rest[body])
	}
	s.nothing()
	s.stop()
}

func (c *conformance[M]) settlesAfterEnd() {
	bodies := c.publish(2)
	s := c.run(true)
	taken := s.take(2)
	s.cancel()
	time.Sleep(c.Patience)
	if err := taken[bodies[0]].DeadLetter(c.t.Context(), stream.Letter{Reason: stream.ReasonExpired, Tenant: "tenant"}); err != nil {
		c.t.Errorf("DeadLetter = %v", err)
	}
	c.ack(taken[bodies[1]])
	s.wait()
	if dead, err := c.DeadLetters(); err != nil || !slices.Equal(dead, bodies[:1]) {
		c.t.Errorf("dead letters %q, %v, want %q", dead, err, bodies[:1])
	}
	c.gone()
}
