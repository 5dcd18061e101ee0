package fluxkafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/fluxlimiter/flux/stream"
)

// generation is one assignment of partitions to this member. Its settles and
// commits are those of this generation, whatever the member does next: late ones
// have no effect.
type generation struct {
	session *session
	group   *group
	id      int32
	member  string
	assign  map[string][]kafka.PartitionAssignment
	parts   []*partition

	revoke   func()        // closes revoked
	revoked  chan struct{} // the partitions are not this generation's any more
	fenced   atomic.Bool   // the group has given them to others
	draining atomic.Bool
	settled  chan struct{} // while draining: nothing of some partition is out any more
}

func newGeneration(s *session, next *kafka.Generation, grp *group) *generation {
	g := &generation{
		session: s, group: grp, id: next.ID, member: next.MemberID, assign: next.Assignments,
		revoked: make(chan struct{}), settled: make(chan struct{}, 1),
	}
	g.revoke = sync.OnceFunc(func() { close(g.revoked) })
	grp.member = next.MemberID
	return g
}

// run delivers until the generation ended, ctx did, or something ends the
// membership. ended is the generation's own context. It returns nil after a
// rebalance.
func (g *generation) run(ctx, ended context.Context, in stream.Intake[*kafka.Message]) error {
	fetching, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer context.AfterFunc(ended, func() { stop(kafka.ErrGenerationEnded) })()
	hurry, done := outlive(fetching, g.session.cfg.DrainTimeout) // the group waits from then on
	defer done()

	var wg sync.WaitGroup
	err := g.load(fetching)
	if err == nil {
		g.session.claims.set(g.id, g.assign)
		g.session.setCurrent(g, nil)
		for _, p := range g.parts {
			wg.Go(func() {
				if err := p.run(fetching, in); err != nil {
					stop(err)
				}
			})
		}
		err = g.serve(fetching)
	}
	stop(err)
	if ctx.Err() != nil {
		// Heartbeats go on, and the gate settles or releases everything in its own
		// time, unless others come or go.
		hurry, done = outlive(ended, g.session.cfg.DrainTimeout)
		defer done()
	}
	wg.Wait()
	g.drain(hurry, in)

	switch {
	case ctx.Err() != nil:
		// The group must not see this member join again.
		err = nil
	case ended.Err() != nil || g.fenced.Load() || errors.Is(err, errPartitionsChanged):
		return nil
	}
	g.group.stop()
	<-ended.Done()
	return err
}

// serve commits and watches until fetching ends, and returns why it did.
func (g *generation) serve(fetching context.Context) error {
	commits := time.NewTicker(g.session.cfg.CommitInterval)
	defer commits.Stop()
	watch := time.NewTicker(g.session.cfg.WatchInterval)
	defer watch.Stop()
	for {
		select {
		case <-fetching.Done():
			return context.Cause(fetching)
		case <-commits.C:
			// One that is cut off may reach the broker after the next one, and take the
			// group back.
			late, cancel := outlive(fetching, slack)
			g.commit(late)
			cancel()
		case <-watch.C:
			if err := g.session.watch(fetching); err != nil {
				return err
			}
			g.lose()
		}
		if g.fenced.Load() {
			return kafka.ErrGenerationEnded
		}
	}
}

// lose tells the partitions of a lane that was just found to be deleted.
func (g *generation) lose() {
	for _, p := range g.parts {
		if g.session.missing[p.topic] == goneAfter {
			p.mu.Lock()
			p.lost = p.tracker.position > 0
			p.mu.Unlock()
		}
	}
}

// drain asks the gate for what no handler has, waits for the rest until hurry
// ends, commits, and ends the partitions. What is not settled by then is revoked,
// to be delivered again to the next owner. The partitions are this member's until
// then: the group moves on when it joins again.
func (g *generation) drain(hurry context.Context, in stream.Intake[*kafka.Message]) {
	g.draining.Store(true)
	in.Recall(g.revoked)
	commits := time.NewTicker(g.session.cfg.CommitInterval)
	defer commits.Stop()
	late, cancel := outlive(hurry, slack)
	defer cancel()
	for g.out() > 0 && !g.fenced.Load() && hurry.Err() == nil {
		select {
		case <-g.settled:
		case <-commits.C:
			g.commit(late)
		case <-hurry.Done():
		}
	}
	left := 0
	for _, p := range g.parts {
		p.mu.Lock()
		p.ended = true
		left += p.out
		p.again = nil
		p.mu.Unlock()
	}
	g.revoke()
	g.session.setCurrent(nil, nil)
	if left > 0 {
		g.session.stats.abandoned.Add(int64(left))
		g.session.log.LogAttrs(late, slog.LevelWarn, "messages were not settled in the drain timeout", slog.Int("messages", left), slog.Int("generation", int(g.id)))
	}
	g.commitLast(late)
	for _, p := range g.parts {
		g.session.memory.keep(p)
	}
}

// out returns how many messages are with the gate.
func (g *generation) out() int {
	n := 0
	for _, p := range g.parts {
		p.mu.Lock()
		n += p.out
		p.mu.Unlock()
	}
	return n
}

// load makes the partitions, each at the position that the group committed. What
// keeps it from that may be a topic that was deleted, so it watches, too.
func (g *generation) load(ctx context.Context) error {
	request := make(map[string][]int)
	for topic, assigned := range g.assign {
		for _, a := range assigned {
			request[topic] = append(request[topic], a.ID)
		}
	}
	if len(request) == 0 {
		return nil
	}
	watch := time.NewTicker(g.session.cfg.WatchInterval)
	defer watch.Stop()
	for failures := 1; ; failures++ {
		committed, err := g.session.offsets(ctx, request)
		if err == nil {
			err = g.place(ctx, request, committed)
		}
		if err == nil || ctx.Err() != nil {
			return context.Cause(ctx)
		}
		g.session.setCurrent(nil, err)
		g.session.log.LogAttrs(ctx, slog.LevelWarn, "positions unknown", slog.Int("failures", failures), slog.Any("error", err))
		sleep(ctx, backoff(failures))
		select {
		case <-watch.C:
			if err := g.session.watch(ctx); err != nil {
				return err
			}
		default:
		}
	}
}

// place makes the partitions from what is committed.
func (g *generation) place(ctx context.Context, request map[string][]int, committed map[string]map[int]committedOffset) error {
	var parts []*partition
	for topic, ids := range request {
		base, delay := g.session.layout.Load().laneOf(topic)
		for _, id := range ids {
			p := &partition{gen: g, topic: topic, base: base, mark: mark(base), id: id, name: topic + "/" + strconv.Itoa(id), delay: delay, wake: make(chan struct{}, 1), hops: make(chan struct{}, hopsAtOnce), committed: -1, oldest: -1}
			p.batches.committed = g.session.cfg.committed()
			if c, ok := committed[topic][id]; ok {
				ahead, whole := decodeCompleted(c.metadata, c.offset)
				if !whole && c.metadata != "" {
					g.session.stats.mapsDropped.Add(1)
				}
				ahead, p.dirty = g.session.memory.recall(topicPartition{topic, id}, c, ahead)
				p.tracker.reset(c.offset, ahead)
				p.committed, p.lastMap = c.offset, c.metadata
			} else {
				start, err := g.start(ctx, topic, delay)
				if err != nil {
					return err
				}
				offset, err := g.session.edge(ctx, topic, id, start)
				if err != nil && g.session.missing[topic] < goneAfter {
					return err
				}
				// A topic that is gone begins at 0 if it comes again.
				ahead, recalled := g.session.memory.recall(topicPartition{topic, id}, committedOffset{offset: -1}, nil)
				p.tracker.reset(offset, ahead)
				// Where Last was must outlast this member, or what is published
				// before the first commit would be skipped.
				p.dirty = recalled || start == Last
			}
			parts = append(parts, p)
		}
	}
	g.parts = parts
	return nil
}

// start says where to begin in a partition without a committed offset.
func (g *generation) start(ctx context.Context, topic string, delay time.Duration) (Offset, error) {
	if g.session.cfg.Start == First || delay > 0 {
		return First, nil
	}
	// Offsets of the topic's other partitions mean that this one is new to a
	// topic that the group follows: to begin at its end would skip messages.
	var ids []int
	for id := range g.session.layout.Load().partitions[topic] {
		ids = append(ids, id)
	}
	committed, err := g.session.offsets(ctx, map[string][]int{topic: ids})
	if err != nil || len(committed[topic]) > 0 {
		return First, err
	}
	return Last, nil
}

// outOfRangeError is a position that the log does not have.
type outOfRangeError struct{ offset, logStart int64 }

func (e *outOfRangeError) Error() string {
	return fmt.Sprintf("offset %d is not in the log, which starts at %d", e.offset, e.logStart)
}

// relocate goes on where the policy says when the position is not in the log.
func (p *partition) relocate(ctx context.Context, gone *outOfRangeError) error {
	s := p.gen.session
	if s.cfg.OutOfRange == Fail {
		return fmt.Errorf("%w: %s/%d: %w", ErrOffset, p.topic, p.id, gone)
	}
	// Offsets of what is out belong to the old place: they must be done first.
	released := false
	if !p.await(ctx, func() bool {
		released = len(p.again) > 0
		return released || p.tracker.head == nil
	}) {
		return ctx.Err()
	}
	if released {
		return gone
	}
	where := s.cfg.OutOfRange
	if p.delay > 0 {
		where = First // what was deferred was never handled
	}
	to, err := s.edge(ctx, p.topic, p.id, where)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.tracker.reset(to, nil)
	p.dirty, p.lost = true, false
	p.mu.Unlock()
	s.stats.relocated.Add(1)
	s.log.LogAttrs(ctx, slog.LevelError, "the log does not have the position any more", p.attr(), slog.Int64("position", gone.offset), slog.Int64("moved_to", to))
	return nil
}
