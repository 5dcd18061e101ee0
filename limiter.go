package flux

import (
	"context"
	"fmt"
	"time"

	"github.com/fluxlimiter/flux/gcra"
)

// Config configures a [Limiter].
type Config[K comparable] struct {
	// Limit is the limit of every key that LimitFor does not answer for.
	// Required.
	Limit gcra.Limit

	// LimitFor returns the limit of a key, and the zero Limit for keys that
	// have none of their own and take Limit. It is called on every check, so it
	// must be fast, must not block, and must be safe for concurrent use.
	// Defaults to nil: Limit for every key.
	LimitFor func(K) gcra.Limit

	// MaxKeys bounds the number of keys tracked at once.
	// Defaults to 0, no bound.
	MaxKeys int
}

// Limiter limits many keys, each on its own. Its methods may be called by any
// number of goroutines at once.
type Limiter[K comparable] struct {
	cfg   Config[K]
	table *gcra.Table[K]
	base  time.Time
}

// New returns a limiter, or an error that names the field of cfg that is wrong.
// It starts no goroutine.
func New[K comparable](cfg Config[K]) (*Limiter[K], error) {
	if err := cfg.Limit.Validate(); err != nil {
		return nil, fmt.Errorf("flux: Config.Limit: %w", err)
	}
	table, err := gcra.NewTable[K](gcra.TableConfig{MaxKeys: cfg.MaxKeys})
	if err != nil {
		return nil, err
	}
	return &Limiter[K]{cfg: cfg, table: table, base: time.Now()}, nil
}

// Now reads the limiter's clock: monotonic nanoseconds since the limiter was
// made. Read it once per batch and pass it to the calls that take a time.
func (l *Limiter[K]) Now() int64 { return int64(time.Since(l.base)) }

// Time converts a reading of the limiter's clock, such as [gcra.Decision.At],
// to a time.Time.
func (l *Limiter[K]) Time(at int64) time.Time { return l.base.Add(time.Duration(at)) }

// Check decides whether n tokens may be spent for key now. It never waits.
func (l *Limiter[K]) Check(ctx context.Context, key K, n int64) (Decision, error) {
	return l.Key(key).CheckAt(l.Now(), n)
}

// Key resolves key once, for callers that check the same key many times: a
// check on a handle with the batch's time costs a fraction of a keyed one.
// Handles may be kept for as long as the caller likes, and used by any number
// of goroutines at once.
func (l *Limiter[K]) Key(key K) *Handle[K] {
	return &Handle[K]{lim: l, key: key, slot: l.table.Key(key)}
}

// Handle is a key of a [Limiter], resolved once.
type Handle[K comparable] struct {
	lim  *Limiter[K]
	key  K
	slot *gcra.Handle
}

// CheckAt decides like [Limiter.Check], at a time read from [Limiter.Now].
func (h *Handle[K]) CheckAt(now, n int64) (Decision, error) {
	limit := &h.lim.cfg.Limit
	if h.lim.cfg.LimitFor != nil {
		if own := h.lim.cfg.LimitFor(h.key); own != (gcra.Limit{}) {
			limit = &own
		}
	}
	d, err := h.slot.TakeAt(limit, now, n)
	return Decision{Decision: d}, err
}

// RefundAt gives back n tokens that a check at the handle spent.
func (h *Handle[K]) RefundAt(now, n int64) error {
	return h.slot.RefundAt(&h.lim.cfg.Limit, now, n)
}
