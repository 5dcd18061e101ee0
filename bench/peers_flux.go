package main

import (
	"context"
	"fmt"

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
			return err == nil && d.Allowed
		},
	}
}

// openFluxHandle is flux on a resolved key, with a clock read for each call.
func openFluxHandle(l limit) limiter {
	lim := newFlux(l, 0)
	h := lim.Key("tenant")
	return limiter{allow: func(string) bool {
		d, err := h.CheckAt(lim.Now(), 1)
		return err == nil && d.Allowed
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
			return err == nil && d.Allowed
		},
	}
}
