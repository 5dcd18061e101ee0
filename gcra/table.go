package gcra

import (
	"fmt"
	"hash/maphash"
	"sync"
)

// TableConfig configures a [Table].
type TableConfig struct {
	// MaxKeys bounds the number of keys tracked at once.
	// Defaults to 0, no bound.
	MaxKeys int
}

// Table keeps the state of many keys. Its methods may be called by any number
// of goroutines at once.
type Table[K comparable] struct {
	seed maphash.Seed
	mu   sync.Mutex
	tats map[uint64]int64
}

// NewTable returns an empty table.
func NewTable[K comparable](cfg TableConfig) (*Table[K], error) {
	if cfg.MaxKeys < 0 {
		return nil, fmt.Errorf("flux: MaxKeys %d is negative", cfg.MaxKeys)
	}
	return &Table[K]{seed: maphash.MakeSeed(), tats: make(map[uint64]int64)}, nil
}

// TakeAt is [Limit.Take] on the state of key.
func (t *Table[K]) TakeAt(key K, limit *Limit, now, n int64) (Decision, error) {
	return t.Key(key).TakeAt(limit, now, n)
}

// Key resolves key to a handle.
func (t *Table[K]) Key(key K) *Handle {
	return &Handle{hash: maphash.Comparable(t.seed, key), mu: &t.mu, tats: t.tats}
}

// Len returns the number of tracked keys.
func (t *Table[K]) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.tats)
}

// Sweep drops keys that are fresh at now.
func (t *Table[K]) Sweep(now int64) (removed int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, tat := range t.tats {
		if tat <= now {
			delete(t.tats, k)
			removed++
		}
	}
	return removed
}

// Handle is a key of a [Table], resolved once.
type Handle struct {
	hash uint64
	mu   *sync.Mutex
	tats map[uint64]int64
}

// TakeAt is [Limit.Take] on the state of the key.
func (h *Handle) TakeAt(limit *Limit, now, n int64) (Decision, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	tat, ok := h.tats[h.hash]
	if !ok {
		tat = now
	}
	next, d, err := limit.Take(tat, now, n)
	if next != tat {
		h.tats[h.hash] = next
	}
	return d, err
}

// RefundAt is [Limit.Refund] on the state of the key.
func (h *Handle) RefundAt(limit *Limit, now, n int64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	next, err := limit.Refund(h.tats[h.hash], now, n)
	h.tats[h.hash] = next
	return err
}

// DebtAt is [Limit.Debt] on the state of the key.
func (h *Handle) DebtAt(limit *Limit, now, n int64) (Decision, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	next, d, err := limit.Debt(h.tats[h.hash], now, n)
	h.tats[h.hash] = next
	return d, err
}
