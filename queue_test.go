package flux_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
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
