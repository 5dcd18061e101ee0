package fluxkafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/offsetcommit"
)

// lost are answers to a commit that say that the partitions are not this
// generation's any more.
var lost = []kafka.Error{kafka.IllegalGeneration, kafka.UnknownMemberId, kafka.FencedInstanceID}

// snapshot is what there is to commit of a partition.
type snapshot struct {
	part   *partition
	offset int64
	done   string
}

// snapshot returns what to commit, if it is news.
func (p *partition) snapshot() (snapshot, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	offset := p.tracker.commit()
	if offset != p.oldest || p.tracker.head == nil {
		p.oldest, p.since = offset, time.Now()
	}
	if !p.dirty {
		return snapshot{}, false
	}
	p.dirty = false
	s := snapshot{part: p, offset: offset, done: p.tracker.metadata(int(p.gen.session.mapLimit.Load()))}
	if s.offset == p.committed && s.done == p.lastMap {
		return snapshot{}, false
	}
	if len(p.tried) == maxTried {
		p.tried = p.tried[1:]
	}
	p.tried = append(p.tried, committedOffset{s.offset, s.done})
	return s, true
}

// A broker writes the offsets of a commit, with their maps, as one batch, which
// may be as large as one of messages, by default a megabyte.
const (
	commitBytes    = 512 << 10
	commitOverhead = 128 // bytes of a partition's offset besides names and map
)

// commit commits what is new. It reports whether nothing is left to commit.
// One goroutine at a time may call it: the generation's.
func (g *generation) commit(ctx context.Context) bool {
	if g.fenced.Load() {
		return false
	}
	var news []snapshot
	for _, p := range g.parts {
		if s, ok := p.snapshot(); ok {
			news = append(news, s)
		}
	}
	clean := true
	for len(news) > 0 {
		n := parcel(news, len(g.session.cfg.Group))
		clean = g.send(ctx, news[:n]) && clean
		news = news[n:]
	}
	return clean
}

// parcel returns how many of the snapshots, at least one, go into one commit of a
// group with so long a name.
func parcel(news []snapshot, group int) int {
	bytes := 0
	for i, s := range news {
		if bytes += commitOverhead + group + len(s.part.topic) + len(s.done); bytes > commitBytes && i > 0 {
			return i
		}
	}
	return len(news)
}

// send commits snapshots. It reports whether all of them were taken.
func (g *generation) send(ctx context.Context, news []snapshot) bool {
	topics := make(map[string][]offsetcommit.RequestPartition)
	for _, s := range news {
		topics[s.part.topic] = append(topics[s.part.topic], offsetcommit.RequestPartition{
			PartitionIndex: int32(s.part.id), CommittedOffset: s.offset, CommittedMetadata: s.done,
			CommittedLeaderEpoch: -1, // the client's own commit says epoch 0, which other clients would believe
		})
	}
	codes, err := g.session.commitOffsets(ctx, g, topics)
	failed := 0
	for _, s := range news {
		cause := err
		if cause == nil {
			if code, ok := codes[topicPartition{s.part.topic, s.part.id}]; !ok {
				cause = errNoAnswer
			} else if code != 0 {
				cause = kafka.Error(code)
			}
		}
		s.part.mu.Lock()
		if cause == nil {
			s.part.committed, s.part.lastMap = s.offset, s.done
			s.part.tried = s.part.tried[:0]
		} else {
			s.part.dirty = true
		}
		s.part.mu.Unlock()
		if cause == nil {
			continue
		}
		if failed++; failed == 1 {
			g.session.log.LogAttrs(ctx, slog.LevelWarn, "commit failed", s.part.attr(), slog.Int("partitions", len(news)), slog.Int64("offset", s.offset), slog.Any("error", cause))
		}
		g.commitFailed(s, cause)
	}
	if failed > 0 {
		g.session.stats.commitErrors.Add(1)
		return false
	}
	g.session.stats.commits.Add(1)
	return true
}

var errNoAnswer = errors.New("no answer for the partition")

// commitFailed acts on why a snapshot was not committed.
func (g *generation) commitFailed(s snapshot, cause error) {
	for _, code := range lost {
		if errors.Is(cause, code) && g.fenced.CompareAndSwap(false, true) {
			g.session.stats.fenced.Add(1)
			g.revoke()
		}
	}
	if errors.Is(cause, kafka.OffsetMetadataTooLarge) {
		g.session.mapLimit.Store(int64(len(s.done) / 2))
	}
}

// commitLast commits what is left when the partitions are about to go.
func (g *generation) commitLast(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, slack)
	defer cancel()
	for failures := 1; !g.commit(ctx) && !g.fenced.Load(); failures++ {
		if !sleep(ctx, backoff(failures)) {
			return
		}
	}
}

type topicPartition struct {
	topic string
	id    int
}

// commitOffsets sends a commit and returns the answer for each partition.
func (s *session) commitOffsets(ctx context.Context, g *generation, topics map[string][]offsetcommit.RequestPartition) (map[topicPartition]int16, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout)
	defer cancel()
	request := &offsetcommit.Request{GroupID: s.cfg.Group, GenerationID: g.id, MemberID: g.member, RetentionTimeMs: -1}
	for topic, partitions := range topics {
		request.Topics = append(request.Topics, offsetcommit.RequestTopic{Name: topic, Partitions: partitions})
	}
	m, err := s.transport.RoundTrip(ctx, s.client.Addr, request)
	if err != nil {
		return nil, err
	}
	codes := make(map[topicPartition]int16)
	for _, t := range m.(*offsetcommit.Response).Topics {
		for _, p := range t.Partitions {
			codes[topicPartition{t.Name, int(p.PartitionIndex)}] = p.ErrorCode
		}
	}
	return codes, nil
}

// committedOffset is what the group committed for a partition.
type committedOffset struct {
	offset   int64
	metadata string
}

// offsets returns what the group committed, without the partitions that it
// committed nothing for.
func (s *session) offsets(ctx context.Context, request map[string][]int) (map[string]map[int]committedOffset, error) {
	res, err := s.client.OffsetFetch(ctx, &kafka.OffsetFetchRequest{GroupID: s.cfg.Group, Topics: request})
	if err == nil {
		err = res.Error
	}
	if err != nil {
		return nil, err
	}
	committed := make(map[string]map[int]committedOffset)
	for topic, ids := range request {
		committed[topic] = make(map[int]committedOffset)
		answered := 0
		for _, p := range res.Topics[topic] {
			if p.Error != nil {
				return nil, fmt.Errorf("%s/%d: %w", topic, p.Partition, p.Error)
			}
			answered++
			if p.CommittedOffset >= 0 {
				committed[topic][p.Partition] = committedOffset{p.CommittedOffset, p.Metadata}
			}
		}
		if answered < len(ids) {
			return nil, fmt.Errorf("%s: %w", topic, errNoAnswer)
		}
	}
	return committed, nil
}

// edge returns a partition's first offset, or the one after its last.
func (s *session) edge(ctx context.Context, topic string, id int, which Offset) (int64, error) {
	request := kafka.FirstOffsetOf(id)
	if which == Last {
		request = kafka.LastOffsetOf(id)
	}
	res, err := s.client.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{topic: {request}}})
	if err != nil {
		return 0, fmt.Errorf("%s/%d: %w", topic, id, err)
	}
	for _, p := range res.Topics[topic] {
		offset := p.FirstOffset
		if which == Last {
			offset = p.LastOffset
		}
		switch {
		case p.Partition != id:
		case p.Error != nil:
			return 0, fmt.Errorf("%s/%d: %w", topic, id, p.Error)
		case offset >= 0:
			return offset, nil
		}
	}
	return 0, fmt.Errorf("%s/%d: %w", topic, id, errNoAnswer)
}
