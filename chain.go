package flux

import (
	"context"
	"errors"
	"fmt"

	"github.com/fluxlimiter/flux/gcra"
)

// Refunder is a [Checker] that takes tokens back. The [Limiter] is one, and so
// is what [Chain], [MapKey] and [Logging] make of one.
type Refunder[K comparable] interface {
	Checker[K]

	// Refund gives back n tokens that a check of key spent.
	Refund(ctx context.Context, key K, n int64) error
}

// Link is one of the limits of a [Chain].
type Link[K comparable] struct {
	// Name is what [Decision.DeniedBy] says when this limit denies. Required,
	// and different for each link.
	Name string

	// Checker decides. It must be a [Refunder]. Required.
	Checker Checker[K]
}

// Chain returns a Checker that asks several limits for the same tokens, all or
// nothing: those of a tenant, of its plan, and of everyone together, say; see
// [MapKey] for limits with other keys. Wherever one limit denies or fails, those
// that had agreed get their tokens back.
//
// A denial names the limit that denies for longest, and its RetryAfter is the
// time until all would agree. A limit behind the first that denies is not asked
// for tokens, only for how long it would deny. When all agree the decision is
// that of the limit that has the least left.
//
// Limits are asked in order, so the one that denies most should come first:
// while a later one is asked, the tokens of those before are spent, and may be
// missed by others.
func Chain[K comparable](links ...Link[K]) (Refunder[K], error) {
	if len(links) == 0 {
		return nil, errors.New("flux: Chain: no links")
	}
	c := make(chain[K], len(links))
	names := make(map[string]bool, len(links))
	for i, link := range links {
		r, ok := link.Checker.(Refunder[K])
		switch {
		case link.Name == "":
			return nil, fmt.Errorf("flux: Chain: link %d has no name", i)
		case names[link.Name]:
			return nil, fmt.Errorf("flux: Chain: two links are named %q", link.Name)
		case link.Checker == nil:
			return nil, fmt.Errorf("flux: Chain: link %q has no Checker", link.Name)
		case !ok:
			return nil, fmt.Errorf("flux: Chain: link %q cannot take tokens back: %T has no Refund", link.Name, link.Checker)
		}
		names[link.Name] = true
		c[i] = named[K]{link.Name, r}
	}
	return c, nil
}

// chain is a Chain.
type chain[K comparable] []named[K]

// named is a Link that was found to be in order.
type named[K comparable] struct {
	name string
	Refunder[K]
}

// Check asks all limits.
func (c chain[K]) Check(ctx context.Context, key K, n int64) (Decision, error) {
	var least Decision
	for i, link := range c {
		d, err := link.Check(ctx, key, n)
		if err != nil {
			err = fmt.Errorf("flux: limit %q: %w", link.name, err)
			return Decision{}, errors.Join(err, c[:i].giveBack(ctx, key, n))
		}
		if !d.Allowed() {
			d = d.denied(link.name)
			if err := c[:i].giveBack(ctx, key, n); err != nil {
				return Decision{}, err
			}
			return c[i+1:].longest(ctx, key, n, d), nil
		}
		if i == 0 || d.Remaining() < least.Remaining() {
			least = d
		}
	}
	return least, nil
}

// longest returns the denial that lasts longest: d, or that of a limit in c.
func (c chain[K]) longest(ctx context.Context, key K, n int64, d Decision) Decision {
	for _, link := range c {
		// A limit that cannot tell now does not make the denial any less one.
		other, err := link.Check(ctx, key, 0)
		if err == nil && other.Limit() != (gcra.Limit{}) && other.Delay(n) > d.RetryAfter {
			other.RetryAfter = other.Delay(n)
			d = other.denied(link.name)
		}
	}
	return d
}

// giveBack undoes what was spent for a check that came to nothing. It does so
// even when ctx has ended meanwhile.
func (c chain[K]) giveBack(ctx context.Context, key K, n int64) error {
	if len(c) == 0 || n == 0 {
		return nil
	}
	return c.Refund(context.WithoutCancel(orBackground(ctx)), key, n)
}

// Refund gives the tokens back to all limits.
func (c chain[K]) Refund(ctx context.Context, key K, n int64) error {
	var errs []error
	for _, link := range c {
		if err := link.Refund(ctx, key, n); err != nil {
			errs = append(errs, fmt.Errorf("flux: refund to limit %q: %w", link.name, err))
		}
	}
	return errors.Join(errs...)
}
