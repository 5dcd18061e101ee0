package stream_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// TestSetCost holds that the limiter has spent exactly what the handler said.
func TestSetCost(t *testing.T) {
	for name, test := range map[string]struct {
		says func(ctx context.Context)
		want string // when a message that costs the whole burst of 10 runs next
	}{
		"nothing":      {func(context.Context) {}, "1s"},
		"less":         {func(ctx context.Context) { stream.SetCost(ctx, 3) }, "300ms"},
		"the same":     {func(ctx context.Context) { stream.SetCost(ctx, 10) }, "1s"},
		"none":         {func(ctx context.Context) { stream.SetCost(ctx, 0) }, "0s"},
		"less than 0":  {func(ctx context.Context) { stream.SetCost(ctx, -5) }, "0s"},
		"more":         {func(ctx context.Context) { stream.SetCost(ctx, 25) }, "2.5s"},
		"the last one": {func(ctx context.Context) { stream.SetCost(ctx, 99); stream.SetCost(ctx, 2) }, "200ms"},
		"derived":      {func(ctx context.Context) { stream.SetCost(context.WithValue(ctx, t, t), 4) }, "400ms"},
		"another":      {func(context.Context) { stream.SetCost(t.Context(), 4) }, "1s"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := start(t, limits{"a": gcra.PerSecond(10)}, stream.Config[*parcel]{}, func(ctx context.Context, p *parcel) error {
					if p.name == "a0" {
						test.says(ctx)
					}
					return nil
				})
				r.deliver(&parcel{name: "a0", tenant: "a", cost: 10}, &parcel{name: "a1", tenant: "a", cost: 10})
				time.Sleep(10 * time.Second)
				r.want("0s a0 run", "0s a0 ack", test.want+" a1 run", test.want+" a1 ack")
				r.end()
			})
		})
	}
}

// TestSetCostMovesTheParked holds that messages which wait for the limit already
// learn of a correction at once.
func TestSetCostMovesTheParked(t *testing.T) {
	for cost, want := range map[int64]string{3: "300ms", 25: "2.5s"} {
		synctest.Test(t, func(t *testing.T) {
			r := start(t, limits{"a": gcra.PerSecond(10)}, stream.Config[*parcel]{}, func(ctx context.Context, p *parcel) error {
				if p.name == "a0" {
					time.Sleep(100 * time.Millisecond)
					stream.SetCost(ctx, cost)
				}
				return nil
			})
			r.deliver(&parcel{name: "a0", tenant: "a", cost: 10}, &parcel{name: "a1", tenant: "a", cost: 10})
			time.Sleep(10 * time.Second)
			r.want("0s a0 run", "100ms a0 ack", want+" a1 run", want+" a1 ack")
			r.end()
		})
	}
}

// TestSetCostOfAnAttempt holds that an attempt that failed is corrected too, and
// that the next one is admitted by the estimate.
func TestSetCostOfAnAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var costs []int64
		r := start(t, limits{"a": gcra.PerSecond(10)}, stream.Config[*parcel]{
			Policy: stream.Policy{Backoff: func(int) time.Duration { return time.Millisecond }},
		}, func(ctx context.Context, p *parcel) error {
			i, _ := stream.FromContext(ctx)
			costs = append(costs, i.Cost)
			switch i.Attempt {
			case 1:
				stream.SetCost(ctx, 20)
				return errors.New("once")
			case 2:
				stream.SetCost(ctx, 0)
				panic("twice")
			}
			return nil
		})
		r.deliver(&parcel{name: "x", tenant: "a", cost: 5})
		time.Sleep(10 * time.Second)
		// At 1.5s, 15 of the 20 are worked off, and the 5 of the second attempt are given back.
		r.want("0s x run", "1.5s x run", "1.501s x run", "1.501s x ack")
		if fmt.Sprint(costs) != "[5 5 5]" {
			t.Errorf("Info.Cost was %d, want the estimate each time", costs)
		}
		r.end()
	})
}

// TestRefundsKeepTheLimit holds that what the messages have cost in truth keeps
// the limit over every window, where the estimates were never too low: a refund
// that comes late gives back nothing that time has given back already.
func TestRefundsKeepTheLimit(t *testing.T) {
	for _, remote := range []bool{false, true} {
		for seed := range uint64(20) {
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, 7))
				l := limits{
					"a": gcra.PerSecond(10), "b": gcra.PerSecond(100).WithBurst(10), "c": gcra.PerMinute(50).WithBurst(20), "d": gcra.PerSecond(7).WithBurst(30),
				}
				s := newScene(t, l, stream.Config[*message]{})
				estimates := map[int64]int64{}
				cfg := stream.Config[*message]{
					Cost:   func(m *message) int64 { return estimates[m.ID] },
					Policy: stream.Policy{MaxWait: time.Hour, MaxDeferrals: -1},
				}
				if remote {
					cfg.Limiter = struct{ flux.Refunder[string] }{s.lim}
				}
				s.use(cfg)
				for id := range int64(600) {
					m := message{Tenant: string("abcd"[rng.IntN(4)]), Cost: 1 + rng.Int64N(3), Work: time.Duration(rng.IntN(3000)) * time.Millisecond}
					estimates[id+1] = m.Cost + rng.Int64N(8)
					s.broker.Publish(m)
				}
				s.handle = func(ctx context.Context, m *message) error {
					time.Sleep(m.Work)
					stream.SetCost(ctx, m.Cost)
					return nil
				}
				took := s.run()
				if err := s.broker.History().Rate(s.limit); err != nil {
					t.Errorf("remote %v, seed %d: %v", remote, seed, err)
				}
				if n := s.gate.Stats().Processed; n != 600 || took > 10*time.Minute {
					t.Errorf("%d processed in %v", n, took)
				}
			})
		}
	}
}

// remoteLimiter is a Checker that notes how it is corrected.
type remoteLimiter struct {
	checkerFunc
	debts, refunds []string
}

func (l *remoteLimiter) Refund(_ context.Context, tenant string, n int64) error {
	l.refunds = append(l.refunds, fmt.Sprint(tenant, n))
	return errors.New("no connection")
}

func (l *remoteLimiter) Debt(_ context.Context, tenant string, n int64) (flux.Decision, error) {
	l.debts = append(l.debts, fmt.Sprint(tenant, n))
	return flux.Decision{}, errors.New("no connection")
}

// TestSetCostOfAChecker holds that any Checker with the methods for it is
// corrected, that others are left alone, and that nothing is corrected where
// nothing was spent.
func TestSetCostOfAChecker(t *testing.T) {
	var fails bool
	check := checkerFunc(func(context.Context, string, int64) (flux.Decision, error) {
		if fails {
			return flux.Decision{}, errors.New("no connection")
		}
		limit := gcra.Unlimited()
		return flux.NewDecision(limit, 0, 0, 0), nil
	})
	remote := &remoteLimiter{checkerFunc: check}
	for _, l := range []flux.Checker[string]{check, remote} {
		synctest.Test(t, func(t *testing.T) {
			fails = false
			r := start(t, nil, stream.Config[*parcel]{Limiter: l, Policy: stream.Policy{OnLimiterError: stream.FailOpen}}, func(ctx context.Context, p *parcel) error {
				stream.SetCost(ctx, 10)
				return nil
			})
			r.deliver(&parcel{name: "x", tenant: "a", cost: 3}, &parcel{name: "y", tenant: "b", cost: 14}, &parcel{name: "z", tenant: "c", cost: 10})
			fails = true
			r.deliver(&parcel{name: "o", tenant: "d"})
			r.want("0s x run", "0s x ack", "0s y run", "0s y ack", "0s z run", "0s z ack", "0s o run", "0s o ack")
			r.end()
		})
	}
	if fmt.Sprint(remote.debts, remote.refunds) != "[a7] [b4]" {
		t.Errorf("debts %q, refunds %q", remote.debts, remote.refunds)
	}
}

// TestSetCostShares holds that tenants share the workers by what their messages
// have cost in truth: a's cost three times as much as b's, whatever the estimate.
func TestSetCostShares(t *testing.T) {
	for _, estimate := range []int64{1, 100} {
		synctest.Test(t, func(t *testing.T) {
			var runs []string
			open := make(chan struct{})
			r := start(t, nil, stream.Config[*parcel]{Workers: 1}, func(ctx context.Context, p *parcel) error {
				<-open
				runs = append(runs, p.tenant)
				cost := int64(1)
				if p.tenant == "a" {
					cost = 3
				}
				stream.SetCost(ctx, cost)
				return nil
			})
			for i := range 200 {
				r.deliver(&parcel{name: fmt.Sprint("a", i), tenant: "a", cost: estimate}, &parcel{name: fmt.Sprint("b", i), tenant: "b", cost: estimate})
			}
			close(open)
			synctest.Wait()
			var a, b int64
			for i, tenant := range runs[:260] {
				if tenant == "a" {
					a += 3
				} else {
					b++
				}
				// The first of each is placed by the estimate.
				if i > 2 && max(a-b, b-a) > 3+1+estimate {
					t.Fatalf("estimate %d: after %d messages a was given %d and b %d", estimate, i+1, a, b)
				}
			}
			r.forget()
			r.end()
		})
	}
}

// TestCorrectedOrder holds that where costs are corrected before anyone else is
// picked, the order is the same as if they had been known.
func TestCorrectedOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		virtual := rng.Int64()
		known, guessed := stream.NewSched(virtual, 4), stream.NewSched(virtual, 4)
		var truths []map[string][]int64
		truths = append(truths, map[string][]int64{})
		push := func(tenant string) {
			truth := 1 + rng.Int64N(50)
			estimate := 1 + rng.Int64N(50)
			if len(truths[0][tenant]) == 0 {
				estimate = truth // the first of a tenant is placed by it
			}
			truths[0][tenant] = append(truths[0][tenant], truth)
			weight := int64(1 + len(tenant))
			known.Push(tenant, weight, truth, 0)
			guessed.Push(tenant, weight, estimate, 0)
		}
		next := map[string]int{}
		for i := range 2000 {
			if i < 1000 {
				for range rng.IntN(3) {
					push([]string{"x", "xx", "xxx", "xxxxx"}[rng.IntN(4)])
				}
			}
			want, _, done, ok := known.Next(0)
			got, _, correct, ok2 := guessed.Take(0)
			if got != want || ok != ok2 {
				t.Fatalf("pick %d: %q, want %q", i, got, want)
			}
			if !ok {
				continue
			}
			done()
			correct(truths[0][got][next[got]])
			next[got]++
		}
	}
}

// TestCorrectedLag holds the bound of the lag for costs that are corrected late,
// while other messages are picked: what is not corrected yet counts on top.
func TestCorrectedLag(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 50 {
		const most, inFlight = 40, 4
		s := stream.NewSched(rng.Int64(), inFlight)
		weights := map[string]int64{"f": 1 + rng.Int64N(5), "g": 1 + rng.Int64N(5)}
		given := map[string]int64{}
		type flight struct {
			tenant string
			cost   int64
			done   func(int64)
		}
		var flights []flight
		for range 10 {
			for tenant, weight := range weights {
				s.Push(tenant, weight, 1+rng.Int64N(most), 0)
			}
		}
		for i := range 5000 {
			tenant, _, done, ok := s.Take(0)
			if !ok {
				t.Fatal("nothing to do")
			}
			s.Push(tenant, weights[tenant], 1+rng.Int64N(most), 0)
			flights = append(flights, flight{tenant, 1 + rng.Int64N(most), done})
			// One more place per tenant is free, so that nobody is held back.
			for len(flights) >= inFlight-1 || len(flights) > 0 && rng.IntN(2) == 0 {
				j := rng.IntN(len(flights))
				f := flights[j]
				flights = append(flights[:j], flights[j+1:]...)
				given[f.tenant] += f.cost
				f.done(f.cost)
			}
			lag := float64(given["f"])/float64(weights["f"]) - float64(given["g"])/float64(weights["g"])
			bound := float64(most) * float64(inFlight) * (1/float64(weights["f"]) + 1/float64(weights["g"]))
			if max(lag, -lag) > bound {
				t.Fatalf("after %d messages the lag is %.1f, want at most %.1f", i, lag, bound)
			}
		}
	}
}

// TestCorrectionOfThePast holds that a charge which virtual time has overtaken
// is worth nothing, and that one it has not overtaken in truth counts with what
// is beyond.
func TestCorrectionOfThePast(t *testing.T) {
	for truth, want := range map[int64]string{
		1:   "abababab", // it had cost nothing to be charged 50
		50:  "abababab",
		100: "abababab", // nor would 100 have
		103: "bbabababab",
	} {
		s := stream.NewSched(0, 10)
		// Both are known, and a has been charged 50.
		s.Push("b", 1, 1, 0)
		s.Push("a", 1, 1, 0)
		for range 2 {
			_, _, done, _ := s.Next(0)
			done()
		}
		s.Push("a", 1, 50, 0)
		_, _, correct, _ := s.Take(0)
		// b is given 100 meanwhile, and a comes back.
		s.Push("b", 1, 100, 0)
		_, _, done, _ := s.Next(0)
		done()
		s.Push("b", 1, 1, 0)
		_, _, done, _ = s.Next(0)
		done()
		for range 10 {
			s.Push("a", 1, 1, 0)
			s.Push("b", 1, 1, 0)
		}
		correct(truth)
		var got strings.Builder
		for range len(want) {
			tenant, _, done, _ := s.Next(0)
			done()
			got.WriteString(tenant)
		}
		if got.String() != want {
			t.Errorf("in truth %d: order %s, want %s", truth, got.String(), want)
		}
	}
}

// TestCorrectionKeepsVirtualTime holds that a tenant which makes up for what it
// had paid too much takes nobody else back with it: one that was idle meanwhile
// has no part in that.
func TestCorrectionKeepsVirtualTime(t *testing.T) {
	s := stream.NewSched(0, 10)
	run := func(n int) (order string) {
		for range n {
			tenant, _, done, _ := s.Next(0)
			done()
			order += tenant
		}
		return order
	}
	for _, tenant := range []string{"a", "b", "c"} {
		s.Push(tenant, 1, 1, 0)
	}
	run(3)
	s.Push("a", 1, 50, 0)
	_, _, correct, _ := s.Take(0)
	for range 100 {
		s.Push("a", 1, 1, 0)
		s.Push("b", 1, 1, 0)
	}
	if got := run(40); got != strings.Repeat("b", 40) {
		t.Fatalf("a has paid for 50 messages, and the order is %s", got)
	}
	correct(1)
	if got := run(10); got != "aaaaaaaaaa" {
		t.Errorf("a has paid for one message instead, and the order is %s", got)
	}
	for range 100 {
		s.Push("c", 1, 1, 0)
	}
	// a makes up for 30 more messages, and c begins where b is.
	if got := run(60); strings.Count(got[:28], "a") != 28 || strings.Count(got, "b") < 8 || strings.Count(got, "c") < 8 {
		t.Errorf("order %s", got)
	}
}
