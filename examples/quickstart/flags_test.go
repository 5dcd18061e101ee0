package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/fluxlimiter/flux/examples/internal/program/programtest"
)

func TestBadUsage(t *testing.T) {
	programtest.Refuse(t, "quickstart", run, 2, map[string][]string{
		"-fast":                    {"-fast"},
		"argument: -rate":          {"-rate"},
		`"x" for flag -rate`:       {"-rate", "x"},
		"-rate 0: ":                {"-rate", "0"},
		"-rate -3: ":               {"-rate", "-3"},
		"-rate NaN: ":              {"-rate", "NaN"},
		"-rate +Inf: ":             {"-rate", "Inf"},
		"-rate 1e+09: ":            {"-rate", "1e9"},
		"-burst 0: ":               {"-burst", "0"},
		"-burst -1: ":              {"-burst", "-1"},
		`"1.5" for flag -burst`:    {"-burst", "1.5"},
		`"9999999999999999999" fo`: {"-burst", "9999999999999999999"},
		"-tenants 0: ":             {"-tenants", "0"},
		"-tenants -8: ":            {"-tenants", "-8"},
		"-tenants 1001: ":          {"-tenants", "1001"},
		"-noisy 0: ":               {"-noisy", "0"},
		"-noisy -1: ":              {"-noisy", "-1"},
		"-noisy NaN: ":             {"-noisy", "NaN"},
		"-duration 0s: ":           {"-duration", "0"},
		"-duration -1s: ":          {"-duration", "-1s"},
		`"15" for flag -duration`:  {"-duration", "15"},
		"-duration 48h0m0s: ":      {"-duration", "48h"},
		`"" for flag -nats`:        {"-nats="},
		`"maybe" for -json`:        {"-json=maybe"},
		`"now"`:                    {"now"},
		`"later"`:                  {"-rate", "5", "later"},
	})
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
