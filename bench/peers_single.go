package main

import (
	"context"
	"sync"
	"time"

	"github.com/failsafe-go/failsafe-go/ratelimiter"
	juju "github.com/juju/ratelimit"
	mennanov "github.com/mennanov/limiters"
	uber "go.uber.org/ratelimit"
	"golang.org/x/time/rate"
)

// The libraries of this file limit one thing. The usual idiom puts one limiter
// per key into a sync.Map.

// byKey is a limiter of type T for each key.
type byKey[T any] struct {
	m    sync.Map
	make func() T
}

func (b *byKey[T]) get(key string) T {
	if v, ok := b.m.Load(key); ok {
		return v.(T)
	}
	v, _ := b.m.LoadOrStore(key, b.make())
	return v.(T)
}

func openXTime(l limit) limiter {
	limiters := byKey[*rate.Limiter]{make: func() *rate.Limiter {
		return rate.NewLimiter(rate.Every(l.interval), int(l.burst))
	}}
	return limiter{
		allow: func(key string) bool { return limiters.get(key).Allow() },
		wait:  func(ctx context.Context, key string) error { return limiters.get(key).Wait(ctx) },
		told:  func(key string) time.Duration { return limiters.get(key).Reserve().Delay() },
		// The janitor that long-running services add.
		sweep: func() {
			limiters.m.Range(func(key, v any) bool {
				if v.(*rate.Limiter).Tokens() >= float64(l.burst) {
					limiters.m.Delete(key)
				}
				return true
			})
		},
	}
}

// openXTimeMutex is the other idiom, of many tutorials: a map with a mutex, the
// time each key was last seen, and a janitor that walks it all.
func openXTimeMutex(l limit) limiter {
	type visitor struct {
		limiter  *rate.Limiter
		lastSeen time.Time
	}
	var (
		mu       sync.Mutex
		visitors = make(map[string]*visitor)
	)
	return limiter{
		allow: func(key string) bool {
			mu.Lock()
			v, ok := visitors[key]
			if !ok {
				v = &visitor{limiter: rate.NewLimiter(rate.Every(l.interval), int(l.burst))}
				visitors[key] = v
			}
			v.lastSeen = time.Now()
			mu.Unlock()
			return v.limiter.Allow()
		},
		sweep: func() {
			mu.Lock()
			defer mu.Unlock()
			for key, v := range visitors {
				if time.Since(v.lastSeen) > l.interval {
					delete(visitors, key)
				}
			}
		},
	}
}

// openXTimeHand is a x/time/rate limiter already in hand.
func openXTimeHand(l limit) limiter {
	lim := rate.NewLimiter(rate.Every(l.interval), int(l.burst))
	return limiter{allow: func(string) bool { return lim.Allow() }}
}

// openXTimeBatch is a x/time/rate limiter already in hand, with one clock read
// for each poll.
func openXTimeBatch(l limit) limiter {
	lim := rate.NewLimiter(rate.Every(l.interval), int(l.burst))
	now := time.Now()
	return limiter{
		poll:  func() { now = time.Now() },
		allow: func(string) bool { return lim.AllowN(now, 1) },
	}
}

func openFailsafeBursty(l limit) limiter {
	return failsafe(func() ratelimiter.RateLimiter[any] {
		return ratelimiter.NewBursty[any](uint(l.burst), l.interval*time.Duration(l.burst))
	})
}

func openFailsafeSmooth(l limit) limiter {
	return failsafe(func() ratelimiter.RateLimiter[any] {
		return ratelimiter.NewSmoothWithMaxRate[any](l.interval)
	})
}

func failsafe(newLimiter func() ratelimiter.RateLimiter[any]) limiter {
	limiters := byKey[ratelimiter.RateLimiter[any]]{make: newLimiter}
	return limiter{
		allow: func(key string) bool { return limiters.get(key).TryAcquirePermit() },
		wait:  func(ctx context.Context, key string) error { return limiters.get(key).AcquirePermit(ctx) },
		told:  func(key string) time.Duration { return limiters.get(key).ReservePermit() },
	}
}

func openJuju(l limit) limiter {
	limiters := byKey[*juju.Bucket]{make: func() *juju.Bucket { return juju.NewBucket(l.interval, l.burst) }}
	return limiter{
		allow: func(key string) bool { return limiters.get(key).TakeAvailable(1) == 1 },
		wait: func(_ context.Context, key string) error {
			limiters.get(key).Wait(1) // takes no context
			return nil
		},
	}
}

func openUber(l limit) limiter {
	limiters := byKey[uber.Limiter]{make: func() uber.Limiter {
		return uber.New(1, uber.Per(l.interval), uber.WithoutSlack)
	}}
	return limiter{
		allow: func(key string) bool {
			limiters.get(key).Take()
			return true
		},
		wait: func(_ context.Context, key string) error {
			limiters.get(key).Take() // takes no context
			return nil
		},
	}
}

func openMennanov(l limit) limiter {
	limiters := byKey[*mennanov.TokenBucket]{make: func() *mennanov.TokenBucket { return newMennanov(l) }}
	ctx := context.Background()
	return limiter{
		allow: func(key string) bool {
			_, err := limiters.get(key).Limit(ctx)
			return err == nil
		},
	}
}

// openMennanovRegistry keeps the buckets in the library's own registry, which
// can drop expired ones.
func openMennanovRegistry(l limit) limiter {
	registry := mennanov.NewRegistry()
	ctx := context.Background()
	newBucket := func() any { return newMennanov(l) }
	return limiter{
		allow: func(key string) bool {
			bucket := registry.GetOrCreate(key, newBucket, l.interval, time.Now())
			_, err := bucket.(*mennanov.TokenBucket).Limit(ctx)
			return err == nil
		},
		sweep: func() { registry.DeleteExpired(time.Now()) },
	}
}

// openMennanovLeaky is the library's leaky bucket, which says how long to wait.
func openMennanovLeaky(l limit) limiter {
	limiters := byKey[*mennanov.LeakyBucket]{make: func() *mennanov.LeakyBucket {
		return mennanov.NewLeakyBucket(1<<30, l.interval, mennanov.NewLockNoop(),
			mennanov.NewLeakyBucketInMemory(), mennanov.NewSystemClock(), mennanov.NewStdLogger())
	}}
	return limiter{
		wait: func(ctx context.Context, key string) error {
			d, err := limiters.get(key).Limit(ctx)
			if err != nil {
				return err
			}
			return sleep(ctx, d)
		},
	}
}

func newMennanov(l limit) *mennanov.TokenBucket {
	return mennanov.NewTokenBucket(l.burst, l.interval, mennanov.NewLockNoop(),
		mennanov.NewTokenBucketInMemory(), mennanov.NewSystemClock(), mennanov.NewStdLogger())
}
