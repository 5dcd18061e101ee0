package stream_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

func TestAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failure := errors.New("no database")
		r := start(t, nil, stream.Config[*parcel]{Policy: stream.Policy{
			MaxWait: time.Second,
			Backoff: func(failed int) time.Duration { return time.Duration(failed) * 400 * time.Millisecond },
		}}, func(context.Context, *parcel) error { return failure })
		r.deliver(&parcel{name: "x", tenant: "a"})
		time.Sleep(time.Minute)
		// 400ms and 800ms are spent in memory, 1.2s is more than MaxWait.
		r.want("0s x run", "400ms x run", "1.2s x run", "1.2s x defer retry 2.4s attempts 3")

		back := &parcel{name: "x", tenant: "a", meta: stream.Meta{Attempts: 3}}
		r.deliver(back)
		r.want("1m0s x run", "1m0s x defer retry 1m1.6s attempts 4")
		back.meta.Attempts = 4
		r.deliver(back)
		r.want("1m0s x run", "1m0s x dead max_attempts")
		if l := r.letters[0]; l.Attempts != 5 || l.Deferrals != 0 || !errors.Is(l.Err, failure) || l.Stack != nil {
			t.Errorf("letter %+v", l)
		}
		r.end()
	})
}

// TestRetrySpendsAToken holds that an attempt is admitted like the first: here
// behind the limit, and ahead of the messages that came later.
func TestRetrySpendsAToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fail := true
		r := start(t, limits{"a": gcra.PerSecond(1)}, stream.Config[*parcel]{}, func(_ context.Context, p *parcel) error {
			if p.name == "a0" && fail {
				fail = false
				return errors.New("once")
			}
			return nil
		})
		r.deliver(named("a", 3)...)
		time.Sleep(10 * time.Second)
		r.want("0s a0 run", "1s a0 run", "1s a0 ack", "2s a1 run", "2s a1 ack", "3s a2 run", "3s a2 ack")
		r.end()
	})
}

func TestPermanent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failure := errors.New("cannot parse")
		r := start(t, nil, stream.Config[*parcel]{}, func(context.Context, *parcel) error {
			return fmt.Errorf("wrapped: %w", stream.Permanent(failure))
		})
		r.deliver(&parcel{name: "x", tenant: "a"})
		r.want("0s x run", "0s x dead handler_permanent")
		if l := r.letters[0]; l.Attempts != 1 || !errors.Is(l.Err, failure) || l.Err.Error() != "wrapped: cannot parse" {
			t.Errorf("letter %+v", l)
		}
		r.end()
	})
	if err := stream.Permanent(nil); err != nil {
		t.Errorf("Permanent(nil) = %v", err)
	}
}

func TestRetryLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, stream.Config[*parcel]{Policy: stream.Policy{MaxDeferrals: 2}}, func(_ context.Context, p *parcel) error {
			return stream.RetryLater(time.Second, errors.New("429"))
		})
		// However short, it is a deferral, and not an attempt.
		r.deliver(&parcel{name: "x", tenant: "a", meta: stream.Meta{Attempts: 4, Deferrals: 1}})
		r.want("0s x run", "0s x defer retry_later 1s attempts 4 deferrals 2")
		r.deliver(&parcel{name: "x", tenant: "a", meta: stream.Meta{Attempts: 4, Deferrals: 2}})
		r.want("0s x run", "0s x dead max_deferrals")
		if l := r.letters[0]; l.Attempts != 4 || l.Deferrals != 2 || l.Err.Error() != "retry after 1s: 429" {
			t.Errorf("letter %+v", l)
		}
		r.end()
	})
	if err := stream.RetryLater(-time.Second, nil); err == nil || err.Error() != "retry after 0s" {
		t.Errorf("RetryLater(-1s, nil) = %v", err)
	}
}

func TestPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, stream.Config[*parcel]{Policy: stream.Policy{MaxAttempts: 1}}, func(context.Context, *parcel) error {
			panic("index out of range")
		})
		r.deliver(&parcel{name: "x", tenant: "a"})
		r.want("0s x run", "0s x dead max_attempts")
		l := r.letters[0]
		if !errors.Is(l.Err, stream.ErrPanic) || !strings.Contains(l.Err.Error(), "index out of range") {
			t.Errorf("error %v", l.Err)
		}
		if !strings.Contains(string(l.Stack), "TestPanic") {
			t.Errorf("the stack does not show the handler:\n%s", l.Stack)
		}
		r.end()
	})
}

// TestHandlerTimeout holds that a handler's context ends in time and says why,
// and that what the handler makes of it counts like any other result.
func TestHandlerTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // three messages time out at once
		var causes []error
		r := start(t, nil, stream.Config[*parcel]{
			HandlerTimeout: time.Second,
			Policy:         stream.Policy{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Second }},
		}, func(ctx context.Context, p *parcel) error {
			if by, ok := ctx.Deadline(); !ok || !by.Equal(time.Now().Add(time.Second)) {
				t.Errorf("deadline %v, %v", by, ok)
			}
			if i, ok := stream.FromContext(ctx); !ok || i.Tenant != p.tenant {
				t.Errorf("info %+v, %v", i, ok)
			}
			<-ctx.Done()
			mu.Lock()
			causes = append(causes, context.Cause(ctx))
			mu.Unlock()
			switch p.name {
			case "late":
				return nil
			case "later":
				return stream.RetryLater(time.Minute, ctx.Err())
			case "panics":
				panic("late")
			}
			return ctx.Err()
		})
		r.deliver(&parcel{name: "x", tenant: "a"})
		time.Sleep(10 * time.Second)
		r.want("0s x run", "2s x run", "3s x dead max_attempts")
		if l := r.letters[0]; !errors.Is(l.Err, stream.ErrHandlerTimeout) || !errors.Is(l.Err, context.DeadlineExceeded) || l.Attempts != 2 ||
			l.Err.Error() != "stream: handler timed out after 1s: context deadline exceeded" {
			t.Errorf("letter %+v", l)
		}
		r.deliver(&parcel{name: "late", tenant: "a"}, &parcel{name: "later", tenant: "a"})
		r.deliver(&parcel{name: "panics", tenant: "a", meta: stream.Meta{Attempts: 1}})
		time.Sleep(time.Second)
		r.want("10s late run", "10s later run", "10s panics run", "11s late ack", "11s later defer retry_later 1m11s", "11s panics dead max_attempts")
		for _, cause := range causes {
			if cause != stream.ErrHandlerTimeout { //nolint:errorlint // the cause is this very error
				t.Errorf("cause %v", cause)
			}
		}
		r.end()
	})
}

// TestHandlerTimeoutRevoked holds that the other ends of a handler's context keep
// their causes, and that a handler in time is not bothered.
func TestHandlerTimeoutRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, stream.Config[*parcel]{HandlerTimeout: 2 * time.Second, DrainTimeout: time.Second}, func(ctx context.Context, p *parcel) error {
			switch p.name {
			case "quick":
				time.Sleep(2*time.Second - 1)
				if err := ctx.Err(); err != nil {
					t.Errorf("quick: %v", err)
				}
				return errors.New("no")
			default:
				<-ctx.Done()
				r := p.rig
				r.note("%s %v", p.name, context.Cause(ctx))
				return ctx.Err()
			}
		})
		revoked := make(chan struct{})
		r.deliver(&parcel{name: "quick", tenant: "a", meta: stream.Meta{Attempts: 4}}, &parcel{name: "gone", tenant: "a", revoked: revoked})
		time.Sleep(time.Second)
		close(revoked)
		time.Sleep(time.Second)
		r.want("0s quick run", "0s gone run", "1s gone stream: message was revoked", "1s gone released", "1.999999999s quick dead max_attempts")
		if l := r.letters[0]; l.Err.Error() != "no" {
			t.Errorf("letter %+v", l)
		}
		r.end()
	})
}

// TestGoexit holds that handlers which end their goroutine, as t.FailNow does,
// leave no worker missing.
func TestGoexit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, stream.Config[*parcel]{Workers: 2, Policy: stream.Policy{MaxAttempts: 1}}, func(_ context.Context, p *parcel) error {
			if p.tenant == "bad" {
				runtime.Goexit()
			}
			return nil
		})
		r.deliver(named("bad", 5)...)
		r.deliver(named("good", 1)...)
		r.want("0s bad0 run", "0s bad1 run", "0s bad2 run", "0s bad3 run", "0s bad4 run",
			"0s bad0 dead max_attempts", "0s bad1 dead max_attempts", "0s bad2 dead max_attempts",
			"0s bad3 dead max_attempts", "0s bad4 dead max_attempts",
			"0s good0 run", "0s good0 ack")
		r.end()
	})
}

func TestInfo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var admitted, settled []stream.Info
		var outcomes []string
		var seen []stream.Info
		var kept context.Context
		cfg := stream.Config[*parcel]{
			Workers: 1,
			Policy:  stream.Policy{Backoff: func(int) time.Duration { return time.Second }},
			Hooks: stream.Hooks{
				Admitted: func(i stream.Info) { admitted = append(admitted, i) },
				Settled: func(i stream.Info, o stream.Outcome, reason stream.Reason) {
					settled = append(settled, i)
					outcomes = append(outcomes, fmt.Sprint(o, " ", reason))
				},
			},
		}
		r := start(t, limits{"a": gcra.PerSecond(2).WithBurst(4)}, cfg, func(ctx context.Context, p *parcel) error {
			i, ok := stream.FromContext(ctx)
			if !ok {
				t.Error("no Info in the context")
			}
			seen = append(seen, i)
			if i.Attempt == 3 {
				kept = ctx
				return errors.New("once")
			}
			return nil
		})
		time.Sleep(time.Second)
		published := time.Now().Add(-time.Hour)
		r.deliver(&parcel{name: "x", tenant: "a", cost: 3, meta: stream.Meta{Time: published, Attempts: 2, Deferrals: 1}})
		delivered := time.Now()
		time.Sleep(10 * time.Second)
		r.want("1s x run", "2s x run", "2s x ack")
		r.end()

		want := []stream.Info{
			{Tenant: "a", Cost: 3, Attempt: 3, Deferrals: 1, Published: published, Delivered: delivered, Granted: delivered},
			{Tenant: "a", Cost: 3, Attempt: 4, Deferrals: 1, Published: published, Delivered: delivered, Granted: delivered.Add(time.Second)},
		}
		same := func(a, b stream.Info) bool {
			return a.Tenant == b.Tenant && a.Cost == b.Cost && a.Attempt == b.Attempt && a.Deferrals == b.Deferrals &&
				a.Published.Equal(b.Published) && a.Delivered.Equal(b.Delivered) && a.Granted.Equal(b.Granted)
		}
		for i, w := range want {
			if len(seen) != 2 || !same(seen[i], w) {
				t.Fatalf("seen by the handler: %+v\nwant %+v", seen, want)
			}
			if len(admitted) != 2 || !same(admitted[i], w) {
				t.Fatalf("admitted: %+v\nwant %+v", admitted, want)
			}
		}
		if len(settled) != 1 || !same(settled[0], want[1]) || outcomes[0] != "process none" {
			t.Errorf("settled: %+v %v\nwant %+v", settled, outcomes, want[1])
		}
		// A context that was kept still speaks of its own message.
		if i, _ := stream.FromContext(kept); !same(i, want[0]) {
			t.Errorf("kept context: %+v, want %+v", i, want[0])
		}
	})
	if _, ok := stream.FromContext(t.Context()); ok {
		t.Error("Info in a context that is not of a message")
	}
}

// TestSettledAttempt holds that a hook sees the attempt that led to the fate of
// a message, and the deferral that it is.
func TestSettledAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		cfg := stream.Config[*parcel]{
			Policy: stream.Policy{MaxWait: -1, MaxAttempts: 2},
			Hooks: stream.Hooks{Settled: func(i stream.Info, o stream.Outcome, reason stream.Reason) {
				got = append(got, fmt.Sprint(o, " ", reason, " attempt ", i.Attempt, " deferrals ", i.Deferrals, " granted ", !i.Granted.IsZero()))
			}},
		}
		r := start(t, limits{"b": gcra.DenyAll()}, cfg, func(context.Context, *parcel) error { return errors.New("failed") })
		r.deliver(&parcel{name: "x", tenant: "a"})
		r.want("0s x run", "0s x defer retry 100ms attempts 1")
		r.deliver(&parcel{name: "x", tenant: "a", meta: stream.Meta{Attempts: 1}})
		r.want("0s x run", "0s x dead max_attempts")
		r.deliver(&parcel{name: "y", tenant: "b", meta: stream.Meta{Attempts: 1}})
		r.want("0s y defer quota_exceeded 1h0m0s attempts 1")
		want := []string{
			"defer retry attempt 1 deferrals 0 granted true",
			"dead_letter max_attempts attempt 2 deferrals 0 granted true",
			"defer quota_exceeded attempt 2 deferrals 1 granted false",
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got  %q\nwant %q", got, want)
		}
		r.end()
	})
}

// TestSettledAttemptOfTheExpired holds that a hook sees the attempt that failed
// last when the message is then too old for another.
func TestSettledAttemptOfTheExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		r := start(t, nil, stream.Config[*parcel]{
			Policy: stream.Policy{MaxAge: time.Second, Backoff: func(int) time.Duration { return time.Minute }},
			Hooks: stream.Hooks{Settled: func(i stream.Info, o stream.Outcome, reason stream.Reason) {
				got = append(got, fmt.Sprint(o, " ", reason, " ", i.Attempt))
			}},
		}, func(context.Context, *parcel) error { return errors.New("failed") })
		r.deliver(&parcel{name: "x", tenant: "a"})
		r.want("0s x run", "0s x dead expired")
		if len(got) != 1 || got[0] != "dead_letter expired 1" {
			t.Errorf("settled %q", got)
		}
		r.end()
	})
}

// TestGoexitElsewhere holds that a function of the user other than the handler
// that ends the goroutine costs no worker either; its message is released.
func TestGoexitElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, stream.Config[*parcel]{Workers: 1, Policy: stream.Policy{Backoff: func(int) time.Duration {
			runtime.Goexit()
			return 0
		}}}, func(_ context.Context, p *parcel) error {
			if p.name == "backoff" {
				return errors.New("failed")
			}
			return nil
		})
		r.deliver(
			&parcel{name: "backoff", tenant: "a"},
			&parcel{name: "ack", tenant: "a", settle: func(context.Context, string) error { runtime.Goexit(); return nil }},
			&parcel{name: "good", tenant: "a"},
		)
		r.want("0s backoff run", "0s backoff released", "0s ack run", "0s ack released", "0s good run", "0s good ack")
		r.end()
	})
}
