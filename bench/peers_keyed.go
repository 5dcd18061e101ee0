package main

import (
	"context"
	"fmt"
	"time"

	"github.com/sethvargo/go-limiter/memorystore"
	"github.com/throttled/throttled/v2"
	"github.com/throttled/throttled/v2/store/memstore"
	ulule "github.com/ulule/limiter/v3"
	ululememory "github.com/ulule/limiter/v3/drivers/store/memory"
)

// The libraries of this file keep the keys themselves.

// openThrottled returns throttled over its memory store: a map that only grows
// when maxKeys is 0, and an LRU of maxKeys otherwise.
func openThrottled(maxKeys int) func(limit) limiter {
	return func(l limit) limiter {
		store, err := memstore.NewCtx(maxKeys)
		if err != nil {
			panic(fmt.Sprintf("bench: throttled: %v", err))
		}
		lim, err := throttled.NewGCRARateLimiterCtx(store, throttled.RateQuota{
			MaxRate:  throttled.PerDuration(1, l.interval),
			MaxBurst: int(l.burst - 1), // beyond the first
		})
		if err != nil {
			panic(fmt.Sprintf("bench: throttled: %v", err))
		}
		ctx := context.Background()
		return limiter{
			allow: func(key string) bool {
				limited, _, err := lim.RateLimitCtx(ctx, key, 1)
				return err == nil && !limited
			},
			// It has no wait: this is the loop that its users write.
			wait: func(ctx context.Context, key string) error {
				for {
					limited, result, err := lim.RateLimitCtx(ctx, key, 1)
					switch {
					case err != nil:
						// Ten lost races in a row are an error there.
						if err := sleep(ctx, 0); err != nil {
							return err
						}
					case !limited:
						return nil
					default:
						if err := sleep(ctx, result.RetryAfter); err != nil {
							return err
						}
					}
				}
			},
		}
	}
}

func openSethvargo(l limit) limiter {
	return sethvargoLimiter(l, memorystore.Config{})
}

func sethvargoLimiter(l limit, cfg memorystore.Config) limiter {
	cfg.Tokens = uint64(l.burst)
	cfg.Interval = l.interval * time.Duration(l.burst)
	store, err := memorystore.New(&cfg)
	if err != nil {
		panic(fmt.Sprintf("bench: go-limiter: %v", err))
	}
	ctx := context.Background()
	return limiter{
		allow: func(key string) bool {
			_, _, _, ok, err := store.Take(ctx, key)
			return ok && err == nil
		},
		// It has no wait: this is the loop that its users write.
		wait: func(ctx context.Context, key string) error {
			for {
				_, _, reset, ok, err := store.Take(ctx, key)
				if ok || err != nil {
					return err
				}
				if err := sleep(ctx, time.Until(time.Unix(0, int64(reset)))); err != nil {
					return err
				}
			}
		},
		close: func() { _ = store.Close(ctx) },
	}
}

// openSethvargoSweeping has the library's own sweeper, which nobody can call,
// run once within the time that sweep waits for it: long after the keys of a
// measure are in and have rested for l.interval.
func openSethvargoSweeping(l limit) limiter {
	every := 2*l.interval + 2*time.Second
	opened := time.Now()
	lim := sethvargoLimiter(l, memorystore.Config{SweepInterval: every, SweepMinTTL: time.Nanosecond})
	lim.sweepsItself = true
	lim.sweep = func() { time.Sleep(time.Until(opened.Add(every + l.interval))) }
	return lim
}

func openUlule(l limit) limiter {
	lim := ulule.New(ululememory.NewStore(), ululeRate(l))
	ctx := context.Background()
	return limiter{
		allow: func(key string) bool {
			c, err := lim.Get(ctx, key)
			return err == nil && !c.Reached
		},
	}
}

// openUluleCache is the counter store beneath ulule/limiter, whose cleaning can
// be started at a time of one's choosing.
func openUluleCache(l limit) limiter {
	cache := ululememory.NewCache(0)
	rate := ululeRate(l)
	return limiter{
		allow: func(key string) bool {
			count, _ := cache.Increment(key, 1, rate.Period)
			return count <= rate.Limit
		},
		sweep: cache.Clean,
	}
}

func ululeRate(l limit) ulule.Rate {
	return ulule.Rate{Period: l.interval * time.Duration(l.burst), Limit: l.burst}
}

// sleep waits for d, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
