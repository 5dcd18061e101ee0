package flux

import (
	"context"
	"fmt"
	"time"

	"github.com/fluxlimiter/flux/gcra"
)

// Mode says how the requests of a batch depend on each other.
type Mode uint8

const (
	// Each decides every request by itself, in order.
	Each Mode = iota

	// AllOrNothing spends the tokens of all requests, or none. What is asked of
	// one key in several requests must fit that key's burst together.
	AllOrNothing

	// AsManyAsPossible spends for every request, in order, as many of its
	// tokens as there are: [Result.Spent] says how many, and a request that got
	// any is Allowed. N may exceed the burst.
	AsManyAsPossible
)

// CheckAll decides a batch of requests, all at one reading of the clock, and
// returns a result for each. It waits as little as [Limiter.Check] does.
//
// A request that fails has its Err, and under AllOrNothing everyone's: nothing
// was spent. When AllOrNothing is denied, every result is a denial, and its
// RetryAfter is the time after which the whole batch would pass. CheckAll itself
// fails only for a mode that does not exist.
//
// It allocates the results and, for AllOrNothing, what it takes to add up what is
// asked of each key. Requests of others may come between those of a batch; under
// AllOrNothing they may be denied tokens that it gives back a moment later.
func (l *Limiter[K]) CheckAll(ctx context.Context, reqs []Request[K], mode Mode) ([]Result, error) {
	if mode > AsManyAsPossible {
		return nil, fmt.Errorf("flux: CheckAll: unknown mode %d", mode)
	}
	if l.hooks != nil {
		ctx = orBackground(ctx)
		for _, req := range reqs {
			l.hooks.beforeCheck(ctx, req.Key, req.N)
		}
	}
	now := l.Now()
	results := make([]Result, len(reqs))
	switch mode {
	case Each:
		for i, req := range reqs {
			results[i] = l.resultAt(req.Key, now, req.N)
		}
	case AllOrNothing:
		l.checkTogether(results, reqs, now)
	case AsManyAsPossible:
		for i, req := range reqs {
			results[i] = l.checkMost(req.Key, now, req.N)
		}
	}
	if l.hooks != nil {
		for i, req := range reqs {
			l.hooks.afterCheck(ctx, req.Key, req.N, results[i].Decision, results[i].Err)
		}
	}
	return results, nil
}

// share is what a batch asks of one key.
type share[K comparable] struct {
	key K
	n   int64
	d   Decision
}

// checkTogether takes the tokens of all, key by key, and gives them back if one
// key denies its share.
func (l *Limiter[K]) checkTogether(results []Result, reqs []Request[K], now int64) {
	shares, place, err := sharesOf(reqs)
	asked, allowed := 0, true
	var retry time.Duration
	for i := range shares {
		s := &shares[i]
		if s.d, err = l.checkAt(s.key, now, s.n); err != nil {
			err = fmt.Errorf("flux: key %v of a batch: %w", s.key, err)
			break
		}
		asked++
		allowed = allowed && s.d.Allowed()
		retry = max(retry, s.d.RetryAfter)
	}
	if err != nil || !allowed {
		for i := range shares[:asked] {
			if s := &shares[i]; s.d.Allowed() {
				_ = l.refundAt(s.key, now, s.n) // as valid as the check before
				s.d, _ = l.checkAt(s.key, now, 0)
			}
			shares[i].d.RetryAfter = retry
		}
	}
	for i, req := range reqs {
		if err != nil {
			results[i] = Result{Err: err}
			continue
		}
		results[i] = resultOf(shares[place[i]].d, req.N, nil)
	}
}

// sharesOf adds up what is asked of each key, in the order in which the keys
// first come, and returns for each request which share it belongs to.
func sharesOf[K comparable](reqs []Request[K]) (shares []share[K], place []int, err error) {
	of := make(map[K]int, len(reqs))
	place = make([]int, len(reqs))
	for i, req := range reqs {
		if req.N < 0 {
			return nil, nil, fmt.Errorf("%w: %d", gcra.ErrNegative, req.N)
		}
		at, ok := of[req.Key]
		if !ok {
			at = len(shares)
			of[req.Key] = at
			shares = append(shares, share[K]{key: req.Key})
		}
		place[i] = at
		shares[at].n = addSat(shares[at].n, req.N)
	}
	return shares, place, nil
}

// checkMost takes as many of n tokens as there are.
func (l *Limiter[K]) checkMost(key K, now, n int64) Result {
	for most := n; ; {
		try := most
		if n > 0 {
			peek := l.resultAt(key, now, 0)
			if peek.Err != nil {
				return peek
			}
			try = max(1, min(most, peek.Largest()))
		}
		res := l.resultAt(key, now, try)
		if res.Err != nil || res.Allowed() || try <= 1 {
			return res
		}
		most = try - 1 // someone else was faster
	}
}

// resultAt is checkAt with its result.
func (l *Limiter[K]) resultAt(key K, now, n int64) Result {
	d, err := l.checkAt(key, now, n)
	return resultOf(d, n, err)
}
