package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// columns of the table, each at least as wide as its heading. All but the first
// are aligned to the right.
var columns = []string{"tenant ", "limit", "published", "processed", "waiting", "deferred", "  dead", "  p50", "  p99"}

const barHeading = "of limit"

// table returns the report as lines of at most width columns, with at most
// height of them, heading included; height 0 is without bound. Its last column
// is a bar: how much of what its limit allows a tenant had processed.
func (r *report) table(width, height int, ink ink) []string {
	rows := r.tenants
	more := 0
	// The heading and the line of nobody always show.
	if most := height - 2; height > 0 && len(rows) > most {
		most = max(most-1, 1)
		more = len(rows) - most
		rows = rows[:most]
	}
	cells := [][]string{columns}
	for _, row := range rows {
		cells = append(cells, row.cells())
	}
	if r.nobody.Published > 0 {
		cells = append(cells, r.nobody.cells())
	}
	widths := make([]int, len(columns))
	used := 0
	for c := range columns {
		for _, line := range cells {
			widths[c] = max(widths[c], utf8.RuneCountInString(line[c]))
		}
		used += widths[c] + 1
	}
	bar := min(width-used, 16)
	if bar < len(barHeading) {
		bar = 0
	}

	lines := make([]string, 0, len(cells)+1)
	for i, line := range cells {
		padded := make([]string, len(line))
		for c, cell := range line {
			padded[c] = strings.Repeat(" ", widths[c]-utf8.RuneCountInString(cell))
			if c == 0 {
				padded[c] = cell + padded[c]
			} else {
				padded[c] += cell
			}
		}
		switch {
		case i == 0:
			if bar > 0 {
				padded = append(padded, barHeading)
			}
			lines = append(lines, ink.dim(strings.Join(padded, " ")))
			continue
		case i <= len(rows):
			share := float64(rows[i-1].Processed) / float64(max(r.allowed(), 1))
			padded = append(padded, ink.level(gauge(share, bar), share))
			if i == 1 {
				padded[0] = ink.bold(padded[0])
			}
			if rows[i-1].DeadLettered > 0 {
				padded[6] = ink.red(padded[6])
			}
			if rows[i-1].Deferred > 0 {
				padded[5] = ink.yellow(padded[5])
			}
		default:
			for c := range padded {
				padded[c] = ink.dim(padded[c])
			}
		}
		lines = append(lines, strings.TrimRight(strings.Join(padded, " "), " "))
	}
	if more > 0 {
		sum := total(r.tenants[len(rows):])
		rest := fmt.Sprintf("… and %d more: %s published, %s processed, %s waiting", more, grouped(sum.Published), grouped(sum.Processed), grouped(sum.Waiting))
		lines = slices.Insert(lines, len(rows)+1, ink.dim(rest))
	}
	for i := range lines {
		lines[i] = clip(lines[i], width)
	}
	return lines
}

func (r row) cells() []string {
	limit := "–"
	if r.LimitPerS > 0 {
		limit = strconv.FormatFloat(r.LimitPerS, 'g', 4, 64) + "/s"
		if r.LimitPerS >= 1000 {
			limit = grouped(int64(r.LimitPerS)) + "/s"
		}
	}
	return []string{
		r.Name, limit, grouped(r.Published), grouped(r.Processed), grouped(r.Waiting),
		grouped(r.Deferred), grouped(r.DeadLettered), brief(r.DwellP50), brief(r.DwellP99),
	}
}

// grouped writes n as in 14,180.
func grouped(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// brief writes a time with about three digits, and a dash for 0: nothing was
// measured.
func brief(ms float64) string {
	switch {
	case ms == 0:
		return "–"
	case ms < 9.95:
		return strconv.FormatFloat(ms, 'f', 1, 64) + "ms"
	case ms < 999.5:
		return strconv.FormatFloat(ms, 'f', 0, 64) + "ms"
	case ms < 99_950:
		return strconv.FormatFloat(ms/1e3, 'f', 1, 64) + "s"
	default:
		return strconv.FormatFloat(ms/1e3, 'f', 0, 64) + "s"
	}
}

// gauge draws share, held between 0 and 1, as a bar of at most width columns.
func gauge(share float64, width int) string {
	const eighths = "▏▎▍▌▋▊▉█"
	n := int(math.Round(min(max(share, 0), 1) * float64(width) * 8))
	bar := strings.Repeat("█", n/8)
	if n%8 > 0 {
		bar += string([]rune(eighths)[n%8-1])
	}
	return bar
}
