package flux

import (
	"errors"
	"fmt"
	"math"

	"github.com/fluxlimiter/flux/gcra"
)

// Change says how the limit of a key is changed.
type Change struct {
	// Version orders the changes of a key's limit that may arrive late or
	// twice: one whose version is not above that of the last is refused with
	// [ErrStaleLimit].
	// Defaults to 0: it is made, and leaves the version what it is.
	Version uint64

	// Transfer says what becomes of what the key has spent.
	// Defaults to Proportional.
	Transfer Transfer
}

// Transfer says what becomes of what a key has spent when its limit changes.
type Transfer uint8

const (
	// Proportional keeps the number of tokens that were spent, up to the new
	// burst: a raise takes effect at once, and a cut locks nobody out for longer
	// than the new burst takes to refill. See [gcra.Rescale].
	Proportional Transfer = iota

	// Keep keeps the time at which the key would have had all its tokens back.
	Keep

	// Reset forgets what was spent: the key has its whole burst.
	Reset
)

// SetLimit gives key a limit of its own from now on, which goes before
// [Config.LimitFor] and the limiter's. The zero Limit takes it back. Those who
// wait for the key have their turns reckoned anew; those whose turn cannot come
// any more, because it exceeds the new burst, say, are told so at once.
//
// It fails, and changes nothing, when limit is not valid, and when the change
// comes too late ([ErrStaleLimit]). A check that runs at the same time is decided
// by one limit or the other. A limit that was set is kept until it is taken
// back, and its version for good, some 100 bytes for each key.
func (l *Limiter[K]) SetLimit(key K, limit gcra.Limit, c Change) error {
	to := setLimit{version: c.Version}
	if limit != (gcra.Limit{}) {
		if err := limit.Validate(); err != nil {
			return err
		}
		to.limit = newGrounds(limit)
	}
	if c.Transfer > Reset {
		return fmt.Errorf("flux: unknown transfer %d", c.Transfer)
	}
	l.changing.Lock()
	defer l.changing.Unlock()
	set := l.set.Load()
	if set == nil {
		set = new(setLimits[K])
		l.set.Store(set)
		l.agree(*l.terms.Load())
	}
	hash := l.hash(key)
	switch last := set.find(hash, key).version; {
	case c.Version == 0:
		to.version = last
	case c.Version <= last:
		return fmt.Errorf("%w: version %d after %d", ErrStaleLimit, c.Version, last)
	}

	// From here on checks of the key wait for the lock of its room, so that
	// none uses the new limit before the tokens are carried over.
	l.addMark(hash)
	defer l.removeMark(hash)
	defer l.room(hash).interrupt(key)()
	before := l.ownLimit(key)
	set.put(hash, key, to)
	after := l.ownLimit(key)
	l.renew(hash)
	now := l.terms.Load().pace.at(l.Now())
	switch c.Transfer {
	case Proportional:
		l.table.RescaleAt(key, now, before.ref(), after.ref())
	case Reset:
		return l.table.RefundAt(key, after.ref(), now, math.MaxInt64)
	}
	return nil
}

// SetLimits is [Limiter.SetLimit] for many keys. A change that fails does not
// keep the others from being made; the error joins all.
func (l *Limiter[K]) SetLimits(limits map[K]gcra.Limit, c Change) error {
	var errs []error
	for key, limit := range limits {
		if err := l.SetLimit(key, limit, c); err != nil {
			errs = append(errs, fmt.Errorf("key %v: %w", key, err))
		}
	}
	return errors.Join(errs...)
}

// SetDefault changes the limit of every key that has none of its own, in the
// way of [Proportional], whatever their number; see [Change] for version, and
// [Limiter.SetLimit] for the rest. It goes over all tracked keys, in small steps
// that delay no call.
func (l *Limiter[K]) SetDefault(limit gcra.Limit, version uint64) error {
	if err := limit.Validate(); err != nil {
		return err
	}
	l.changing.Lock()
	defer l.changing.Unlock()
	if version != 0 && version <= l.version {
		return fmt.Errorf("%w: version %d after %d", ErrStaleLimit, version, l.version)
	}
	l.advanceAll() // what is due comes under the limit so far
	before := *l.terms.Load()
	next := before
	next.changing = true
	l.agree(next)
	l.renewAll()
	defer l.renewAll()
	if err := l.table.SetLimit(before.pace.at(l.Now()), limit); err != nil {
		l.agree(before)
		return err
	}
	next.changing = false
	next.by = &grounds{limit: l.table.Limit(), pace: before.pace}
	l.agree(next)
	l.version = max(l.version, version)
	l.advanceAll()
	return nil
}
