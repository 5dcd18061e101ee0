package main

import (
	"context"
	"fmt"
	"time"
	"unsafe"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
)

// newFlux returns flux under l. maxKeys is 0 for no bound.
func newFlux(l limit, maxKeys int) *flux.Limiter[string] {
	lim, err := flux.New(flux.Config[string]{
		Limit:   gcra.Per(1, l.interval).WithBurst(l.burst),
		MaxKeys: maxKeys,
	})
	if err != nil {
		panic(fmt.Sprintf("bench: flux: %v", err))
	}
	return lim
}

func openFlux(l limit) limiter { return fluxLimiter(newFlux(l, 0)) }

func fluxLimiter(lim *flux.Limiter[string]) limiter {
	ctx := context.Background()
	return limiter{
		allow: func(key string) bool {
			d, err := lim.Check(ctx, key, 1)
			return err == nil && d.Allowed()
		},
		wait: func(ctx context.Context, key string) error { return lim.Wait(ctx, key, 1) },
		told: func(key string) time.Duration {
			r, err := lim.Reserve(ctx, key, 1)
			if err != nil {
				panic(fmt.Sprintf("bench: flux: %v", err))
			}
			defer r.Cancel()
			return r.Delay()
		},
		sweep: func() {
			if _, err := lim.CleanupStale(ctx, 0); err != nil {
				panic(fmt.Sprintf("bench: flux: %v", err))
			}
		},
		tracked: lim.Len,
		close:   lim.Close,
	}
}

// openFluxAsync is flux whose waiters are parked without a goroutine each.
func openFluxAsync(l limit) limiter {
	lim := newFlux(l, 0)
	f := fluxLimiter(lim)
	f.park = func(ctx context.Context, keys []string, n int) func(i int) error {
		results := make([]<-chan flux.Result, n)
		for i := range results {
			results[i] = lim.WaitAsync(ctx, keys[i%len(keys)], 1)
		}
		return func(i int) error { return (<-results[i]).Err }
	}
	return f
}

// requestSize is what a caller of Stream keeps of a request in any case.
const requestSize = int(unsafe.Sizeof(flux.Request[string]{}))

// openFluxStream is flux gating a channel, with an answer for each request in the
// order of the grants.
func openFluxStream(l limit) limiter {
	lim := newFlux(l, 0)
	f := fluxLimiter(lim)
	f.park = func(ctx context.Context, keys []string, n int) func(i int) error {
		in := make(chan flux.Request[string], pollSize)
		out := lim.Stream(ctx, in)
		go func() {
			defer close(in)
			for i := range n {
				select {
				case in <- flux.Request[string]{Key: keys[i%len(keys)], N: 1}:
				case <-ctx.Done():
					return
				}
			}
		}()
		return func(int) error { return (<-out).Err }
	}
	return f
}

// openFluxHandle is flux on a resolved key, with a clock read for each call.
func openFluxHandle(l limit) limiter {
	lim := newFlux(l, 0)
	h := lim.Key("tenant")
	return limiter{allow: func(string) bool {
		d, err := h.CheckAt(lim.Now(), 1)
		return err == nil && d.Allowed()
	}}
}

// openFluxBatch is flux on a resolved key, with one clock read for each poll.
func openFluxBatch(l limit) limiter {
	lim := newFlux(l, 0)
	h := lim.Key("tenant")
	now := lim.Now()
	return limiter{
		poll: func() { now = lim.Now() },
		allow: func(string) bool {
			d, err := h.CheckAt(now, 1)
			return err == nil && d.Allowed()
		},
	}
}
