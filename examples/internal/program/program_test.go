package program

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

func TestRun(t *testing.T) {
	broken := errors.New("it broke")
	for name, tt := range map[string]struct {
		err  error
		code int
		want string
	}{
		"well":    {nil, 0, ""},
		"help":    {flag.ErrHelp, 0, ""},
		"broken":  {broken, 1, "demo: it broke\n"},
		"usage":   {fmt.Errorf("so: %w", Usagef("-rate %d: %w", 0, broken)), 2, "demo: so: -rate 0: it broke\n"},
		"several": {errors.Join(broken, broken), 1, "demo: it broke; it broke\n"},
	} {
		var stderr bytes.Buffer
		code := Run(t.Context(), "demo", func(context.Context, []string, io.Writer, io.Writer) error { return tt.err }, nil, io.Discard, &stderr)
		if code != tt.code || stderr.String() != tt.want {
			t.Errorf("%s: exit code %d, stderr %q", name, code, stderr.String())
		}
	}
}

func TestRunInterrupted(t *testing.T) {
	wait := func(ctx context.Context, _ []string, _, _ io.Writer) error {
		<-ctx.Done()
		return fmt.Errorf("waiting: %w", ctx.Err())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stderr bytes.Buffer
	if code := Run(ctx, "demo", wait, nil, io.Discard, &stderr); code != 1 || stderr.String() != "demo: interrupted\n" {
		t.Errorf("exit code %d, stderr %q", code, stderr.String())
	}
	// A context of the program's own is another matter.
	stderr.Reset()
	own := func(ctx context.Context, args []string, stdout, stderr io.Writer) error {
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		return wait(ctx, args, stdout, stderr)
	}
	if code := Run(t.Context(), "demo", own, nil, io.Discard, &stderr); code != 1 || stderr.String() != "demo: waiting: context canceled\n" {
		t.Errorf("exit code %d, stderr %q", code, stderr.String())
	}
}

func TestParse(t *testing.T) {
	var rate int
	var duration time.Duration
	parse := func(help io.Writer, args ...string) error {
		flags := flag.NewFlagSet("demo", flag.ContinueOnError)
		flags.IntVar(&rate, "rate", 5, "so many")
		flags.DurationVar(&duration, "duration", time.Second, "so long")
		return Parse(flags, "Shows it.", args, help)
	}
	if err := parse(nil, "-rate", "7", "-duration=2s"); err != nil || rate != 7 || duration != 2*time.Second {
		t.Errorf("%v, %d, %v", err, rate, duration)
	}
	for want, args := range map[string]string{
		`-rate`:   "-rate x",
		`-fast`:   "-fast",
		`"never"`: "-rate 3 never",
	} {
		err := parse(nil, strings.Fields(args)...)
		if _, ok := errors.AsType[*usageError](err); !ok || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", args, err)
		}
	}
	var help bytes.Buffer
	if err := parse(&help, "-h"); !errors.Is(err, flag.ErrHelp) {
		t.Error(err)
	}
	for _, want := range []string{"Shows it.\n", "Usage: demo [flags]\n", "-rate int", "(default 5)"} {
		if !strings.Contains(help.String(), want) {
			t.Errorf("no %q in the help:\n%s", want, help.String())
		}
	}
}
