package stream

import (
	"context"
	"iter"
	"runtime"
	"sync"
	"time"

	"github.com/fluxlimiter/flux"
)

// maxThrottled is how many messages a Throttle holds.
const maxThrottled = 1024

// Throttle passes on what it receives from in, each message when limiter has
// granted one token for its key. Messages of a key keep their order, and one that
// waits holds no other key up, as long as no more than 1024 messages wait in all:
// then nothing more is received until one of them is sent.
//
// The channel that it returns has no buffer. A token is spent for one message at
// a time, when the one before was received, so that a reader who was slow finds
// no more than one message beyond what the limit allows. It is closed when in was
// closed and everything is sent, or when ctx has ended: messages that were received
// and not sent by then are dropped, and a token that was spent for one is given
// back if the limiter is a [flux.Refunder], unless time has done that already.
// Whoever stops reading must end ctx.
//
// While limiter gives errors the messages of the key wait, and it is asked again
// after a pause that grows from 100 ms to 5 s; a key whose limit lets nothing
// through is looked at once a second. Nothing is ever passed on without a grant,
// or dropped while ctx goes on. limiter and key are called by one goroutine,
// which is all that a Throttle has: a limiter that blocks holds up all keys. For
// policies, fair shares and several workers see [Gate] and [FromChan].
//
// Throttle panics if in, limiter or key is nil.
func Throttle[M any, K comparable](ctx context.Context, in <-chan M, limiter flux.Checker[K], key func(M) K) <-chan M {
	require("Throttle", in == nil, "in")
	requireLimit("Throttle", limiter, key)
	t := &throttle[M, K]{
		limiter: limiter, key: key, base: time.Now(),
		in: in, out: make(chan M), keys: make(map[K]*throttled[M, K]),
	}
	t.local, _ = limiter.(*flux.Limiter[K])
	go t.run(ctx)
	return t.out
}

// ThrottleSeq is [Throttle] for iterators. Each use of the iterator that it
// returns ranges over seq anew, in a goroutine of its own, which has ended when
// the loop over it has: a loop that is left early waits for seq to yield once
// more, or to end. A panic of seq goes on in the loop, and so does its
// [runtime.Goexit].
//
// ThrottleSeq panics if seq, limiter or key is nil.
func ThrottleSeq[M any, K comparable](ctx context.Context, seq iter.Seq[M], limiter flux.Checker[K], key func(M) K) iter.Seq[M] {
	require("ThrottleSeq", seq == nil, "seq")
	requireLimit("ThrottleSeq", limiter, key)
	return func(yield func(M) bool) {
		ctx, cancel := context.WithCancel(ctx)
		in := make(chan M)
		returned := false
		var panicked any
		var feeding sync.WaitGroup
		feeding.Go(func() {
			defer close(in)
			defer func() { panicked = recover() }()
			seq(func(m M) bool {
				select {
				case in <- m:
					return true
				case <-ctx.Done():
					return false
				}
			})
			returned = true
		})
		out := Throttle(ctx, in, limiter, key)
		defer func() {
			cancel()
			for range out {
				continue // it is closed soon
			}
			feeding.Wait()
			switch {
			case panicked != nil:
				panic(panicked)
			case !returned:
				runtime.Goexit()
			}
		}()
		for m := range out {
			if !yield(m) {
				return
			}
		}
	}
}

// requireLimit panics if one of what the limit of function is made of is nil.
func requireLimit[M any, K comparable](function string, limiter flux.Checker[K], key func(M) K) {
	local, ok := limiter.(*flux.Limiter[K])
	require(function, limiter == nil || ok && local == nil, "limiter")
	require(function, key == nil, "key")
}

// throttle is a Throttle at work. Its goroutine has it to itself.
type throttle[M any, K comparable] struct {
	limiter flux.Checker[K]
	local   *flux.Limiter[K] // the same, if it is one
	key     func(M) K
	base    time.Time // zero of the clock without one

	in   <-chan M // nil once it is closed
	out  chan M
	keys map[K]*throttled[M, K] // those with messages
	due  heap[*throttled[M, K]] // all of them, by when to ask the limiter
	held int                    // messages that wait

	// What the limiter said when it granted one last, and when the key has back
	// what was spent for that, if it spends no more.
	answer flux.Decision
	repaid int64
}

// throttled are the messages of a key.
type throttled[M any, K comparable] struct {
	key      K
	handle   *flux.Handle[K] // nil if the limiter is not a flux.Limiter
	messages []M
	slot     int64 // when the limiter will grant the next one, unset: it was not asked
	failures int   // of the limiter, in a row
	index    int32
}

func (q *throttled[M, K]) setIndex(i int32) { q.index = i }

func (t *throttle[M, K]) now() int64 {
	if t.local != nil {
		return t.local.Now()
	}
	return int64(time.Since(t.base))
}

func (t *throttle[M, K]) run(ctx context.Context) {
	defer close(t.out)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for t.in != nil || t.held > 0 {
		granted, wait := t.next(ctx)
		var fired <-chan time.Time
		if granted == nil && t.held > 0 {
			timer.Reset(wait)
			fired = timer.C
		}
		if !t.pass(ctx, granted, fired) {
			return
		}
	}
}

// pass receives messages until the one that was granted is sent, or, if there is
// none, something has happened. It returns false when ctx has ended.
func (t *throttle[M, K]) pass(ctx context.Context, granted *throttled[M, K], fired <-chan time.Time) bool {
	var out chan<- M
	var m M
	if granted != nil {
		out, m = t.out, granted.messages[0]
	}
	for {
		in := t.in
		if t.held >= maxThrottled {
			in = nil
		}
		select {
		case next, ok := <-in:
			t.receive(next, ok)
			if granted == nil {
				return true
			}
		case out <- m:
			t.sent(granted)
			return true
		case <-fired:
			return true
		case <-ctx.Done():
			t.unsent(ctx, granted)
			return false
		}
	}
}

// unsent gives back the token that was spent for granted, if there is one and the
// reader was not so slow that its key has had it back anyway.
func (t *throttle[M, K]) unsent(ctx context.Context, granted *throttled[M, K]) {
	if granted == nil || unearned(t.answer, t.repaid-t.now(), 1) == 0 {
		return
	}
	if r, ok := t.limiter.(flux.Refunder[K]); ok {
		_ = r.Refund(context.WithoutCancel(ctx), granted.key, 1) // of a token, by the key's own limit: it is valid
	}
}

// next asks the limiter for the keys that are due, until it grants one, and
// returns that. Otherwise it returns how long it is until the next one is due.
func (t *throttle[M, K]) next(ctx context.Context) (granted *throttled[M, K], wait time.Duration) {
	for t.due.len() > 0 {
		q, due := t.due.top()
		now := t.now()
		if due > now {
			return nil, time.Duration(due - now)
		}
		at, d, err := t.check(ctx, q, now)
		if err != nil {
			q.failures++
			q.slot = unset
			t.due.fix(q.index, now+int64(doubled(100*time.Millisecond, q.failures-1, maxPause)))
			continue
		}
		q.failures = 0
		if d.Allowed() {
			t.answer, t.repaid = d, at+min(int64(d.ResetAfter), never)
			if q.slot = unset; len(q.messages) > 1 {
				q.slot = at + min(int64(d.Delay(1)), never)
			}
			return q, 0
		}
		// An answer that says "at once" must not make it asked in a loop.
		q.slot = at + min(max(int64(d.RetryAfter), int64(time.Millisecond)), never)
		t.due.fix(q.index, min(q.slot, now+lookAgain))
	}
	return nil, 0
}

// check asks the limiter for a token of q. Timers fire late: a slot that is
// noticed a little late is asked for at its own time, so that the next one is
// no later for that.
func (t *throttle[M, K]) check(ctx context.Context, q *throttled[M, K], now int64) (at int64, d flux.Decision, err error) {
	if q.handle == nil {
		d, err = t.limiter.Check(ctx, q.key, 1)
		return t.now(), d, err
	}
	if at = now; q.slot != unset && q.slot < now && now-q.slot <= maxCatchUp {
		at = q.slot
	}
	d, err = q.handle.CheckAt(at, 1)
	return at, d, err
}

// receive takes what came from in.
func (t *throttle[M, K]) receive(m M, ok bool) {
	if !ok {
		t.in = nil
		return
	}
	k := t.key(m)
	q := t.keys[k]
	if q == nil {
		q = &throttled[M, K]{key: k, slot: unset}
		if t.local != nil {
			q.handle = t.local.Key(k)
		}
		t.keys[k] = q
		t.due.push(q, t.now())
	}
	q.messages = append(q.messages, m)
	t.held++
}

// sent is called when the first message of q was sent.
func (t *throttle[M, K]) sent(q *throttled[M, K]) {
	var none M
	q.messages[0] = none
	q.messages = q.messages[1:]
	t.held--
	if len(q.messages) == 0 {
		t.due.remove(q.index)
		delete(t.keys, q.key)
		return
	}
	// Behind all that are due already: keys take turns.
	now := t.now()
	t.due.fix(q.index, max(now, min(q.slot, now+lookAgain)))
}
