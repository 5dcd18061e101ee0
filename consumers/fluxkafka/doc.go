// Package fluxkafka connects a gate of package stream to Apache Kafka, on
// segmentio/kafka-go.
//
//	source, err := fluxkafka.New(fluxkafka.Config{
//		Brokers: []string{"localhost:9092"}, Group: "billing", Topics: []string{"orders"}, CreateTopics: true,
//	})
//	…
//	err = gate.Run(ctx, source, handle)
//
// # What it promises
//
// Every message that the group has not committed is delivered, at least once.
// An offset is committed when its message, and every one before it in the
// partition, is done: acknowledged, or durably in a lane or among the dead letters.
// What is done beyond that offset travels with the commit as metadata, so that
// the next owner of a partition does not repeat it. A commit, and a settle, of a
// partition that the group has given to another member has no effect.
//
// Aborted transactions and control records are never delivered, unless
// [Config.ReadUncommitted] asks for the former.
//
// A message is repeated when a member dies (what it had done since its last
// commit), when a handler is at work on it at the end of [Config.DrainTimeout] in
// a rebalance (what is parked goes to the next owner at once), and when a copy's
// confirmation was lost: the copies then carry the same flux-id header.
//
// Lanes and dead letters keep a message's key, value and headers; dead letters
// its time, too, if their topic takes it. Headers whose names begin with flux- are
// this package's: those of a producer are left out of the copies.
//
// # Order
//
// Messages of a partition are delivered in the order of their offsets, and it
// is the gate that keeps the order of a key from there, through deferrals too:
// a partition and its lanes are always with the same member, whose gate knows what
// it deferred. What it knows ends with it: when a partition moves, messages of a
// key may overtake those that another member deferred.
//
// # Limits
//
// It needs Kafka 0.11 or later (2.4 for the defaults of made topics) and the
// classic group protocol, which Kafka 4 still speaks. Each partition, of a lane
// too, has a connection and a goroutine of its own while it fetches: a member of
// many partitions should have few lanes. Rebalances are eager: all members stop, and
// drain, for each; assignment is sticky, so that few partitions move.
package fluxkafka
