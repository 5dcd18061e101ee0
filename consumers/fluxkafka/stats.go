package fluxkafka

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"
)

type counters struct {
	generations, joinErrors, fetchErrors atomic.Int64
	commits, commitErrors, fenced        atomic.Int64
	late, abandoned                      atomic.Int64
	relocated, mapsDropped, strays       atomic.Int64
}

// Stats is what a [Source] knows of itself. Counts are totals since it was
// made.
type Stats struct {
	// Member reports whether the source is a member of its group, and Since
	// since when it has been or has not, zero before the first Run. Not to be one for longer than
	// Config.RebalanceTimeout and Config.SessionTimeout together is worth an alert.
	Member bool
	Since  time.Time

	// Fault is why the source is not a member, nil if it is or if nothing went
	// wrong.
	Fault error

	// Generations counts the assignments, JoinErrors the failed attempts to get
	// one.
	Generations, JoinErrors int64

	// Commits counts the commits that were confirmed, CommitErrors those that
	// failed for a partition at least and were tried again, and Fenced the
	// generations that ended because the group had given the partitions to others.
	Commits, CommitErrors, Fenced int64

	// FetchErrors counts the fetches that failed and were tried again.
	FetchErrors int64

	// Late counts settles that had no effect because the partition was not this
	// member's any more, and Abandoned the messages that were not settled at the
	// end of the drain timeout.
	Late, Abandoned int64

	// Relocated counts positions that were out of their log's range, see
	// Config.OutOfRange. MapsDropped counts completed maps that could not be
	// used: the messages in question are repeated.
	Relocated, MapsDropped int64

	// Strays counts messages of tenants that were seen in another partition
	// before, see Config.TenantAffinity.
	Strays int64

	// Partitions are those that the source has, by topic and number.
	Partitions []PartitionStats
}

// PartitionStats are the figures of one partition.
type PartitionStats struct {
	Topic     string
	Partition int

	// Position is the next offset to be delivered, Committed what the group
	// last committed, -1 if nothing, and End the end of what can be read, as of
	// the last fetch: the lag is End less Committed.
	Position, Committed, End int64

	// Out and OutBytes are the messages with the gate.
	Out, OutBytes int

	// Oldest is the first offset that is not done, and Stuck for how long it has
	// been that one: 0 when everything is done. A handler that hangs shows here, and
	// so does a deferred message that cannot move to the next lane.
	Oldest int64
	Stuck  time.Duration

	// Fault is why the last fetch failed, nil if it did not.
	Fault error
}

// Stats returns the source's figures. It takes each partition's lock for a
// moment.
func (s *Source) Stats() Stats {
	s.mu.Lock()
	g := s.current
	out := Stats{Member: g != nil, Since: s.joined, Fault: s.fault}
	s.mu.Unlock()
	c := &s.stats
	out.Generations, out.JoinErrors, out.FetchErrors = c.generations.Load(), c.joinErrors.Load(), c.fetchErrors.Load()
	out.Commits, out.CommitErrors, out.Fenced = c.commits.Load(), c.commitErrors.Load(), c.fenced.Load()
	out.Late, out.Abandoned = c.late.Load(), c.abandoned.Load()
	out.Relocated, out.MapsDropped = c.relocated.Load(), c.mapsDropped.Load()
	out.Strays = c.strays.Load()
	if g == nil {
		return out
	}
	for _, p := range g.parts {
		p.mu.Lock()
		ps := PartitionStats{
			Topic: p.topic, Partition: p.id, Position: p.tracker.position, Committed: p.committed, End: p.stable,
			Out: p.out, OutBytes: p.outBytes, Oldest: p.tracker.commit(), Fault: p.fault,
		}
		if p.tracker.head != nil && p.oldest == ps.Oldest && !p.since.IsZero() {
			ps.Stuck = time.Since(p.since)
		}
		p.mu.Unlock()
		out.Partitions = append(out.Partitions, ps)
	}
	slices.SortFunc(out.Partitions, func(a, b PartitionStats) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return out
}
