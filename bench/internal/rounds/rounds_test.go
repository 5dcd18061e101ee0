package rounds_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/fluxlimiter/flux/bench/internal/rounds"
)

func TestRun(t *testing.T) {
	var order []string
	samples, err := rounds.Run(2, []string{"a", "b"}, func(p string) (int, error) {
		order = append(order, p)
		return len(order), nil
	})
	if want := []string{"a", "b", "a", "b", "a", "b"}; err != nil || !slices.Equal(order, want) {
		t.Fatalf("measured %v, error %v, want %v", order, err, want)
	}
	if !slices.Equal(samples[0], []int{3, 5}) || !slices.Equal(samples[1], []int{4, 6}) {
		t.Errorf("samples %v, want those after the first round", samples)
	}
	if _, err := rounds.Run(1, []string{"a"}, func(string) (int, error) { return 0, errors.New("broken") }); err == nil {
		t.Error("an error was lost")
	}
}

func TestMedian(t *testing.T) {
	value := func(round, s int) float64 { return float64(s + 100*round) }
	if m := rounds.Median([]int{90, 0, 1}, value); m != 100 {
		t.Errorf("median %v of 90, 100 and 201", m)
	}
}
