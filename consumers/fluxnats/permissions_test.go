package fluxnats_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/stream"
)

// users makes a server know an admin, who may do anything, and a user, who may do
// what p says.
func users(p *server.Permissions) func(*server.Options) {
	return func(o *server.Options) {
		o.Users = []*server.User{
			{Username: "admin", Password: "admin"},
			{Username: "user", Password: "user", Permissions: p},
		}
	}
}

// denying permits everything but to publish to a subject.
func denying(subject string) *server.Permissions {
	return &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{subject}}}
}

// What the source may not do is found before the first message is taken, if the
// server answers the question, and else as soon as it is tried.
func TestRunEndsWhenTheServerDenies(t *testing.T) {
	const ask = "$SYS.REQ.USER.INFO"
	for name, c := range map[string]struct {
		pub, sub []string // denied
		want     string   // that is refused at the start, and what for
	}{
		"requests":                {pub: []string{"$JS.API.CONSUMER.MSG.NEXT.>"}, want: `"$JS.API.CONSUMER.MSG.NEXT.S.c"; allow it`},
		"acks":                    {pub: []string{"$JS.ACK.>"}, want: `"$JS.ACK.S.c.>"; allow it`},
		"deferred copies":         {pub: []string{"flux.>"}, want: `"flux.defer.S.c.*"; allow it`},
		"dead letters":            {pub: []string{"dlq.*.c"}, want: `"dlq.S.c"; allow it`},
		"info":                    {pub: []string{"$JS.API.CONSUMER.INFO.>"}},
		"the inbox":               {sub: []string{"_INBOX.>"}},
		"requests, and no answer": {pub: []string{ask, "$JS.API.CONSUMER.MSG.NEXT.>"}},
		"acks, and no answer":     {pub: []string{ask, "$JS.ACK.>"}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(e *env) {
				e.source(fluxnats.Config{}, fluxnats.Layout{AckWait: time.Second})
				e.publish(1)
				js := e.jetStream(e.connect(nats.UserInfo("user", "user")))
				ctx, cancel := context.WithTimeout(e.Context(), time.Minute)
				defer cancel()
				start := time.Now()
				src := e.sourceOn(js, fluxnats.Config{})
				err := src.Run(ctx, newIntake(64, e.acks(new(tally))))
				if !errors.Is(err, nats.ErrPermissionViolation) {
					t.Errorf("Run: %v", err)
				}
				if took := time.Since(start); took > 20*time.Second {
					t.Errorf("took %v", took)
				}
				if c.want != "" && (!errors.Is(err, fluxnats.ErrSetup) || !strings.Contains(err.Error(), "user user may not publish to "+c.want) || src.Stats().Pulls != 0) {
					t.Errorf("no word of %s in: %v", c.want, err)
				}
			}, users(&server.Permissions{
				Publish:   &server.SubjectPermission{Allow: []string{">"}, Deny: c.pub},
				Subscribe: &server.SubjectPermission{Allow: []string{">"}, Deny: c.sub},
			}))
		})
	}
}

// The permissions that the package's documentation lists are enough for all that
// Run does, and when one of them is missing, Run says which.
func TestPermissionsThatRunNeeds(t *testing.T) {
	all := []string{
		"$JS.API.STREAM.INFO.S", "$JS.API.STREAM.INFO.DLQ_S", "$JS.API.CONSUMER.INFO.S.c", "$JS.API.CONSUMER.LIST.S",
		"$JS.API.CONSUMER.MSG.NEXT.S.c", "$JS.ACK.S.c.>", "flux.defer.S.c.*", "dlq.S.c", "$SYS.REQ.USER.INFO",
	}
	for without := -1; without <= len(all); without++ {
		publish, subscribe := slices.Clone(all), []string{"_INBOX.>"}
		missing := "nothing"
		switch {
		case without == len(all):
			missing, subscribe = "_INBOX.", []string{"other.>", "_INBOX.> queue"}
		case without >= 0:
			missing = all[without]
			publish = slices.Delete(publish, without, without+1)
		}
		t.Run("without "+missing, func(t *testing.T) {
			bubble(t, func(e *env) {
				e.source(fluxnats.Config{}, fluxnats.Layout{})
				// Beside another consumer Run looks at what that reads.
				_, err := e.js.CreateConsumer(e.Context(), "S", consumerConfig{Durable: "other", FilterSubject: "flux.other"})
				e.must(err)
				e.publish(3)
				src := e.sourceOn(e.jetStream(e.connect(nats.UserInfo("user", "user"))), fluxnats.Config{})
				ctx, cancel := context.WithTimeout(e.Context(), time.Minute)
				defer cancel()
				var seen tally
				err = src.Run(ctx, newIntake(64, func(ctx context.Context, d delivery) {
					switch {
					case d.Meta().Deferrals > 0 || string(d.Message().Data()) == "0":
						seen.add(d.Message())
						e.must(d.Ack(ctx))
					case string(d.Message().Data()) == "1":
						e.orRelease(d, d.Defer(ctx, stream.Deferral{Until: time.Now().Add(time.Second), Deferrals: 1}))
					default:
						e.orRelease(d, d.DeadLetter(ctx, stream.Letter{Reason: stream.ReasonPermanent}))
					}
				}))
				switch missing {
				case "nothing", "$SYS.REQ.USER.INFO": // who may not ask is told later
					if dead := e.count("DLQ_S", ">"); err != nil || dead != 1 {
						t.Errorf("Run: %v, %d dead letters", err, dead)
					}
					seen.exactly(e.T, 2)
				default:
					if _, total := seen.sum(); !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), missing) || total != 0 {
						t.Errorf("Run: %v, after %d messages", err, total)
					}
				}
			}, users(&server.Permissions{
				Publish: &server.SubjectPermission{Allow: publish}, Subscribe: &server.SubjectPermission{Allow: subscribe},
			}))
		})
	}
}

// What the server does not permit it does not answer; the error says what it was.
func TestRedriveAndWatchWithoutPermission(t *testing.T) {
	for _, denied := range []string{"in.>", "$JS.API.STREAM.INFO.DLQ_S", "$JS.API.STREAM.MSG.GET.DLQ_S", "$JS.API.STREAM.MSG.DELETE.DLQ_S"} {
		bubble(t, func(e *env) {
			e.die(3)
			js := e.jetStream(e.connect(nats.UserInfo("user", "user")))
			got, err := fluxnats.Redrive(e.Context(), js, fluxnats.RedriveConfig{Stream: "DLQ_S"})
			if !errors.Is(err, nats.ErrPermissionViolation) || got.Redriven != 0 || !strings.Contains(err.Error(), strings.TrimSuffix(denied, ">")) {
				t.Errorf("%s: %+v, %v", denied, got, err)
			}
			if n := e.count("DLQ_S", ">"); n != 3 {
				t.Errorf("%s: %d dead letters left", denied, n)
			}
		}, users(denying(denied)))
	}
	for _, denied := range []string{"$JS.API.STREAM.INFO.S", "$JS.API.STREAM.INFO.ADVISORIES_S_c", "$JS.API.STREAM.CREATE.>", "$JS.API.CONSUMER.MSG.NEXT.>"} {
		bubble(t, func(e *env) {
			e.source(fluxnats.Config{}, fluxnats.Layout{})
			js := e.jetStream(e.connect(nats.UserInfo("user", "user")))
			ctx, cancel := context.WithTimeout(e.Context(), 10*time.Minute)
			defer cancel()
			err := e.sourceOn(js, fluxnats.Config{}).Watch(ctx, fluxnats.WatchConfig{Create: true})
			if !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), strings.TrimSuffix(denied, ">")) {
				t.Errorf("%s: %v", denied, err)
			}
		}, users(denying(denied)))
	}
	bubble(t, func(e *env) {
		e.deadLetters()
		src := e.core(fluxnats.CoreConfig{DeadLetterSubject: "dead.core", DeadLetterStream: "DEAD"}, nats.UserInfo("user", "user"))
		if err := src.Run(e.Context(), newIntake(4, nil)); !errors.Is(err, nats.ErrPermissionViolation) {
			t.Error(err)
		}
	}, users(denying("$JS.API.STREAM.INFO.DEAD")))
}

// The server tells only the connection that it does not permit a subscription.
func TestCoreRunEndsWhenTheServerDenies(t *testing.T) {
	bubble(t, func(e *env) {
		for _, cfg := range []fluxnats.CoreConfig{{Subject: "in.secret"}, {Subject: "in.secret", Queue: "q"}} {
			src := e.core(cfg, nats.UserInfo("user", "user"))
			ctx, cancel := context.WithTimeout(e.Context(), time.Minute)
			if err := src.Run(ctx, newIntake(4, nil)); !errors.Is(err, nats.ErrPermissionViolation) {
				t.Errorf("%+v: %v", cfg, err)
			}
			cancel()
		}
	}, users(&server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{"in.secret"}}}))
}
