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
	total time.Duration
	ink   ink
	size  func() (width, height int) // nil if out is no terminal
	drawn int                        // lines of the last frame, to draw the next over
}

func newScreen(out io.Writer, total time.Duration) *screen {
	s := &screen{out: out, total: total}
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

// run shows a report every now and then until ctx ends.
func (s *screen) run(ctx context.Context, current func() report) {
	if s.size != nil {
		fmt.Fprint(s.out, "\x1b[?25l") // hide the cursor
		defer fmt.Fprint(s.out, "\x1b[?25h")
		s.progress(current())
	}
	ticker := time.NewTicker(redraw)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.progress(current())
		}
	}
}

// progress shows a report of a run that goes on.
func (s *screen) progress(r report) {
	if s.size == nil {
		fmt.Fprintln(s.out, progressLine(r))
		return
	}
	width, height := s.size()
	width = min(width, 80) - 1
	frame := []string{clip(title(r, s.total, width, s.ink), width), clip(timeline(r.duration, s.total, width, s.ink), width)}
	frame = append(frame, r.table(width, max(height-len(frame)-2, 3), s.ink)...)
	_ = s.draw(frame) // the final report tells if the output is gone
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
	frame = append(frame, wrap(next, width)...)
	if s.size == nil {
		frame = append([]string{""}, frame...)
	}
	return s.draw(frame)
}

// next is where to go from here.
const next = "Next: the wiring is one page, examples/quickstart/main.go. Compare with -noisy=1, or use a server of your own: -nats=nats://127.0.0.1:4222."

// draw writes a frame, on a terminal over the one before.
func (s *screen) draw(frame []string) error {
	var b strings.Builder
	if s.drawn > 0 {
		b.WriteString("\x1b[" + strconv.Itoa(s.drawn) + "A")
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
	_, err := io.WriteString(s.out, b.String())
	return err
}

func title(r report, total time.Duration, width int, ink ink) string {
	left := fmt.Sprintf("flux: %d tenants on one JetStream stream", len(r.tenants))
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

// progressLine is a report in one line.
func progressLine(r report) string {
	noisy, others := r.tenants[0], total(r.tenants[1:])
	line := fmt.Sprintf("%5.1fs  %s: %s of %s processed, %s waiting, %s dead-lettered",
		r.duration.Seconds(), noisy.Name, grouped(noisy.Processed), grouped(noisy.Published), grouped(noisy.Waiting), grouped(noisy.DeadLettered))
	if len(r.tenants) > 1 {
		line += fmt.Sprintf("; others: %s of %s, p99 %s", grouped(others.Processed), grouped(others.Published), brief(time.Duration(others.DwellP99)))
	}
	return line
}
