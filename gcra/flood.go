package gcra

import (
	"math"
	"sync/atomic"
)

// full reports whether there is no room for one more key.
func (c *core) full() bool {
	return c.maxKeys > 0 && c.tracked.Load() >= c.maxKeys
}

// reserve makes one more key tracked, and returns false if there is no room.
func (c *core) reserve() bool {
	if n := c.tracked.Add(1); c.maxKeys > 0 && n > c.maxKeys {
		c.tracked.Add(-1)
		return false
	}
	return true
}

// evict looks for keys that are fresh at now, if there is no room, and drops
// those that it finds in one page. It does not look far, so that a flood of new
// keys costs each of them the same, and goes on from there the next time.
func (c *core) evict(now int64) {
	if !c.full() {
		return
	}
	for range numShards / 4 {
		s := &c.shards[c.hand.Add(1)%numShards]
		if !s.mu.TryLock() {
			continue
		}
		dropped := s.evict(now)
		s.mu.Unlock()
		if dropped > 0 {
			c.evictions.Add(int64(dropped))
			return
		}
	}
}

// evict drops the fresh keys of the next page that has any, if it is one of the
// next few.
func (s *shard) evict(now int64) (dropped int) {
	for range 8 {
		g, i := s.segment(s.hand)
		s.hand = s.directory.Load().after(i)
		if g.oldest.Load() <= now {
			if dropped = s.expire(g, now); dropped > 0 {
				return dropped
			}
		}
	}
	return 0
}

// shared is the state of all keys that there was no room for. It is at the same
// time what a key starts from that there is room for, because it may have been
// among them. So a key never has a lower TAT than it would have if it were alone.
type shared struct {
	tat atomic.Int64
}

// sharedStates are one for the keys under the table's limit and one for each of
// the others, or several of them, so that a limit of a token per day does not
// keep out for a day whoever is new.
type sharedStates [64]shared

func newSharedStates() *sharedStates {
	s := new(sharedStates)
	for i := range s {
		s[i].tat.Store(math.MinInt64)
	}
	return s
}

// of returns the state for keys under a limit, nil for the table's. There is
// none if the table has room for any number of keys.
func (s *sharedStates) of(own *Limit) *shared {
	if s == nil {
		return nil
	}
	if own == nil {
		return &s[0]
	}
	h := (uint64(own.num)*0x9e3779b97f4a7c15 ^ uint64(own.den)) * 0x9e3779b97f4a7c15
	h = (h ^ uint64(own.burst)) * 0x9e3779b97f4a7c15
	return &s[1+h>>32%uint64(len(s)-1)]
}

// load returns the state: fresh at any time if there is none.
func (s *shared) load() int64 {
	if s == nil {
		return math.MinInt64
	}
	return s.tat.Load()
}

// raise makes the state tat or later.
func (s *shared) raise(tat int64) {
	if s == nil {
		return
	}
	for old := s.tat.Load(); old < tat; old = s.tat.Load() {
		if s.tat.CompareAndSwap(old, tat) {
			return
		}
	}
}

// apply does an operation on the state, or on floor if that is later.
func (s *shared) apply(o op, limit *Limit, floor, now, n int64) (Decision, error) {
	for {
		tat := s.tat.Load()
		base := max(tat, floor)
		next, d, err := limit.apply(o, base, now, n)
		if next == base || s.tat.CompareAndSwap(tat, next) {
			return d, err
		}
	}
}
