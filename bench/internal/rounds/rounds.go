// Package rounds has peers measured in turns, so that what happens to the machine
// happens to all of them.
package rounds

import (
	"flag"
	"fmt"
	"slices"
)

// Size is how much is measured.
type Size struct {
	Rounds   int // samples of each figure
	Messages int // of each sample
}

// Parse parses args with the flags for a size, which has the defaults in s, beside
// those that flags has.
func (s *Size) Parse(flags *flag.FlagSet, args []string) error {
	quick := flags.Bool("quick", false, "measure once and small")
	flags.IntVar(&s.Rounds, "rounds", s.Rounds, "samples of each figure")
	flags.IntVar(&s.Messages, "messages", s.Messages, "messages of a sample")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *quick {
		s.Rounds, s.Messages = 1, 2000
	}
	if s.Rounds < 1 || s.Messages < 1 {
		return fmt.Errorf("-rounds %d and -messages %d must be at least 1", s.Rounds, s.Messages)
	}
	return nil
}

// Run measures each of the peers once in each round, and once more before the
// first, which warms up. It returns the samples of each.
func Run[P, S any](rounds int, peers []P, measure func(P) (S, error)) ([][]S, error) {
	samples := make([][]S, len(peers))
	for round := range rounds + 1 {
		for i, p := range peers {
			s, err := measure(p)
			if err != nil {
				return nil, err
			}
			if round > 0 {
				samples[i] = append(samples[i], s)
			}
		}
	}
	return samples, nil
}

// Median returns the median of a value of some samples, which is told the round
// of each. Of an even number it is the higher of the two in the middle.
func Median[S any](samples []S, value func(round int, s S) float64) float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = value(i, s)
	}
	slices.Sort(values)
	return values[len(values)/2]
}
