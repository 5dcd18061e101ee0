package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestBadUsage(t *testing.T) {
	for _, tt := range []struct {
		args string
		want []string // parts of the one line
	}{
		{"-fast", []string{"-fast"}},
		{"-rate", []string{"-rate"}},
		{"-rate x", []string{"-rate", `"x"`}},
		{"-rate 0", []string{"-rate 0:"}},
		{"-rate -3", []string{"-rate -3:"}},
		{"-rate NaN", []string{"-rate NaN:"}},
		{"-rate Inf", []string{"-rate +Inf:"}},
		{"-rate 1e9", []string{"-rate 1e+09:"}},
		{"-burst 0", []string{"-burst 0:"}},
		{"-burst -1", []string{"-burst -1:"}},
		{"-burst 1.5", []string{"-burst", `"1.5"`}},
		{"-burst 99999999999999999999", []string{"-burst", "99999999999999999999"}},
		{"-tenants 0", []string{"-tenants 0:"}},
		{"-tenants -8", []string{"-tenants -8:"}},
		{"-tenants 1001", []string{"-tenants 1001:"}},
		{"-noisy 0", []string{"-noisy 0:"}},
		{"-noisy -1", []string{"-noisy -1:"}},
		{"-noisy NaN", []string{"-noisy NaN:"}},
		{"-duration 0", []string{"-duration 0s:"}},
		{"-duration -1s", []string{"-duration -1s:"}},
		{"-duration 15", []string{"-duration", `"15"`}},
		{"-duration 48h", []string{"-duration 48h0m0s:"}},
		{"-nats=", []string{"-nats", `""`, "want a URL"}},
		{"-json=maybe", []string{"-json", "maybe"}},
		{"now", []string{`"now"`}},
		{"-rate 5 now", []string{`"now"`}},
	} {
		t.Run(tt.args, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if code := exitCode(t.Context(), strings.Fields(tt.args), &stdout, &stderr); code != 2 {
				t.Errorf("exit code %d, want 2", code)
			}
			if stdout.Len() > 0 {
				t.Errorf("stdout has %q", stdout.String())
			}
			wantOneLine(t, stderr.String(), tt.want...)
		})
	}
}

// wantOneLine checks an error message.
func wantOneLine(t *testing.T, got string, parts ...string) {
	t.Helper()
	if strings.Count(got, "\n") != 1 || !strings.HasSuffix(got, "\n") || !strings.HasPrefix(got, "quickstart: ") {
		t.Errorf("stderr is not one line of the program: %q", got)
	}
	for _, part := range parts {
		if !strings.Contains(got, part) {
			t.Errorf("stderr does not say %q: %q", part, got)
		}
	}
}

func TestHelp(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if code := exitCode(t.Context(), []string{"-h"}, &stdout, &stderr); code != 0 {
		t.Errorf("exit code %d", code)
	}
	for _, name := range []string{"-nats URL", "-tenants", "-rate", "-burst", "-noisy", "-duration", "-json"} {
		if !strings.Contains(stdout.String(), name) {
			t.Errorf("the help does not name %s", name)
		}
	}
	if stderr.Len() > 0 {
		t.Errorf("stderr has %q", stderr.String())
	}
}

func TestFlags(t *testing.T) {
	o, err := parseFlags(strings.Fields("-rate 0.5 -burst 3 -noisy 2 -tenants 4 -duration 2s -json"), nil)
	if err != nil {
		t.Fatal(err)
	}
	rate, period := o.limit.Rate()
	if rate != 1 || period != 2*time.Second || o.limit.Burst() != 3 {
		t.Errorf("limit is %v", o.limit)
	}
	if o.noisy != 2 || o.tenants != 4 || o.duration != 2*time.Second || !o.json || o.natsURL != "" {
		t.Errorf("options are %+v", o)
	}
}
