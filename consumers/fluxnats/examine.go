package fluxnats

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// recreateTime is how long the stream and the consumer may be gone before the run
// ends: those who change a setup often delete it first.
const recreateTime = 30 * time.Second

// errUnsure is that the consumer was deleted, and that it is not yet known whether
// its stream was too.
var errUnsure = errors.New("the consumer was deleted, and the stream is being looked at")

// examine asks the server whether the consumer is still there and fit, whenever
// requests have failed in a way that makes one wonder, and ends the run if it is
// unfit, or gone for longer than it takes to make it again.
func (r *run) examine(ctx context.Context) {
	var gone time.Duration // since when it is, if it is
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.doubt:
		}
		if !r.nc.IsConnected() {
			continue
		}
		f, err := r.src.inspect(ctx)
		missing := errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound)
		switch now := r.now(); {
		case err == nil:
			r.src.fit(&f, r.in)
			r.found(f)
			gone = 0
		case missing && gone == 0:
			gone = now
			r.set.log.Warn("waiting for what is gone to be made again", "for", recreateTime, "error", err)
		case missing && now-gone < recreateTime:
		case errors.Is(err, ErrSetup):
			r.fail(err)
			return
		case ctx.Err() == nil:
			r.set.log.Warn("the consumer cannot be examined", "error", err)
		}
	}
}

// found takes note of how the stream and the consumer are. A stream that was made
// anew gives its messages the sequences of the old one's: those of them that are
// held are foreign to it.
func (r *run) found(f facts) {
	r.mu.Lock()
	made := f.created.UnixNano()
	foreign := 0
	if !f.created.Equal(r.facts.Load().created) {
		for d := r.oldest.next; d != &r.oldest; d = d.next {
			if d.stored < made {
				d.foreign.Store(true)
				foreign++
			}
		}
		clear(r.naks)
		if r.newest.stored < made {
			r.recent = recentAcks{}
			r.newest.seq = 0
		}
	}
	r.unsure = false
	r.facts.Store(&f)
	r.mu.Unlock()
	if foreign > 0 {
		r.set.log.Warn("the stream was deleted and made again: verdicts on its old messages have nowhere to go", "held", foreign)
	}
}

// sure returns an error while it is not known whether the stream is the one that
// what is held came from. At the end of a run nobody finds out.
func (r *run) sure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.unsure && !r.ended() {
		return errUnsure
	}
	return nil
}
