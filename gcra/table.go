package gcra

import (
	"fmt"
	"hash/maphash"
	"math"
	"sync"
	"sync/atomic"
)

// TableConfig configures a [Table].
type TableConfig struct {
	// Limit is the limit of every key whose calls name none of their own.
	// Defaults to the zero Limit: every call must name one.
	Limit Limit

	// MaxKeys bounds the number of keys tracked at once, and with it the memory
	// of the table: see [Table] for what becomes of the keys beyond.
	// Defaults to 0, no bound.
	MaxKeys int
}

// Table keeps the state of many keys, each a number. It remembers what keys owe
// and nothing else: a key that it does not know is as good as new, and a key
// that has become as good as new may be forgotten at any time, which changes no
// decision. Its methods may be called by any number of goroutines at once.
//
// # Limits
//
// A call names the limit of its key, or nil for the table's, which
// [Table.SetLimit] changes for all keys that are under it. What a key owes is
// kept as a time. It stays that time when a call names another limit than the
// last one did, and [Table.RescaleAt] makes it the same number of tokens instead.
// A limit that a call names must not be modified and is kept by its Decision.
//
// # Cost
//
// A call for a key that is known takes no lock and allocates nothing: it finds
// the key by its hash and replaces a single number. A refusal only reads. A new
// key takes one of a few locks for some tens of nanoseconds. Growing, shrinking
// and forgetting is done to one page of at most 256 keys at a time, in some
// microseconds. A key takes 20 to 40 bytes, whatever its type, and nothing that
// the garbage collector would have to look at.
//
// # Collisions
//
// Keys are not kept, only their 64-bit hashes, and two keys of equal hash share
// a state. That any two of n keys do has a probability of n²/2⁶⁵: one in 37
// million for a million keys. Nobody can choose keys that do, as every table
// hashes with a random seed of its own.
//
// # Too many keys
//
// With [TableConfig.MaxKeys] keys tracked, a new key takes the place of one that
// is as good as new. They are looked for in a part of the table at a time, and
// where none is found, the new key is not tracked: it shares one state with all
// others of the same limit that are not tracked either (limits that are rare may
// have to share one, too). So a flood of keys is given one limit's worth
// altogether, and neither the memory nor a tracked key is touched. A key that
// finds room later starts from the shared state, because it may have been one of
// those who used it: no key is ever given more than its limit. Tokens of the
// shared state are not given back by a refund.
//
// # Time
//
// Times come from one clock, in nanoseconds within ±2⁶². A call may come with an
// earlier time than others before it, because threads race or a batch took long,
// and is never given more for it. But a key that is not known may have been
// forgotten at a later time than the call's, and is then taken to owe the
// difference: sweep with a time that lies back as far as calls may.
type Table[K comparable] struct {
	core core
	seed maphash.Seed
}

// NewTable returns an empty table, or an error that names the field of cfg that
// is wrong. A table of a handful of keys takes 70 KB.
func NewTable[K comparable](cfg TableConfig) (*Table[K], error) {
	if cfg.Limit != (Limit{}) {
		if err := cfg.Limit.Validate(); err != nil {
			return nil, fmt.Errorf("flux: TableConfig.Limit: %w", err)
		}
	}
	if cfg.MaxKeys < 0 {
		return nil, fmt.Errorf("flux: TableConfig.MaxKeys: %d is negative", cfg.MaxKeys)
	}
	t := &Table[K]{seed: maphash.MakeSeed()}
	t.core.init(cfg)
	return t, nil
}

// hash is maphash.Comparable, which is as fast for strings as maphash.String.
func (t *Table[K]) hash(key K) uint64 { return maphash.Comparable(t.seed, key) }

// TakeAt is [Limit.Take] on the state of key, under limit or, if it is nil, the
// table's.
func (t *Table[K]) TakeAt(key K, limit *Limit, now, n int64) (Decision, error) {
	h := t.hash(key)
	return t.core.shard(h).take(fingerprint(h, limit), limit, now, n)
}

// RefundAt is [Limit.Refund] on the state of key, under limit or, if it is nil,
// the table's.
func (t *Table[K]) RefundAt(key K, limit *Limit, now, n int64) error {
	h := t.hash(key)
	_, err := t.core.shard(h).apply(opRefund, fingerprint(h, limit), limit, now, n)
	return err
}

// DebtAt is [Limit.Debt] on the state of key, under limit or, if it is nil, the
// table's.
func (t *Table[K]) DebtAt(key K, limit *Limit, now, n int64) (Decision, error) {
	h := t.hash(key)
	return t.core.shard(h).apply(opDebt, fingerprint(h, limit), limit, now, n)
}

// Key resolves key once, for callers that come back to it: a call on the handle
// neither hashes the key nor looks it up, which is most of the work. It makes no
// key tracked.
func (t *Table[K]) Key(key K) *Handle {
	h := new(Handle)
	t.Resolve(key, h)
	return h
}

// Resolve is [Table.Key] for a Handle that is a part of something else, which is
// a step less for every call on it. It may be called once for h, before all else.
func (t *Table[K]) Resolve(key K, h *Handle) {
	hash := t.hash(key)
	h.resolve(t.core.shard(hash), fingerprint(hash, nil))
}

// RescaleAt is [Rescale] on the state of key; from and to are the table's limit
// where they are nil. The calls for the key that come after it must name the
// limit to. One that runs at the same time and has read the limit from counts
// in full, before the change or after it; after it, it pays the price that it
// had read.
func (t *Table[K]) RescaleAt(key K, now int64, from, to *Limit) {
	h := t.hash(key)
	t.core.shard(h).rescale(fingerprint(h, nil), now, from, to)
}

// SetLimit changes the table's limit, as by [Rescale] at now for every key that
// is under it. Keys under a limit of their own are not touched.
//
// It goes over all keys, page by page, some 40 ns for each key, and no other call
// waits for more than a page. The change is made at one instant all the same: a
// call that comes to a page before SetLimit does converts it then. A call that
// runs at the same time is priced by one limit or the other, and is counted
// exactly once, under whichever limit it was.
//
// It fails, and changes nothing, when limit is not valid ([ErrInvalidLimit]) or
// now is out of range ([ErrTime]).
func (t *Table[K]) SetLimit(now int64, limit Limit) error { return t.core.setLimit(now, limit) }

// Limit returns the table's limit, which must not be modified. While SetLimit runs
// it may be the one before or the one after.
func (t *Table[K]) Limit() *Limit {
	s := &t.core.shards[0]
	s.mu.Lock()
	defer s.mu.Unlock()
	return &s.rule.limit
}

// Sweep forgets keys that have been as good as new since now or longer. It looks
// at about budget of them, at one page at least, from where the last call left
// off, and returns how many it forgot and whether it came to the end of the
// table; the next call begins anew then. Whoever must have seen every key, though
// others sweep as well and may have left off anywhere, goes on to the second end.
//
// Sweeping costs others nothing but the lock of one page at a time. How often
// to do it, and whether, decides only how much memory keys take that do not
// come back. Calls of Sweep wait for one another.
func (t *Table[K]) Sweep(now int64, budget int) (removed int, done bool) {
	return t.core.sweep(now, budget)
}

// Len returns the number of keys that are tracked: those that were used and not
// forgotten since.
func (t *Table[K]) Len() int { return int(t.core.tracked.Load()) }

// Stats tells how a table fares. Its counts are of the whole life of the table.
type Stats struct {
	// Tracked is how many keys are tracked, as of Len.
	Tracked int

	// Slots is how many keys there is memory for, 16 bytes each: two to three
	// times Tracked at most times.
	Slots int

	// Rebuilds is how often a page was replaced: split, merged, purged or
	// converted to another limit.
	Rebuilds int64

	// Evictions is how many keys were forgotten to make room for others, as
	// good as new all of them.
	Evictions int64

	// SharedCalls is how often a shared state decided about a key that there was
	// no room for.
	SharedCalls int64
}

// Stats returns how the table fares. The numbers are read one after another.
func (t *Table[K]) Stats() Stats {
	c := &t.core
	return Stats{
		Tracked:     int(c.tracked.Load()),
		Slots:       int(c.pages.Load()) * pageSlots,
		Rebuilds:    c.rebuilds.Load(),
		Evictions:   c.evictions.Load(),
		SharedCalls: c.sharedCalls.Load(),
	}
}

// core is a table without the type of its keys.
type core struct {
	shards  [numShards]shard
	maxKeys int64
	shared  *sharedStates // nil if any number of keys is tracked

	changing sync.Mutex // held while the limit changes

	sweeping sync.Mutex // held by a step of a sweep
	swept    tour

	_           [64]byte // new keys write what follows
	tracked     atomic.Int64
	pages       atomic.Int64
	rebuilds    atomic.Int64
	evictions   atomic.Int64
	sharedCalls atomic.Int64
	hand        atomic.Uint32 // the shard where evict looks next
}

func (c *core) init(cfg TableConfig) {
	c.maxKeys = int64(cfg.MaxKeys)
	if c.maxKeys > 0 {
		c.shared = newSharedStates()
	}
	r := &rule{limit: cfg.Limit}
	for i := range c.shards {
		s := &c.shards[i]
		s.table = c
		s.floor = math.MinInt64
		s.rule = r
		s.limit.Store(&r.limit)
		d := newDirectory(minDepth)
		s.directory.Store(d)
		d.set(s.newSegment(0, 0), 0, uint64(len(d.pages)))
	}
}

func (c *core) shard(hash uint64) *shard { return &c.shards[hash>>(64-shardBits)] }
