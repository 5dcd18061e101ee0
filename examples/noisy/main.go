// Command noisy shows what a noisy tenant does to quiet ones: it gives the same
// load to a plain consumer, to one behind a single limiter, and to flux, and
// draws how long each tenant's messages took.
//
//	go -C examples/noisy run .             # writes noisy.svg
//	go -C examples/noisy run . -figures    # prints the figures of fairness
//
// Everything happens in virtual time, on a broker in memory: it takes a few
// seconds, and no other program on the machine can disturb it. With -figures it
// exits with status 1 if a figure is out of its bounds.
package main

import (
	"bytes"
	"context"
	"flag"
	"io"
	"os"

	"github.com/fluxlimiter/flux/examples/internal/program"
)

// It is over in seconds, so an interrupt simply ends the process.
func main() {
	os.Exit(program.Run(context.Background(), "noisy", run, os.Args[1:], os.Stdout, os.Stderr))
}

func run(_ context.Context, args []string, stdout, _ io.Writer) error {
	flags := flag.NewFlagSet("noisy", flag.ContinueOnError)
	figures := flags.Bool("figures", false, "print the figures of fairness instead of drawing")
	name := flags.String("o", "noisy.svg", "the `file` to draw to")
	if err := program.Parse(flags, "Draws what a noisy tenant does to quiet ones.", args, stdout); err != nil {
		return err
	}
	if *name == "" {
		return program.Usagef("-o %q: want the name of a file", *name)
	}
	if *figures {
		measured, err := measure(fluxed)
		if err != nil {
			return err
		}
		return report(stdout, measured)
	}
	var picture bytes.Buffer
	if err := draw(&picture); err != nil {
		return err
	}
	return os.WriteFile(*name, picture.Bytes(), 0o644)
}
