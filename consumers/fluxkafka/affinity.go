package fluxkafka

import (
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
)

// Affinity says what to do about a tenant whose messages are in more than one
// partition.
type Affinity uint8

const (
	// AnyPartition does not look.
	AnyPartition Affinity = iota
	// WarnAffinity logs and counts it, see Stats.Strays.
	WarnAffinity
	// RequireAffinity ends Run with [ErrAffinity]. The message that shows it is
	// neither delivered nor committed.
	RequireAffinity
)

// The table of affinity: so many buckets of so many places each, 1 MiB in all.
const (
	affinityBuckets = 1 << 12
	affinityWays    = 8
	affinityLocks   = 64
)

// affinity remembers in which partition number a tenant was first seen, for as
// many tenants as its table has places. A bucket forgets the tenant that it has
// not seen for longest.
//
// It holds a 64-bit fingerprint for each, which is compared with those of its
// bucket alone: of 2^49 tenants that come new, one is taken for another.
type affinity struct {
	seed  maphash.Seed
	table [][affinityWays]home
	locks [affinityLocks]sync.Mutex

	mu     sync.Mutex
	warned time.Time
}

// home is where a tenant was first seen. topic is "" in a place that is free.
type home struct {
	tenant uint64
	topic  string
	id     int
}

func newAffinity() *affinity {
	return &affinity{seed: maphash.MakeSeed(), table: make([][affinityWays]home, affinityBuckets)}
}

// visit notes that tenant has a message in a partition. It returns where the
// tenant was first seen if that is of another number.
func (a *affinity) visit(tenant, topic string, id int) (first home, strays bool) {
	sum := maphash.String(a.seed, tenant)
	i := sum % affinityBuckets
	lock := &a.locks[i%affinityLocks]
	lock.Lock()
	defer lock.Unlock()
	bucket := &a.table[i]
	at, found := home{sum, topic, id}, affinityWays-1
	for w := range bucket {
		if bucket[w].topic != "" && bucket[w].tenant == sum {
			at, found = bucket[w], w
			break
		}
	}
	copy(bucket[1:found+1], bucket[:found])
	bucket[0] = at
	return at, at.id != id
}

// forget empties the table: the partitions are not those that it knew.
func (a *affinity) forget() {
	for i := range a.table {
		lock := &a.locks[i%affinityLocks]
		lock.Lock()
		clear(a.table[i][:])
		lock.Unlock()
	}
}

// warnEvery is how often a tenant in two partitions is logged at most: where
// there is one there are thousands.
const warnEvery = 10 * time.Second

// loud reports whether it is time for another warning.
func (a *affinity) loud() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	if !a.warned.IsZero() && now.Sub(a.warned) < warnEvery {
		return false
	}
	a.warned = now
	return true
}

// belongs checks that the tenant of a message has no other in another
// partition. It returns an error for what must end Run.
func (p *partition) belongs(ctx context.Context, m *kafka.Message) error {
	s := p.gen.session
	tenant := s.cfg.Tenant(m)
	if tenant == "" {
		return nil
	}
	first, strays := s.affinity.visit(tenant, p.topic, p.id)
	if !strays {
		return nil
	}
	s.stats.strays.Add(1)
	err := fmt.Errorf("%w: tenant %.100q is in %s/%d, at offset %d, and was in %s/%d before: "+
		"publish with the tenant as the key and with the same partitioner in every producer; "+
		"after partitions were added, let the consumers catch up first",
		ErrAffinity, tenant, p.topic, p.id, m.Offset, first.topic, first.id)
	if s.cfg.TenantAffinity == RequireAffinity {
		return err
	}
	if s.affinity.loud() {
		s.log.LogAttrs(ctx, slog.LevelWarn, "a tenant is in two partitions", p.attr(), slog.Any("error", err))
	}
	return nil
}

// alike checks that the topics have the same number of partitions, without
// which no partitioner brings a tenant to the same one in each of them. It
// returns an error for what must end Run.
func (s *session) alike(ctx context.Context) error {
	if s.cfg.TenantAffinity == AnyPartition {
		return nil
	}
	l := s.layout.Load()
	first := ""
	for _, topic := range l.subscription() {
		if _, delay := l.laneOf(topic); delay > 0 {
			continue
		}
		if first == "" {
			first = topic
		}
		have, want := l.partitions[topic], l.partitions[first]
		if have == want {
			continue
		}
		err := fmt.Errorf("%w: %q has %d partitions and %q has %d, so that a tenant cannot be in the same one of both: "+
			"give them as many, or consume them in groups of their own", ErrTopic, topic, have, first, want)
		if s.cfg.TenantAffinity == RequireAffinity {
			return err
		}
		s.log.LogAttrs(ctx, slog.LevelWarn, "topics differ in partitions", slog.Any("error", err))
	}
	return nil
}
