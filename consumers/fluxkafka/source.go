package fluxkafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/fluxlimiter/flux/stream"
)

// Source is a consumer group's member as a [stream.Source]. Make it with [New].
// Its methods may be called by any number of goroutines at once.
type Source struct {
	cfg     Config
	stats   counters
	claims  claims
	running atomic.Bool

	affinity *affinity // nil if nobody asks

	mapLimit atomic.Int64 // how large a completed map the brokers take

	mu      sync.Mutex
	current *generation // nil while not a member
	joined  time.Time   // when current began, or the last one ended
	fault   error       // why there is no current one
}

var (
	_ stream.Source[*kafka.Message] = (*Source)(nil)
	_ stream.Deferrer               = (*Source)(nil)
)

// New returns a source, or an error that wraps [ErrInvalidConfig]. It starts
// nothing and connects to nobody.
func New(cfg Config) (*Source, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	s := &Source{cfg: cfg}
	s.mapLimit.Store(maxMetadata)
	if cfg.TenantAffinity != AnyPartition {
		s.affinity = newAffinity()
	}
	return s, nil
}

// Run joins the group and delivers the messages of the partitions that it is
// given, until ctx ends; see [stream.Source]. One Run of a source can be under way
// at a time, a second one returns [ErrRunning].
//
// It returns nil when ctx ended, after it has committed what was done and left
// the group. It returns an error when it could not begin ([ErrUnreachable],
// [ErrTopic], [ErrRefused]), when a topic of Config.Topics was deleted or one that
// matches Config.Pattern came that cannot be consumed ([ErrTopic]), and when the
// policy says so ([ErrOffset], [ErrAffinity]). Every other fault it mends itself: it
// tries again, reports it in [Source.Stats] and logs it.
func (s *Source) Run(ctx context.Context, in stream.Intake[*kafka.Message]) error {
	if !s.running.CompareAndSwap(false, true) {
		return ErrRunning
	}
	defer s.running.Store(false)
	s.setCurrent(nil, nil)
	run := newSession(s)
	defer run.close()

	topics, err := run.begin(ctx)
	for err == nil && ctx.Err() == nil {
		err = run.membership(ctx, in, topics)
		if errors.Is(err, errTopicsChanged) {
			topics, err = run.prepare(ctx)
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// CanDefer implements [stream.Deferrer]. It reports whether Config.Lanes holds
// any.
func (s *Source) CanDefer() bool { return len(s.cfg.Lanes) > 0 }

// session is what lives as long as one Run.
type session struct {
	*Source
	log       *slog.Logger
	dial      *dialer
	transport *kafka.Transport
	client    *kafka.Client
	publisher *publisher
	layout    atomic.Pointer[layout] // of the topics that this member asks for
	missing   map[string]int         // how often in a row a topic was not there
	memory    memory
	member    bool // this run was a member of the group before
}

func newSession(s *Source) *session {
	run := &session{Source: s, log: s.cfg.Logger, dial: newDialer(s.cfg.Dialer), memory: make(memory)}
	var keep []string
	if s.cfg.Pattern == nil {
		for _, topic := range s.cfg.Topics {
			keep = append(append(keep, topic), s.cfg.laneTopics(topic)...)
			if dlq := s.cfg.deadLetterTopic(topic); dlq != "" {
				keep = append(keep, dlq)
			}
		}
	}
	run.transport = run.dial.transport(keep)
	run.client = &kafka.Client{Addr: kafka.TCP(s.cfg.Brokers...), Transport: run.transport, Timeout: s.cfg.RequestTimeout}
	run.publisher = newPublisher(&run.cfg, run.transport)
	return run
}

func (s *session) close() {
	s.publisher.close()
	s.transport.CloseIdleConnections()
	s.dial.close()
	s.setCurrent(nil, nil)
}

// setCurrent says which generation this member is in, and if in none, why.
func (s *Source) setCurrent(g *generation, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if (g == nil) != (s.current == nil) || s.joined.IsZero() {
		s.joined = time.Now()
	}
	s.current = g
	s.fault = why
}

// fetch asks a partition's leader for records.
func (s *session) fetch(ctx context.Context, topic string, partition int, offset int64, maxBytes int, buf []byte) (*fetchResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.FetchWait+s.cfg.RequestTimeout)
	defer cancel()
	res, err := s.transport.RoundTrip(ctx, s.client.Addr, &fetchRequest{
		topic: topic, partition: int32(partition), offset: offset, buf: buf,
		maxWait: int32(s.cfg.FetchWait / time.Millisecond), maxBytes: int32(maxBytes),
		committed: s.cfg.committed(), clientID: s.transport.ClientID,
	})
	if err != nil {
		return nil, err
	}
	return res.(*fetchResponse), nil
}

var (
	errTopicsChanged     = errors.New("topics changed")
	errPartitionsChanged = errors.New("partitions changed")
)

// refusals are what waiting does not mend.
var refusals = []kafka.Error{
	kafka.GroupAuthorizationFailed, kafka.TopicAuthorizationFailed, kafka.ClusterAuthorizationFailed, kafka.SASLAuthenticationFailed,
	kafka.UnsupportedSASLMechanism, kafka.InconsistentGroupProtocol, kafka.InvalidSessionTimeout, kafka.InvalidGroupId,
}

func refused(err error) bool {
	for _, code := range refusals {
		if errors.Is(err, code) {
			return true
		}
	}
	return false
}

// membership is one stay in the group, with one list of topics.
func (s *session) membership(ctx context.Context, in stream.Intake[*kafka.Message], topics []string) error {
	group, err := s.join(topics)
	if err != nil {
		return fmt.Errorf("fluxkafka: joining group %q: %w", s.cfg.Group, err)
	}
	defer func() {
		group.leave()
		s.setCurrent(nil, nil)
	}()
	for {
		next, err := group.Next(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !s.member && refused(err):
			return fmt.Errorf("%w: joining group %q: %w", ErrRefused, s.cfg.Group, err)
		case err != nil:
			s.stats.joinErrors.Add(1)
			s.setCurrent(nil, err)
			s.log.LogAttrs(ctx, slog.LevelWarn, "not a member of the group", slog.String("group", s.cfg.Group), slog.Any("error", err))
			continue
		}
		s.member = true
		s.stats.generations.Add(1)
		result := make(chan error, 1)
		next.Start(func(ended context.Context) {
			g := newGeneration(s, next, group)
			result <- g.run(ctx, ended, in)
		})
		if err := <-result; err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// leaveTimeout bounds how long a clean leave may take.
const leaveTimeout = 3 * time.Second

// group is a membership of the consumer group.
type group struct {
	*kafka.ConsumerGroup
	session *session
	dial    *dialer
	member  string // the id of the last generation
	closing sync.Once
	closed  chan struct{}
}

func (s *session) join(topics []string) (*group, error) {
	dial := newDialer(s.cfg.Dialer)
	cg, err := kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{
		ID: s.cfg.Group, Brokers: s.cfg.Brokers, Dialer: dial.groupDialer(), Topics: topics,
		GroupBalancers:    []kafka.GroupBalancer{&sticky{session: s}, kafka.RangeGroupBalancer{}},
		HeartbeatInterval: s.cfg.HeartbeatInterval, SessionTimeout: s.cfg.SessionTimeout, RebalanceTimeout: s.cfg.RebalanceTimeout,
		JoinGroupBackoff: time.Second, Timeout: s.cfg.RequestTimeout,
	})
	if err != nil {
		dial.close()
		return nil, err
	}
	return &group{ConsumerGroup: cg, session: s, dial: dial, closed: make(chan struct{})}, nil
}

// stop begins to leave the group. It does not wait.
func (g *group) stop() {
	g.closing.Do(func() {
		go func() {
			defer close(g.closed)
			_ = g.Close() // it has no error to give
		}()
	})
}

// leave leaves the group. A join that the coordinator is holding back it cuts
// off. The client sends its request to leave once and does not look at the
// answer, but a member that is not known to have left keeps its partitions until
// the session timeout: so leave asks again until the coordinator knows no such
// member.
func (g *group) leave() {
	g.stop()
	timer := time.NewTimer(leaveTimeout)
	defer timer.Stop()
	select {
	case <-g.closed:
	case <-timer.C:
	}
	g.dial.close()
	<-g.closed
	if g.member == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	for failures := 1; ; failures++ {
		err := g.session.gone(ctx, g.member)
		if err == nil {
			return
		}
		if !sleep(ctx, backoff(failures)) {
			g.session.log.LogAttrs(ctx, slog.LevelWarn, "the group was not told that a member left", slog.String("group", g.session.cfg.Group), slog.Any("error", err))
			return
		}
	}
}

// gone makes sure that the group does not have a member.
func (s *session) gone(ctx context.Context, member string) error {
	res, err := s.client.LeaveGroup(ctx, &kafka.LeaveGroupRequest{GroupID: s.cfg.Group, Members: []kafka.LeaveGroupRequestMember{{ID: member}}})
	if err != nil {
		return err
	}
	err = res.Error
	// From version 1 on, an answer has the throttle time before the error, and the
	// client (v0.4.51, protocol/leavegroup) reads them the other way round: the error
	// is the lower half of what it says is the throttle time. Should that be a
	// throttle time after all, the next answer is that there is no such member.
	if code := int16(res.Throttle / time.Millisecond); code != 0 {
		err = cmp.Or(err, error(kafka.Error(code)))
	}
	for _, m := range res.Members {
		err = cmp.Or(err, m.Error)
	}
	if errors.Is(err, kafka.UnknownMemberId) {
		return nil
	}
	return err
}
