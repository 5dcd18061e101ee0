package fluxkafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/metadata"
)

// layout is which topics a member consumes. It does not change once made.
type layout struct {
	partitions map[string]int // sources and lanes
	lanes      map[string]lane
}

type lane struct {
	base  string
	delay time.Duration
}

// laneOf returns the topic that a lane belongs to and its delay; for a topic
// that is no lane, itself and 0.
func (l *layout) laneOf(topic string) (base string, delay time.Duration) {
	if lane, ok := l.lanes[topic]; ok {
		return lane.base, lane.delay
	}
	return topic, 0
}

// subscription returns the names of the topics.
func (l *layout) subscription() []string { return slices.Sorted(maps.Keys(l.partitions)) }

// cluster returns the partition counts of the topics that exist, as the
// connection pool last heard of them.
func (s *session) cluster(ctx context.Context) (map[string]int, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout)
	defer cancel()
	m, err := s.transport.RoundTrip(ctx, s.client.Addr, &metadata.Request{})
	if err != nil {
		return nil, err
	}
	counts := make(map[string]int)
	for _, t := range m.(*metadata.Response).Topics {
		switch kafka.Error(t.ErrorCode) {
		case kafka.TopicAuthorizationFailed:
			if slices.Contains(s.cfg.Topics, t.Name) {
				return nil, fmt.Errorf("topic %q: %w", t.Name, kafka.TopicAuthorizationFailed)
			}
		case 0, kafka.LeaderNotAvailable:
			if !t.IsInternal {
				counts[t.Name] = len(t.Partitions)
			}
		}
	}
	return counts, nil
}

// sources returns which of the topics that exist are to be consumed.
func (s *session) sources(counts map[string]int) []string {
	names := slices.Clone(s.cfg.Topics)
	if s.cfg.Pattern != nil {
		ours := s.cfg.ours()
		for _, topic := range slices.Sorted(maps.Keys(counts)) {
			if s.cfg.Pattern.MatchString(topic) && !ours.MatchString(topic) && !slices.Contains(names, topic) {
				names = append(names, topic)
			}
		}
	}
	return names
}

// begin finds a broker and prepares the topics.
func (s *session) begin(ctx context.Context) ([]string, error) {
	deadline, cancel := context.WithTimeout(ctx, s.cfg.StartTimeout)
	defer cancel()
	for failures := 1; ; failures++ {
		_, err := s.cluster(deadline)
		s.setCurrent(nil, err)
		switch {
		case err == nil:
			return s.prepare(ctx)
		case refused(err):
			return nil, fmt.Errorf("%w: %w", ErrRefused, err)
		case deadline.Err() != nil || !sleep(deadline, backoff(failures)):
			return nil, fmt.Errorf("%w: tried %v for %v: %w", ErrUnreachable, s.cfg.Brokers, s.cfg.StartTimeout, err)
		}
	}
}

// missingTimeout is how long a topic that was just made may take to be known
// everywhere.
const missingTimeout = 5 * time.Second

// prepare checks the topics, makes those that may be made, and returns what to
// subscribe to. It waits while Pattern matches nothing.
func (s *session) prepare(ctx context.Context) ([]string, error) {
	patience := time.Now().Add(missingTimeout)
	for failures := 1; ; failures++ {
		counts, err := s.cluster(ctx)
		if err == nil {
			if err = s.arrange(ctx, counts); err == nil {
				err = s.alike(ctx)
			}
			if err == nil {
				if names := s.layout.Load().subscription(); len(names) > 0 {
					s.missing = make(map[string]int)
					return names, nil
				}
				s.setCurrent(nil, fmt.Errorf("%w: no topic matches %v", ErrTopic, s.cfg.Pattern))
				patience = time.Now().Add(s.cfg.WatchInterval + missingTimeout)
				if !sleep(ctx, s.cfg.WatchInterval) {
					return nil, ctx.Err()
				}
				continue
			}
		}
		if refused(err) {
			return nil, fmt.Errorf("%w: %w", ErrRefused, err)
		}
		if time.Now().After(patience) && errors.Is(err, ErrTopic) {
			return nil, err
		}
		s.setCurrent(nil, err)
		s.log.LogAttrs(ctx, slog.LevelWarn, "topics are not ready", slog.Int("failures", failures), slog.Any("error", err))
		if !sleep(ctx, backoff(failures)) {
			return nil, ctx.Err()
		}
	}
}

// arrange makes the layout of what exists, and the topics that are missing if
// that is allowed.
func (s *session) arrange(ctx context.Context, counts map[string]int) error {
	l := &layout{partitions: make(map[string]int), lanes: make(map[string]lane)}
	var create []kafka.TopicConfig
	grow := make(map[string]int)
	for _, topic := range s.sources(counts) {
		n := counts[topic]
		if n == 0 {
			return fmt.Errorf("%w: %q does not exist", ErrTopic, topic)
		}
		l.partitions[topic] = n
		for _, delay := range s.cfg.Lanes {
			name := s.cfg.laneTopic(topic, delay)
			l.partitions[name] = n
			l.lanes[name] = lane{topic, delay}
			switch have := counts[name]; {
			case have == 0:
				create = append(create, kafka.TopicConfig{Topic: name, NumPartitions: n, ReplicationFactor: -1})
			case have < n:
				grow[name] = n
			case have > n:
				return fmt.Errorf("%w: lane %q has %d partitions, its topic %d", ErrTopic, name, have, n)
			}
		}
		if name := s.cfg.deadLetterTopic(topic); name != "" && counts[name] == 0 {
			create = append(create, kafka.TopicConfig{
				Topic: name, NumPartitions: n, ReplicationFactor: -1,
				// Dead letters keep the time of the message, and retention goes by it.
				ConfigEntries: []kafka.ConfigEntry{{ConfigName: "retention.ms", ConfigValue: "-1"}},
			})
		}
	}
	if err := s.create(ctx, create); err != nil {
		return err
	}
	if err := s.grow(ctx, grow); err != nil {
		return err
	}
	s.layout.Store(l)
	return nil
}

func (s *session) create(ctx context.Context, topics []kafka.TopicConfig) error {
	if len(topics) == 0 {
		return nil
	}
	if !s.cfg.CreateTopics {
		return fmt.Errorf("%w: %q does not exist: make it with %d partitions, or set Config.CreateTopics", ErrTopic, topics[0].Topic, topics[0].NumPartitions)
	}
	res, err := s.client.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: topics})
	if err != nil {
		return err
	}
	for name, err := range res.Errors {
		switch {
		case err == nil:
			s.log.LogAttrs(ctx, slog.LevelInfo, "made a topic", slog.String("topic", name))
		case !errors.Is(err, kafka.TopicAlreadyExists):
			return fmt.Errorf("%w: making %q: %w", ErrTopic, name, err)
		}
	}
	return nil
}

// grow gives lanes as many partitions as their topic has now.
func (s *session) grow(ctx context.Context, counts map[string]int) error {
	for name, n := range counts {
		if !s.cfg.CreateTopics {
			return fmt.Errorf("%w: lane %q has fewer partitions than its topic: give it %d, or set Config.CreateTopics", ErrTopic, name, n)
		}
		res, err := s.client.CreatePartitions(ctx, &kafka.CreatePartitionsRequest{Topics: []kafka.TopicPartitionsConfig{{Name: name, Count: int32(n)}}})
		if err == nil {
			err = res.Errors[name]
		}
		if err != nil && !errors.Is(err, kafka.InvalidPartitionNumber) {
			return fmt.Errorf("%w: growing %q: %w", ErrTopic, name, err)
		}
	}
	return nil
}

// goneAfter is how many looks in a row must miss a topic to believe that it was
// deleted: a broker that starts knows little at first. remakeAfter is how many must
// miss a topic of ours to make it again: one more, so that by then every member,
// each with looks of its own, knows that the log is going to be another one.
const (
	goneAfter   = 3
	remakeAfter = goneAfter + 1
)

// watch compares the topics with those of the layout, and makes lanes and
// dead-letter topics again that were deleted, if that is allowed. It returns an
// error when the membership must change, or must end.
func (s *session) watch(ctx context.Context) error {
	counts, err := s.cluster(ctx)
	if err != nil {
		return nil //nolint:nilerr // the next look will tell
	}
	gone := func(topic string, after int) bool {
		if topic == "" || counts[topic] > 0 {
			delete(s.missing, topic)
			return false
		}
		s.missing[topic]++
		return s.missing[topic] >= after
	}
	l, whole := s.layout.Load(), true
	for topic := range l.partitions {
		_, delay := l.laneOf(topic)
		switch {
		case delay > 0:
			whole = !gone(topic, remakeAfter) && whole
		case !gone(topic, goneAfter):
			whole = !gone(s.cfg.deadLetterTopic(topic), remakeAfter) && whole
		case slices.Contains(s.cfg.Topics, topic):
			return fmt.Errorf("%w: %q was deleted", ErrTopic, topic)
		default:
			return errTopicsChanged
		}
	}
	names := s.sources(counts)
	for _, topic := range names {
		had, known := l.partitions[topic]
		switch {
		case !known:
			return errTopicsChanged
		case counts[topic] > had:
			// Lanes that cannot grow keep their partitions: what belongs to the new
			// ones is folded onto them.
			if err := s.arrange(ctx, counts); err != nil {
				s.log.LogAttrs(ctx, slog.LevelError, "lanes do not match the topic's new partitions", slog.String("topic", topic), slog.Any("error", err))
				grown := &layout{partitions: maps.Clone(l.partitions), lanes: l.lanes}
				grown.partitions[topic] = counts[topic]
				s.layout.Store(grown)
			}
			if s.affinity != nil {
				s.affinity.forget()
			}
			return errPartitionsChanged
		}
	}
	if !whole {
		if err := s.arrange(ctx, counts); err != nil {
			s.log.LogAttrs(ctx, slog.LevelError, "lanes or dead-letter topics were deleted", slog.Any("error", err))
		}
	}
	return nil
}
