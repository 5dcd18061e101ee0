package stream_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

func TestInvalidConfig(t *testing.T) {
	lim, err := flux.New(flux.Config[string]{Limit: gcra.PerSecond(1)})
	if err != nil {
		t.Fatal(err)
	}
	type config = stream.Config[*parcel]
	for want, change := range map[string]func(*config){
		"Limiter is nil":  func(c *config) { c.Limiter = nil },
		"Limiter is nil ": func(c *config) { c.Limiter = (*flux.Limiter[string])(nil) },
		"Tenant is nil":   func(c *config) { c.Tenant = nil },
		"Policy.MaxHold 9s is shorter than MaxWait 10s": func(c *config) { c.Policy.MaxWait, c.Policy.MaxHold = 10*time.Second, 9*time.Second },
		"WindowBytes -6":     func(c *config) { c.WindowBytes = -6 },
		"PartitionWindow -7": func(c *config) { c.PartitionWindow = -7 },
		"PartitionWindow 11 is larger than Window 10": func(c *config) { c.Window, c.PartitionWindow = 10, 11 },
		"Window -1":          func(c *config) { c.Window = -1 },
		"TenantWindow -2":    func(c *config) { c.TenantWindow = -2 },
		"Workers -3":         func(c *config) { c.Workers = -3 },
		"TenantWorkers -4":   func(c *config) { c.TenantWorkers = -4 },
		"HandlerTimeout -6s": func(c *config) { c.HandlerTimeout = -6 * time.Second },
		"DrainTimeout -5s":   func(c *config) { c.DrainTimeout = -5 * time.Second },
		"TenantWindow 11 is larger than Window 10":     func(c *config) { c.Window, c.TenantWindow = 10, 11 },
		"TenantWindow 1025 is larger than Window 1024": func(c *config) { c.TenantWindow = 1025 },
		"TenantWorkers 17 is larger than Workers 16":   func(c *config) { c.TenantWorkers = 17 },
		"Policy.OnDenied is wait":                      func(c *config) { c.Policy.OnDenied = stream.Wait },
		"Policy.OnDenied is process":                   func(c *config) { c.Policy.OnDenied = stream.Process },
		"Policy.OnDenied is outcome(9)":                func(c *config) { c.Policy.OnDenied = 9 },
		"Policy.OnFull is wait":                        func(c *config) { c.Policy.OnFull = stream.Wait },
		"Policy.OnFull is outcome(8)":                  func(c *config) { c.Policy.OnFull = 8 },
		"Order is order(4)":                            func(c *config) { c.Order = 4 },
		"Order is per_key, but OrderKey is nil":        func(c *config) { c.Order = stream.PerKey },
		"Order is unordered, but OrderKey is given":    func(c *config) { *c = byKey(*c); c.Order = stream.Unordered },
		"Order is per_tenant, but OrderKey is given":   func(c *config) { *c = byKey(*c); c.Order = stream.PerTenant },
		"Policy.OnNoTenant is defer":                   func(c *config) { c.Policy.OnNoTenant = stream.Defer },
		"Policy.OnLimiterError is fail_mode(3)":        func(c *config) { c.Policy.OnLimiterError = 3 },
		"Policy.MaxAge -1s":                            func(c *config) { c.Policy.MaxAge = -time.Second },
		"Policy.MaxWait 3s is longer than MaxAge 2s":   func(c *config) { c.Policy.MaxWait, c.Policy.MaxAge = 3*time.Second, 2*time.Second },
	} {
		cfg := config{Limiter: lim, Tenant: func(p *parcel) string { return p.tenant }}
		if _, err := stream.New(cfg); err != nil {
			t.Fatal(err)
		}
		change(&cfg)
		gate, err := stream.New(cfg)
		if gate != nil || !errors.Is(err, stream.ErrInvalidConfig) || !strings.Contains(err.Error()+" ", want) {
			t.Errorf("New = %v, want %q", err, want)
		}
	}
	// A short MaxAge shortens the default MaxWait.
	cfg := config{Limiter: lim, Tenant: func(p *parcel) string { return p.tenant }, Policy: stream.Policy{MaxAge: time.Second}}
	if _, err := stream.New(cfg); err != nil {
		t.Errorf("MaxAge 1s: %v", err)
	}
}

// TestNil holds that what is missing is named where it is, and that nothing
// starts without it.
func TestNil(t *testing.T) {
	gate := newScene(t, nil, stream.Config[*message]{}).gateOf(func(*parcel) string { return "a" })
	unused := sourceFunc(func(context.Context, stream.Intake[*parcel]) error {
		t.Error("the source was started")
		return nil
	})
	for want, err := range map[string]error{
		"Run: source":       gate.Run(t.Context(), nil, succeed),
		"Run: handler":      gate.Run(t.Context(), unused, nil),
		"RunBatch: source":  gate.RunBatch(t.Context(), nil, stream.BatchConfig{}, func(context.Context, []*stream.Item[*parcel]) error { return nil }),
		"RunBatch: handler": gate.RunBatch(t.Context(), unused, stream.BatchConfig{}, nil),
	} {
		_, what, _ := strings.Cut(want, ": ")
		if !errors.Is(err, stream.ErrInvalidConfig) || !strings.HasSuffix(err.Error(), "the "+what+" is nil") {
			t.Errorf("%s: %v", want, err)
		}
	}
	for want, call := range map[string]func(){
		"stream: Join: source 1 is nil": func() { stream.Join[*parcel](unused, nil) },
		"stream: FromChan: in is nil":   func() { stream.FromChan[int](nil, nil) },
	} {
		panics(t, want, call)
	}
}

// cannotDefer is a source that cannot defer.
type cannotDefer struct{ sourceFunc }

func (cannotDefer) CanDefer() bool { return false }

// TestCannotDefer holds that a policy is refused that the source cannot follow,
// and that nothing is deferred without one.
func TestCannotDefer(t *testing.T) {
	lim, err := flux.New(flux.Config[string]{Limit: gcra.PerSecond(1)})
	if err != nil {
		t.Fatal(err)
	}
	for want, policy := range map[string]stream.Policy{
		"Policy.OnDenied is defer": {OnFull: stream.Drop},
		"Policy.OnFull is defer":   {OnDenied: stream.Drop, OnFull: stream.Defer},
		"":                         {OnDenied: stream.Drop},
	} {
		gate, err := stream.New(stream.Config[*parcel]{Limiter: lim, Tenant: func(p *parcel) string { return p.tenant }, Policy: policy})
		if err != nil {
			t.Fatal(err)
		}
		asked := false
		src := cannotDefer{func(context.Context, stream.Intake[*parcel]) error { asked = true; return nil }}
		err = gate.Run(t.Context(), src, succeed)
		if asked != (want == "") || asked != (err == nil) || !asked && (!errors.Is(err, stream.ErrInvalidConfig) || !strings.Contains(err.Error(), want)) {
			t.Errorf("Run = %v, source asked: %t; want %q", err, asked, want)
		}
	}
}

// TestWaitsWhereNothingCanBeDeferred holds that without deferrals a message
// waits in memory for its next attempt, and is counted as one that was deferred.
func TestWaitsWhereNothingCanBeDeferred(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim, err := flux.New(flux.Config[string]{Limit: gcra.Unlimited()})
		if err != nil {
			t.Fatal(err)
		}
		gate, err := stream.New(stream.Config[*parcel]{
			Limiter: lim, Tenant: func(p *parcel) string { return p.tenant },
			Policy: stream.Policy{
				OnDenied: stream.Drop, MaxDeferrals: 2,
				Backoff: func(int) time.Duration { return time.Hour },
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		r := &rig{t: t, begin: time.Now()}
		src := cannotDefer{func(ctx context.Context, in stream.Intake[*parcel]) error {
			for _, name := range []string{"later", "retry"} {
				if err := in.Deliver(ctx, &parcel{name: name, tenant: "a", rig: r}); err != nil {
					return err
				}
			}
			return nil
		}}
		if err := gate.Run(t.Context(), src, func(ctx context.Context, p *parcel) error {
			r.note("%s run", p.name)
			if p.name == "later" {
				return stream.RetryLater(time.Minute, nil)
			}
			if info, _ := stream.FromContext(ctx); info.Attempt == 1 {
				return errors.New("once")
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		r.want("0s later run", "1m0s later run", "2m0s later run", "2m0s later dead max_deferrals",
			"0s retry run", "1h0m0s retry run", "1h0m0s retry ack")
	})
}

// TestInvalidValues holds that values that make no sense are counted, and taken
// for the least that does.
func TestInvalidValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := stream.Config[*parcel]{Weight: func(tenant string) int64 {
			if tenant == "light" {
				return -1
			}
			return 0
		}}
		r := start(t, nil, cfg, nil)
		r.deliver(&parcel{name: "w", tenant: "light"}, &parcel{name: "c", tenant: "a", cost: -5},
			&parcel{name: "both", tenant: "light", cost: -1}, &parcel{name: "fine", tenant: "a"},
			&parcel{name: "b", tenant: "a", meta: stream.Meta{Bytes: -1}})
		if n := r.gate.Stats().Invalid; n != 4 {
			t.Errorf("%d invalid, want 4", n)
		}
		r.forget()
		r.end()
		if n := r.gate.Stats().Invalid; n != 4 {
			t.Errorf("%d invalid after the run, want 4", n)
		}
	})
}

func TestNames(t *testing.T) {
	for order, want := range map[stream.Order]string{
		stream.Unordered: "unordered", stream.PerKey: "per_key", stream.PerTenant: "per_tenant", 0: "order(0)", 4: "order(4)",
	} {
		if got := order.String(); got != want {
			t.Errorf("%d is %q, want %q", order, got, want)
		}
	}
	for outcome, want := range map[stream.Outcome]string{
		stream.Process: "process", stream.Wait: "wait", stream.Defer: "defer", stream.DeadLetter: "dead_letter",
		stream.Drop: "drop", 0: "outcome(0)", 99: "outcome(99)",
	} {
		if got := outcome.String(); got != want {
			t.Errorf("%d is %q, want %q", outcome, got, want)
		}
	}
	for mode, want := range map[stream.FailMode]string{
		stream.FailWait: "wait", stream.FailOpen: "open", stream.FailClosed: "closed", 7: "fail_mode(7)",
	} {
		if got := mode.String(); got != want {
			t.Errorf("%d is %q, want %q", mode, got, want)
		}
	}
	seen := make(map[string]bool)
	for reason := stream.ReasonNone; reason <= stream.ReasonHeld; reason++ {
		name := reason.String()
		if name == "" || seen[name] || strings.Contains(name, "(") {
			t.Errorf("reason %d is %q", reason, name)
		}
		seen[name] = true
	}
	if got := stream.Reason(99).String(); got != "reason(99)" {
		t.Errorf("reason 99 is %q", got)
	}
	const want = `{"Outcome":"dead_letter","Reason":"max_deferrals"}`
	if got, err := json.Marshal(struct {
		Outcome stream.Outcome
		Reason  stream.Reason
	}{stream.DeadLetter, stream.ReasonDeferrals}); err != nil || string(got) != want {
		t.Errorf("JSON is %s, %v, want %s", got, err, want)
	}
}
