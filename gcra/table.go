package gcra

import (
	"fmt"
	"hash/maphash"
	"sync"
)

// TableConfig configures a [Table].
type TableConfig struct {
	// Limit is the limit of every key whose calls name none of their own.
	// Defaults to the zero Limit: every call must name one.
	Limit Limit

	// MaxKeys bounds the number of keys tracked at once.
	// Defaults to 0, no bound.
	MaxKeys int
}

// Table keeps the state of many keys. Its methods may be called by any number
// of goroutines at once.
type Table[K comparable] struct {
	seed maphash.Seed
	core core
}

type core struct {
	mu    sync.Mutex
	tats  map[uint64]int64
	limit Limit
}

// NewTable returns an empty table.
func NewTable[K comparable](cfg TableConfig) (*Table[K], error) {
	if cfg.MaxKeys < 0 {
		return nil, fmt.Errorf("flux: MaxKeys %d is negative", cfg.MaxKeys)
	}
	if cfg.Limit != (Limit{}) {
		if err := cfg.Limit.Validate(); err != nil {
			return nil, err
		}
	}
	return &Table[K]{seed: maphash.MakeSeed(), core: core{tats: make(map[uint64]int64), limit: cfg.Limit}}, nil
}

// TakeAt is [Limit.Take] on the state of key. A nil limit means the table's.
func (t *Table[K]) TakeAt(key K, limit *Limit, now, n int64) (Decision, error) {
	return t.Key(key).TakeAt(limit, now, n)
}

// RefundAt is [Limit.Refund] on the state of key.
func (t *Table[K]) RefundAt(key K, limit *Limit, now, n int64) error {
	return t.Key(key).RefundAt(limit, now, n)
}

// DebtAt is [Limit.Debt] on the state of key.
func (t *Table[K]) DebtAt(key K, limit *Limit, now, n int64) (Decision, error) {
	return t.Key(key).DebtAt(limit, now, n)
}

// Key resolves key to a handle.
func (t *Table[K]) Key(key K) *Handle {
	return &Handle{hash: maphash.Comparable(t.seed, key), core: &t.core}
}

// SetLimit changes the table's limit at now, and the debt of every key that is
// under it to the same number of tokens under the new one. Keys with a limit of
// their own are not touched.
func (t *Table[K]) SetLimit(now int64, limit Limit) error {
	if err := limit.Validate(); err != nil {
		return err
	}
	t.core.mu.Lock()
	defer t.core.mu.Unlock()
	for k, tat := range t.core.tats {
		t.core.tats[k] = Rescale(tat, now, &t.core.limit, &limit)
	}
	t.core.limit = limit
	return nil
}

// RescaleAt is [Rescale] on the state of key. A nil limit means the table's.
func (t *Table[K]) RescaleAt(key K, now int64, from, to *Limit) {
	t.Key(key).RescaleAt(now, from, to)
}

// Len returns the number of tracked keys.
func (t *Table[K]) Len() int {
	t.core.mu.Lock()
	defer t.core.mu.Unlock()
	return len(t.core.tats)
}

// Sweep drops keys that are fresh at now. It looks at about budget keys, from
// where the last call left off, and reports whether it came to the end of the
// table.
func (t *Table[K]) Sweep(now int64, budget int) (removed int, done bool) {
	t.core.mu.Lock()
	defer t.core.mu.Unlock()
	for k, tat := range t.core.tats {
		if tat <= now {
			delete(t.core.tats, k)
			removed++
		}
	}
	return removed, true
}

// Handle is a key of a [Table], resolved once.
type Handle struct {
	hash uint64
	core *core
}

// TakeAt is [Limit.Take] on the state of the key.
func (h *Handle) TakeAt(limit *Limit, now, n int64) (Decision, error) {
	h.core.mu.Lock()
	defer h.core.mu.Unlock()
	tat, ok := h.core.tats[h.hash]
	if !ok {
		tat = now
	}
	next, d, err := h.limit(limit).Take(tat, now, n)
	if next != tat {
		h.core.tats[h.hash] = next
	}
	return d, err
}

// RefundAt is [Limit.Refund] on the state of the key.
func (h *Handle) RefundAt(limit *Limit, now, n int64) error {
	h.core.mu.Lock()
	defer h.core.mu.Unlock()
	tat, ok := h.core.tats[h.hash]
	if !ok {
		tat = now
	}
	next, err := h.limit(limit).Refund(tat, now, n)
	if next != tat {
		h.core.tats[h.hash] = next
	}
	return err
}

// DebtAt is [Limit.Debt] on the state of the key.
func (h *Handle) DebtAt(limit *Limit, now, n int64) (Decision, error) {
	h.core.mu.Lock()
	defer h.core.mu.Unlock()
	tat, ok := h.core.tats[h.hash]
	if !ok {
		tat = now
	}
	next, d, err := h.limit(limit).Debt(tat, now, n)
	if next != tat {
		h.core.tats[h.hash] = next
	}
	return d, err
}

// RescaleAt is [Rescale] on the state of the key.
func (h *Handle) RescaleAt(now int64, from, to *Limit) {
	h.core.mu.Lock()
	defer h.core.mu.Unlock()
	if tat, ok := h.core.tats[h.hash]; ok {
		h.core.tats[h.hash] = Rescale(tat, now, h.limit(from), h.limit(to))
	}
}

func (h *Handle) limit(own *Limit) *Limit {
	if own != nil {
		return own
	}
	limit := h.core.limit
	return &limit
}
