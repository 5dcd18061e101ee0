package flux

import (
	"context"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fluxlimiter/flux/gcra"
)

// Config configures a [Limiter].
type Config[K comparable] struct {
	// Limit is the limit of every key that LimitFor does not answer for.
	// Required.
	Limit gcra.Limit

	// LimitFor returns the limit of a key, and the zero Limit for keys that
	// have none of their own and take Limit. Any other limit that is not valid
	// fails the call that asked for it. It is called on every check, and with
	// locks held, so it must be fast, must not block or call the limiter, and
	// must be safe for concurrent use.
	//
	// When its answer for a key changes, the time stays at which the key would
	// have had all its tokens back, as with [Keep], and those who wait follow
	// within a second. A limit that is changed by [Limiter.SetLimit] carries over
	// the number of tokens instead, and everyone follows at once.
	// Defaults to nil: Limit for every key.
	LimitFor func(K) gcra.Limit

	// MaxKeys bounds the number of keys tracked at once, and with it the memory
	// that they take, some 30 bytes each. With so many tracked a new key takes
	// the place of one that is as good as new or, where there is none, shares a
	// state with all others that found no room: a flood of keys is given one
	// limit's worth altogether, and those that are tracked do not notice.
	// [Limiter.Stats] tells of it.
	// Defaults to 0, no bound.
	MaxKeys int

	// MaxWait is the longest wait that Wait, WaitAsync, Reserve and Stream
	// begin: a longer one fails at once with [ErrWaitTooLong].
	// Defaults to 0, no bound but 36 years and the context's deadline.
	MaxWait time.Duration

	// MaxWaiters bounds how many wait at once for all keys together, and
	// MaxKeyWaiters for one of them: more fail at once with
	// [ErrTooManyWaiters]. Reservations count as waiters until their turn.
	// Default to 262144, and a quarter of MaxWaiters, at least 1.
	MaxWaiters    int
	MaxKeyWaiters int

	// Hooks are told what the limiter does: see [Hook].
	// Defaults to nil: nobody is.
	Hooks []Hook
}

// defaultMaxWaiters is some 70 MB of parked WaitAsync calls.
const defaultMaxWaiters = 1 << 18

// withDefaults returns cfg with its defaults filled in, or an error that names
// the field that is wrong.
func (cfg Config[K]) withDefaults() (Config[K], error) {
	if err := cfg.Limit.Validate(); err != nil {
		return cfg, fmt.Errorf("flux: Config.Limit: %w", err)
	}
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"MaxKeys", int64(cfg.MaxKeys)},
		{"MaxWait", int64(cfg.MaxWait)},
		{"MaxWaiters", int64(cfg.MaxWaiters)},
		{"MaxKeyWaiters", int64(cfg.MaxKeyWaiters)},
	} {
		if f.value < 0 {
			return cfg, fmt.Errorf("flux: Config.%s: %d is negative", f.name, f.value)
		}
	}
	if cfg.MaxWaiters == 0 {
		cfg.MaxWaiters = defaultMaxWaiters
	}
	if cfg.MaxKeyWaiters == 0 {
		cfg.MaxKeyWaiters = max(1, cfg.MaxWaiters/4)
	}
	if cfg.MaxKeyWaiters > cfg.MaxWaiters {
		return cfg, fmt.Errorf("flux: Config.MaxKeyWaiters: %d is above MaxWaiters, %d", cfg.MaxKeyWaiters, cfg.MaxWaiters)
	}
	return cfg, nil
}

// Limiter limits many keys, each on its own. Its methods may be called by any
// number of goroutines at once.
//
// [Limiter.Check] decides now. [Limiter.Wait], [Limiter.WaitAsync],
// [Limiter.Reserve] and [Limiter.Stream] wait for their turn: those who wait
// for one key form a queue, first in, first out, whatever the number of tokens
// each of them asks for, and nobody overtakes it. While a key has a queue, a
// Check of it is denied, and its RetryAfter counts everyone in the queue.
// Waiting spends nothing: the tokens are taken when the turn has come, so that
// who gives up leaves no trace and everyone behind moves up at once. A timer that
// fires late, by up to 100 ms, puts nobody off who is behind: turns are granted
// for the times at which they were due.
//
// A nil context is taken for context.Background.
type Limiter[K comparable] struct {
	cfg   Config[K]
	hooks *hooks[K] // nil if there are none
	table *gcra.Table[K]
	base  time.Time
	seed  maphash.Seed

	changing sync.Mutex // held while terms or set are changed
	terms    atomic.Pointer[terms]
	set      atomic.Pointer[setLimits[K]] // nil until a key's limit is set
	version  uint64                       // of the limit of terms, under changing
	limits   limitCache

	closed  atomic.Bool
	waiting atomic.Int64 // how many wait, in all rooms
	marked  atomic.Int64 // the sum of the counts of marks
	marks   [1 << 10]mark
	rooms   []room[K]
	idle    sync.Pool // of *waiter[K], each with an outbox, for Wait
}

// New returns a limiter, or an error that names the field of cfg that is wrong.
// It starts no goroutine.
func New[K comparable](cfg Config[K]) (*Limiter[K], error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	table, err := gcra.NewTable[K](gcra.TableConfig{Limit: cfg.Limit, MaxKeys: cfg.MaxKeys})
	if err != nil {
		return nil, err
	}
	hooks, err := newHooks[K](cfg.Hooks)
	if err != nil {
		return nil, err
	}
	l := &Limiter[K]{cfg: cfg, hooks: hooks, table: table, base: time.Now(), seed: maphash.MakeSeed()}
	l.agree(terms{by: &grounds{limit: table.Limit()}})
	l.openRooms()
	return l, nil
}

// Now reads the limiter's clock: monotonic nanoseconds since the limiter was
// made. Read it once per batch and pass it to the calls that take a time. Setting
// the system's clock does not move it. On some systems it stands still while the
// machine sleeps (golang/go#24595): tokens then come back later, never earlier.
func (l *Limiter[K]) Now() int64 { return int64(time.Since(l.base)) }

// Time converts a reading of the limiter's clock, such as [Decision.At], to a
// time.Time.
func (l *Limiter[K]) Time(at int64) time.Time { return l.base.Add(time.Duration(at)) }

// Check decides whether n tokens may be spent for key now, and spends them if
// so. It never waits, and so pays no heed to ctx. n = 0 is a peek. It fails, and
// spends nothing, when n is negative ([gcra.ErrNegative]) or above the burst
// ([gcra.ErrExceedsBurst]), and when Config.LimitFor answered with a limit that
// is not valid ([gcra.ErrInvalidLimit]).
//
// It costs one reading of the clock and half as much again, and allocates
// nothing, for a key that is tracked; for a new one some four times that, and the
// memory that it takes from then on. See [Limiter.Key] for less.
//
// A Check after [Limiter.Close] decides as ever.
func (l *Limiter[K]) Check(ctx context.Context, key K, n int64) (Decision, error) {
	if t := l.terms.Load(); t.alike && l.marked.Load() == 0 {
		d, err := l.table.TakeAt(key, nil, l.Now(), n)
		if d.By() == t.by.limit {
			return Decision{d.RetryAfter, d.ResetAfter, d.At, t.by}, err
		}
		return l.decision(t, nil, d, d.At), err
	}
	if l.hooks != nil {
		return l.hookedCheck(orBackground(ctx), key, n)
	}
	return l.checkAt(key, l.Now(), n)
}

// hookedCheck is Check between its hooks.
func (l *Limiter[K]) hookedCheck(ctx context.Context, key K, n int64) (d Decision, err error) {
	l.hooks.beforeCheck(ctx, key, n)
	d, err = l.checkAt(key, l.Now(), n)
	l.hooks.afterCheck(ctx, key, n, d, err)
	return d, err
}

// checkAt decides at a given time, without hooks.
func (l *Limiter[K]) checkAt(key K, now, n int64) (Decision, error) {
	t, own := l.terms.Load(), l.ownLimit(key)
	// After the limit was read: while it is being changed, the key is marked.
	if r := l.queued(key); r != nil {
		return r.check(key, now, n)
	}
	d, err := l.table.TakeAt(key, own.ref(), t.pace.at(now), n)
	return l.decision(t, own, d, now), err
}

// queued returns the room in which someone may wait for key, and nil if nobody
// does.
func (l *Limiter[K]) queued(key K) *room[K] {
	if l.marked.Load() != 0 {
		if hash := l.hash(key); l.mark(hash).count() != 0 {
			return l.room(hash)
		}
	}
	return nil
}

// Refund gives back n tokens that were spent for key: because the work turned
// out not to be needed, say. The key never becomes better than fresh, so a
// refund that comes after the tokens would have been back anyway does nothing.
// Those who wait for the key move up at once. It costs what a Check does, and
// fails as one does, but that n may exceed the burst. It pays no heed to ctx.
func (l *Limiter[K]) Refund(ctx context.Context, key K, n int64) error {
	return l.refundAt(key, l.Now(), n)
}

// refundAt is Refund at a given time.
func (l *Limiter[K]) refundAt(key K, now, n int64) error {
	if r := l.queued(key); r != nil {
		defer r.interrupt(key)()
		return l.table.RefundAt(key, l.ownLimit(key).ref(), l.terms.Load().pace.at(now), n)
	}
	err := l.table.RefundAt(key, l.ownLimit(key).ref(), l.terms.Load().pace.at(now), n)
	if r := l.queued(key); r != nil {
		r.interrupt(key)() // someone has come to wait meanwhile
	}
	return err
}

// Debt spends n tokens of key whether or not they are there, for a cost that is
// known only once the work is done; n may exceed the burst. Whoever comes next
// waits until the debt is worked off, and so do those who wait already. The
// Decision is that of a Check, but that RetryAfter is the time until the debt
// beyond the burst is worked off. It costs what a Check does, and fails as one
// does, but for n above the burst. It pays no heed to ctx.
func (l *Limiter[K]) Debt(ctx context.Context, key K, n int64) (Decision, error) {
	if r := l.queued(key); r != nil {
		defer r.interrupt(key)()
	}
	t, own, now := l.terms.Load(), l.ownLimit(key), l.Now()
	d, err := l.table.DebtAt(key, own.ref(), t.pace.at(now), n)
	return l.decision(t, own, d, now), err
}

// Len returns the number of keys that are tracked: those that were used and are
// not forgotten, see [Limiter.CleanupStale].
func (l *Limiter[K]) Len() int { return l.table.Len() }

// Live returns how many of them owe tokens just now, which takes about a nanosecond
// for each of the slots that [Limiter.Stats] tells of.
func (l *Limiter[K]) Live() int { return l.table.Live(l.terms.Load().pace.at(l.Now())) }

// Stats returns how the table of keys fares: see [gcra.Stats]. It costs a few
// loads.
func (l *Limiter[K]) Stats() gcra.Stats { return l.table.Stats() }

// hash spreads keys over the marks and the rooms.
func (l *Limiter[K]) hash(key K) uint64 {
	if s, ok := any(key).(string); ok {
		return maphash.String(l.seed, s)
	}
	return maphash.Comparable(l.seed, key)
}
