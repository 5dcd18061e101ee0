package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/fluxlimiter/flux/examples/internal/natsnode/natstest"
	"github.com/fluxlimiter/flux/examples/internal/program/programtest"
)

func TestMain(m *testing.M) { natstest.Main(m) }

// demoOf runs the program in virtual time and returns what it says.
func demoOf(t *testing.T, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	natstest.Prepare(t)
	synctest.Test(t, func(t *testing.T) {
		if err := run(t.Context(), args, &out, io.Discard); err != nil {
			t.Error(err)
		}
	})
	return out.String()
}

func TestDemo(t *testing.T) {
	for _, c := range []struct {
		args []string
		want []string
	}{
		{nil, []string{"billing: 0 processed, 40 dead letters\n", "of 40 dead letters 40 redriven, 0 skipped", "billing: 40 processed, 40 dead letters\n"}},
		{[]string{"-tenant", "ada", "-rate", "5"}, []string{"20 redriven, 20 skipped", "billing: 20 processed, 40 dead letters\n"}},
		{[]string{"-reason", "quota_exceeded"}, []string{"0 redriven, 40 skipped", "billing: 0 processed"}},
		{[]string{"-dry-run"}, []string{"40 would be redriven, 0 skipped", "billing: 0 processed"}},
		{[]string{"-subject", "dlq.ORDERS.other"}, []string{"of 0 dead letters"}},
	} {
		got := demoOf(t, c.args...)
		for _, want := range c.want {
			if !strings.Contains(got, want) {
				t.Errorf("%q: no %q in\n%s", c.args, want, got)
			}
		}
	}
}

func TestRefusedCommandLines(t *testing.T) {
	programtest.Refuse(t, "redrive", run, 2, map[string][]string{
		"-rate 0: ":          {"-rate", "0"},
		"-rate 2000000: ":    {"-rate", "2000000"},
		`"x" for flag -rate`: {"-rate", "x"},
		`-stream "": `:       {"-nats", "nats://127.0.0.1:1"},
		`"" for flag -nats`:  {"-nats="},
		`-stream "DLQ": `:    {"-stream", "DLQ"},
		`-stream "D.Q": `:    {"-nats", "nats://127.0.0.1:1", "-stream", "D.Q"},
		`-stream "D Q": `:    {"-nats", "nats://127.0.0.1:1", "-stream", "D Q"},
		`-stream "*": `:      {"-nats", "nats://127.0.0.1:1", "-stream", "*"},
		`-subject "a..": `:   {"-subject", "a.."},
		`-subject "a b": `:   {"-subject", "a b"},
		`-subject "a.>.b": `: {"-subject", "a.>.b"},
		`"x"`:                {"x"},
		"-unknown":           {"-unknown"},
	})
	programtest.Refuse(t, "redrive", run, 1, map[string][]string{
		"-nats nats://127.0.0.1:1: cannot connect: ": {"-nats", "nats://127.0.0.1:1", "-stream", "DLQ"},
	})
	var help bytes.Buffer
	if err := run(t.Context(), []string{"-h"}, &help, io.Discard); !errors.Is(err, flag.ErrHelp) || !strings.Contains(help.String(), "-dry-run") {
		t.Error(err, help.String())
	}
}

// What is stopped says so, and leaves nothing behind.
func TestStopped(t *testing.T) {
	folder := t.TempDir()
	t.Setenv("TMPDIR", folder)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := run(ctx, nil, io.Discard, io.Discard); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
}
