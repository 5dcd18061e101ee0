package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/fluxlimiter/flux/gcra"
)

func TestTable(t *testing.T) {
	r := testReport()
	want := []string{
		"tenant  limit published processed waiting deferred   dead   p50   p99 of limit",
		"noisy     1/s     1,000         3      90        5    900 2.0ms 9.0ms ██████████",
		"gold      1/s         2         2       0        0      0 1.5ms 2.0ms ██████▋",
		"(none)      –         1         0       0        0      1     –     –",
	}
	got := r.table(80, 0, ink{})
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestTableFits holds that no table is wider or higher than it may be.
func TestTableFits(t *testing.T) {
	for _, tenants := range []int{1, 2, 8, 30, 1000} {
		for _, count := range []int64{0, 9, 12_345, 1_234_567_890} {
			r := report{duration: time.Second, limit: gcra.PerSecond(100_000), nobody: row{Name: noTenant, Published: 1}}
			for i := range tenants {
				r.tenants = append(r.tenants, row{
					Name: fmt.Sprintf("quiet-%d", i), LimitPerS: 100_000, Published: count, Processed: count, Waiting: count,
					Deferred: count, DeadLettered: count, DwellP50: float64(count) / 1e6, DwellP99: float64(count) / 1e3,
				})
			}
			for _, width := range []int{20, 79, 120} {
				for _, height := range []int{3, 10, 24, 0} {
					for _, k := range []ink{{}, {on: true}} {
						lines := r.table(width, height, k)
						if height > 0 && len(lines) > max(height, 4) {
							t.Fatalf("%d lines for %d tenants in a height of %d", len(lines), tenants, height)
						}
						if height == 0 && len(lines) != tenants+2 {
							t.Fatalf("%d lines for %d tenants", len(lines), tenants)
						}
						for _, line := range lines {
							if n := columnsOf(line); n > width {
								t.Fatalf("line of %d columns, want at most %d: %q", n, width, line)
							}
						}
					}
				}
			}
		}
	}
}

var colours = regexp.MustCompile(`\x1b\[[0-9;]*m`)

func columnsOf(line string) int { return utf8.RuneCountInString(colours.ReplaceAllString(line, "")) }

func TestBrief(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "–", time.Microsecond: "0.0ms", 1540 * time.Microsecond: "1.5ms", 9949 * time.Microsecond: "9.9ms", 9950 * time.Microsecond: "10ms",
		999 * time.Millisecond: "999ms", 999600 * time.Microsecond: "1.0s", 5 * time.Second: "5.0s", 75 * time.Second: "75.0s", time.Hour: "3600s",
	} {
		if got := brief(milliseconds(d)); got != want {
			t.Errorf("brief(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestGrouped(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", -1: "-1", -999: "-999", -1000: "-1,000", 1234567: "1,234,567"} {
		if got := grouped(n); got != want {
			t.Errorf("grouped(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestGauge(t *testing.T) {
	for share, want := range map[float64]string{-1: "", 0: "", 0.5: "██", 0.53125: "██▏", 0.75: "███", 0.96875: "███▉", 1: "████", 7: "████"} {
		if got := gauge(share, 4); got != want {
			t.Errorf("gauge(%v) = %q, want %q", share, got, want)
		}
	}
}

func TestClip(t *testing.T) {
	for _, tt := range []struct {
		text  string
		width int
		want  string
	}{
		{"abc", 3, "abc"},
		{"abcd", 3, "abc"},
		{"äöü", 2, "äö"},
		{"\x1b[1mabcd\x1b[0m!", 2, "\x1b[1mab\x1b[0m"},
		{"", 2, ""},
	} {
		if got := clip(tt.text, tt.width); got != tt.want {
			t.Errorf("clip(%q, %d) = %q, want %q", tt.text, tt.width, got, tt.want)
		}
	}
}

func TestPlainScreen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		s := newScreen(&out, options{duration: 2 * time.Second})
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 1750*time.Millisecond)
		defer cancel()
		err := s.run(ctx, func() report {
			r := testReport()
			r.duration = time.Since(start)
			return r
		})
		if err != nil {
			t.Fatal(err)
		}
		want := "" +
			"  0.5s  noisy 3 of 1,000, 90 waiting, 900 dead; others 2 of 2, p99 2.0ms\n" +
			"  1.0s  noisy 3 of 1,000, 90 waiting, 900 dead; others 2 of 2, p99 2.0ms\n" +
			"  1.5s  noisy 3 of 1,000, 90 waiting, 900 dead; others 2 of 2, p99 2.0ms\n"
		if out.String() != want {
			t.Errorf("got\n%swant\n%s", out.String(), want)
		}
		out.Reset()
		if err := s.final(testReport()); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out.String(), "\x1b") {
			t.Error("control codes, and no terminal")
		}
		for line := range strings.Lines(out.String()) {
			if columnsOf(strings.TrimSuffix(line, "\n")) > 79 {
				t.Errorf("line is too long: %q", line)
			}
		}
	})
}

// TestTerminalScreen plays what is written to a terminal back, and looks at what
// stands there in the end.
func TestTerminalScreen(t *testing.T) {
	var out bytes.Buffer
	s := newScreen(&out, options{duration: 2 * time.Second})
	s.ink.on = true
	s.size = func() (int, int) { return 80, 24 }
	for range 3 {
		s.progress(testReport())
	}
	out.WriteString("^C") // echoed by the terminal
	if err := s.final(testReport()); err != nil {
		t.Fatal(err)
	}
	shown := strings.Join(play(out.String()), "\n")
	want := "flux: 2 tenants on one JetStream stream                              1.0s of 2s\n\n" + strings.Join(testReportTable(), "\n")
	if !strings.HasPrefix(shown, want) {
		t.Errorf("the terminal shows\n%s\nwant first\n%s", shown, want)
	}
	if strings.Count(shown, "\nnoisy ") != 1 {
		t.Errorf("there is more than one table:\n%s", shown)
	}
}

func testReportTable() []string {
	r := testReport()
	return r.table(79, 0, ink{})
}

// play returns the lines that a terminal shows after out. It knows what a screen
// uses.
func play(out string) []string {
	var lines []string
	at := 0
	for line := range strings.SplitSeq(strings.TrimSuffix(colours.ReplaceAllString(out, ""), "\n"), "\n") {
		line = strings.TrimPrefix(line, "\x1b[J")
		line = strings.TrimPrefix(line, "^C\r")
		line = strings.TrimPrefix(line, "\r")
		if rest, ok := strings.CutPrefix(line, "\x1b["); ok {
			var up int
			if _, err := fmt.Sscanf(rest, "%dA", &up); err == nil {
				at -= up
				_, line, _ = strings.Cut(line, "A")
			}
		}
		line = strings.TrimSuffix(line, "\x1b[K")
		if at == len(lines) {
			lines = append(lines, "")
		}
		lines[at] = line
		at++
	}
	return lines[:at]
}

func TestDumbTerminal(t *testing.T) {
	if s := newScreen(&bytes.Buffer{}, options{}); s.size != nil || s.ink.on {
		t.Error("a buffer is no terminal")
	}
}

// brokenPipe is an output whose reader has gone away after a few writes.
type brokenPipe struct{ left int }

func (p *brokenPipe) Write(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.ErrClosedPipe
	}
	p.left--
	return len(b), nil
}
