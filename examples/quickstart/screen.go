package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"
)

// redraw is how often a running report is shown.
const redraw = 500 * time.Millisecond

// screen shows reports: redrawn in place on a terminal, as a line each
// elsewhere.
type screen struct {
	out   io.Writer
	total time.Duration // of the run
	next  string        // where the reader may go from here
	ink   ink
	size  func() (width, height int) // nil if out is no terminal
	drawn int                        // lines of the last frame, to draw the next over
	err   error                      // the first of out; nothing is written after it
}

func newScreen(out io.Writer, o options) *screen {
	s := &screen{out: out, total: o.duration, next: next(o)}
	f, ok := out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || os.Getenv("TERM") == "dumb" {
		return s
	}
	s.ink.on = os.Getenv("NO_COLOR") == ""
	s.size = func() (int, int) {
		width, height, err := term.GetSize(int(f.Fd()))
		if err != nil || width <= 0 || height <= 0 {
			return 80, 24
		}
		return width, height
	}
	return s
}

// write writes to out, unless that has failed before.
func (s *screen) write(text string) {
	if s.err == nil {
		_, s.err = io.WriteString(s.out, text)
	}
}

// run shows a report every now and then until ctx ends or it cannot.
func (s *screen) run(ctx context.Context, current func() report) error {
	if s.size != nil {
		s.write("\x1b[?25l") // hide the cursor
		defer s.write("\x1b[?25h")
		s.progress(current())
	}
	ticker := time.NewTicker(redraw)
	defer ticker.Stop()
	for s.err == nil {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			s.progress(current())
		}
	}
	return s.err
}

// progress shows a report of a run that goes on.
func (s *screen) progress(r report) {
	if s.size == nil {
		s.write(progressLine(r) + "\n")
		return
	}
	width, height := s.size()
	width = min(width, 80) - 1
	frame := []string{clip(title(r, s.total, width, s.ink), width), clip(timeline(r.duration, s.total, width, s.ink), width)}
	frame = append(frame, r.table(width, max(height-len(frame)-2, 3), s.ink)...)
	s.draw(frame)
}

// final shows the report of a run that has ended, and what to make of it.
func (s *screen) final(r report) error {
	width := 79
	if s.size != nil {
		columns, _ := s.size()
		width = min(width, columns-1)
	}
	frame := []string{clip(title(r, s.total, width, s.ink), width), ""}
	frame = append(frame, r.table(width, 0, s.ink)...)
	frame = append(frame, "")
	for _, line := range wrap("waiting: in the stream or held by flux. deferred: handed back to the stream until their turn. p50, p99: time from publication to the handler.", width) {
		frame = append(frame, s.ink.dim(line))
	}
	frame = append(frame, "")
	for _, line := range wrap(r.verdict(), width) {
		frame = append(frame, s.ink.bold(line))
	}
	frame = append(frame, "")
	frame = append(frame, wrap(s.next, width)...)
	if s.size == nil {
		frame = append([]string{""}, frame...)
	}
	s.draw(frame)
	return s.err
}

// next says where the reader may go from here.
func next(o options) string {
	s := "Next: the wiring is one page, examples/quickstart/main.go; what flux promises is in README.md."
	if o.noisy != 1 {
		s += " See the others without the noise: -noisy=1."
	}
	if o.natsURL == "" {
		s += " Use a server of your own: -nats=nats://127.0.0.1:4222."
	}
	return s
}

// draw writes a frame, on a terminal over the one before.
func (s *screen) draw(frame []string) {
	var b strings.Builder
	if s.drawn > 0 {
		// The cursor may stand behind a ^C that the terminal has echoed.
		b.WriteString("\r\x1b[" + strconv.Itoa(s.drawn) + "A")
	}
	for _, line := range frame {
		b.WriteString(line)
		if s.size != nil {
			b.WriteString("\x1b[K") // what is left of the line before
		}
		b.WriteByte('\n')
	}
	if s.size != nil {
		b.WriteString("\x1b[J") // and of the frame before
		s.drawn = len(frame)
	}
	s.write(b.String())
}

func title(r report, total time.Duration, width int, ink ink) string {
	left := fmt.Sprintf("flux: %d tenants on one JetStream stream", len(r.tenants))
	if len(r.tenants) == 1 {
		left = "flux: one tenant on a JetStream stream"
	}
	right := fmt.Sprintf("%.1fs of %s", r.duration.Seconds(), seconds(total))
	gap := max(width-len(left)-len(right), 1)
	return ink.bold("flux") + strings.TrimPrefix(left, "flux") + strings.Repeat(" ", gap) + ink.dim(right)
}

func seconds(d time.Duration) string {
	return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + "s"
}

// timeline draws how much of total is over.
func timeline(over, total time.Duration, width int, ink ink) string {
	n := int(min(max(float64(over)/float64(total), 0), 1) * float64(width))
	return ink.green(strings.Repeat("━", n)) + ink.dim(strings.Repeat("─", width-n))
}

// progressLine is a report in one line: how many were processed of how many.
func progressLine(r report) string {
	noisy, others := r.tenants[0], total(r.tenants[1:])
	line := fmt.Sprintf("%5.1fs  %s %s of %s, %s waiting, %s dead",
		r.duration.Seconds(), noisy.Name, grouped(noisy.Processed), grouped(noisy.Published), grouped(noisy.Waiting), grouped(noisy.DeadLettered))
	if len(r.tenants) > 1 {
		line += fmt.Sprintf("; others %s of %s, p99 %s", grouped(others.Processed), grouped(others.Published), brief(others.DwellP99))
	}
	return line
}
