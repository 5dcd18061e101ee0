// Package stream stands between a message broker and a handler and decides for
// every message, once, what becomes of it: it is processed now, waits for its
// turn, is deferred, becomes a dead letter, or is dropped.
//
// A [Gate] asks a limiter for each message of a tenant, runs handlers for those
// that it admits, and shares the workers fairly between tenants. A [Source]
// connects it to a broker: see packages fluxnats and fluxkafka.
//
//	gate, err := stream.New(stream.Config[*fluxnats.Msg]{
//		Limiter: limiter,
//		Tenant:  func(m *fluxnats.Msg) string { return m.Headers().Get("Tenant") },
//	})
//	...
//	err = gate.Run(ctx, source, func(ctx context.Context, m *fluxnats.Msg) error {
//		return store(ctx, m.Data())
//	})
//
// # What it promises
//
// No message is lost: it is let go of at the broker only after a handler has
// returned nil for it, or after the broker has confirmed its deferral or its
// dead letter. So a message may be processed twice, after a crash say, and
// handlers have to bear that.
//
// No message runs before the limiter has granted it. The times of the grants of
// a tenant, [Info.Granted], keep its limit over every window exactly; a handler
// starts when it is granted or a little later.
//
// No tenant has more of the window than [Config.TenantWindow] allows. What a
// throttled tenant has beyond that is deferred, and the others are served as if
// it was not there.
//
// No partition of a source, see [Meta.Partition], has more of the window than
// [Config.PartitionWindow] allows. When one has that, it is held back, and no
// other.
//
// Tenants that have work share the workers by weight: over any time in which
// both have some, what two of them were given differs by no more than one
// message of each, measured in cost and divided by weight. A worker is never
// idle while a message could run.
//
// # What waits and what is deferred
//
// A message whose turn is within [Policy.MaxWait] waits in memory. One whose
// turn is later is handed back to the broker, with the time of its turn, as far
// as it can be foretold: those that are deferred come back one after the other,
// a little early, and are admitted when they do. Messages that arrive meanwhile
// come after them, unless they could run at once: no worker and no token is
// left unused for the sake of that. Some may be where messages of a key have to
// follow one that is away, and where the source has no others than such as it
// brings back later than half of MaxWait after the time that they were deferred to,
// or such as were deferred further than they had to be, because what they cost was
// estimated too high, or because their limit was raised since.
//
// A message that waits here for longer than [Policy.MaxHold], and so holds back
// the commits of its partition, is deferred as well, if others get on meanwhile.
//
// # Order
//
// [Config.Order] says which messages are processed one after another. With
// [Unordered] none are, and there is no order, beyond that messages of a tenant
// that wait here go in the order in which they came. With [PerKey] it is those
// of a key of a tenant, with [PerTenant] those of a tenant, which is then one
// key. The keys of a tenant that have work take turns, message by message, so
// that a key with many does not hold up the others; a message may wait longer for
// that than was foretold when it came.
//
// The messages of a key:
//
//   - One that waits, for its limit or a worker, is not overtaken by a later one
//     of its key.
//   - While one is processed, waits for its next attempt in memory, or is being
//     settled, the later ones wait.
//   - While one is deferred, for its limit, to be tried again later or because
//     its handler asked for it, later ones wait here if it is due back within
//     half of MaxWait and no more than a quarter of the window waits so, nor all
//     but one of the places of their tenant, nor three quarters of those of their
//     partition, and are deferred behind it otherwise. However often they are, it
//     counts as one deferral, see [Policy.MaxDeferrals].
//   - One that is settled is over. The later ones do not wait for a copy of it that
//     was deferred, if that was before another of the key was settled: a broker need
//     not bring it back.
//   - A dead letter or a dropped message is over: the later ones go on. Where no
//     handler has had it they may do so before the broker has confirmed it, so that
//     one which is released or revoked by then comes again after them.
//   - After a revocation, messages that come again go in their old order, before
//     any later one that has not been started.
//
// The gate knows of what it has deferred itself, in this call of Run, and for as
// long as that is no more than 30 seconds overdue and no more than 16 times the
// window, or 4096 messages. Beyond that, and when a deferred message comes back
// to another consumer, a later one may overtake it. The order is that of
// [Meta.Order]. For the order of a key to hold over several processes, all of
// its messages must go to one of them at a time, as those of a partition do.
//
// # Batches, costs and channels
//
// [Gate.RunBatch] hands a handler several messages at once, each of which was
// admitted on its own and has a result of its own. [SetCost] corrects what a
// message was estimated to cost when its handler knows better. [FromChan] puts a
// gate behind a channel instead of a broker, and [Throttle] is a limit per key
// and nothing else, for channels and iterators.
//
// # Faults
//
// A handler's error is an attempt, and tried again after [Policy.Backoff]; a
// deferral is not an attempt, and each has a bound of its own. While the handlers
// of a tenant hang, what it has beyond its share of the window comes and goes,
// each message about twice a minute, and is not given up for that. A settle that
// fails is tried again until it succeeds, the message is revoked, or the drain
// ends. See [Gate.Run] for the end, and [Config.Limiter] for a limiter that
// cannot decide.
package stream
