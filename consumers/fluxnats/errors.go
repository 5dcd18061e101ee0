package fluxnats

import "errors"

var (
	// ErrInvalidConfig is returned for a Config, a [CoreConfig], a [Layout], a
	// [WatchConfig] or a [RedriveConfig] that makes no sense. The error that wraps it
	// names the field and its value.
	ErrInvalidConfig = errors.New("fluxnats: invalid config")

	// ErrSetup is returned by Run, Watch and [Redrive] when a stream or consumer
	// that they need is missing, is set up in a way that would lose messages or
	// starve tenants, or may not be used by this connection. The error that wraps it
	// lists all that is wrong and what to do about it.
	ErrSetup = errors.New("fluxnats: setup")

	// ErrExists is returned by Provision when a stream or consumer exists with
	// another configuration. The error that wraps it names the field and both
	// values.
	ErrExists = errors.New("fluxnats: exists with another configuration")

	// ErrNoRequest is returned by [Msg.Respond] for a message that nobody waits
	// for an answer to.
	ErrNoRequest = errors.New("fluxnats: not a request")

	// ErrRunning is returned by Run while another Run of the source goes on.
	ErrRunning = errors.New("fluxnats: source is running")
)
