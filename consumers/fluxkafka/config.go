package fluxkafka

import (
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"
)

// Offset says where to begin or to go on in a partition.
type Offset uint8

const (
	// First is the oldest record that the log still has.
	First Offset = iota
	// Last is the end of the log: only what is published from now on.
	Last
	// Fail is no place at all: Run ends with [ErrOffset].
	Fail
)

// Headers says which headers a dead letter carries besides those of this
// package and of KIP-1191.
type Headers uint8

const (
	// SpringHeaders are those of Spring for Apache Kafka, kafka_dlt-….
	SpringHeaders Headers = 1 << iota
	// ConnectHeaders are those of Kafka Connect, __connect.errors.….
	ConnectHeaders
)

// NoDeadLetters as Config.DeadLetters turns dead letters off.
const NoDeadLetters = "-"

// Config configures a [Source].
type Config struct {
	// Brokers are addresses, host:port, to find the cluster by. Required.
	Brokers []string

	// Group is the consumer group. Required.
	Group string

	// Topics are the topics to consume. Required, unless Pattern is set.
	Topics []string

	// Pattern matches the names of topics to consume besides Topics, those of
	// the day and those made later. Lanes, dead letters and internal topics never
	// match. A change of the matching topics makes this member leave the group and
	// join it again. Whoever may make a topic that matches must take care of its
	// lanes and dead letters, too, unless CreateTopics is set: one that has none
	// ends Run with [ErrTopic].
	// Defaults to nil: Topics alone.
	Pattern *regexp.Regexp

	// Dialer opens the connections, and holds what they need of TLS, SASL and
	// client id. Its Resolver, LocalAddr, DualStack, FallbackDelay, KeepAlive
	// and Deadline are not used: set DialFunc for those.
	// Defaults to plain TCP with a timeout of 10 seconds.
	Dialer *kafka.Dialer

	// Start is where to begin in a topic that the group never committed an
	// offset of, First or Last. A partition that is added later to a topic that
	// the group knows is always read from its first record.
	// Defaults to First.
	Start Offset

	// OutOfRange is where to go on when the position is not in the log any
	// more, because retention deleted it or the log was truncated or made anew.
	// First repeats what is there and loses nothing that the broker has; each case
	// is logged and counted. Lanes go on with their first record, unless it is Fail.
	// Defaults to First.
	OutOfRange Offset

	// ReadUncommitted delivers records of transactions that are open or were
	// aborted, too.
	// Defaults to false.
	ReadUncommitted bool

	// Window is how many messages of one partition may be with the gate at
	// once, WindowBytes how many bytes of them. A full window stops the fetches
	// of that partition and of no other.
	// Default to 4096 and 64 MiB.
	Window      int
	WindowBytes int

	// FetchBytes is how much to ask for in one fetch, and FetchWait how long
	// the broker may hold a fetch that finds nothing. Each partition holds up to
	// FetchBytes that are not delivered yet, or one batch if that is larger.
	// Default to 1 MiB and 500 milliseconds.
	FetchBytes int
	FetchWait  time.Duration

	// CommitInterval is how often offsets are committed. After a crash, what
	// was done since the last commit is repeated.
	// Defaults to 250 milliseconds.
	CommitInterval time.Duration

	// SessionTimeout is how long the group waits for a silent member. Every
	// member of a group should have the same SessionTimeout and RebalanceTimeout.
	// Defaults to 30 seconds.
	SessionTimeout time.Duration

	// RebalanceTimeout is how long the group waits for its members to join when
	// membership changes.
	// Defaults to 30 seconds.
	RebalanceTimeout time.Duration

	// HeartbeatInterval is how often the member shows that it lives, and so how
	// soon it learns of a rebalance.
	// Defaults to 1 second.
	HeartbeatInterval time.Duration

	// DrainTimeout is how long a rebalance may wait for the handlers at work; what
	// is left then is revoked and delivered again by the next owner. The whole group
	// waits that long at worst. Parked messages go to the next owner at once.
	// No heartbeat is sent meanwhile, so that the time until the rebalance is
	// noticed, DrainTimeout and the last commit must fit both SessionTimeout and
	// RebalanceTimeout.
	// Defaults to 5 seconds.
	DrainTimeout time.Duration

	// RequestTimeout is how long a broker may take to answer.
	// Defaults to 5 seconds.
	RequestTimeout time.Duration

	// StartTimeout is how long Run looks for a broker that answers before it
	// gives up.
	// Defaults to 30 seconds.
	StartTimeout time.Duration

	// WatchInterval is how often topics are checked for new partitions and for
	// new matches of Pattern.
	// Defaults to 10 seconds.
	WatchInterval time.Duration

	// Lanes are the delays of the lanes, topics that hold deferred messages. A
	// message takes the longest lane that does not make it late, from there the next
	// one, and the shortest lane for the rest: it never comes back early, and late by
	// up to the delay of the shortest lane. That should be no longer than half of
	// the policy's MaxWait, which is how early the gate asks for messages. Delays that
	// are far apart mean fewer lanes and more hops.
	// Defaults to 2s, 10s, 1m and 10m. Empty but not nil: no deferral, see
	// [Source.CanDefer].
	Lanes []time.Duration

	// LaneTopic is the template of lane topics: {topic}, {group} and {delay}
	// are replaced.
	// Defaults to "{topic}.{group}.defer-{delay}".
	LaneTopic string

	// DeadLetters is the template of dead-letter topics: {topic} and {group}
	// are replaced.
	// Defaults to "dlq.{topic}.{group}". See also [NoDeadLetters].
	DeadLetters string

	// DeadLetterHeaders are headers to write besides the standard ones.
	// Defaults to none.
	DeadLetterHeaders Headers

	// TenantAffinity says what to do when the messages of a tenant are in
	// partitions of more than one number, or the topics have different counts of
	// partitions when Run begins. With it, a member is given the partitions of one
	// number of all topics, so that a tenant belongs to one member, as long as all
	// members of the group have it, and the same topics.
	//
	// Each member checks what it reads against what it has read since it was made,
	// or since partitions were added, in a table of 1 MiB for 32,768 tenants. It
	// cannot see a tenant whose other partition another member reads all the time,
	// nor one that was forgotten because so many others came after it. Messages of
	// lanes it does not check, they were before. It costs a hash and a lock a message.
	// Defaults to AnyPartition: no check.
	TenantAffinity Affinity

	// Tenant returns the tenant that a message belongs to, "" if it has none,
	// for TenantAffinity alone. Give it the gate's. The goroutines of all partitions
	// call it, and no message of a lane.
	// Required with a TenantAffinity.
	Tenant func(*kafka.Message) string

	// CreateTopics makes Run create the lanes and dead-letter topics that do
	// not exist: with as many partitions as their source, the cluster's
	// replication, and for dead letters without retention. Without it, they must
	// exist.
	// Defaults to false.
	CreateTopics bool

	// Logger is told of faults and of what was done about them.
	// Defaults to no log.
	Logger *slog.Logger
}

// slack is the part of the drain budget that belongs to the last commit.
const slack = time.Second

func (c *Config) committed() bool { return !c.ReadUncommitted }

// complete returns c with its defaults, or an error.
func (c Config) complete() (Config, error) {
	duration := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	if c.Dialer == nil {
		c.Dialer = &kafka.Dialer{Timeout: 10 * time.Second}
	}
	if c.Window == 0 {
		c.Window = 4096
	}
	if c.WindowBytes == 0 {
		c.WindowBytes = 64 << 20
	}
	if c.FetchBytes == 0 {
		c.FetchBytes = 1 << 20
	}
	duration(&c.FetchWait, 500*time.Millisecond)
	duration(&c.CommitInterval, 250*time.Millisecond)
	duration(&c.SessionTimeout, 30*time.Second)
	duration(&c.RebalanceTimeout, 30*time.Second)
	duration(&c.HeartbeatInterval, time.Second)
	duration(&c.DrainTimeout, 5*time.Second)
	duration(&c.RequestTimeout, 5*time.Second)
	duration(&c.StartTimeout, 30*time.Second)
	duration(&c.WatchInterval, 10*time.Second)
	if c.Lanes == nil {
		c.Lanes = []time.Duration{2 * time.Second, 10 * time.Second, time.Minute, 10 * time.Minute}
	}
	c.Lanes = slices.Sorted(slices.Values(c.Lanes))
	if c.LaneTopic == "" {
		c.LaneTopic = "{topic}.{group}.defer-{delay}"
	}
	if c.DeadLetters == "" {
		c.DeadLetters = "dlq.{topic}.{group}"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Brokers = slices.Clone(c.Brokers)
	c.Topics = slices.Clone(c.Topics)
	return c, c.validate()
}

func (c *Config) validate() error {
	bad := func(field string, value any, why string) error {
		return fmt.Errorf("%w: Config.%s = %v: %s", ErrInvalidConfig, field, value, why)
	}
	switch {
	case len(c.Brokers) == 0 || slices.Contains(c.Brokers, ""):
		return bad("Brokers", fmt.Sprintf("%q", c.Brokers), "want addresses")
	case c.Group == "":
		return bad("Group", `""`, "want a name")
	case len(c.Topics) == 0 && c.Pattern == nil:
		return bad("Topics", c.Topics, "want topics, or a Pattern")
	case c.Start > Last:
		return bad("Start", c.Start, "want First or Last")
	case c.OutOfRange > Fail:
		return bad("OutOfRange", c.OutOfRange, "want First, Last or Fail")
	case c.Window < 1:
		return bad("Window", c.Window, "want at least 1")
	case c.WindowBytes < 1:
		return bad("WindowBytes", c.WindowBytes, "want at least 1")
	case c.FetchBytes < 1 || c.FetchBytes > maxResponse/2:
		return bad("FetchBytes", c.FetchBytes, "want 1 to 512 MiB")
	case c.TenantAffinity > RequireAffinity:
		return bad("TenantAffinity", c.TenantAffinity, "want AnyPartition, WarnAffinity or RequireAffinity")
	case c.TenantAffinity != AnyPartition && c.Tenant == nil:
		return bad("Tenant", "nil", "want the gate's function, for TenantAffinity")
	case c.DeadLetterHeaders > SpringHeaders|ConnectHeaders:
		return bad("DeadLetterHeaders", c.DeadLetterHeaders, "want SpringHeaders, ConnectHeaders or both")
	}
	for _, d := range []struct {
		field string
		value time.Duration
	}{
		{"FetchWait", c.FetchWait},
		{"CommitInterval", c.CommitInterval},
		{"SessionTimeout", c.SessionTimeout},
		{"RebalanceTimeout", c.RebalanceTimeout},
		{"HeartbeatInterval", c.HeartbeatInterval},
		{"DrainTimeout", c.DrainTimeout},
		{"RequestTimeout", c.RequestTimeout},
		{"StartTimeout", c.StartTimeout},
		{"WatchInterval", c.WatchInterval},
	} {
		if d.value < time.Millisecond || d.value > 24*time.Hour {
			return bad(d.field, d.value, "want 1ms to 24h")
		}
	}
	if budget := min(c.SessionTimeout, c.RebalanceTimeout) - c.HeartbeatInterval - slack; c.DrainTimeout > budget {
		return bad("DrainTimeout", c.DrainTimeout, fmt.Sprintf(
			"the group would not wait for it: want at most %v, which is the shorter of SessionTimeout and RebalanceTimeout less HeartbeatInterval and %v for the last commit", budget, slack))
	}
	for i, d := range c.Lanes {
		if d < time.Millisecond || i > 0 && d == c.Lanes[i-1] {
			return bad("Lanes", c.Lanes, "want distinct delays of at least 1ms")
		}
	}
	for _, part := range []string{"{topic}", "{group}", "{delay}"} {
		if len(c.Lanes) > 0 && !strings.Contains(c.LaneTopic, part) {
			return bad("LaneTopic", c.LaneTopic, "want "+part+" in it")
		}
		if c.DeadLetters != NoDeadLetters && part != "{delay}" && !strings.Contains(c.DeadLetters, part) {
			return bad("DeadLetters", c.DeadLetters, "want "+part+" in it")
		}
	}
	for i, topic := range c.Topics {
		if slices.Contains(c.Topics[:i], topic) {
			return bad("Topics", c.Topics, "want distinct topics")
		}
		names := append(c.laneTopics(topic), topic)
		if c.DeadLetters != NoDeadLetters {
			names = append(names, c.deadLetterTopic(topic))
		}
		for _, name := range names {
			if !legalTopic(name) {
				return bad("Topics", fmt.Sprintf("%q", topic), fmt.Sprintf("%q is not a legal topic name", name))
			}
		}
	}
	return nil
}

// legalTopic reports whether Kafka takes name for a topic.
func legalTopic(name string) bool {
	if name == "" || name == "." || name == ".." || len(name) > 249 {
		return false
	}
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

// laneTopic returns the name of a topic's lane.
func (c *Config) laneTopic(topic string, delay time.Duration) string {
	return strings.NewReplacer("{topic}", topic, "{group}", c.Group, "{delay}", shortDuration(delay)).Replace(c.LaneTopic)
}

func (c *Config) laneTopics(topic string) []string {
	names := make([]string, 0, len(c.Lanes))
	for _, delay := range c.Lanes {
		names = append(names, c.laneTopic(topic, delay))
	}
	return names
}

// deadLetterTopic returns the name of the topic for a topic's dead letters, ""
// if there is none.
func (c *Config) deadLetterTopic(topic string) string {
	if c.DeadLetters == NoDeadLetters {
		return ""
	}
	return strings.NewReplacer("{topic}", topic, "{group}", c.Group).Replace(c.DeadLetters)
}

// ours matches the names of lanes and dead letters, of any topic and group.
func (c *Config) ours() *regexp.Regexp {
	var alternatives []string
	for _, template := range []string{c.LaneTopic, c.DeadLetters} {
		if template == NoDeadLetters {
			continue
		}
		alternatives = append(alternatives, strings.NewReplacer(
			regexp.QuoteMeta("{topic}"), ".+", regexp.QuoteMeta("{group}"), ".+", regexp.QuoteMeta("{delay}"), `([0-9.]+(h|m|s|ms))+`,
		).Replace(regexp.QuoteMeta(template)))
	}
	return regexp.MustCompile("^(" + strings.Join(alternatives, "|") + ")$")
}

// shortDuration is d as people write it: 5m, not 5m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
