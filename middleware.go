package flux

import (
	"context"
	"log/slog"
	"slices"
)

// Middleware wraps a Checker in another. What it returns should be a [Refunder]
// if what it wraps is one.
type Middleware[K comparable] func(Checker[K]) Checker[K]

// Wrap returns c wrapped in every middleware, the first outermost.
func Wrap[K comparable](c Checker[K], through ...Middleware[K]) Checker[K] {
	for _, m := range slices.Backward(through) {
		c = m(c)
	}
	return c
}

// CheckerFunc is a function that is a [Checker].
type CheckerFunc[K comparable] func(ctx context.Context, key K, n int64) (Decision, error)

// Check calls f.
func (f CheckerFunc[K]) Check(ctx context.Context, key K, n int64) (Decision, error) {
	return f(ctx, key, n)
}

// refunding is a CheckerFunc that takes tokens back.
type refunding[K comparable] struct {
	CheckerFunc[K]
	refund func(ctx context.Context, key K, n int64) error
}

// Refund calls refund.
func (r refunding[K]) Refund(ctx context.Context, key K, n int64) error {
	return r.refund(ctx, key, n)
}

// MapKey returns a Checker that asks c about another key: to have one limit for
// all tenants together, one per plan or per topic. It is a [Refunder] if c is.
func MapKey[K, J comparable](c Checker[J], to func(K) J) Checker[K] {
	check := CheckerFunc[K](func(ctx context.Context, key K, n int64) (Decision, error) {
		return c.Check(ctx, to(key), n)
	})
	if r, ok := c.(Refunder[J]); ok {
		return refunding[K]{check, func(ctx context.Context, key K, n int64) error { return r.Refund(ctx, to(key), n) }}
	}
	return check
}

// Logging returns a middleware that logs every decision: denials at level Info,
// failures at Error and the rest at Debug, with the attributes key, n, limit,
// retry_after, denied_by and error where there is something to tell. A level
// that the logger does not log costs a few nanoseconds. A nil logger is
// slog.Default.
func Logging[K comparable](log *slog.Logger) Middleware[K] {
	if log == nil {
		log = slog.Default()
	}
	return func(c Checker[K]) Checker[K] {
		check := CheckerFunc[K](func(ctx context.Context, key K, n int64) (Decision, error) {
			d, err := c.Check(ctx, key, n)
			logDecision(orBackground(ctx), log, key, n, d, err)
			return d, err
		})
		if r, ok := c.(Refunder[K]); ok {
			return refunding[K]{check, r.Refund}
		}
		return check
	}
}

// logDecision writes one line about a decision.
func logDecision[K comparable](ctx context.Context, log *slog.Logger, key K, n int64, d Decision, err error) {
	level, message := slog.LevelDebug, "flux: allowed"
	switch {
	case err != nil:
		level, message = slog.LevelError, "flux: no decision"
	case !d.Allowed():
		level, message = slog.LevelInfo, "flux: denied"
	}
	if !log.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{slog.Any("key", key), slog.Int64("n", n)}
	if err != nil {
		attrs = append(attrs, slog.Any("error", err))
	} else {
		attrs = append(attrs, slog.String("limit", d.Limit().String()))
	}
	if err == nil && !d.Allowed() {
		attrs = append(attrs, slog.Duration("retry_after", d.RetryAfter))
	}
	if by := d.DeniedBy(); by != "" {
		attrs = append(attrs, slog.String("denied_by", by))
	}
	log.LogAttrs(ctx, level, message, attrs...)
}
