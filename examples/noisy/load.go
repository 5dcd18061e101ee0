package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing" //nolint:depguard // virtual time is only to be had from testing/synctest
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux/stream/streamtest"
)

type message = streamtest.Message

// The service is the same for all consumers: so many workers, and a handler
// that takes them 40 ms on average, which makes a hundred messages a second.
const (
	workers = 4
	service = 40 * time.Millisecond
)

// The load: four tenants send a few messages a second all along, and one of them
// sends a flood beside that for ten seconds.
const (
	lasts      = 60 * time.Second
	noisy      = "noisy"
	usualEvery = 250 * time.Millisecond
	floodEvery = time.Second / 300
	floodFrom  = 5 * time.Second
	floodUntil = 15 * time.Second
)

var quiet = []string{"quiet 1", "quiet 2", "quiet 3"}

// planned is a message and when it is published.
type planned struct {
	at time.Duration
	message
}

// plan returns the load, the same at each call. No two things in it happen at
// the same nanosecond, so that nothing depends on how goroutines are scheduled.
func plan() []planned {
	rng := rand.New(rand.NewPCG(1, 2))
	jitter := func(d time.Duration) time.Duration { return d*3/4 + time.Duration(rng.Int64N(int64(d)/2)) }
	var load []planned
	send := func(tenant string, from, until, every time.Duration) {
		for at := from + jitter(every); at < until; at += jitter(every) {
			load = append(load, planned{at, message{Tenant: tenant, Work: jitter(service)}})
		}
	}
	for _, tenant := range append([]string{noisy}, quiet...) {
		send(tenant, 0, lasts, usualEvery)
	}
	send(noisy, floodFrom, floodUntil, floodEvery)
	slices.SortFunc(load, func(a, b planned) int { return int(a.at - b.at) })
	return load
}

// play gives a consumer a load, in virtual time, and returns what happened.
func play(c consumer, load []planned) (streamtest.History, error) {
	var history streamtest.History
	var err error
	synctest.Test(new(testing.T), func(*testing.T) {
		broker := streamtest.NewBroker(streamtest.Config{})
		begin := time.Now()
		go func() {
			for _, p := range load {
				time.Sleep(p.at - time.Since(begin))
				broker.Publish(p.message)
			}
			broker.Close()
		}()
		err = c.run(context.Background(), broker, broker.Record(work))
		history = broker.History()
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.name, err)
	}
	return history, nil
}

// work is the handler: it takes its time.
func work(_ context.Context, m *message) error {
	time.Sleep(m.Work)
	return nil
}

// point is when a message was published, counted from the first event, and how
// long after that it was done.
type point struct{ at, dwell time.Duration }

// dwells returns the points of each tenant, in the order of publication.
func dwells(h streamtest.History) map[string][]point {
	published := make(map[int64]time.Time)
	points := make(map[string][]point)
	for _, e := range h {
		switch e.Kind {
		case streamtest.Published:
			published[e.Message.ID] = e.At
		case streamtest.Acked:
			at := published[e.Message.ID]
			points[e.Message.Tenant] = append(points[e.Message.Tenant], point{at.Sub(h[0].At), e.At.Sub(at)})
		}
	}
	for _, p := range points {
		slices.SortFunc(p, func(a, b point) int { return int(a.at - b.at) })
	}
	return points
}

// p99 returns the 99th percentile of the dwells of tenants together.
func p99(points map[string][]point, tenants ...string) time.Duration {
	var all []time.Duration
	for _, tenant := range tenants {
		for _, p := range points[tenant] {
			all = append(all, p.dwell)
		}
	}
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[(len(all)*99+99)/100-1]
}
