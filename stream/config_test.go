package stream_test

import (
	"errors"
	"strings"
	"testing"
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
		"Limiter is nil":   func(c *config) { c.Limiter = nil },
		"Limiter is nil ":  func(c *config) { c.Limiter = (*flux.Limiter[string])(nil) },
		"Tenant is nil":    func(c *config) { c.Tenant = nil },
		"Window -1":        func(c *config) { c.Window = -1 },
		"TenantWindow -2":  func(c *config) { c.TenantWindow = -2 },
		"Workers -3":       func(c *config) { c.Workers = -3 },
		"TenantWorkers -4": func(c *config) { c.TenantWorkers = -4 },
		"DrainTimeout -5s": func(c *config) { c.DrainTimeout = -5 * time.Second },
		"TenantWindow 11 is larger than Window 10":     func(c *config) { c.Window, c.TenantWindow = 10, 11 },
		"TenantWindow 1025 is larger than Window 1024": func(c *config) { c.TenantWindow = 1025 },
		"TenantWorkers 17 is larger than Workers 16":   func(c *config) { c.TenantWorkers = 17 },
		"Policy.OnDenied is wait":                      func(c *config) { c.Policy.OnDenied = stream.Wait },
		"Policy.OnDenied is process":                   func(c *config) { c.Policy.OnDenied = stream.Process },
		"Policy.OnDenied is outcome(9)":                func(c *config) { c.Policy.OnDenied = 9 },
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

func TestNames(t *testing.T) {
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
	for reason := stream.ReasonNone; reason <= stream.ReasonOrder; reason++ {
		name := reason.String()
		if name == "" || seen[name] || strings.Contains(name, "(") {
			t.Errorf("reason %d is %q", reason, name)
		}
		seen[name] = true
	}
	if got := stream.Reason(99).String(); got != "reason(99)" {
		t.Errorf("reason 99 is %q", got)
	}
}
