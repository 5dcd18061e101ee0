package stream

import (
	"context"

	"github.com/fluxlimiter/flux"
)

// SetCost says that this attempt has cost n tokens, where [Config.Cost] could
// only estimate it, and [Info.Cost] says how much was spent. A handler calls it
// with its context when it knows, any number of times: the last one counts. It
// has no effect after the handler has returned, or with any other context. Less
// than 0 counts as 0, more than 2⁴⁰ as that.
//
// When the handler has returned, whatever it returned, the limiter is corrected
// by the difference. Tokens that were not used are given back, but for those that
// the tenant has had back meanwhile anyway. Those that were used beyond the
// estimate are a debt, which later messages of the tenant wait for. So an
// estimate that is never too low keeps the limit exactly, whatever is given back.
// The tenant's share of the workers is corrected likewise. The next attempt,
// if there is one, is admitted by the estimate again.
//
// A limiter other than a [flux.Limiter] is corrected through those of its
// methods Refund and Debt that it has, called by the worker. If one is missing,
// or fails, then what the limiter has spent stays as it was.
func SetCost(ctx context.Context, n int64) {
	if c, ok := ctx.Value(contextKey{}).(*messageContext); ok {
		c.cost.Store(min(max(0, n), maxCost) + 1)
	}
}

// debtor is a limiter that can be made to spend what it has not got.
type debtor interface {
	Debt(ctx context.Context, tenant string, n int64) (flux.Decision, error)
}

// correct makes the limiter spend what the message of j has cost in truth. What
// ran without a grant has spent nothing.
func (r *run[M]) correct(j *job[M]) {
	if j.cost == unset || j.granted == unset {
		return
	}
	t, more := j.entry.tenant, j.cost-j.entry.cost
	// The errors are dropped: there is nobody to tell, and nothing to be done.
	switch {
	case more > 0 && t.handle != nil:
		_, _ = t.handle.DebtAt(r.clock.now(), more)
	case more > 0:
		if l, ok := r.cfg.Limiter.(debtor); ok {
			_, _ = l.Debt(r.settling, t.name, more)
		}
	case more < 0:
		r.refund(j, -more, r.clock.now())
	}
}

// refund gives back n of the tokens that were spent for the message of j, but
// for those that its tenant has had back meanwhile anyway: what it has spent
// since then was spent on top of them, and is not to be given back.
func (r *run[M]) refund(j *job[M], n, now int64) {
	t := j.entry.tenant
	if t.handle != nil {
		d, err := t.handle.CheckAt(now, 0)
		if n = unearned(d, j.repaid-now, n); err == nil && n > 0 {
			_ = t.handle.RefundAt(now, n)
		}
		return
	}
	if l, ok := r.cfg.Limiter.(flux.Refunder[string]); ok {
		if n = unearned(j.answer, j.repaid-now, n); n > 0 {
			_ = l.Refund(r.settling, t.name, n)
		}
	}
}

// unearned returns how many of n tokens take no longer than span to be earned by
// a limit that d tells of, and all of them if it tells nothing.
func unearned(d flux.Decision, span, n int64) int64 {
	span = max(0, span)
	if earn(d, n) <= span {
		return n
	}
	// low tokens do not take longer, and n do.
	low := int64(0)
	for n-low > 1 {
		if middle := low + (n-low)/2; earn(d, middle) <= span {
			low = middle
		} else {
			n = middle
		}
	}
	return low
}

// recharge corrects the share of the workers that the tenant of j has had for
// cost tokens, and forgets what was known of its limit.
func (r *run[M]) recharge(j *job[M], t *tenant[M], cost, now int64) {
	if j.cost == unset || j.cost == cost {
		return
	}
	r.sched.correct(t, j.start, cost, j.cost)
	switch {
	case j.cost > cost:
		t.limited = true
	case t.grantAt > now && (t.remote == nil || t.remote.failures == 0):
		t.grantAt = unset // it may be earlier now
	}
}
