// Package program is what the example programs have in common: how they read
// their flags, end, and say what went wrong.
package program

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// Body is a program, without its process. It returns early when ctx ends.
type Body func(ctx context.Context, args []string, stdout, stderr io.Writer) error

// Main runs a program with the arguments and files of the process, and ends the
// process with the exit code of [Run]. An interrupt ends the program's context;
// a second one ends the process at once.
func Main(name string, body Body) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	signal.Ignore(syscall.SIGPIPE) // a reader that goes away is an error, and what was made is removed
	os.Exit(Run(ctx, name, body, os.Args[1:], os.Stdout, os.Stderr))
}

// Run runs a program and returns its exit code: 0 if all went well or it printed
// its help, 2 for a wrong command line, 1 for anything else. What went wrong it
// writes to stderr, in one line that begins with name.
func Run(ctx context.Context, name string, body Body, args []string, stdout, stderr io.Writer) int {
	err := body(ctx, args, stdout, stderr)
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return 0
	}
	said := strings.ReplaceAll(err.Error(), "\n", "; ") // of several that were joined
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		said = "interrupted"
	}
	_, _ = fmt.Fprintf(stderr, "%s: %s\n", name, said)
	if _, ok := errors.AsType[*usageError](err); ok {
		return 2
	}
	return 1
}

// usageError is an error of whoever wrote the command line.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

// Usagef returns an error for a wrong command line. It should name the flag and
// its value.
func Usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

// Parse reads args, which must be nothing but flags. When they ask for help it
// writes about and the flags to help, and returns [flag.ErrHelp].
func Parse(flags *flag.FlagSet, about string, args []string, help io.Writer) error {
	flags.SetOutput(io.Discard) // whoever called reports the error, once
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		_, _ = fmt.Fprintf(help, "%s\n\nUsage: %s [flags]\n\n", about, flags.Name())
		flags.SetOutput(help)
		flags.PrintDefaults()
		return err
	case err != nil:
		return &usageError{err}
	case flags.NArg() > 0:
		return Usagef("unexpected argument %q", flags.Arg(0))
	}
	return nil
}
