package flux_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
)

// line is a slow model of a key and its queue: it serves one at a time, and
// keeps nothing but what has been taken.
type line struct {
	interval, burst int64
	free, now       int64 // when all tokens are back; how far time has come
	waiting         []place
	granted         map[int]int64
}

type place struct {
	id int
	n  int64
}

func (l *line) until(now int64) {
	for len(l.waiting) > 0 {
		w := l.waiting[0]
		at := max(l.now, l.free+(w.n-l.burst)*l.interval)
		if at > now {
			break
		}
		l.now, l.free = at, max(l.free, at)+w.n*l.interval
		l.granted[w.id] = at
		l.waiting = l.waiting[1:]
	}
	l.now = now
}

// after returns when n tokens would be given to one more who waits.
func (l *line) after(n int64) int64 {
	c := *l
	c.granted = make(map[int]int64)
	c.waiting = append(slices.Clone(l.waiting), place{-1, n})
	for {
		c.until(c.now + 60e9)
		if at, ok := c.granted[-1]; ok {
			return at
		}
	}
}

func (l *line) drop(id int) bool {
	before := len(l.waiting)
	l.waiting = slices.DeleteFunc(l.waiting, func(p place) bool { return p.id == id })
	return len(l.waiting) < before
}

// TestQueueModel holds the queue against the model through random arrivals,
// cancellations, checks, debts and refunds, with timers on time and late.
func TestQueueModel(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { queueAgainstModel(t, seed) })
		})
	}
}

func queueAgainstModel(t *testing.T, seed uint64) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 1))
	burst := 1 + rnd.Int64N(6)
	lim := newLimiter(t, flux.Config[string]{Limit: gcra.PerSecond(100).WithBurst(burst)})
	model := &line{interval: 10e6, burst: burst, granted: make(map[int]int64)}
	type one struct {
		cancel  context.CancelFunc
		ch      <-chan flux.Result
		r       *flux.Reservation[string]
		dropped bool
	}
	var all []one
	held := false
	for range 300 {
		// Whole milliseconds, so that turns and calls often fall together.
		time.Sleep(time.Duration(rnd.IntN(12)) * ms)
		now := lim.Now()
		model.until(now)
		n := 1 + rnd.Int64N(burst)
		switch op := rnd.IntN(12); {
		case op < 4:
			model.waiting = append(model.waiting, place{len(all), n})
			model.until(now)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			all = append(all, one{cancel: cancel, ch: lim.WaitAsync(ctx, key, n)})
		case op < 5:
			model.waiting = append(model.waiting, place{len(all), n})
			model.until(now)
			r, err := lim.Reserve(t.Context(), key, n)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, one{cancel: r.Cancel, r: r})
		case op < 8 && len(all) > 0:
			id := len(all) - 1 - rnd.IntN(min(len(all), 8))
			all[id].cancel()
			synctest.Wait()
			all[id].dropped = model.drop(id) || all[id].dropped
			model.until(now)
		case op < 9:
			want := model.after(n)
			d, err := lim.Check(t.Context(), key, n)
			if err != nil || d.Allowed() != (want == now) || !d.Allowed() && int64(d.RetryAfter) != want-now {
				t.Fatalf("at %v: Check(%d) = %+v, %v; want it in %v", time.Duration(now), n, d, err, time.Duration(want-now))
			}
			if d.Allowed() {
				model.free = max(model.free, now) + n*model.interval
			}
		case op < 10 && !held:
			n := 1 + rnd.Int64N(20)
			if _, err := lim.Debt(t.Context(), key, n); err != nil {
				t.Fatal(err)
			}
			model.free = max(model.free, now) + n*model.interval
		case op < 11 && !held:
			if err := lim.Refund(t.Context(), key, n); err != nil {
				t.Fatal(err)
			}
			model.free = max(now, model.free-n*model.interval)
			model.until(now)
		case held:
			lim.ReleaseTimers()
			held = false
		default:
			lim.HoldTimers()
			held = true
		}
		for id, w := range all {
			if w.r == nil {
				continue
			}
			want := gcra.Forever
			if i := slices.IndexFunc(model.waiting, func(p place) bool { return p.id == id }); i >= 0 {
				ahead := *model
				ahead.waiting = model.waiting[:i]
				want = time.Duration(ahead.after(model.waiting[i].n) - now)
			} else if _, ok := model.granted[id]; ok {
				want = 0
			}
			if got := w.r.Delay(); got != want {
				t.Fatalf("at %v: reservation %d has its turn in %v, want %v", time.Duration(now), id, got, want)
			}
		}
	}
	lim.ReleaseTimers()
	time.Sleep(time.Hour)
	model.until(lim.Now())
	for id, w := range all {
		if w.ch == nil {
			continue
		}
		res := <-w.ch
		want, ok := model.granted[id]
		if ok != (res.Err == nil) || ok && res.At != want || !ok && !errors.Is(res.Err, context.Canceled) || w.dropped == ok {
			t.Errorf("waiter %d: %v, %v; want %v, %v", id, time.Duration(res.At), res.Err, time.Duration(want), ok)
		}
	}
	if !lim.Idle() {
		t.Error("something was left behind")
	}
}

// A queue of centuries is refused before its turns leave the range of time,
// whatever MaxWait is.
func TestQueueOfCenturies(t *testing.T) {
	const years = time.Duration(1 << 59) // 18 of them
	for _, maxWait := range []time.Duration{0, 1<<63 - 1} {
		lim := newLimiter(t, flux.Config[string]{Limit: gcra.Per(1, years), MaxWait: maxWait})
		_, _ = lim.Check(t.Context(), key, 1)
		for i := range 20 {
			r, err := lim.Reserve(t.Context(), key, 1)
			long, tooLong := errors.AsType[*flux.WaitTooLongError](err)
			if tooLong != (i > 1) || err != nil && long.Wait < 2*years {
				t.Fatalf("MaxWait %v: reservation %d: %v", maxWait, i, err)
			}
			if err == nil && (r.Delay() > time.Duration(i+1)*years || r.Delay() < time.Duration(i)*years) {
				t.Fatalf("MaxWait %v: reservation %d is due in %v", maxWait, i, r.Delay())
			}
		}
	}
}

// A timer that fires late must not slow the schedule down: the turns that were
// due meanwhile come at their own times.
func TestLateTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := drained(t, flux.Config[string]{Limit: gcra.PerSecond(1000).WithBurst(1)})
		var results []<-chan flux.Result
		for range 100 {
			results = append(results, lim.WaitAsync(t.Context(), key, 1))
		}
		for range 10 {
			lim.HoldTimers()
			time.Sleep(10*ms + 300*time.Microsecond)
			lim.ReleaseTimers()
		}
		for i, ch := range results {
			if res := <-ch; time.Duration(res.At) != time.Duration(i+1)*ms {
				t.Errorf("turn %d was granted for %v", i, time.Duration(res.At))
			}
		}
		if now := time.Duration(lim.Now()); now != 103*ms {
			t.Errorf("100 turns of 1ms took %v", now)
		}
	})
}

// A process that stood still does not make up for it in one go.
func TestVeryLateTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := drained(t, flux.Config[string]{Limit: gcra.PerSecond(1000).WithBurst(1)})
		var results []<-chan flux.Result
		for range 1000 {
			results = append(results, lim.WaitAsync(t.Context(), key, 1))
		}
		lim.HoldTimers()
		time.Sleep(10 * time.Second)
		lim.ReleaseTimers()
		ready := 0
		for _, ch := range results {
			ready += len(ch)
		}
		if want := int(flux.MaxLate/int64(ms)) + 1; ready != want {
			t.Errorf("%d turns were granted after 10s of standstill, want %d", ready, want)
		}
		lim.Close()
	})
}

// Nobody overtakes, not even a Check that comes when the head's turn is due and
// its timer late.
func TestCheckDoesNotOvertake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := drained(t, flux.Config[string]{Limit: gcra.PerSecond(10)})
		h := lim.Key(key)
		first := lim.WaitAsync(t.Context(), key, 5)
		second := lim.WaitAsync(t.Context(), key, 1)
		lim.HoldTimers()
		time.Sleep(550 * ms)
		for name, check := range map[string]func(n int64) (flux.Decision, error){
			"Check":   func(n int64) (flux.Decision, error) { return lim.Check(t.Context(), key, n) },
			"CheckAt": func(n int64) (flux.Decision, error) { return h.CheckAt(lim.Now(), n) },
		} {
			d, err := check(1)
			if err != nil || d.Allowed() || d.RetryAfter != 150*ms || d.Remaining() != 0 || d.ResetAfter != 1050*ms {
				t.Errorf("%s = %+v, %v; want a denial for 150ms", name, d, err)
			}
			if d, err := check(0); err != nil || !d.Allowed() || d.Delay(1) != 150*ms {
				t.Errorf("%s: peek = %+v, %v", name, d, err)
			}
			if d, err := check(11); !errors.Is(err, gcra.ErrExceedsBurst) {
				t.Errorf("%s of more than the burst = %+v, %v", name, d, err)
			}
		}
		if len(first) != 1 || len(second) != 0 {
			t.Errorf("the Check granted %d and %d turns, want 1 and 0", len(first), len(second))
		}
		time.Sleep(150*ms - 1)
		if d, _ := h.CheckAt(lim.Now(), 1); d.Allowed() || d.RetryAfter != 1 {
			t.Errorf("one nanosecond early: %+v", d)
		}
		time.Sleep(time.Nanosecond)
		if d, _ := lim.Check(t.Context(), key, 1); !d.Allowed() {
			t.Errorf("after RetryAfter: %+v", d)
		}
		if len(second) != 1 || !lim.Idle() {
			t.Error("the second waiter was passed over")
		}
	})
}

// Tokens that go past the queue put it off, those that come back bring it
// forward, and nothing polls.
func TestQueueFollowsDebtAndRefund(t *testing.T) {
	for name, ways := range map[string]struct {
		debt   func(lim *flux.Limiter[string], n int64) (flux.Decision, error)
		refund func(lim *flux.Limiter[string], n int64) error
	}{
		"key": {
			func(lim *flux.Limiter[string], n int64) (flux.Decision, error) { return lim.Debt(t.Context(), key, n) },
			func(lim *flux.Limiter[string], n int64) error { return lim.Refund(t.Context(), key, n) },
		},
		"handle": {
			func(lim *flux.Limiter[string], n int64) (flux.Decision, error) {
				return lim.Key(key).DebtAt(lim.Now(), n)
			},
			func(lim *flux.Limiter[string], n int64) error { return lim.Key(key).RefundAt(lim.Now(), n) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { queueFollows(t, ways.debt, ways.refund) })
		})
	}
}

func queueFollows(t *testing.T, debt func(*flux.Limiter[string], int64) (flux.Decision, error), refund func(*flux.Limiter[string], int64) error) {
	t.Helper()
	lim := drained(t, flux.Config[string]{Limit: gcra.PerSecond(10)})
	g := &grants{lim: lim}
	for id := range 4 {
		g.follow(id, lim.WaitAsync(t.Context(), key, 1))
		synctest.Wait()
	}
	r, err := lim.Reserve(t.Context(), key, 1)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(150 * ms) // the first has gone
	if d, err := debt(lim, 20); err != nil || d.Allowed() {
		t.Errorf("Debt = %+v, %v", d, err)
	}
	if d := r.Delay(); d != 2350*ms {
		t.Errorf("delay after a debt of 2s = %v, want 2.35s", d)
	}
	time.Sleep(50 * ms)
	if err := refund(lim, 21); err != nil {
		t.Fatal(err)
	}
	if d := r.Delay(); d != 200*ms {
		t.Errorf("delay after a refund of 2.1s = %v, want 200ms", d)
	}
	time.Sleep(200 * ms)
	if d := r.Delay(); d != 0 {
		t.Errorf("delay when the turn has come = %v", d)
	}
	g.want(t, grant{0, 100 * ms, nil}, grant{1, 200 * ms, nil}, grant{2, 200 * ms, nil}, grant{3, 300 * ms, nil})
}

// lateRefund is a context that has tokens given back when its deadline is asked
// for: after the table denied them to who waits, and before anyone can see him.
type lateRefund struct{ refund func() }

func (c lateRefund) Deadline() (none time.Time, ok bool) {
	c.refund()
	return none, false
}

func (lateRefund) Done() <-chan struct{} { return nil }
func (lateRefund) Err() error            { return nil }
func (lateRefund) Value(any) any         { return nil }

// Tokens that are given back while the first one comes to wait are his, whichever
// of the two is seen by the other.
func TestRefundMeetsTheFirstWaiter(t *testing.T) {
	for name, refund := range map[string]func(lim *flux.Limiter[string], h *flux.Handle[string]) error{
		"Refund":   func(lim *flux.Limiter[string], _ *flux.Handle[string]) error { return lim.Refund(t.Context(), key, 1) },
		"RefundAt": func(lim *flux.Limiter[string], h *flux.Handle[string]) error { return h.RefundAt(lim.Now(), 1) },
	} {
		t.Run(name+" after the denial", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rec := &recorder{}
				lim := drained(t, flux.Config[string]{Limit: gcra.PerHour(1), Hooks: []flux.Hook{rec}})
				h := lim.Key(key)
				ctx := lateRefund{func() {
					if err := refund(lim, h); err != nil {
						t.Error(err)
					}
				}}
				if res := <-lim.WaitAsync(ctx, key, 1); res.Err != nil || res.Spent != 1 || lim.Now() != 0 {
					t.Errorf("%+v at %v", res, time.Duration(lim.Now()))
				}
				if !lim.Idle() || len(rec.waits) != 1 || rec.waits[0] != (grant{id: 1}) {
					t.Errorf("the hooks were told of %v", rec.waits)
				}
			})
		})
		t.Run(name+" before the look at the queue", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var lim *flux.Limiter[string]
				var waiter <-chan flux.Result
				joins := false
				lim = drained(t, flux.Config[string]{Limit: gcra.PerHour(1), LimitFor: func(string) (none gcra.Limit) {
					if joins { // the refund has found nobody who waits, and asks for the limit
						joins = false
						waiter = lim.WaitAsync(t.Context(), key, 1)
					}
					return none
				}})
				h := lim.Key(key)
				joins = true
				if err := refund(lim, h); err != nil {
					t.Error(err)
				}
				if res := <-waiter; res.Err != nil || lim.Now() != 0 {
					t.Errorf("%+v at %v", res, time.Duration(lim.Now()))
				}
			})
		})
	}
}

// Tokens that others took meanwhile put the head's turn off, and nothing else: a
// key that there is no room for shares its tokens with all such keys.
func TestTurnsThatArePutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := drained(t, flux.Config[string]{Limit: gcra.PerSecond(10), MaxKeys: 1})
		if d, err := lim.Check(t.Context(), "b", 10); err != nil || !d.Allowed() {
			t.Fatal(d, err)
		}
		g := &grants{lim: lim}
		for id, n := range []int64{2, 1} {
			g.follow(id, lim.WaitAsync(t.Context(), "b", n))
			synctest.Wait()
		}
		time.Sleep(100 * ms)
		if d, err := lim.Check(t.Context(), "c", 1); err != nil || !d.Allowed() {
			t.Fatal(d, err)
		}
		g.want(t, grant{0, 300 * ms, nil}, grant{1, 400 * ms, nil})
	})
}

// Many turns that fall together are all granted when they are due.
func TestManyTurnsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const keys = 1000
		lim := newLimiter(t, flux.Config[int]{Limit: gcra.PerSecond(10).WithBurst(1)})
		var turns [keys]<-chan flux.Result
		for k := range turns {
			_, _ = lim.Check(t.Context(), k, 1)
			turns[k] = lim.WaitAsync(t.Context(), k, 1)
		}
		time.Sleep(100 * ms)
		synctest.Wait()
		for k, turn := range turns {
			if len(turn) != 1 || time.Duration((<-turn).At) != 100*ms {
				t.Fatalf("the turn of %d was not granted when it was due", k)
			}
		}
		if !lim.Idle() {
			t.Error("something was left behind")
		}
	})
}

// Many keys with different limits, some of whose waiters give up: each queue
// keeps its own time, whatever else the timer is set for.
func TestManyKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const keys = 300
		interval := func(k int) time.Duration { return time.Duration(7+k*k%1013) * ms }
		lim := newLimiter(t, flux.Config[int]{
			Limit:    gcra.PerSecond(1),
			LimitFor: func(k int) gcra.Limit { return gcra.Per(1, interval(k)) },
		})
		type wait struct {
			ch   <-chan flux.Result
			want time.Duration // 0 for one that gives up
		}
		waits := make(map[int][]wait)
		for k := range keys {
			_, _ = lim.Check(t.Context(), k, 1)
		}
		var gone []context.CancelFunc
		for k := range keys {
			for i := range 1 + k%4 {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				w := wait{ch: lim.WaitAsync(ctx, k, 1)}
				if (k+i)%5 == 0 {
					gone = append(gone, cancel)
				} else {
					stay := 1
					for _, other := range waits[k] {
						if other.want > 0 {
							stay++
						}
					}
					w.want = time.Duration(stay) * interval(k)
				}
				waits[k] = append(waits[k], w)
			}
		}
		for _, cancel := range gone {
			cancel()
		}
		var wg sync.WaitGroup
		for k, list := range waits {
			for i, w := range list {
				wg.Go(func() {
					res := <-w.ch
					now := time.Duration(lim.Now())
					if (res.Err == nil) != (w.want > 0) || now != w.want {
						t.Errorf("waiter %d of key %d: %v at %v, want %v", i, k, res.Err, now, w.want)
					}
				})
			}
		}
		wg.Wait()
	})
}
