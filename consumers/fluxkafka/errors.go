package fluxkafka

import "errors"

var (
	// ErrInvalidConfig is returned by New; the error that wraps it names the
	// field and its value.
	ErrInvalidConfig = errors.New("fluxkafka: invalid config")

	// ErrUnreachable is returned by Run when no broker answered within
	// Config.StartTimeout.
	ErrUnreachable = errors.New("fluxkafka: no broker answers")

	// ErrTopic is returned by Run when a topic that it needs does not exist, or
	// not with as many partitions as it must have. The error that wraps it names
	// the topic and what is wrong.
	ErrTopic = errors.New("fluxkafka: unusable topic")

	// ErrOffset is returned by Run under [Fail] when a partition's position is
	// not in its log any more.
	ErrOffset = errors.New("fluxkafka: offset out of range")

	// ErrAffinity is returned by Run under [RequireAffinity] when a tenant's
	// messages are in two partitions. The error that wraps it names the tenant and
	// both.
	ErrAffinity = errors.New("fluxkafka: tenant in two partitions")

	// ErrRefused is returned by Run when the brokers refuse this client for a
	// reason that waiting does not mend: credentials, permissions, or a group of
	// another kind. Once it has been a member, Run keeps trying instead.
	ErrRefused = errors.New("fluxkafka: refused")

	// ErrNoLanes is returned by a Defer when Config.Lanes is empty.
	ErrNoLanes = errors.New("fluxkafka: deferral is turned off")

	// ErrNoDeadLetters is returned by a DeadLetter when Config.DeadLetters is
	// [NoDeadLetters].
	ErrNoDeadLetters = errors.New("fluxkafka: dead letters are turned off")

	// ErrRunning is returned by Run while another Run of the same Source is
	// under way.
	ErrRunning = errors.New("fluxkafka: source is already running")

	errSettled = errors.New("fluxkafka: message was already settled or released")
)
