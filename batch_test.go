package flux_test

import (
	"errors"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
)

func requests(pairs ...any) []flux.Request[string] {
	var reqs []flux.Request[string]
	for i := 0; i < len(pairs); i += 2 {
		reqs = append(reqs, flux.Request[string]{Key: pairs[i].(string), N: int64(pairs[i+1].(int))})
	}
	return reqs
}

func TestCheckAll(t *testing.T) {
	type want struct {
		allowed bool
		spent   int64
		retry   time.Duration
		err     error
	}
	for _, tt := range []struct {
		name string
		mode flux.Mode
		reqs []flux.Request[string]
		want []want
		debt map[string]time.Duration // after
	}{
		{
			"each", flux.Each, requests("a", 8, "a", 3, "a", 2, "b", 11, "c", -1, "c", 0),
			[]want{{true, 8, 0, nil}, {false, 0, 100 * ms, nil}, {true, 2, 0, nil}, {false, 0, gcra.Forever, gcra.ErrExceedsBurst}, {false, 0, 0, gcra.ErrNegative}, {true, 0, 0, nil}},
			map[string]time.Duration{"a": time.Second, "b": 0, "c": 0},
		},
		{
			"all", flux.AllOrNothing, requests("a", 8, "b", 3, "a", 2),
			[]want{{true, 8, 0, nil}, {true, 3, 0, nil}, {true, 2, 0, nil}},
			map[string]time.Duration{"a": time.Second, "b": 300 * ms},
		},
		{
			"nothing", flux.AllOrNothing, requests("a", 1, "used", 6, "b", 3, "worse", 5, "a", 2, "used", 2),
			[]want{{false, 0, 400 * ms, nil}, {false, 0, 400 * ms, nil}, {false, 0, 400 * ms, nil}, {false, 0, 400 * ms, nil}, {false, 0, 400 * ms, nil}, {false, 0, 400 * ms, nil}},
			map[string]time.Duration{"a": 0, "b": 0, "used": 500 * ms, "worse": 900 * ms},
		},
		{
			"more than a burst together", flux.AllOrNothing, requests("b", 1, "a", 8, "a", 3),
			[]want{{err: gcra.ErrExceedsBurst}, {err: gcra.ErrExceedsBurst}, {err: gcra.ErrExceedsBurst}},
			map[string]time.Duration{"a": 0, "b": 0},
		},
		{
			"more than fits a number", flux.AllOrNothing, requests("a", math.MaxInt, "a", math.MaxInt, "a", 2),
			[]want{{err: gcra.ErrExceedsBurst}, {err: gcra.ErrExceedsBurst}, {err: gcra.ErrExceedsBurst}},
			map[string]time.Duration{"a": 0},
		},
		{
			"negative among all", flux.AllOrNothing, requests("a", 5, "a", -1),
			[]want{{err: gcra.ErrNegative}, {err: gcra.ErrNegative}},
			map[string]time.Duration{"a": 0},
		},
		{
			"as many", flux.AsManyAsPossible, requests("a", 8, "a", 3, "a", 2, "b", 100, "c", -1, "used", 0, "used", 1),
			[]want{{true, 8, 0, nil}, {true, 2, 0, nil}, {false, 0, 100 * ms, nil}, {true, 10, 0, nil}, {false, 0, 0, gcra.ErrNegative}, {true, 0, 0, nil}, {true, 1, 0, nil}},
			map[string]time.Duration{"a": time.Second, "b": time.Second, "c": 0, "used": 600 * ms},
		},
		{"empty", flux.AllOrNothing, nil, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lim := newLimiter(t, flux.Config[string]{Limit: gcra.PerSecond(10)})
				_, _ = lim.Check(t.Context(), "used", 5)
				_, _ = lim.Check(t.Context(), "worse", 9)
				results, err := lim.CheckAll(t.Context(), tt.reqs, tt.mode)
				if err != nil || len(results) != len(tt.want) {
					t.Fatalf("%d results, %v", len(results), err)
				}
				for i, want := range tt.want {
					res := results[i]
					if res.Allowed() != want.allowed || res.Spent != want.spent || res.RetryAfter != want.retry || !errors.Is(res.Err, want.err) {
						t.Errorf("%d: got %+v, want %+v", i, res, want)
					}
				}
				for k, want := range tt.debt {
					if d, _ := lim.Check(t.Context(), k, 0); d.ResetAfter != want {
						t.Errorf("debt of %s = %v, want %v", k, d.ResetAfter, want)
					}
				}
				if tt.name != "nothing" {
					return
				}
				time.Sleep(400*ms - 1)
				if results, _ := lim.CheckAll(t.Context(), tt.reqs, tt.mode); results[0].Allowed() || results[0].RetryAfter != 1 {
					t.Errorf("one nanosecond early: %+v", results[0])
				}
				time.Sleep(time.Nanosecond)
				if results, _ := lim.CheckAll(t.Context(), tt.reqs, tt.mode); !results[0].Allowed() {
					t.Errorf("after RetryAfter: %+v", results[0])
				}
			})
		})
	}
}

// A limit that is not valid fails the requests for its key, and all of them where
// they belong together.
func TestCheckAllUnderAnInvalidLimit(t *testing.T) {
	lim := newLimiter(t, flux.Config[string]{Limit: gcra.PerSecond(10), LimitFor: func(k string) (own gcra.Limit) {
		if k == "broken" {
			own = gcra.PerSecond(-1)
		}
		return own
	}})
	for mode, want := range map[flux.Mode]int64{flux.Each: 1, flux.AllOrNothing: 0, flux.AsManyAsPossible: 1} {
		results, err := lim.CheckAll(t.Context(), requests("a", 1, "broken", 1), mode)
		if err != nil || results[0].Spent != want || (results[0].Err == nil) != (want == 1) || !errors.Is(results[1].Err, gcra.ErrInvalidLimit) {
			t.Errorf("mode %d: %+v, %v", mode, results, err)
		}
	}
}

func TestCheckAllUnknownMode(t *testing.T) {
	lim := newLimiter(t, flux.Config[string]{Limit: gcra.PerSecond(10)})
	if res, err := lim.CheckAll(t.Context(), requests("a", 1), 3); err == nil {
		t.Errorf("results %+v", res)
	}
}

// Someone else takes tokens between the look at how many there are and the
// taking: the rest is still given out.
func TestAsManyAsPossibleWhenOthersAreFaster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lim *flux.Limiter[string]
		asked := 0
		lim = newLimiter(t, flux.Config[string]{Limit: gcra.PerSecond(10), LimitFor: func(k string) gcra.Limit {
			// Called before every decision: the second is the first to take.
			if asked++; asked == 2 {
				_, _ = lim.Check(t.Context(), k, 3)
			}
			return gcra.Limit{}
		}})
		results, err := lim.CheckAll(t.Context(), requests("a", 20), flux.AsManyAsPossible)
		if err != nil || !results[0].Allowed() || results[0].Spent != 7 {
			t.Errorf("%+v, %v; want 7 spent", results, err)
		}
	})
}

// Batches at the same instant spend exactly the burst between them.
func TestCheckAllRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, mode := range []flux.Mode{flux.Each, flux.AllOrNothing, flux.AsManyAsPossible} {
			lim := newLimiter(t, flux.Config[string]{Limit: gcra.PerHour(1000)})
			var mu sync.Mutex
			spent := make(map[string]int64)
			var wg sync.WaitGroup
			for g := range 8 {
				wg.Go(func() {
					for i := range 200 {
						results, _ := lim.CheckAll(t.Context(), requests("a", 1+(i+g)%7, "b", 2, "a", 1), mode)
						mu.Lock()
						for i, k := range []string{"a", "b", "a"} {
							spent[k] += results[i].Spent
						}
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			for _, k := range []string{"a", "b"} {
				d, _ := lim.Check(t.Context(), k, 0)
				if got := 1000 - d.Remaining(); got != spent[k] {
					t.Errorf("mode %d: %s was charged %d, and %d were given out", mode, k, got, spent[k])
				}
			}
			if mode == flux.AsManyAsPossible && spent["a"] != 1000 {
				t.Errorf("as many as possible of a were %d, want 1000", spent["a"])
			}
		}
	})
}
