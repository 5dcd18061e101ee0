package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux/examples/internal/natsnode"
	"github.com/fluxlimiter/flux/examples/internal/natsnode/natstest"
	"github.com/fluxlimiter/flux/examples/internal/program"
	"github.com/fluxlimiter/flux/examples/internal/program/programtest"
	"github.com/fluxlimiter/flux/gcra"
)

// In virtual time, what each tenant gets is exact.
func TestDemo(t *testing.T) {
	natstest.Prepare(t)
	synctest.Test(t, func(t *testing.T) {
		node, err := natsnode.Open(t.Context(), "", "workers", false)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = node.Close() }()
		r, err := demo(t.Context(), node.Conn, gcra.PerSecond(10).WithBurst(5), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.check(); err != nil {
			t.Error(err)
		}
		flood, patient, quiet := r.lines[0], r.lines[1], r.lines[2]
		if flood.asked < 2000 || flood.served < 104 || flood.served > 106 {
			t.Errorf("%+v", flood)
		}
		// It was not told to ask too early, nor much too late.
		if patient.served < 100 || patient.served > 106 || patient.refused == 0 || patient.refused > 2*patient.served {
			t.Errorf("%+v", patient)
		}
		if quiet.asked != 34 || quiet.served != 34 || quiet.median != 10*time.Millisecond {
			t.Errorf("%+v", quiet)
		}
		var out bytes.Buffer
		if err := r.print(&out); err != nil {
			t.Error(err)
		}
		if !strings.Contains(out.String(), "flood") || !strings.Contains(out.String(), "allows 10") {
			t.Error(out.String())
		}
	})
}

func TestRefusedCommandLines(t *testing.T) {
	programtest.Refuse(t, "workers", run, 2, map[string][]string{
		"-rate 0: ":          {"-rate", "0"},
		"-rate -7: ":         {"-rate", "-7"},
		"-rate 1000001: ":    {"-rate", "1000001"},
		"-duration 0s: ":     {"-duration", "0"},
		"-duration 2h0m0s: ": {"-duration", "2h"},
		`"" for flag -nats`:  {"-nats="},
		"-fast":              {"-fast"},
		`"now"`:              {"now"},
	})
	programtest.Refuse(t, "workers", run, 1, map[string][]string{
		"-nats nats://127.0.0.1:1: cannot connect: ": {"-nats", "nats://127.0.0.1:1"},
	})
}

// An interrupt ends the program whenever it comes, and it says what it has seen
// by then or that it has seen nothing.
func TestInterrupted(t *testing.T) {
	for _, after := range []time.Duration{0, time.Microsecond, time.Second} {
		natstest.Prepare(t)
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), after)
			defer cancel()
			var stdout, stderr bytes.Buffer
			code := program.Run(ctx, "workers", run, nil, &stdout, &stderr)
			if seen := code == 0 && strings.Contains(stdout.String(), "flood"); !seen && stderr.String() != "workers: interrupted\n" {
				t.Errorf("after %v: exit code %d, stdout %q, stderr %q", after, code, stdout.String(), stderr.String())
			}
		})
	}
}

// A limit that was not kept is noticed, and so is a tenant that was forgotten.
func TestCheck(t *testing.T) {
	r := &report{limit: gcra.PerSecond(10).WithBurst(5), took: time.Second, lines: []line{
		{tenant: "a", asked: 20, served: 17}, {tenant: "b"}, {tenant: "c", asked: 16, served: 16},
	}}
	if err := r.check(); err == nil || !strings.Contains(err.Error(), "a: 17 served, the limit allows 16") ||
		!strings.Contains(err.Error(), "b: nothing") || strings.Contains(err.Error(), "c:") {
		t.Error(err)
	}
}
