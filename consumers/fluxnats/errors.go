package fluxnats

import "errors"

var (
	// ErrInvalidConfig is returned by New and Provision; the error that wraps
	// it names the field and its value.
	ErrInvalidConfig = errors.New("fluxnats: invalid config")

	// ErrSetup is returned by Run when the stream, the consumer or the
	// dead-letter stream is missing or set up in a way that would lose messages
	// or starve tenants. The error that wraps it lists all that is wrong and
	// what to do about it.
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
