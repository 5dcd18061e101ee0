package fluxnats_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats-server/v2/server/ats"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/stream"
)

func TestMain(m *testing.M) {
	// The server's ticker for access times waits on a channel of its package,
	// which belongs to no bubble: it must run before the first one.
	ats.Register()
	code := m.Run()
	ats.Unregister()
	os.Exit(code)
}

// env is an embedded server with a connection to it, in virtual time.
type env struct {
	*testing.T
	opts server.Options
	srv  atomic.Pointer[server.Server]
	nc   *nats.Conn
	js   jetstream.JetStream
}

// bubble runs f in virtual time with a server of its own. Its file storage takes
// the real time for the age of messages: a test of MaxAge needs memory storage.
func bubble(t *testing.T, f func(e *env), options ...func(*server.Options)) {
	t.Helper()
	dir := t.TempDir()
	emptyTimerPool()
	defer emptyTimerPool()
	synctest.Test(t, func(t *testing.T) {
		e := &env{T: t, opts: server.Options{
			ServerName: "t", JetStream: true, StoreDir: dir, DontListen: true, NoSigs: true, NoLog: true,
		}}
		for _, o := range options {
			o(&e.opts)
		}
		e.start()
		defer e.stop()
		e.nc = e.connect(e.admin()...)
		defer e.nc.Close()
		var err error
		if e.js, err = jetstream.New(e.nc); err != nil {
			t.Fatal(err)
		}
		f(e)
	})
}

// emptyTimerPool makes the client library forget the timers that it keeps for the
// whole process: one of a bubble must not be used outside of it, and one from
// outside takes real time. Two collections empty a [sync.Pool].
func emptyTimerPool() {
	runtime.GC()
	runtime.GC()
}

func (e *env) start() {
	e.Helper()
	opts := e.opts
	s, err := server.NewServer(&opts)
	if err != nil {
		e.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		e.Fatal("server is not ready")
	}
	e.srv.Store(s)
}

// admin connects as the user who may do anything, if the server has users.
func (e *env) admin() []nats.Option {
	if len(e.opts.Users) > 0 {
		return []nats.Option{nats.UserInfo("admin", "admin")}
	}
	return nil
}

func (e *env) stop() {
	s := e.srv.Load()
	s.Shutdown()
	s.WaitForShutdown()
}

// connect returns a connection that follows the server through restarts.
func (e *env) connect(opts ...nats.Option) *nats.Conn {
	e.Helper()
	return e.dial(nil, opts...)
}

// dial connects through a line, which may cut it.
func (e *env) dial(l *line, opts ...nats.Option) *nats.Conn {
	e.Helper()
	nc, err := nats.Connect("", append([]nats.Option{
		nats.InProcessServer(dialer{e, l}), nats.MaxReconnects(-1), nats.ReconnectWait(100 * time.Millisecond),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}),
	}, opts...)...)
	if err != nil {
		e.Fatal(err)
	}
	return nc
}

// jetStream returns JetStream over a connection of its own, which is closed at the
// end of the test.
func (e *env) jetStream(nc *nats.Conn) jetstream.JetStream {
	e.Helper()
	e.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		e.Fatal(err)
	}
	return js
}

// dialer connects to whatever server runs just now.
type dialer struct {
	e *env
	l *line
}

func (d dialer) InProcessConn() (net.Conn, error) {
	if d.l != nil && d.l.down.Load() {
		return nil, errors.New("the line is down")
	}
	c, err := d.e.srv.Load().InProcessConn()
	if d.l != nil && err == nil {
		d.l.set(c)
		return &lineConn{Conn: c, l: d.l}, nil
	}
	return c, err
}

// line is a connection that can fail.
type line struct {
	down atomic.Bool            // new connections fail
	cut  func(sent []byte) bool // reports what the line breaks at, instead of sending it
	drop func(sent []byte) bool // reports publications that are lost on the way
	lost atomic.Pointer[[]string]

	after func(sent []byte) bool // reports what the line breaks after

	rewrite func(received []byte) []byte // to something of the same length

	mu sync.Mutex
	c  net.Conn
}

func (l *line) set(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.c = c
}

// lose makes publications get lost on the way that contain one of the words, until
// it is called again.
func (l *line) lose(words ...string) { l.lost.Store(&words) }

// loses reports whether publications are lost on the way.
func (l *line) loses(sent []byte) bool {
	words := l.lost.Load()
	return words != nil && slices.ContainsFunc(*words, func(w string) bool { return bytes.Contains(sent, []byte(w)) }) || l.drop != nil && l.drop(sent)
}

// fail cuts the line.
func (l *line) fail() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.c.Close()
}

type lineConn struct {
	net.Conn
	l    *line
	deaf atomic.Bool // what the server answers is lost, as the line breaks
}

func (c *lineConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.deaf.Load() {
		return 0, net.ErrClosed
	}
	if c.l.rewrite != nil {
		copy(b[:n], c.l.rewrite(b[:n]))
	}
	return n, err
}

func (c *lineConn) Write(b []byte) (int, error) {
	if c.l.cut != nil && c.l.cut(b) {
		c.l.fail()
	}
	if c.l.loses(b) {
		// Publications are lost. A subscription before them may share their write,
		// depending on when the client's flusher runs, and gets through.
		n := 0
		for bytes.HasPrefix(b[n:], []byte("SUB ")) {
			n += bytes.IndexByte(b[n:], '\n') + 1
		}
		if n > 0 {
			if _, err := c.Conn.Write(b[:n]); err != nil {
				return 0, err
			}
		}
		return len(b), nil
	}
	if c.l.after != nil && c.l.after(b) {
		c.deaf.Store(true)
		defer c.l.fail()
	}
	return c.Conn.Write(b)
}

// source returns a source of stream S and consumer c that are set up for it.
func (e *env) source(cfg fluxnats.Config, l fluxnats.Layout) *fluxnats.Source {
	e.Helper()
	src := e.newSource(cfg)
	if len(l.Subjects) == 0 {
		l.Subjects = []string{"in.>"}
	}
	if _, err := src.Provision(e.Context(), l); err != nil {
		e.Fatal(err)
	}
	return src
}

func (e *env) newSource(cfg fluxnats.Config) *fluxnats.Source {
	e.Helper()
	return e.sourceOn(e.js, cfg)
}

// sourceOver returns a source with a connection of its own, over a line.
func (e *env) sourceOver(l *line, cfg fluxnats.Config, opts ...nats.Option) *fluxnats.Source {
	e.Helper()
	return e.sourceOn(e.jetStream(e.dial(l, opts...)), cfg)
}

// sourceOn returns a source with a connection of its own.
func (e *env) sourceOn(js jetstream.JetStream, cfg fluxnats.Config) *fluxnats.Source {
	e.Helper()
	if cfg.Stream == "" {
		cfg.Stream = "S"
	}
	if cfg.Consumer == "" {
		cfg.Consumer = "c"
	}
	src, err := fluxnats.New(js, cfg)
	if err != nil {
		e.Fatal(err)
	}
	return src
}

// publish stores n messages in.0, in.1 … with their numbers as payload.
func (e *env) publish(n int) {
	e.Helper()
	for i := range n {
		e.send(&nats.Msg{Subject: fmt.Sprintf("in.%d", i), Data: fmt.Appendf(nil, "%d", i)})
	}
}

func (e *env) send(m *nats.Msg) {
	e.Helper()
	if _, err := e.js.PublishMsg(e.Context(), m); err != nil {
		e.Fatal(err)
	}
}

// raw publishes with headers that the client library would not send.
func (e *env) raw(subject, headers string) {
	e.Helper()
	c, err := e.srv.Load().InProcessConn()
	if err != nil {
		e.Fatal(err)
	}
	defer c.Close()
	go func() { _, _ = io.Copy(io.Discard, c) }()
	h := "NATS/1.0\r\n" + headers + "\r\n"
	_, err = fmt.Fprintf(c, "CONNECT {\"headers\":true,\"verbose\":false}\r\nHPUB %s %d %d\r\n%s\r\nPING\r\n", subject, len(h), len(h), h)
	e.must(err)
	time.Sleep(time.Millisecond)
}

func (e *env) info() *jetstream.ConsumerInfo {
	e.Helper()
	c, err := e.js.Consumer(e.Context(), "S", "c")
	if err != nil {
		e.Fatal(err)
	}
	return c.CachedInfo()
}

// count returns how many messages a stream has under a subject.
func (e *env) count(str, subject string) int {
	e.Helper()
	s, err := e.js.Stream(e.Context(), str)
	if err != nil {
		e.Fatal(err)
	}
	info, err := s.Info(e.Context(), jetstream.WithSubjectFilter(subject))
	if err != nil {
		e.Fatal(err)
	}
	n := 0
	for _, c := range info.State.Subjects {
		n += int(c)
	}
	return n
}

// last returns the newest message that a stream has under a subject.
func (e *env) last(str, subject string) *jetstream.RawStreamMsg {
	e.Helper()
	s, err := e.js.Stream(e.Context(), str)
	if err != nil {
		e.Fatal(err)
	}
	m, err := s.GetLastMsgForSubject(e.Context(), subject)
	if err != nil {
		e.Fatal(err)
	}
	return m
}

// intake is the smallest gate: it holds up to window messages, gives each to
// handle in a goroutine of its own, and releases what is left at the end.
type intake struct {
	handle func(ctx context.Context, d stream.Delivery[*fluxnats.Msg])
	slots  chan struct{}
	wg     sync.WaitGroup

	mu   sync.Mutex
	most int // held at once
}

func newIntake(window int, handle func(context.Context, stream.Delivery[*fluxnats.Msg])) *intake {
	return &intake{handle: handle, slots: make(chan struct{}, window)}
}

func (in *intake) Recall(<-chan struct{}) {}

func (in *intake) Window(most int) int { return min(most, cap(in.slots)) }

func (in *intake) Room(ctx context.Context, most int) (int, error) {
	// Waiting for a slot and giving it back is enough here: one source asks.
	select {
	case in.slots <- struct{}{}:
		<-in.slots
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return max(1, min(most, cap(in.slots)-len(in.slots))), ctx.Err()
}

func (in *intake) Deliver(ctx context.Context, deliveries ...stream.Delivery[*fluxnats.Msg]) error {
	for i, d := range deliveries {
		select {
		case in.slots <- struct{}{}:
		case <-ctx.Done():
			releaseAll(deliveries[i:])
			return ctx.Err()
		}
		in.mu.Lock()
		in.most = max(in.most, len(in.slots))
		in.mu.Unlock()
		in.wg.Go(func() {
			defer func() { <-in.slots }()
			in.handle(ctx, d)
		})
	}
	return nil
}

// releaseAll is what becomes of messages that a gate does not take.
func releaseAll(deliveries []stream.Delivery[*fluxnats.Msg]) {
	for _, d := range deliveries {
		d.Release()
	}
}

// running is something that goes on until it is stopped: the run of a source, of a
// gate, or a watch.
type running struct {
	e      *env
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

func (e *env) run(src *fluxnats.Source, in stream.Intake[*fluxnats.Msg]) *running {
	return e.begin(func(ctx context.Context) error { return src.Run(ctx, in) })
}

func (e *env) begin(run func(context.Context) error) *running {
	ctx, cancel := context.WithCancel(e.Context())
	r := &running{e: e, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.err = run(ctx)
	}()
	return r
}

// stop ends the run and fails the test unless it ends well.
func (r *running) stop() {
	r.e.Helper()
	r.cancel()
	<-r.done
	time.Sleep(10 * time.Millisecond) // the server has the last acknowledgements, but may not have looked at them
	if r.err != nil {
		r.e.Errorf("Run: %v", r.err)
	}
}

// tally counts what happened to each payload.
type tally struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *tally) add(m *fluxnats.Msg) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = make(map[string]int)
	}
	c.n[string(m.Data())]++
}

func (c *tally) sum() (kinds, total int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.n {
		total += n
	}
	return len(c.n), total
}

// acks returns what counts each message and acknowledges it.
func (e *env) acks(seen *tally) func(context.Context, stream.Delivery[*fluxnats.Msg]) {
	return func(ctx context.Context, d stream.Delivery[*fluxnats.Msg]) {
		seen.add(d.Message())
		e.must(d.Ack(ctx))
	}
}

// exactly fails the test unless all of n messages happened once.
func (c *tally) exactly(tb testing.TB, n int) {
	tb.Helper()
	if kinds, total := c.sum(); kinds != n || total != n {
		tb.Errorf("handled %d of %d messages, %d times in all", kinds, n, total)
	}
}

// orRelease fails the test and lets the message go if settling failed.
func (e *env) orRelease(d stream.Delivery[*fluxnats.Msg], err error) {
	e.Helper()
	if e.must(err); err != nil {
		d.Release()
	}
}

// must fails the test if settling failed.
func (e *env) must(err error) {
	e.Helper()
	if err != nil && !errors.Is(err, context.Canceled) {
		e.Error(err)
	}
}
