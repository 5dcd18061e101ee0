// Package flux limits work per key: so many tokens per period for each tenant,
// with a burst, exactly.
//
//	lim, err := flux.New(flux.Config[string]{Limit: gcra.PerSecond(100).WithBurst(20)})
//	...
//	d, err := lim.Check(ctx, tenant, 1) // decides now
//	if err == nil && !d.Allowed() {
//		// come back after d.RetryAfter, which is exact
//	}
//	err = lim.Wait(ctx, tenant, 1)      // returns when it is the tenant's turn
//	ch := lim.WaitAsync(ctx, tenant, 1) // the same, without a goroutine that waits
//
// A limit is a [gcra.Limit]: a rate, and how much of it may be used at one
// instant. The state of a key is one number, and a key that has rested is
// forgotten without a trace, see [Limiter.StartCleanup].
//
// # Deciding
//
// [Limiter.Check] answers with a [Decision], [Limiter.CheckAll] a batch at one
// reading of the clock. Who checks the same key over and over takes a
// [Limiter.Key], and passes the time of its batch, for a fraction of the cost.
// What was spent in vain is given back by [Limiter.Refund]; a cost that shows
// only afterwards is booked by [Limiter.Debt].
//
// # Waiting
//
// [Limiter.Wait] blocks. [Limiter.WaitAsync] answers on a channel and
// [Limiter.Stream] gates one; [Limiter.Reserve] takes a place in the queue and
// says how long it will be. All of them share one queue for each key: first in,
// first out, nobody is overtaken, and who gives up leaves no trace. A wait that
// could not end in time fails at once.
//
// # Limits
//
// Keys have the limit that [Limiter.SetLimit] gave them, or that
// [Config.LimitFor] answers with, or [Config.Limit]. All of them can change
// while they are in use, without a key losing count of what it has spent.
// [Limiter.SetFactor] slows everything down for as long as a backend is unwell.
//
// # Composing
//
// Whatever decides is a [Checker]: [Chain] makes one of several, all or nothing,
// and a [Middleware] wraps one in another. A [Hook] is told what a limiter does.
//
// # Messages
//
// Package [github.com/fluxlimiter/flux/stream] stands between a message broker
// and a handler, asks a limiter about every message, and decides what becomes of
// those that have to wait. Packages fluxnats and fluxkafka, in consumers, connect
// it to NATS and to Kafka.
package flux
