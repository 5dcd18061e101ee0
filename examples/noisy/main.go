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
	"flag"
	"fmt"
	"io"
	"os"
)

func main() {
	if err := start(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "noisy:", err)
		os.Exit(1)
	}
}

func start(args []string, out, log io.Writer) error {
	flags := flag.NewFlagSet("noisy", flag.ContinueOnError)
	flags.SetOutput(log)
	figures := flags.Bool("figures", false, "print the figures of fairness instead of drawing")
	name := flags.String("o", "noisy.svg", "the file to draw to")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if *figures {
		measured, err := measure(fluxed)
		if err != nil {
			return err
		}
		return report(out, measured)
	}
	var picture bytes.Buffer
	if err := draw(&picture); err != nil {
		return err
	}
	return os.WriteFile(*name, picture.Bytes(), 0o644)
}
