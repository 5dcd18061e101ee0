package gcra_test

import (
	"errors"
	"fmt"
	"time"

	"github.com/fluxlimiter/flux/gcra"
)

func ExampleLimit_Take() {
	limit := gcra.PerSecond(10).WithBurst(2)
	var tat, now int64
	for range 3 {
		var d gcra.Decision
		tat, d, _ = limit.Take(tat, now, 1)
		fmt.Println(d.Allowed, d.Remaining(), d.RetryAfter)
	}
	now += int64(100 * time.Millisecond)
	_, d, _ := limit.Take(tat, now, 1)
	fmt.Println(d.Allowed)
	// Output:
	// true 1 0s
	// true 0 0s
	// false 0 100ms
	// true
}

func ExampleLimit_Take_exceedsBurst() {
	limit := gcra.PerSecond(10).WithBurst(5)
	_, _, err := limit.Take(0, 0, 6)
	fmt.Println(errors.Is(err, gcra.ErrExceedsBurst))
	fmt.Println(err)
	// Output:
	// true
	// flux: cost exceeds burst: 6 tokens, burst 5
}

func ExampleLimit_Debt() {
	limit := gcra.PerSecond(10).WithBurst(5)
	tat, d, _ := limit.Debt(0, 0, 25)
	fmt.Println(d.Allowed, d.RetryAfter, d.ResetAfter)
	_, d, _ = limit.Take(tat, 0, 1)
	fmt.Println(d.Allowed, d.RetryAfter)
	// Output:
	// false 2s 2.5s
	// false 2.1s
}

func ExampleFromFloat() {
	limit, err := gcra.FromFloat(0.5)
	fmt.Println(limit, err)
	_, err = gcra.FromFloat(-1)
	fmt.Println(errors.Is(err, gcra.ErrInvalidLimit))
	// Output:
	// 1/2s burst 1 <nil>
	// true
}

func ExampleRescale() {
	slow, fast := gcra.PerSecond(1).WithBurst(10), gcra.PerSecond(100).WithBurst(10)
	tat, d, _ := slow.Take(0, 0, 10)
	fmt.Println("fresh in", d.ResetAfter)
	tat = gcra.Rescale(tat, 0, &slow, &fast)
	_, d, _ = fast.Take(tat, 0, 1)
	fmt.Println("fresh in", d.ResetAfter, "and a token in", d.RetryAfter)
	// Output:
	// fresh in 10s
	// fresh in 100ms and a token in 10ms
}

func ExampleMonotonic() {
	m := gcra.NewMonotonic(10 * time.Millisecond)
	read := func(wall time.Duration) { fmt.Println(time.Duration(m.At(int64(wall))), m.Steps()) }
	read(5 * time.Second)
	read(1 * time.Second) // set back by four seconds
	read(2 * time.Second)
	// Output:
	// 5s 0
	// 5s 1
	// 6s 1
}
