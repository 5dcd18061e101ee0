package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux/examples/internal/natsnode/natstest"
	"github.com/fluxlimiter/flux/examples/internal/program"
)

func TestMain(m *testing.M) { natstest.Main(m) }

// exitCode runs the program and returns its exit code.
func exitCode(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return program.Run(ctx, "quickstart", run, args, stdout, stderr)
}

// shown is the report as a reader of -json sees it.
type shown struct {
	DurationS   float64 `json:"duration_s"`
	Tenants     []tenantShown
	Unaccounted *int64
}

type tenantShown struct {
	Name          string
	LimitPerS     float64 `json:"limit_per_s"`
	Burst         int64
	Published     int64
	Processed     int64
	Waiting       int64
	Deferred      int64
	DeadLettered  int64 `json:"dead_lettered"`
	Dropped       int64
	DwellP50      float64  `json:"dwell_p50_ms"`
	DwellP99      float64  `json:"dwell_p99_ms"`
	MaxRateExcess *float64 `json:"max_rate_excess"`
}

// runVirtually runs the program, its server included, in virtual time.
func runVirtually(t *testing.T, stopAfter time.Duration, args string) (stdout string) {
	t.Helper()
	natstest.Prepare(t)
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		if stopAfter > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, stopAfter)
			defer cancel()
		}
		var out, errs bytes.Buffer
		if code := exitCode(ctx, strings.Fields(args), &out, &errs); code != 0 || errs.Len() > 0 {
			t.Errorf("exit code %d, stderr %q, stdout\n%s", code, errs.String(), out.String())
		}
		stdout = out.String()
	})
	return stdout
}

func runReport(t *testing.T, stopAfter time.Duration, args string) shown {
	t.Helper()
	out := runVirtually(t, stopAfter, args+" -json")
	var s shown
	d := json.NewDecoder(strings.NewReader(out))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	if s.Unaccounted == nil || *s.Unaccounted != 0 {
		t.Errorf("unaccounted is %v", s.Unaccounted)
	}
	for _, tenant := range s.Tenants {
		if tenant.MaxRateExcess == nil || *tenant.MaxRateExcess > 0 {
			t.Errorf("%s: max_rate_excess is %v", tenant.Name, tenant.MaxRateExcess)
		}
		if sum := tenant.Processed + tenant.DeadLettered + tenant.Dropped + tenant.Waiting; sum != tenant.Published || tenant.Waiting < 0 {
			t.Errorf("%s: published %d, but the rest adds up to %d: %+v", tenant.Name, tenant.Published, sum, tenant)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
	return s
}

// TestThrottling holds what the program is there to show: the noisy tenant gets
// its limit and no more, and the others do not notice it.
func TestThrottling(t *testing.T) {
	for _, tt := range []struct {
		args     string
		duration float64
	}{
		{"", 15},
		{"-burst 1 -noisy 30 -duration 5s", 5},
		{"-tenants 3 -rate 100 -burst 5 -noisy 10 -duration 3s", 3},
		{"-tenants 20 -rate 10 -burst 40 -noisy 100 -duration 2s", 2},
		{"-tenants 2 -rate 0.5 -burst 1 -noisy 30 -duration 60s", 60},
	} {
		t.Run(tt.args, func(t *testing.T) {
			noise := runReport(t, 0, tt.args)
			quiet := runReport(t, 0, tt.args+" -noisy 1")
			if noise.DurationS != tt.duration || quiet.DurationS != tt.duration {
				t.Errorf("lasted %v and %v, want %v", noise.DurationS, quiet.DurationS, tt.duration)
			}

			noisy := noise.Tenants[0]
			allowed := float64(noisy.Burst) + noisy.LimitPerS*tt.duration
			if got := float64(noisy.Processed); math.Abs(got-allowed) > max(0.02*allowed, 1) {
				t.Errorf("the noisy tenant had %v processed, where its limit allows %v", got, allowed)
			}
			if noisy.Deferred == 0 || noisy.DeadLettered == 0 {
				t.Errorf("of the noisy tenant nothing was deferred, or dead-lettered: %+v", noisy)
			}
			if calm := quiet.Tenants[0]; calm.Processed+calm.Waiting != calm.Published || float64(calm.Processed) < 0.98*allowed-1 {
				t.Errorf("without noise, the noisy tenant had %d of %d processed: %+v", calm.Processed, calm.Published, calm)
			}
			for i, with := range noise.Tenants[1:] {
				without := quiet.Tenants[i+1]
				for _, q := range []tenantShown{with, without} {
					if q.Processed != q.Published || q.Deferred > 0 || q.Published == 0 {
						t.Errorf("not all of a quiet tenant's messages were simply processed: %+v", q)
					}
				}
				if with.Published != without.Published {
					t.Errorf("%s: load differs: %d, %d", with.Name, with.Published, without.Published)
				}
				// In virtual time, a message that finds a worker idle takes no time
				// at all; less than one handler takes is as good.
				if with.DwellP99 >= 5*max(without.DwellP99, 4) {
					t.Errorf("%s: dwell p99 is %v ms beside the noisy tenant, %v ms without", with.Name, with.DwellP99, without.DwellP99)
				}
			}
		})
	}
}

// TestWeight holds that the gold tenant, with two shares of the workers, gets
// its opening done before the others, who have one each.
func TestWeight(t *testing.T) {
	s := runReport(t, 0, "-duration 1s -noisy 1")
	gold := s.Tenants[1]
	for _, other := range s.Tenants[2:] {
		if gold.DwellP99 >= 0.8*other.DwellP99 {
			t.Errorf("dwell p99 of gold is %v ms, of %s %v ms", gold.DwellP99, other.Name, other.DwellP99)
		}
	}
}

// TestSeeds runs other workloads of the same shape.
func TestSeeds(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			natstest.Prepare(t)
			synctest.Test(t, func(t *testing.T) {
				o, err := parseFlags(strings.Fields("-duration 3s -tenants 5 -noisy 30 -json"), nil)
				if err != nil {
					t.Fatal(err)
				}
				o.seed = 100 + seed
				var out, errs bytes.Buffer
				r, err := demo(t.Context(), o, &out, &errs)
				if err != nil {
					t.Fatal(err)
				}
				if err := r.check(); err != nil {
					t.Error(err)
				}
				if got := r.tenants[0].Processed; got < 78 || got > 80 {
					t.Errorf("the noisy tenant had %d processed, want 80", got)
				}
				if q := total(r.tenants[1:]); q.Processed != q.Published {
					t.Errorf("the others had %d of %d processed", q.Processed, q.Published)
				}
				if r.nobody.Published != 1 || r.nobody.DeadLettered != 1 {
					t.Errorf("the message of nobody: %+v", r.nobody)
				}
			})
		})
	}
}

// TestInterrupted ends the run early, as Ctrl-C does.
func TestInterrupted(t *testing.T) {
	for _, after := range []time.Duration{time.Nanosecond, 100 * time.Millisecond, 3210 * time.Millisecond} {
		s := runReport(t, after, "")
		if s.DurationS != after.Seconds() {
			t.Errorf("stopped after %v, lasted %v s", after, s.DurationS)
		}
		if noisy := s.Tenants[0]; after > time.Second && float64(noisy.Processed) < 0.98*(20+20*after.Seconds())-1 {
			t.Errorf("the noisy tenant had %d processed by %v", noisy.Processed, after)
		}
	}
}

func TestPlainOutput(t *testing.T) {
	out := runVirtually(t, 0, "-duration 3s")
	for _, part := range []string{
		"\n  2.5s  noisy 69 of 2,5", "; others ", "\ntenant", "\nnoisy ", "\ngold ", "\nquiet-6 ", "\n(none) ",
		"\nThe noisy tenant sent 3,0", "where its limit allows 80", "; meanwhile all ", "nothing was lost.\n", "\nNext: ",
	} {
		if !strings.Contains(out, part) {
			t.Errorf("the output has no %q:\n%s", part, out)
		}
	}
}

// TestReaderGoesAway ends a run whose output nobody takes, in good order.
func TestReaderGoesAway(t *testing.T) {
	natstest.Prepare(t)
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var errs bytes.Buffer
		if code := exitCode(t.Context(), nil, &brokenPipe{left: 2}, &errs); code != 1 {
			t.Errorf("exit code %d", code)
		}
		wantOneLine(t, errs.String(), io.ErrClosedPipe.Error())
		if lasted := time.Since(start); lasted > 3*time.Second {
			t.Errorf("it went on for %v", lasted)
		}
	})
}
