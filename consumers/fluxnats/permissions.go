package fluxnats

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
)

// permitted is what a user may publish or subscribe to: what is allowed, or
// everything if nothing is, but for what is denied.
type permitted struct {
	Allow []string `json:"allow"`
	Deny  []string `json:"deny"`
}

func (p *permitted) covers(subject string) bool {
	return p == nil || (len(p.Allow) == 0 || anyCovers(p.Allow, subject)) && !anyCovers(p.Deny, subject)
}

// checkPermissions asks the server what this connection may do, and adds what the
// source needs and may not. The server would say so only when it is too late:
// when the first message is to be deferred, say. One that gives no answer, because
// it does not know the request or the user may not ask, is not held to it.
func (s *Source) checkPermissions(ctx context.Context, found *problems) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	nc := s.js.Conn()
	answer, err := nc.RequestWithContext(ctx, "$SYS.REQ.USER.INFO", nil)
	if err != nil {
		s.set.log.Debug("the server does not say what this connection may do", "error", err)
		return
	}
	var info struct {
		Data struct {
			User        string `json:"user"`
			Permissions struct {
				Publish   *permitted `json:"publish"`
				Subscribe *permitted `json:"subscribe"`
			} `json:"permissions"`
		} `json:"data"`
	}
	if err := json.Unmarshal(answer.Data, &info); err != nil {
		s.set.log.Debug("the server does not say what this connection may do", "error", err)
		return
	}
	publish := []string{s.pullSubject(), s.set.DeadLetterSubject}
	if !s.set.NakDeferrals {
		publish = append(publish, s.set.DeferSubject+".*")
	}
	if o := s.js.Options(); o.APIPrefix == "" && o.Domain == "" {
		// Elsewhere another account names the subjects.
		publish = append(publish, "$JS.ACK."+s.set.Stream+"."+s.set.Consumer+".>")
	}
	may := info.Data.Permissions
	for _, subject := range publish {
		if !may.Publish.covers(subject) {
			found.add("%w: user %s may not publish to %q; allow it", nats.ErrPermissionViolation, info.Data.User, subject)
		}
	}
	inbox := nc.NewInbox() + ".*"
	if may.Subscribe != nil {
		// One with a queue's name is for queue subscriptions, which the inbox is not.
		queue := func(p string) bool { return !validPattern(p) }
		may.Subscribe.Allow = slices.DeleteFunc(may.Subscribe.Allow, queue)
		may.Subscribe.Deny = slices.DeleteFunc(may.Subscribe.Deny, queue)
	}
	if !may.Subscribe.covers(inbox) {
		found.add("%w: user %s may not subscribe to %q; allow it", nats.ErrPermissionViolation, info.Data.User, inbox)
	}
}
