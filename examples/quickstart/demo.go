package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/examples/internal/natsnode"
)

// demo runs the workload through flux until it is over or ctx ends, and shows
// and returns the report. After an error it shows none.
func demo(ctx context.Context, o options, stdout, stderr io.Writer) (_ report, err error) {
	// What was begun is finished, and what was made is removed, also when ctx
	// has ended: every step has a time limit of its own.
	lasting := context.WithoutCancel(ctx)

	node, err := natsnode.Open(ctx, o.natsURL, "quickstart", true)
	if err != nil {
		return report{}, err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	q, err := openQueue(ctx, node)
	if err != nil {
		return report{}, err
	}
	defer func() { err = errors.Join(err, q.close(lasting)) }()
	if o.natsURL != "" {
		note := stdout
		if o.json {
			note = stderr
		}
		if _, err := fmt.Fprintln(note, q.note()); err != nil {
			return report{}, err
		}
	}

	tenants := workload(o)
	start := time.Now()
	rec := newRecorder(tenants, start)
	screen := newScreen(stdout, o)

	ctx, cancel := context.WithTimeout(ctx, o.duration)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return throttle(ctx, q.source, o.limit, rec.hooks(), func(ctx context.Context, m *fluxnats.Msg) error {
			rec.handled(tenantOf(m), time.Since(start)-sentAt(m))
			return work(ctx)
		})
	})
	group.Go(func() error {
		return send(ctx, tenants, o.seed, start, func(tenant string) error {
			rec.published(tenant)
			return q.publish(tenant, time.Since(start))
		})
	})
	if !o.json {
		group.Go(func() error {
			return screen.run(ctx, func() report { return newReport(o, rec.snapshot(), time.Since(start)) })
		})
	}
	<-ctx.Done()
	lasted := time.Since(start) // messages in a handler are still finished
	if err := group.Wait(); err != nil {
		return report{}, err
	}
	if err := q.flush(); err != nil {
		return report{}, err
	}

	final := newReport(o, rec.snapshot(), lasted)
	if err := q.account(lasting, &final); err != nil {
		return report{}, err
	}
	if o.json {
		return final, final.writeJSON(stdout)
	}
	return final, screen.final(final)
}
