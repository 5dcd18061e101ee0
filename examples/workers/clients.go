package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/gcra"
)

// client makes the requests of a tenant.
type client struct {
	tenant string
	every  time.Duration // between requests, of a client without askers
	askers int           // that ask at once, and again when they are told to
	tally  tally
}

// demo serves requests for so long while three tenants make them.
func demo(ctx context.Context, nc *nats.Conn, limit gcra.Limit, duration time.Duration) (*report, error) {
	// An interrupt ends the clients first, whose last requests want answers.
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	served := make(chan struct{})
	var stats fluxnats.CoreStats
	var failed error
	go func() {
		defer close(served)
		stats, failed = serve(serving, nc, limit)
	}()
	end := func() error {
		stop()
		<-served
		return failed
	}
	if err := ready(ctx, nc, served); err != nil {
		return nil, errors.Join(end(), err)
	}

	clients := []*client{
		{tenant: "flood", every: 5 * time.Millisecond},
		{tenant: "patient", askers: 4},
		{tenant: "quiet", every: 300 * time.Millisecond},
	}
	begin := time.Now()
	asking, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	var wg sync.WaitGroup
	for _, c := range clients {
		wg.Go(func() { c.run(asking, nc) })
	}
	wg.Wait()
	r := &report{limit: limit, took: time.Since(begin)}
	if err := end(); err != nil {
		return nil, err
	}
	for _, c := range clients {
		l := c.tally.line(c.tenant)
		if err := ctx.Err(); err != nil && l.asked == 0 {
			return nil, err // there is nothing to tell yet
		}
		r.lines = append(r.lines, l)
	}
	r.stats = stats
	return r, nil
}

// ready waits until somebody answers. A request of no tenant is refused, and
// counts for nobody.
func ready(ctx context.Context, nc *nats.Conn, served <-chan struct{}) error {
	for range 100 {
		answer, err := nc.Request(subject, nil, time.Second)
		if _, ok := fluxnats.ReadRefusal(answer); err == nil && ok {
			return nil
		}
		select {
		case <-served:
			return cmp.Or(ctx.Err(), errors.New("the workers have ended"))
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return errors.New("nobody answers")
}

// run makes requests until ctx ends, and returns when all are answered.
func (c *client) run(ctx context.Context, nc *nats.Conn) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for range c.askers {
		wg.Go(func() {
			for ctx.Err() == nil {
				pause(ctx, c.ask(nc))
			}
		})
	}
	for c.askers == 0 && ctx.Err() == nil {
		wg.Go(func() { c.ask(nc) })
		pause(ctx, c.every)
	}
}

// ask makes one request, and returns how long to wait before asking again.
func (c *client) ask(nc *nats.Conn) time.Duration {
	begin := time.Now()
	answer, err := nc.RequestMsg(&nats.Msg{Subject: subject, Header: nats.Header{"Tenant": {c.tenant}}}, 2*time.Second)
	refusal, refused := fluxnats.ReadRefusal(answer)
	switch {
	case err != nil:
		c.tally.failed(err)
		return 100 * time.Millisecond
	case refused:
		c.tally.refused(refusal)
		return refusal.RetryAfter
	default:
		c.tally.served(time.Since(begin))
	}
	return 0
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// tally counts the answers to a client.
type tally struct {
	mu      sync.Mutex
	asked   int
	waits   []time.Duration // of those that were served
	refusal map[string]int  // by reason
	err     error
}

func (t *tally) failed(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.asked++
	t.err = fmt.Errorf("no answer: %w", err)
}

func (t *tally) refused(r fluxnats.Refusal) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.refusal == nil {
		t.refusal = make(map[string]int)
	}
	t.asked++
	t.refusal[fmt.Sprintf("%d %s", r.Code, r.Reason)]++
}

func (t *tally) served(wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.asked++
	t.waits = append(t.waits, wait)
}
