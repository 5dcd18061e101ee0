package streamtest

import (
	"math/rand/v2"
	"sync"
	"time"
)

// Rand decides at random for what runs concurrently: faults, handlers, and those
// who stir. Its methods may be called by any number of goroutines at once. A seed
// gives the same decisions in the same order; who gets which is up to the
// goroutines.
type Rand struct {
	mu sync.Mutex
	r  *rand.Rand
}

// NewRand returns a Rand with a seed.
func NewRand(seed uint64) *Rand { return &Rand{r: rand.New(rand.NewPCG(seed, 2))} }

// Chance is true once in n times, n at least 1.
func (r *Rand) Chance(n int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.r.IntN(n) == 0
}

// UpTo returns a time from 0 to d, which is positive, without d.
func (r *Rand) UpTo(d time.Duration) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Duration(r.r.Int64N(int64(d)))
}
