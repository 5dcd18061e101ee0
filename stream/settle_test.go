package stream_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

var errBroker = errors.New("broker fault")

// failing fails the first n settles.
func failing(n int) func(context.Context, string) error {
	return func(context.Context, string) error {
		if n--; n >= 0 {
			return errBroker
		}
		return nil
	}
}

func TestSettlesUntilItWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, limits{"b": gcra.DenyAll()}, stream.Config[*parcel]{}, func(_ context.Context, p *parcel) error {
			if p.tenant == "c" {
				return stream.Permanent(errBroker)
			}
			return nil
		})
		r.deliver(
			&parcel{name: "a", tenant: "a", settle: failing(3)},
			&parcel{name: "b", tenant: "b", settle: failing(2)},
			&parcel{name: "c", tenant: "c", settle: failing(1)},
		)
		time.Sleep(time.Minute)
		r.want(
			"0s a run", "0s a ack failed", "50ms a ack failed", "150ms a ack failed", "350ms a ack",
			"0s b defer failed", "50ms b defer failed", "150ms b defer quota_exceeded 1h0m0s",
			"0s c run", "0s c dead failed", "50ms c dead handler_permanent",
		)
		if s := r.gate.Stats(); s.Held != 0 || s.SettleErrors != 6 || s.Processed != 1 || s.Deferred != 1 || s.DeadLettered != 1 {
			t.Errorf("Stats = %+v", s)
		}
		r.end()
	})
}

// TestSettleRevoked holds that a settle which finds that the message is not
// ours any more is the end of it.
func TestSettleRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, limits{"b": gcra.DenyAll()}, stream.Config[*parcel]{}, nil)
		revoked := func(context.Context, string) error { return fmt.Errorf("late: %w", stream.ErrRevoked) }
		r.deliver(&parcel{name: "a", tenant: "a", settle: revoked}, &parcel{name: "b", tenant: "b", settle: revoked})
		time.Sleep(time.Minute)
		r.want("0s a run", "0s a ack failed", "0s b defer failed")
		if s := r.gate.Stats(); s.Held != 0 || s.Revoked != 2 || s.SettleErrors != 0 || s.Processed != 0 {
			t.Errorf("Stats = %+v", s)
		}
		r.end()
	})
}

// TestOutageOfDeadLetters holds that dead letters and deferrals which hang do
// not keep handlers from running, nor one another for ever.
func TestOutageOfDeadLetters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := func(ctx context.Context, how string) error {
			if time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)) > time.Minute {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}
		r := start(t, limits{"b": gcra.DenyAll()}, stream.Config[*parcel]{Workers: 2}, func(_ context.Context, p *parcel) error {
			if p.tenant == "c" {
				return stream.Permanent(errBroker)
			}
			return nil
		})
		for _, tenant := range []string{"b", "c"} {
			for _, p := range named(tenant, 50) {
				p.settle = hangs
				r.deliver(p)
			}
		}
		time.Sleep(time.Second)
		r.forget()
		r.deliver(named("quiet", 2)...)
		r.want("1s quiet0 run", "1s quiet0 ack", "1s quiet1 run", "1s quiet1 ack")
		time.Sleep(5 * time.Minute)
		if s := r.gate.Stats(); s.Deferred != 50 || s.DeadLettered != 50 || s.Held != 0 {
			t.Errorf("Stats = %+v after the outage", s)
		}
		r.end()
	})
}
