package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
)

// summary is the median of some samples and their extremes.
type summary struct{ median, low, high float64 }

// summarize returns the summary of samples, of which there is at least one.
func summarize(samples []float64) summary {
	s := slices.Sorted(slices.Values(samples))
	n := len(s)
	return summary{median: (s[(n-1)/2] + s[n/2]) / 2, low: s[0], high: s[n-1]}
}

// String is "median (low–high)", or the median alone when that says it all.
func (s summary) String() string { return s.format(number) }

// over returns s divided by n.
func (s summary) over(n float64) summary { return summary{s.median / n, s.low / n, s.high / n} }

// less returns s with n taken off.
func (s summary) less(n float64) summary { return summary{s.median - n, s.low - n, s.high - n} }

func (s summary) format(number func(float64) string) string {
	median, low, high := number(s.median), number(s.low), number(s.high)
	if low == high {
		return median
	}
	return fmt.Sprintf("%s (%s–%s)", median, low, high)
}

// number formats v with at least two significant digits and no more than are
// meant.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a == 0:
		return "0"
	case a < 0.995:
		return strconv.FormatFloat(v, 'f', 2, 64)
	case a < 9.95:
		return strconv.FormatFloat(v, 'f', 1, 64)
	default:
		return thousands(int64(math.Round(v)))
	}
}

// share formats a ratio that is 1 when all is well.
func share(v float64) string { return strconv.FormatFloat(v, 'f', 3, 64) }

// thousands formats n with commas.
func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// grid holds the samples of a table: by row, by column, and by round.
type grid struct {
	rounds  int
	rows    []string
	samples map[cell][]float64
}

type cell struct{ row, col string }

func newGrid(rounds int) *grid {
	return &grid{rounds: rounds, samples: make(map[cell][]float64)}
}

// put sets the sample of a round.
func (g *grid) put(row, col string, round int, v float64) {
	c := cell{row, col}
	if g.samples[c] == nil {
		s := make([]float64, g.rounds)
		for i := range s {
			s[i] = math.NaN()
		}
		g.samples[c] = s
	}
	if !slices.Contains(g.rows, row) {
		g.rows = append(g.rows, row)
	}
	g.samples[c][round] = v
}

// at returns the summary of a cell, and whether it has any sample.
func (g *grid) at(row, col string) (summary, bool) {
	taken := slices.DeleteFunc(slices.Clone(g.samples[cell{row, col}]), math.IsNaN)
	if len(taken) == 0 {
		return summary{}, false
	}
	return summarize(taken), true
}

// ratio returns the median over the rounds of row divided by base: what a
// good or bad minute of the machine did to both cancels out.
func (g *grid) ratio(row, base, col string) (float64, bool) {
	var ratios []float64
	of, to := g.samples[cell{row, col}], g.samples[cell{base, col}]
	for i := range min(len(of), len(to)) {
		if r := of[i] / to[i]; !math.IsNaN(r) && !math.IsInf(r, 0) {
			ratios = append(ratios, r)
		}
	}
	if len(ratios) == 0 {
		return 0, false
	}
	return summarize(ratios).median, true
}
