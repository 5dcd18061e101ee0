package fluxnats

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// recreateTime is how long the stream and the consumer may be gone before the run
// ends: those who change a setup often delete it first.
const recreateTime = 30 * time.Second

// cautious is how long after a reconnect verdicts wait at most until the stream has
// been looked at: longer would keep messages from being settled while the servers
// have other troubles.
const cautious = 5 * time.Second

// examineTimeout is how long an answer is waited for at first. A request that went
// to a server which is gone by now must not keep the next one waiting for long.
const examineTimeout = time.Second

// errUnsure is that the consumer was deleted or the connection lost, and that it is
// not yet known whether the stream was made anew since.
var errUnsure = errors.New("it is being looked at whether the stream is still the same")

// examine asks the server whether the consumer is still there and fit, whenever
// requests have failed in a way that makes one wonder, and ends the run if it is
// unfit, or gone for longer than it takes to make it again.
func (r *run) examine(ctx context.Context) {
	var gone time.Duration // since when it is, if it is
	patience := examineTimeout
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.doubt:
		}
		if !r.nc.IsConnected() {
			continue
		}
		limited, cancel := context.WithTimeout(ctx, patience)
		f, err := r.src.inspect(limited)
		cancel()
		missing := errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound)
		switch now := r.now(); {
		case err == nil:
			r.src.fit(&f, r.in)
			r.found(f)
			gone, patience = 0, examineTimeout
		case missing && gone == 0:
			gone = now
			r.set.log.Warn("waiting for what is gone to be made again", "for", recreateTime, "error", err)
		case missing && now-gone < recreateTime:
		case errors.Is(err, ErrSetup):
			r.fail(err)
			return
		case ctx.Err() == nil:
			r.set.log.Warn("the consumer cannot be examined", "error", err)
			patience = min(2*patience, answerTimeout)
			if r.sure() != nil {
				time.Sleep(ackRetry)
				poke(r.doubt)
			}
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
	if f.reconnects >= r.reconnects {
		r.reconnects, r.cautiousTill = f.reconnects, 0
	}
	r.facts.Store(&f)
	r.mu.Unlock()
	if foreign > 0 {
		r.set.log.Warn("the stream was deleted and made again: verdicts on its old messages have nowhere to go", "held", foreign)
	}
}

// sure returns an error while it is not known whether the stream is the one that
// what is held came from, or while there is no connection: the client library would
// keep what is sent until there is one again, and send it whatever happened to the
// stream meanwhile. At the end of a run nobody finds out.
func (r *run) sure() error {
	if r.ended() {
		return nil
	}
	if !r.nc.IsConnected() {
		return nats.ErrDisconnected
	}
	reconnects := r.nc.Stats().Reconnects
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if reconnects != r.reconnects {
		r.reconnects, r.cautiousTill = reconnects, now+cautious
	}
	if r.unsure || now < r.cautiousTill {
		return errUnsure
	}
	return nil
}

// gone reports whether the stream that d came from is known to be gone, or returns
// an error while that cannot be said.
func (d *delivery) gone() (bool, error) {
	if d.foreign.Load() {
		return true, nil
	}
	if err := d.r.sure(); err != nil {
		return false, err
	}
	// It may have become sure only now, by finding that out.
	return d.foreign.Load(), nil
}
