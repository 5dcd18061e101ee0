package stream

import (
	"fmt"
	"math"
	"time"

	"github.com/fluxlimiter/flux"
)

// Config configures a [Gate]. Its functions are called by several goroutines at
// once, the source's and the workers', and must not block. A panic of theirs is
// not recovered.
type Config[M any] struct {
	// Limiter decides when a tenant's message may run. A [flux.Limiter] is asked
	// in a few nanoseconds and told the exact time of each slot; it is asked with
	// a lock of the gate held, so its LimitFor and its hooks must not call the
	// gate. What is parked notices within a second that a limit was raised. Any
	// other Checker is asked by a worker, once at a time per tenant, and a raise
	// reaches what is parked when its wait is over.
	// [Policy.OnLimiterError] says what happens while it gives errors. Required.
	Limiter flux.Checker[string]

	// Tenant returns the tenant that a message belongs to, and "" if it has
	// none. Required.
	Tenant func(M) string

	// Order says which messages are processed one after another.
	// Defaults to PerKey if there is an OrderKey, and to Unordered otherwise.
	Order Order

	// OrderKey returns the key within its tenant that a message belongs to, and
	// "" for a message without order. It goes with the order PerKey only.
	// Defaults to nil.
	OrderKey func(M) string

	// Cost returns how many tokens a message spends when it is admitted; see
	// [SetCost] for a cost that is known later. Less than 1 counts as 1, more than
	// 2⁴⁰ as that, and what is negative in [Stats.Invalid] besides.
	// A message that costs more than its tenant's burst becomes a dead letter.
	// Defaults to nil: 1 each.
	Cost func(M) int64

	// Weight returns a tenant's share of the workers relative to other tenants
	// with work. Less than 1 counts as 1, more than 2³¹ - 1 as that, and what is
	// negative in [Stats.Invalid] besides. It is asked with every message, so it may
	// change.
	// Defaults to nil: 1 each.
	Weight func(tenant string) int64

	// Policy says what becomes of messages that cannot run at once.
	// Defaults to the zero Policy: they wait for a while, or are deferred.
	Policy Policy

	// Window is how many messages the gate holds at once, from delivery to
	// settlement. A source that cannot have so many makes it smaller while it runs,
	// and all parts of it in proportion: see [Intake].
	// Defaults to 1024.
	Window int

	// WindowBytes is how many bytes of messages it holds at once, as
	// [Meta.Bytes] counts them. It takes messages as long as it has less than
	// that, so the last one may exceed it. Tenants and partitions may have the
	// same part of it as of Window, counted likewise.
	// Defaults to 64 MiB.
	WindowBytes int

	// PartitionWindow is how many messages of a partition it holds at once, see
	// [Meta.Partition]. When they are as many, Deliver blocks for messages of
	// this partition and of no other, so that one which is stuck, or has a
	// backlog that is, does not hold up the rest.
	// Defaults to three quarters of Window, at least 1 and TenantWindow.
	PartitionWindow int

	// TenantWindow is how many messages one tenant may have parked or in
	// handlers; what goes beyond it takes the way of [Policy.OnFull]. A tenant
	// that is held back by its limit gets no more places than are still free,
	// either, so that any number of them together leave room for the others.
	//
	// A tenant that waits for nothing but workers may use the whole window, and
	// then holds up the source, as long as nobody is hurt by that: while no other
	// tenant was seen with a new message in the last ten seconds that has few of
	// them in the gate, less than half of TenantWindow. So a backlog of one tenant
	// alone, or of several that are all busy, is worked off without deferring any
	// of it. It gives up what it has beyond its share when a message of such a
	// tenant waits for a place, or when none of its own has gone to a worker for
	// five seconds. But the first message of a tenant that was silent for ten
	// seconds has to wait for what such a backlog has before it in the broker.
	//
	// What goes beyond the share is on its way out, to be deferred, say, and may
	// take up another quarter of Window, and no more than is still free. When it
	// does, Deliver blocks for messages of this tenant until the broker has caught
	// up; when the broker has settled none of them for five seconds, they are
	// released instead, and the broker will deliver them again: a hundred a second,
	// no more. Messages without a tenant share these places like those of one.
	// Defaults to half of Window, or of PartitionWindow if that is given, at least 1.
	TenantWindow int

	// Workers is how many handlers run at once.
	// Defaults to 16.
	Workers int

	// TenantWorkers is how many of them one tenant may use.
	// Defaults to Workers.
	TenantWorkers int

	// HandlerTimeout is how long one call of the handler may take: its context
	// has that deadline, and ends with the cause [ErrHandlerTimeout]. An error that
	// it returns then is an attempt like any other, and nil is success. A
	// handler that pays no heed to its context keeps its worker.
	// Defaults to 0, without bound.
	HandlerTimeout time.Duration

	// DrainTimeout is how long running handlers, and the settling of what they
	// have done, may go on after Run's context ended.
	// Defaults to 10 seconds.
	DrainTimeout time.Duration

	// Hooks are told what the gate does.
	// Defaults to none.
	Hooks Hooks
}

const (
	defaultWindow       = 1024
	defaultWindowBytes  = 64 << 20
	defaultWorkers      = 16
	defaultDrainTimeout = 10 * time.Second
	defaultMaxWait      = 5 * time.Second
	defaultMaxHold      = 30 * time.Second
	defaultMaxDeferrals = 16
	defaultMaxAttempts  = 5
)

// resolve checks cfg and returns it with its defaults filled in.
func (cfg Config[M]) resolve() (Config[M], error) {
	invalid := func(format string, args ...any) (Config[M], error) {
		return Config[M]{}, fmt.Errorf("%w: "+format, append([]any{ErrInvalidConfig}, args...)...)
	}
	if local, ok := cfg.Limiter.(*flux.Limiter[string]); cfg.Limiter == nil || ok && local == nil {
		return invalid("Limiter is nil")
	}
	if cfg.Tenant == nil {
		return invalid("Tenant is nil")
	}
	for _, field := range []struct {
		name  string
		value int
	}{
		{"Window", cfg.Window},
		{"WindowBytes", cfg.WindowBytes},
		{"PartitionWindow", cfg.PartitionWindow},
		{"TenantWindow", cfg.TenantWindow},
		{"Workers", cfg.Workers},
		{"TenantWorkers", cfg.TenantWorkers},
	} {
		if field.value < 0 {
			return invalid("%s %d is negative", field.name, field.value)
		}
	}
	if cfg.HandlerTimeout < 0 {
		return invalid("HandlerTimeout %v is negative", cfg.HandlerTimeout)
	}
	if cfg.DrainTimeout < 0 {
		return invalid("DrainTimeout %v is negative", cfg.DrainTimeout)
	}
	if cfg.Window == 0 {
		cfg.Window = defaultWindow
	}
	if cfg.WindowBytes == 0 {
		cfg.WindowBytes = defaultWindowBytes
	}
	if cfg.TenantWindow == 0 && cfg.PartitionWindow > 0 {
		cfg.TenantWindow = max(1, min(cfg.Window, cfg.PartitionWindow)/2)
	}
	if cfg.TenantWindow == 0 {
		cfg.TenantWindow = max(1, cfg.Window/2)
	}
	if cfg.PartitionWindow == 0 {
		cfg.PartitionWindow = max(1, cfg.Window-cfg.Window/4, min(cfg.TenantWindow, cfg.Window))
	}
	if cfg.Workers == 0 {
		cfg.Workers = defaultWorkers
	}
	if cfg.TenantWorkers == 0 {
		cfg.TenantWorkers = cfg.Workers
	}
	if cfg.DrainTimeout == 0 {
		cfg.DrainTimeout = defaultDrainTimeout
	}
	if cfg.PartitionWindow > cfg.Window {
		return invalid("PartitionWindow %d is larger than Window %d", cfg.PartitionWindow, cfg.Window)
	}
	if cfg.TenantWindow > cfg.Window {
		return invalid("TenantWindow %d is larger than Window %d", cfg.TenantWindow, cfg.Window)
	}
	switch {
	case cfg.Order == 0 && cfg.OrderKey != nil:
		cfg.Order = PerKey
	case cfg.Order == 0:
		cfg.Order = Unordered
	case cfg.Order > PerTenant:
		return invalid("Order is %v: want unordered, per_key or per_tenant", cfg.Order)
	case cfg.Order == PerKey && cfg.OrderKey == nil:
		return invalid("Order is %v, but OrderKey is nil", cfg.Order)
	case cfg.Order != PerKey && cfg.OrderKey != nil:
		return invalid("Order is %v, but OrderKey is given", cfg.Order)
	}
	if cfg.TenantWorkers > cfg.Workers {
		return invalid("TenantWorkers %d is larger than Workers %d", cfg.TenantWorkers, cfg.Workers)
	}
	policy, err := cfg.Policy.resolve()
	if err != nil {
		return Config[M]{}, err
	}
	cfg.Policy = policy
	return cfg, nil
}

// resolve checks p and returns it with its defaults filled in.
func (p Policy) resolve() (Policy, error) {
	invalid := func(format string, args ...any) (Policy, error) {
		return Policy{}, fmt.Errorf("%w: Policy."+format, append([]any{ErrInvalidConfig}, args...)...)
	}
	switch p.OnDenied {
	case 0:
		p.OnDenied = Defer
	case Defer, DeadLetter, Drop:
	default:
		return invalid("OnDenied is %v: want defer, dead_letter or drop", p.OnDenied)
	}
	switch p.OnFull {
	case 0:
		p.OnFull = p.OnDenied
	case Defer, DeadLetter, Drop:
	default:
		return invalid("OnFull is %v: want defer, dead_letter or drop", p.OnFull)
	}
	switch p.OnNoTenant {
	case 0:
		p.OnNoTenant = DeadLetter
	case DeadLetter, Drop:
	default:
		return invalid("OnNoTenant is %v: want dead_letter or drop", p.OnNoTenant)
	}
	if p.OnLimiterError > FailClosed {
		return invalid("OnLimiterError is %v: want wait, open or closed", p.OnLimiterError)
	}
	if p.MaxAge < 0 {
		return invalid("MaxAge %v is negative", p.MaxAge)
	}
	switch {
	case p.MaxWait < 0:
		p.MaxWait = -1
	case p.MaxWait == 0 && p.MaxAge > 0:
		p.MaxWait = min(defaultMaxWait, p.MaxAge)
	case p.MaxWait == 0:
		p.MaxWait = defaultMaxWait
	case p.MaxAge > 0 && p.MaxWait > p.MaxAge:
		return invalid("MaxWait %v is longer than MaxAge %v: a message would expire before its wait is over", p.MaxWait, p.MaxAge)
	}
	switch {
	case p.MaxHold == 0:
		p.MaxHold = max(defaultMaxHold, 2*min(p.MaxWait, math.MaxInt64/2))
	case p.MaxHold > 0 && p.MaxHold < p.MaxWait:
		return invalid("MaxHold %v is shorter than MaxWait %v: a message would be let out before its wait is over", p.MaxHold, p.MaxWait)
	}
	if p.MaxDeferrals == 0 {
		p.MaxDeferrals = defaultMaxDeferrals
	}
	if p.MaxAttempts == 0 {
		p.MaxAttempts = defaultMaxAttempts
	}
	if p.Backoff == nil {
		p.Backoff = defaultBackoff
	}
	return p, nil
}

// withoutDefer returns an error if p, which is resolved, defers what is denied.
func (p *Policy) withoutDefer() error {
	switch {
	case p.OnDenied == Defer:
		return fmt.Errorf("%w: Policy.OnDenied is %v, which this source cannot do", ErrInvalidConfig, p.OnDenied)
	case p.OnFull == Defer:
		return fmt.Errorf("%w: Policy.OnFull is %v, which this source cannot do", ErrInvalidConfig, p.OnFull)
	}
	return nil
}

// defaultBackoff is 100 ms doubled per failed attempt, at most 30 s.
func defaultBackoff(failed int) time.Duration {
	return doubled(100*time.Millisecond, failed-1, 30*time.Second)
}

// doubled returns d doubled n times, at most limit.
func doubled(d time.Duration, n int, limit time.Duration) time.Duration {
	for ; n > 0 && d < limit; n-- {
		d *= 2
	}
	return min(d, limit)
}
