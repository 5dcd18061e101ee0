package stream_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

type items = []*stream.Item[*parcel]

// TestBatch holds that batches are of one tenant, or of many, as large as they can
// be, and that each tenant's messages keep the order in which they came.
func TestBatch(t *testing.T) {
	for mixed, want := range map[bool]string{false: "[1 2 3 3 1]", true: "[1 3 3 3]"} {
		synctest.Test(t, func(t *testing.T) {
			var sizes []int
			came := map[string]string{}
			r := startBatch(t, nil, stream.Config[*parcel]{Workers: 1}, stream.BatchConfig{Size: 3, Mixed: mixed}, func(_ context.Context, batch items) error {
				sizes = append(sizes, len(batch))
				for _, item := range batch {
					m := item.Message
					came[m.tenant] += m.name
					if !mixed && m.tenant != batch[0].Message.tenant {
						t.Errorf("%s is in a batch with %s", m.name, batch[0].Message.name)
					}
				}
				time.Sleep(time.Second)
				return nil
			})
			r.deliver(named("a", 8)...)
			r.deliver(named("b", 2)...)
			time.Sleep(10 * time.Second)
			r.forget()
			if fmt.Sprint(sizes) != want || came["a"] != "a0a1a2a3a4a5a6a7" || came["b"] != "b0b1" {
				t.Errorf("mixed %v: batches of %v, want %v: %v", mixed, sizes, want, came)
			}
			if s := r.gate.Stats(); s.Processed != 10 || s.Held != 0 {
				t.Errorf("Stats = %+v", s)
			}
			r.end()
		})
	}
}

// TestBatchLinger holds that a batch goes when it is full, or has lingered, and
// that a tenant of its own does not wait for another's.
func TestBatchLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startBatch(t, nil, stream.Config[*parcel]{}, stream.BatchConfig{Size: 3, Linger: 100 * time.Millisecond}, nil)
		a, b := named("a", 9), named("b", 9)
		r.deliver(a[0])
		time.Sleep(60 * time.Millisecond)
		r.deliver(a[1], b[0])
		r.want()
		if s := r.gate.Stats(); s.Running != 3 || s.Held != 3 || s.Waiting != 0 {
			t.Errorf("Stats = %+v, want 3 on their way", s)
		}
		time.Sleep(60 * time.Millisecond)
		r.want("100ms run a0 a1", "100ms a0 ack", "100ms a1 ack")
		r.deliver(b[1], b[2], b[3])
		r.want("120ms run b0 b1 b2", "120ms b0 ack", "120ms b1 ack", "120ms b2 ack")
		time.Sleep(time.Second)
		r.want("220ms run b3", "220ms b3 ack")
		r.end()
	})
}

// TestBatchLingersNoLonger holds that a limiter that takes its time does not keep a
// batch from its handler for longer than it may linger, but for one answer.
func TestBatchLingersNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim, err := flux.New(flux.Config[string]{Limit: gcra.Unlimited()})
		if err != nil {
			t.Fatal(err)
		}
		slow := checkerFunc(func(ctx context.Context, tenant string, n int64) (flux.Decision, error) {
			time.Sleep(100 * time.Millisecond)
			return lim.Check(ctx, tenant, n)
		})
		r := startBatch(t, nil, stream.Config[*parcel]{Limiter: slow, Workers: 1}, stream.BatchConfig{Size: 10, Linger: 250 * time.Millisecond}, nil)
		r.deliver(named("a", 10)...)
		time.Sleep(3 * time.Second)
		var runs []string
		for _, line := range r.taken() {
			if strings.Contains(line, " run ") {
				runs = append(runs, line)
			}
		}
		r.compare(runs, []string{"400ms run a0 a1 a2 a3", "800ms run a4 a5 a6 a7", "1.15s run a8 a9"})
		r.end()
	})
}

// TestBatchGrants holds that each message of a batch is granted on its own: a
// batch gathers what its tenant's limit lets through while it lingers.
func TestBatchGrants(t *testing.T) {
	for _, remote := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			lim, err := flux.New(flux.Config[string]{Limit: gcra.PerSecond(10).WithBurst(2)})
			if err != nil {
				t.Fatal(err)
			}
			cfg := stream.Config[*parcel]{Limiter: lim}
			if remote {
				cfg.Limiter = checkerFunc(lim.Check)
			}
			var granted []string
			var begin time.Time
			r := startBatch(t, nil, cfg, stream.BatchConfig{Linger: 250 * time.Millisecond}, func(_ context.Context, batch items) error {
				for _, item := range batch {
					info := item.Info()
					granted = append(granted, info.Granted.Sub(begin).String())
					if info.Tenant != "a" || info.Attempt != 1 || info.Cost != 1 {
						t.Errorf("info %+v", info)
					}
				}
				return nil
			})
			begin = r.begin
			r.deliver(named("a", 6)...)
			time.Sleep(10 * time.Second)
			r.want("250ms run a0 a1 a2 a3", "250ms a0 ack", "250ms a1 ack", "250ms a2 ack", "250ms a3 ack",
				"550ms run a4 a5", "550ms a4 ack", "550ms a5 ack")
			if want := "[0s 0s 100ms 200ms 300ms 400ms]"; fmt.Sprint(granted) != want {
				t.Errorf("remote %v: granted at %v, want %v", remote, granted, want)
			}
			r.end()
		})
	}
}

// TestBatchResults holds that each message has the result that it was given, and
// that of the batch if it was given none.
func TestBatchResults(t *testing.T) {
	failure := errors.New("no database")
	results := map[string]func(*stream.Item[*parcel]){
		"done":      func(i *stream.Item[*parcel]) { i.Done(nil) },
		"failed":    func(i *stream.Item[*parcel]) { i.Done(failure) },
		"permanent": func(i *stream.Item[*parcel]) { i.Done(stream.Permanent(failure)) },
		"later":     func(i *stream.Item[*parcel]) { i.Done(stream.RetryLater(time.Minute, failure)) },
		"changed":   func(i *stream.Item[*parcel]) { i.Done(failure); i.Done(nil) },
		"open":      func(*stream.Item[*parcel]) {},
	}
	common := []string{"1s done ack", "1s failed defer retry 11s attempts 1", "1s permanent dead handler_permanent", "1s later defer retry_later 1m1s", "1s changed ack"}
	for what, test := range map[string]struct {
		end  func() error
		open string
	}{
		"nil":    {func() error { return nil }, "1s open ack"},
		"error":  {func() error { return failure }, "1s open defer retry 11s attempts 1"},
		"later":  {func() error { return stream.RetryLater(time.Hour, nil) }, "1s open defer retry_later 1h0m1s"},
		"panic":  {func() error { panic("index out of range") }, "1s open defer retry 11s attempts 1"},
		"goexit": {func() error { runtime.Goexit(); return nil }, "1s open defer retry 11s attempts 1"},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := stream.Config[*parcel]{Workers: 1, Policy: stream.Policy{MaxWait: time.Second, Backoff: func(int) time.Duration { return 10 * time.Second }}}
				r := startBatch(t, nil, cfg, stream.BatchConfig{Mixed: true, Linger: time.Second}, func(_ context.Context, batch items) error {
					for i, item := range batch {
						results[item.Message.name](item)
						batch[i] = nil // whatever becomes of the slice
					}
					return test.end()
				})
				for name := range results {
					r.deliver(&parcel{name: name, tenant: name})
				}
				time.Sleep(5 * time.Second)
				lines := r.taken()
				for i, line := range lines {
					if strings.Contains(line, "run") {
						lines = append(lines[:i], lines[i+1:]...)
						break
					}
				}
				r.compare(lines, append([]string{test.open}, common...))
				r.end()
			})
		})
	}
}

// TestBatchPanic holds that a panic is an attempt of each message, with its stack.
func TestBatchPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startBatch(t, nil, stream.Config[*parcel]{Policy: stream.Policy{MaxAttempts: 1}}, stream.BatchConfig{Linger: time.Second}, func(context.Context, items) error {
			panic("index out of range")
		})
		r.deliver(named("a", 2)...)
		time.Sleep(time.Second)
		r.want("1s run a0 a1", "1s a0 dead max_attempts", "1s a1 dead max_attempts")
		for _, l := range r.letters {
			if !errors.Is(l.Err, stream.ErrPanic) || !strings.Contains(string(l.Stack), "TestBatchPanic") || l.Attempts != 1 {
				t.Errorf("letter %+v", l)
			}
		}
		r.end()
	})
}

// TestBatchOrder holds that a batch has no two messages of an order key, and that
// a later one runs when the earlier is done.
func TestBatchOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fail := true
		r := startBatch(t, nil, stream.Config[*parcel]{
			OrderKey: func(p *parcel) string { return p.key },
			Policy:   stream.Policy{Backoff: func(int) time.Duration { return time.Second }},
		}, stream.BatchConfig{Mixed: true, Linger: 100 * time.Millisecond}, func(_ context.Context, batch items) error {
			for _, item := range batch {
				if item.Message.name == "k1" && fail {
					item.Done(errors.New("once"))
					fail = false
				}
			}
			return nil
		})
		r.deliver(&parcel{name: "k1", tenant: "a", key: "k"}, &parcel{name: "k2", tenant: "a", key: "k"}, &parcel{name: "l1", tenant: "a", key: "l"})
		time.Sleep(10 * time.Second)
		r.want("100ms run k1 l1", "100ms l1 ack", "1.2s run k1", "1.2s k1 ack", "1.3s run k2", "1.3s k2 ack")
		r.end()
	})
}

// TestBatchRevoked holds that a message which is revoked while its batch lingers
// leaves at once, and its tokens go to the next.
func TestBatchRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startBatch(t, limits{"a": gcra.PerMinute(1).WithBurst(2)}, stream.Config[*parcel]{Policy: stream.Policy{MaxWait: time.Hour}},
			stream.BatchConfig{Linger: time.Second}, nil)
		revoked := make(chan struct{})
		r.deliver(&parcel{name: "y", tenant: "a"}, &parcel{name: "x", tenant: "a", revoked: revoked}, &parcel{name: "z", tenant: "a"})
		time.Sleep(500 * time.Millisecond)
		close(revoked)
		r.want("500ms x released")
		time.Sleep(time.Second)
		r.want("1s run y z", "1s y ack", "1s z ack")
		// One that is alone leaves nothing behind.
		revoked = make(chan struct{})
		r.deliver(&parcel{name: "v", tenant: "b", revoked: revoked})
		close(revoked)
		time.Sleep(time.Minute)
		r.want("1.5s v released")
		if s := r.gate.Stats(); s.Held != 0 || s.Running != 0 || s.Revoked != 2 {
			t.Errorf("Stats = %+v", s)
		}
		r.end()
	})
}

// TestBatchRecalled holds that messages which the source wants back do not wait for
// their batch.
func TestBatchRecalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startBatch(t, nil, stream.Config[*parcel]{}, stream.BatchConfig{Linger: time.Second}, nil)
		revoked := make(chan struct{})
		r.deliver(&parcel{name: "x", tenant: "a", revoked: revoked}, &parcel{name: "y", tenant: "a"}, &parcel{name: "z", tenant: "a", revoked: revoked})
		r.in.Recall(revoked)
		r.want("0s x released", "0s z released")
		time.Sleep(time.Minute)
		r.want("1s run y", "1s y ack")
		r.end()
	})
}

// TestBatchRevokedWhileRunning holds that a batch's context ends when all of it is
// revoked, and not with one message, which is released in any case.
func TestBatchRevokedWhileRunning(t *testing.T) {
	for _, together := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			r := startBatch(t, nil, stream.Config[*parcel]{}, stream.BatchConfig{Linger: time.Second}, func(ctx context.Context, batch items) error {
				select {
				case <-ctx.Done():
					if !together || context.Cause(ctx) != stream.ErrRevoked { //nolint:errorlint // the cause is this very error
						t.Errorf("together %v: %v", together, context.Cause(ctx))
					}
				case <-time.After(time.Second):
					if together {
						t.Error("the context did not end")
					}
				}
				return nil
			})
			one := make(chan struct{})
			other := one
			if !together {
				other = make(chan struct{})
			}
			r.deliver(&parcel{name: "x", tenant: "a", revoked: one, meta: stream.Meta{Partition: "1"}},
				&parcel{name: "y", tenant: "a", revoked: other, meta: stream.Meta{Partition: "2"}})
			time.Sleep(1500 * time.Millisecond)
			close(one)
			time.Sleep(time.Minute)
			if together {
				// One partition may be told before the other: then it is for the broker
				// to refuse what has become of the other's message.
				if got := r.taken(); len(got) != 3 || !strings.HasPrefix(got[1], "1.5s") || !strings.HasPrefix(got[2], "1.5s") {
					t.Errorf("got %q, want the end at 1.5s", got)
				}
			} else {
				r.want("1s run x y", "2s x released", "2s y ack")
			}
			r.end()
		})
	}
}

// TestBatchDrain holds that a batch which is being gathered runs at once when the
// gate drains, and that what is only parked is released.
func TestBatchDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startBatch(t, limits{"a": gcra.PerSecond(1).WithBurst(2)}, stream.Config[*parcel]{}, stream.BatchConfig{Linger: time.Minute}, nil)
		r.deliver(append(named("a", 4), named("b", 1)...)...)
		time.Sleep(500 * time.Millisecond)
		r.end()
		r.want("500ms run a0 a1", "500ms a0 ack", "500ms a1 ack", "500ms run b0", "500ms b0 ack", "500ms a2 released", "500ms a3 released")
	})
}

// TestBatchDrainTimeout holds that messages of a batch whose handler does not end
// are released.
func TestBatchDrainTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startBatch(t, nil, stream.Config[*parcel]{DrainTimeout: time.Second}, stream.BatchConfig{Size: 2, Linger: time.Minute}, func(ctx context.Context, batch items) error {
			batch[0].Done(nil)
			<-ctx.Done()
			return context.Cause(ctx)
		})
		r.deliver(named("a", 2)...)
		time.Sleep(500 * time.Millisecond)
		r.stop()
		if err := <-r.ended; !errors.Is(err, stream.ErrDrainTimeout) {
			t.Errorf("RunBatch = %v", err)
		}
		r.want("0s run a0 a1", "1.5s a0 released", "1.5s a1 released")
		if s := r.gate.Stats(); s.Held != 0 || s.Running != 0 || s.Released != 2 || s.Processed != 0 {
			t.Errorf("Stats = %+v", s)
		}
	})
}

// TestBatchWorkers holds that batches of a tenant count as its workers, also while
// they linger, and that no batch lingers where its worker is needed.
func TestBatchWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		work := func(context.Context, items) error { time.Sleep(time.Second); return nil }
		r := startBatch(t, nil, stream.Config[*parcel]{Workers: 2, TenantWorkers: 1}, stream.BatchConfig{Size: 3, Linger: time.Minute}, work)
		r.deliver(named("a", 5)...)
		r.want("0s run a0 a1 a2")
		r.deliver(named("b", 1)...)
		time.Sleep(500 * time.Millisecond)
		r.want() // b lingers, and a has its worker
		r.deliver(named("c", 1)...)
		r.want("500ms run b0") // c needs the worker
		time.Sleep(time.Second)
		// a needs the worker that c lingers with then, and lingers with b's.
		r.want("1s a0 ack", "1s a1 ack", "1s a2 ack", "1s run c0", "1.5s b0 ack")
		if s := r.gate.Stats(); s.Running+s.Waiting != 3 {
			t.Errorf("Stats = %+v", s)
		}
		time.Sleep(2 * time.Minute)
		r.forget()
		if s := r.gate.Stats(); s.Processed != 7 || s.Held != 0 {
			t.Errorf("Stats = %+v", s)
		}
		r.end()
	})
}

// TestBatchCost holds that each message's cost is corrected by itself.
func TestBatchCost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startBatch(t, limits{"a": gcra.PerSecond(10)}, stream.Config[*parcel]{}, stream.BatchConfig{Linger: 100 * time.Millisecond}, func(_ context.Context, batch items) error {
			for _, item := range batch {
				switch item.Message.name {
				case "x":
					item.SetCost(1)
				case "y":
					item.SetCost(14)
				case "z":
					item.SetCost(-3)
				}
			}
			return nil
		})
		r.deliver(&parcel{name: "x", tenant: "a", cost: 4}, &parcel{name: "y", tenant: "a", cost: 2}, &parcel{name: "z", tenant: "a", cost: 4}, &parcel{name: "w", tenant: "a", cost: 10})
		time.Sleep(10 * time.Second)
		// 15 tokens are spent in truth, and w is granted at 1.5s.
		r.want("100ms run x y z", "100ms x ack", "100ms y ack", "100ms z ack", "1.6s run w", "1.6s w ack")
		r.end()
	})
}

// TestBatchTimeout holds that the handler of a batch has its time for all of it.
func TestBatchTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startBatch(t, nil, stream.Config[*parcel]{HandlerTimeout: time.Second, Policy: stream.Policy{MaxAttempts: 1}},
			stream.BatchConfig{Linger: time.Second}, func(ctx context.Context, batch items) error {
				batch[0].Done(nil)
				<-ctx.Done()
				return ctx.Err()
			})
		r.deliver(named("a", 2)...)
		time.Sleep(time.Minute)
		r.want("1s run a0 a1", "2s a0 ack", "2s a1 dead max_attempts")
		if l := r.letters[0]; !errors.Is(l.Err, stream.ErrHandlerTimeout) {
			t.Errorf("letter %+v", l)
		}
		r.end()
	})
}

// TestBatchShares holds that tenants share the workers by weight, by the batch.
func TestBatchShares(t *testing.T) {
	for _, mixed := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			given := map[string]int64{}
			weights := map[string]int64{"a": 1, "b": 3}
			open := make(chan struct{})
			runs := 0
			r := startBatch(t, nil, stream.Config[*parcel]{Workers: 1, Window: 2000, Weight: func(tenant string) int64 { return weights[tenant] }},
				stream.BatchConfig{Size: 10, Mixed: mixed}, func(_ context.Context, batch items) error {
					<-open
					for _, item := range batch {
						given[item.Message.tenant]++
					}
					// The last ones are alone. The first batch is of what was there.
					if runs++; runs > 1 && given["b"] < 380 {
						lag := float64(given["a"]) - float64(given["b"])/3
						if bound := 10 + 10.0/3 + 1; max(lag, -lag) > bound {
							t.Errorf("mixed %v: after %d batches %v", mixed, runs, given)
						}
					}
					return nil
				})
			r.deliver(append(named("a", 400), named("b", 400)...)...)
			close(open)
			synctest.Wait()
			if given["a"] != 400 || given["b"] != 400 {
				t.Errorf("given %v", given)
			}
			r.end()
		})
	}
}

// TestRevokedBatchIsNotCharged holds that a tenant does not pay with its share of
// the workers for a message that was revoked before its batch ran.
func TestRevokedBatchIsNotCharged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(chan struct{})
		r := startBatch(t, nil, stream.Config[*parcel]{Workers: 1}, stream.BatchConfig{Size: 2, Linger: time.Second},
			func(_ context.Context, items []*stream.Item[*parcel]) error {
				if items[0].Message.name == "long" {
					<-open
				}
				return nil
			})
		// All have been here, so that those that come next begin at the same time.
		for _, p := range []*parcel{{tenant: "a"}, {tenant: "b"}, {tenant: "c", cost: 100}, {tenant: "c"}} {
			r.deliver(p)
			time.Sleep(2 * time.Second)
		}
		revoked := make(chan struct{})
		r.deliver(&parcel{name: "lost", tenant: "a", cost: 10, revoked: revoked})
		close(revoked)
		synctest.Wait()
		r.deliver(&parcel{name: "long", tenant: "c"})
		r.forget()
		r.deliver(&parcel{name: "a1", tenant: "a"}, &parcel{name: "b1", tenant: "b"})
		close(open)
		time.Sleep(2 * time.Second)
		r.want("8s run long", "8s long ack", "8s run a1", "8s a1 ack", "9s run b1", "9s b1 ack")
		r.end()
	})
}

func TestInvalidBatch(t *testing.T) {
	lim, err := flux.New(flux.Config[string]{Limit: gcra.PerSecond(1)})
	if err != nil {
		t.Fatal(err)
	}
	gate, err := stream.New(stream.Config[*parcel]{Limiter: lim, Tenant: func(p *parcel) string { return p.tenant }, Window: 10})
	if err != nil {
		t.Fatal(err)
	}
	source := sourceFunc(func(context.Context, stream.Intake[*parcel]) error { return nil })
	handle := func(context.Context, []*stream.Item[*parcel]) error { return nil }
	for want, batch := range map[string]stream.BatchConfig{
		"BatchConfig.Size -1 is negative":                {Size: -1},
		"BatchConfig.Linger -2s is negative":             {Linger: -2 * time.Second},
		"BatchConfig.Size 11 is larger than Window 10":   {Size: 11, Mixed: true},
		"BatchConfig.Size 6 is larger than TenantWindow": {Size: 6},
	} {
		err := gate.RunBatch(t.Context(), source, batch, handle)
		if !errors.Is(err, stream.ErrInvalidConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("RunBatch = %v, want %q", err, want)
		}
	}
	for _, batch := range []stream.BatchConfig{{}, {Size: 5}, {Size: 10, Mixed: true}} {
		if err := gate.RunBatch(t.Context(), source, batch, handle); err != nil {
			t.Errorf("%+v: %v", batch, err)
		}
	}
}
