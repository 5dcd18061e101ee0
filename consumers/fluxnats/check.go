package fluxnats

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux/stream"
)

// minAckWait is the shortest AckWait that leaves time to keep messages alive.
const minAckWait = 100 * time.Millisecond

// facts are what a run needs to know of the consumer and the stream.
type facts struct {
	created       time.Time // when the stream was
	ackWait       time.Duration
	maxAckPending int
	maxAge        time.Duration // of the stream's messages
	reconnects    uint64        // of the connection, before it asked for all this
	batch         int
	expires       time.Duration
	heartbeat     time.Duration
	pullSubject   string
}

// problems collects what is wrong with the setup.
type problems []error

func (p *problems) add(format string, args ...any) {
	*p = append(*p, fmt.Errorf("%w: "+format, append([]any{ErrSetup}, args...)...))
}

// check looks at everything that must be right before the first message is
// taken.
func (s *Source) check(ctx context.Context) (facts, error) {
	f, err := s.inspect(ctx)
	if err != nil {
		return f, err
	}
	var found problems
	s.checkPermissions(ctx, &found)
	if err := s.checkOthers(ctx, &found); err != nil {
		return f, err
	}
	return f, errors.Join(found...)
}

// fit makes the gate's window no larger than the number of messages that the
// server gives out before it wants some of them acknowledged. Otherwise throttled
// tenants could have all of those parked, and the server would give nobody the
// places that the gate keeps free for others.
func (s *Source) fit(f *facts, in stream.Intake[*Msg]) {
	if f.maxAckPending <= 0 {
		return
	}
	if window := in.Window(math.MaxInt); window > f.maxAckPending {
		s.set.log.Warn("the gate's window is lowered to the consumer's MaxAckPending", "window", window, "max_ack_pending", f.maxAckPending)
		in.Window(f.maxAckPending)
	}
}

// inspect asks the server for the stream, the consumer and the dead-letter
// stream, and reports all that is wrong with them.
func (s *Source) inspect(ctx context.Context) (facts, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	set := &s.set
	reconnects := s.js.Conn().Stats().Reconnects
	str, err := s.js.Stream(ctx, set.Stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return facts{}, fmt.Errorf("%w: stream %s: %w; create it, or let Provision do so", ErrSetup, set.Stream, err)
	}
	if err != nil {
		return facts{}, s.unanswered("stream "+set.Stream, err)
	}
	con, err := s.js.Consumer(ctx, set.Stream, set.Consumer)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return facts{}, fmt.Errorf("%w: consumer %s of stream %s: %w; create it, or let Provision do so", ErrSetup, set.Consumer, set.Stream, err)
	}
	if errors.Is(err, jetstream.ErrNotPullConsumer) {
		return facts{}, fmt.Errorf("%w: consumer %s of stream %s pushes its messages; create one without a DeliverSubject", ErrSetup, set.Consumer, set.Stream)
	}
	if err != nil {
		return facts{}, s.unanswered("consumer "+set.Consumer+" of stream "+set.Stream, err)
	}
	var found problems
	sc, cc := str.CachedInfo().Config, con.CachedInfo().Config
	s.checkConsumer(&found, cc)
	if !set.NakDeferrals {
		s.checkSchedules(&found, sc, cc)
	}
	dead, err := s.js.Stream(ctx, set.DeadLetterStream)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		found.add("dead-letter stream %s: %w; create it, or let Provision do so", set.DeadLetterStream, err)
	case err != nil:
		return facts{}, s.unanswered("dead-letter stream "+set.DeadLetterStream, err)
	default:
		found.ofDeadLetters(dead.CachedInfo().Config, set.DeadLetterSubject)
	}
	if len(found) > 0 {
		return facts{}, errors.Join(found...)
	}
	f := s.facts(sc, cc)
	f.created, f.reconnects = str.CachedInfo().Created, reconnects
	return f, nil
}

// checkOthers looks for other consumers of the stream that would take deferred
// copies for messages of their own. In a work queue they would also delete the
// copies that wait to be due, so there nothing allows that.
func (s *Source) checkOthers(ctx context.Context, found *problems) error {
	if s.set.NakDeferrals {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	str, err := s.js.Stream(ctx, s.set.Stream)
	if err != nil {
		return s.unanswered("stream "+s.set.Stream, err)
	}
	queue := str.CachedInfo().Config.Retention == jetstream.WorkQueuePolicy
	if str.CachedInfo().State.Consumers < 2 || s.set.AllowSharedCopies && !queue {
		return nil
	}
	var back []string
	var others []*jetstream.ConsumerInfo
	list := str.ListConsumers(ctx)
	for info := range list.Info() {
		if info.Name == s.set.Consumer {
			back = filtersOf(info.Config)
		} else {
			others = append(others, info)
		}
	}
	if err := list.Err(); err != nil {
		return s.unanswered("the consumers of stream "+s.set.Stream, err)
	}
	if s.set.ReturnSubject != "" {
		back = []string{s.set.ReturnSubject + ".*"}
	}
	waiting := s.set.DeferSubject + ".*"
	copies := append(back, waiting)
	for _, other := range others {
		filters := filtersOf(other.Config)
		if len(filters) == 0 {
			filters = []string{">"}
		}
		for _, filter := range filters {
			if queue && overlaps(filter, waiting) {
				found.add("consumer %s of stream %s reads %q, and copies wait to be due under %q: what it acknowledges is deleted from a work queue, so messages would be lost; change its filter, or set NakDeferrals",
					other.Name, s.set.Stream, filter, waiting)
				continue
			}
			for _, c := range copies {
				if overlaps(filter, c) && !s.set.AllowSharedCopies {
					found.add("consumer %s of stream %s reads %q, and deferred copies come under %q: what consumer %s defers would reach it once more; set ReturnSubject in the source's config and change filters so that no other consumer reads those, or set AllowSharedCopies or NakDeferrals",
						other.Name, s.set.Stream, filter, c, s.set.Consumer)
				}
			}
		}
	}
	return nil
}

func (s *Source) facts(sc jetstream.StreamConfig, cc jetstream.ConsumerConfig) facts {
	f := facts{
		ackWait: cc.AckWait, maxAckPending: cc.MaxAckPending, maxAge: sc.MaxAge,
		batch: s.set.Batch, heartbeat: s.set.Heartbeat, expires: 3 * s.set.Heartbeat,
		pullSubject: s.pullSubject(),
	}
	if most := cc.MaxRequestBatch; most > 0 {
		f.batch = min(f.batch, most)
	}
	if most := cc.MaxRequestExpires; most > 0 {
		f.expires = min(f.expires, most)
		f.heartbeat = min(f.heartbeat, f.expires/2)
	}
	return f
}

func (s *Source) pullSubject() string {
	return apiPrefix(s.js.Options()) + "CONSUMER.MSG.NEXT." + s.set.Stream + "." + s.set.Consumer
}

func apiPrefix(o jetstream.JetStreamOptions) string {
	switch {
	case o.APIPrefix != "":
		return strings.TrimSuffix(o.APIPrefix, ".") + "."
	case o.Domain != "":
		return "$JS." + o.Domain + ".API."
	}
	return jetstream.DefaultAPIPrefix
}

func (s *Source) checkConsumer(found *problems, c jetstream.ConsumerConfig) {
	name := s.set.Consumer
	if c.Durable == "" {
		found.add("consumer %s is not durable: the server forgets it, and what it has acknowledged, when nobody asks for messages; create it with Durable", name)
	}
	if c.AckPolicy != jetstream.AckExplicitPolicy {
		found.add("consumer %s: AckPolicy is %s; create it with AckExplicitPolicy", name, c.AckPolicy)
	}
	if c.MaxDeliver > 0 && !s.set.AllowMaxDeliver {
		found.add("consumer %s: MaxDeliver is %d: the server abandons a message that was delivered so often; set it to -1, or AllowMaxDeliver in the source's config", name, c.MaxDeliver)
	}
	if len(c.BackOff) > 0 {
		found.add("consumer %s: BackOff is %v: it replaces AckWait, and distorts delayed redeliveries; remove it, the gate's policy has a back-off", name, c.BackOff)
	}
	if c.HeadersOnly {
		found.add("consumer %s: HeadersOnly is set: deferred copies and dead letters would lose the payload; create it without", name)
	}
	if c.PriorityPolicy != jetstream.PriorityPolicyNone {
		found.add("consumer %s: it has a PriorityPolicy, which this source does not speak; create it without", name)
	}
	if c.AckWait < minAckWait {
		found.add("consumer %s: AckWait is %v, too short to keep messages from redelivery; set it to %v or more", name, c.AckWait, minAckWait)
	}
	if limit := c.MaxRequestExpires; limit > 0 && limit < 200*time.Millisecond {
		found.add("consumer %s: MaxRequestExpires is %v; set it to 200ms or more", name, limit)
	}
}

func (s *Source) checkSchedules(found *problems, sc jetstream.StreamConfig, cc jetstream.ConsumerConfig) {
	const otherwise = "; or set NakDeferrals in the source's config"
	copies := s.set.DeferSubject + ".*"
	if !sc.AllowMsgSchedules {
		found.add("stream %s: AllowMsgSchedules is not set, so nothing can be deferred; set it (nats-server 2.12 or later)"+otherwise, sc.Name)
	}
	if sc.Retention == jetstream.InterestPolicy {
		found.add("stream %s: Retention is Interest: a deferred copy that no consumer takes is not kept; use Limits or WorkQueue"+otherwise, sc.Name)
	}
	if sc.MaxAge > 0 && !sc.AllowMsgTTL {
		found.add("stream %s: MaxAge is %v and AllowMsgTTL is not set: a message deferred for longer would be deleted; set AllowMsgTTL"+otherwise, sc.Name, sc.MaxAge)
	}
	if sc.MaxMsgsPerSubject > 0 && s.set.ReturnSubject == "" {
		found.add("stream %s: MaxMsgsPerSubject is %d: a deferred copy that comes back would push out another message; unset it, or set ReturnSubject in the source's config"+otherwise, sc.Name, sc.MaxMsgsPerSubject)
	}
	if sc.SubjectTransform != nil {
		found.add("stream %s: it has a SubjectTransform, so a deferred copy would come back under another subject; remove it"+otherwise, sc.Name)
	}
	if sc.NoAck {
		found.add("stream %s: NoAck is set, so deferred copies cannot be confirmed; unset it"+otherwise, sc.Name)
	}
	if !anyCovers(sc.Subjects, copies) {
		found.add("stream %s: its subjects %q do not take in deferred copies; add %q"+otherwise, sc.Name, sc.Subjects, copies)
	}
	filters := filtersOf(cc)
	if len(filters) == 0 {
		found.add("consumer %s: it has no filter, so it would take the copies that wait to be due; set FilterSubjects to what it is for, without %q"+otherwise, s.set.Consumer, copies)
	}
	if back := s.set.ReturnSubject + ".*"; s.set.ReturnSubject != "" {
		if !anyCovers(sc.Subjects, back) {
			found.add("stream %s: its subjects %q do not take in deferred copies that come back; add %q"+otherwise, sc.Name, sc.Subjects, back)
		}
		if !anyCovers(filters, back) {
			found.add("consumer %s: its filters %q do not take in deferred copies that come back; add %q"+otherwise, s.set.Consumer, filters, back)
		}
	}
	for _, filter := range filters {
		if overlaps(filter, copies) {
			found.add("consumer %s: its filter %q takes in the copies that wait to be due; change it, or DeferSubject, so that it does not take in %q"+otherwise, s.set.Consumer, filter, copies)
		}
	}
}

func filtersOf(c jetstream.ConsumerConfig) []string {
	if c.FilterSubject != "" {
		return []string{c.FilterSubject}
	}
	return c.FilterSubjects
}

func anyCovers(patterns []string, sub string) bool {
	for _, p := range patterns {
		if covers(p, sub) {
			return true
		}
	}
	return false
}

// unanswered explains an error of a request to the server. One that the server
// does not permit goes without an answer; the reason is with the connection.
func (s *Source) unanswered(what string, err error) error {
	if last := s.js.Conn().LastError(); errors.Is(last, nats.ErrPermissionViolation) {
		return fmt.Errorf("fluxnats: look at %s: %w; the connection's last error is: %w", what, err, last)
	}
	return fmt.Errorf("fluxnats: look at %s: %w", what, err)
}
