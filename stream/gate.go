package stream

import (
	"context"
	"time"

	"github.com/fluxlimiter/flux"
)

// Handler processes one message. A nil error acknowledges it. Any other error
// is a failed attempt, unless it is [Permanent] or [RetryLater]; so is a panic.
// [FromContext] tells the handler what the gate knows of the message.
type Handler[M any] func(ctx context.Context, m M) error

// Config configures a [Gate].
type Config[M any] struct {
	// Limiter decides when a tenant's message may run. Required.
	Limiter flux.Checker[string]

	// Tenant returns the tenant that a message belongs to, and "" if it has
	// none. Required.
	Tenant func(M) string

	// OrderKey returns the key within its tenant whose messages must be
	// processed one after another in the order of their delivery, and "" for a
	// message without order.
	// Defaults to nil: no order.
	OrderKey func(M) string

	// Cost returns how many tokens a message spends, at least 1.
	// Defaults to nil: 1 each.
	Cost func(M) int64

	// Weight returns a tenant's share of the workers relative to other tenants
	// with work, at least 1.
	// Defaults to nil: 1 each.
	Weight func(tenant string) int64

	// Policy says what becomes of messages that cannot run at once.
	Policy Policy

	// Window is how many messages the gate holds at once, from delivery to
	// settlement.
	// Defaults to 1024.
	Window int

	// TenantWindow is how many of them one tenant may hold.
	// Defaults to half of Window, at least 1.
	TenantWindow int

	// Workers is how many handlers run at once.
	// Defaults to 16.
	Workers int

	// TenantWorkers is how many of them one tenant may use.
	// Defaults to Workers.
	TenantWorkers int

	// DrainTimeout is how long running handlers may go on after Run's context
	// ended.
	// Defaults to 10 seconds.
	DrainTimeout time.Duration

	// Hooks are told what the gate does.
	Hooks Hooks
}

// Hooks are functions that the gate calls, from its workers and while they
// wait, so they must be fast and safe for concurrent use. A nil hook costs
// nothing.
type Hooks struct {
	// Admitted is called before a message goes to the handler.
	Admitted func(Info)

	// Settled is called when the broker has confirmed what became of a message:
	// outcome is Process, Defer, DeadLetter or Drop.
	Settled func(info Info, outcome Outcome, reason Reason)
}

// Info is what the gate knows of a message.
type Info struct {
	Tenant string
	Cost   int64

	// Attempt counts this attempt: 1 for the first. Deferrals counts how often
	// the message was deferred before.
	Attempt   int
	Deferrals int

	// Published is when the message was first published, Delivered when the
	// gate took it, and Granted the time that the limiter's decision to admit it
	// was taken with: zero if it was not admitted.
	Published time.Time
	Delivered time.Time
	Granted   time.Time
}

// Stats are the gate's totals.
type Stats struct {
	Held, Waiting, Running                   int // messages in the window, parked, in a handler
	Processed, Deferred, DeadLettered        int64
	Dropped, Released, Revoked, SettleErrors int64
}

// Gate applies a limiter's decisions to a stream of messages.
type Gate[M any] struct{}

// New returns a gate, or an error that wraps [ErrInvalidConfig]. It starts
// nothing.
func New[M any](cfg Config[M]) (*Gate[M], error) { panic("skeleton") }

// Run takes messages from src and processes them with handle until ctx ends,
// the source is exhausted, or it fails.
func (g *Gate[M]) Run(ctx context.Context, src Source[M], handle Handler[M]) error { panic("skeleton") }

// Stats returns the gate's totals, TenantStats those of one tenant that it
// holds messages of.
func (g *Gate[M]) Stats() Stats { panic("skeleton") }

// TenantStats returns how many messages of a tenant are parked and running.
func (g *Gate[M]) TenantStats(tenant string) (waiting, running int) { panic("skeleton") }

// FromContext returns the Info of the message that ctx was made for.
func FromContext(ctx context.Context) (Info, bool) { panic("skeleton") }

// Permanent marks a handler's error as one that no retry can mend: the message
// becomes a dead letter at once.
func Permanent(err error) error { panic("skeleton") }

// RetryLater marks a handler's error as "not now": the message is deferred for
// at least d, and it does not count as a failed attempt.
func RetryLater(d time.Duration, err error) error { panic("skeleton") }
