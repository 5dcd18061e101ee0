package fluxkafka

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
)

// dialer opens connections and keeps track of them, so that whoever made it
// can end them all: a join that the group coordinator holds for up to the
// rebalance timeout cannot be cancelled in any other way.
type dialer struct {
	conf   *kafka.Dialer
	ctx    context.Context //nolint:containedctx // ends the dials that the client starts without one of ours
	cancel context.CancelFunc

	mu    sync.Mutex
	conns map[*trackedConn]struct{} // nil after close
}

var errClosed = errors.New("fluxkafka: closed")

func newDialer(conf *kafka.Dialer) *dialer {
	ctx, cancel := context.WithCancel(context.Background())
	return &dialer{conf: conf, ctx: ctx, cancel: cancel, conns: make(map[*trackedConn]struct{})}
}

func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.ctx, cancel)()
	open := d.conf.DialFunc
	if open == nil {
		open = (&net.Dialer{Timeout: d.conf.Timeout}).DialContext
	}
	c, err := open(ctx, network, address)
	if err != nil {
		return nil, err
	}
	tracked := &trackedConn{Conn: c, dialer: d}
	d.mu.Lock()
	closed := d.conns == nil
	if !closed {
		d.conns[tracked] = struct{}{}
	}
	d.mu.Unlock()
	if closed {
		_ = c.Close()
		return nil, errClosed
	}
	return tracked, nil
}

// close ends all connections and every later attempt to open one.
func (d *dialer) close() {
	d.cancel()
	d.mu.Lock()
	conns := d.conns
	d.conns = nil
	d.mu.Unlock()
	for c := range conns {
		_ = c.Conn.Close()
	}
}

// trackedConn puts a deadline where the client sets none: while it
// authenticates, it would wait for ever for a broker that takes connections and
// does not answer.
type trackedConn struct {
	net.Conn
	dialer *dialer
}

func (c *trackedConn) SetDeadline(t time.Time) error { return c.Conn.SetDeadline(c.dialer.limit(t)) }

func (c *trackedConn) SetReadDeadline(t time.Time) error {
	return c.Conn.SetReadDeadline(c.dialer.limit(t))
}

func (c *trackedConn) SetWriteDeadline(t time.Time) error {
	return c.Conn.SetWriteDeadline(c.dialer.limit(t))
}

func (d *dialer) limit(t time.Time) time.Time {
	if t.IsZero() {
		return time.Now().Add(d.timeout())
	}
	return t
}

func (c *trackedConn) Close() error {
	c.dialer.mu.Lock()
	delete(c.dialer.conns, c)
	c.dialer.mu.Unlock()
	return c.Conn.Close()
}

// groupDialer returns the client's dialer for group membership.
func (d *dialer) groupDialer() *kafka.Dialer {
	return &kafka.Dialer{
		ClientID: d.conf.ClientID, DialFunc: d.dial, Timeout: d.timeout(),
		TLS: d.conf.TLS, SASLMechanism: d.conf.SASLMechanism,
	}
}

// transport returns a connection pool. topics are the ones to keep metadata
// of, nil for all.
func (d *dialer) transport(topics []string) *kafka.Transport {
	return &kafka.Transport{
		Dial: d.dial, DialTimeout: d.timeout(), ClientID: d.conf.ClientID,
		TLS: d.conf.TLS, SASL: d.conf.SASLMechanism,
		// A moved leader is found when the metadata is renewed, at a random time
		// within the TTL.
		MetadataTTL: 2 * time.Second, MetadataTopics: topics,
		Context: d.ctx,
	}
}

func (d *dialer) timeout() time.Duration {
	if d.conf.Timeout > 0 {
		return d.conf.Timeout
	}
	return 10 * time.Second
}
