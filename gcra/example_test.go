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
		fmt.Println(d.Allowed(), d.Remaining(), d.RetryAfter)
	}
	now += int64(100 * time.Millisecond)
	_, d, _ := limit.Take(tat, now, 1)
	fmt.Println(d.Allowed())
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
	fmt.Println(d.Allowed(), d.RetryAfter, d.ResetAfter)
	_, d, _ = limit.Take(tat, 0, 1)
	fmt.Println(d.Allowed(), d.RetryAfter)
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

func ExampleTable() {
	table, err := gcra.NewTable[string](gcra.TableConfig{Limit: gcra.PerSecond(10).WithBurst(2)})
	if err != nil {
		panic(err)
	}
	var now int64 // the caller's clock
	for _, key := range []string{"a", "a", "a", "b"} {
		d, err := table.TakeAt(key, nil, now, 1)
		fmt.Println(key, d.Allowed(), d.RetryAfter, err)
	}
	// A second later both are as if they had never been seen.
	removed, done := table.Sweep(now+int64(time.Second), 1000)
	fmt.Println(removed, done, table.Len())
	// Output:
	// a true 0s <nil>
	// a true 0s <nil>
	// a false 100ms <nil>
	// b true 0s <nil>
	// 2 true 0
}

func ExampleTable_Key() {
	table, err := gcra.NewTable[string](gcra.TableConfig{Limit: gcra.PerSecond(10).WithBurst(2)})
	if err != nil {
		panic(err)
	}
	gold := gcra.PerSecond(1000)
	h := table.Key("tenant")
	for _, limit := range []*gcra.Limit{nil, &gold} {
		d, err := h.TakeAt(limit, 0, 1)
		fmt.Println(d.Limit(), d.Allowed(), err)
	}
	// Output:
	// 10/1s burst 2 true <nil>
	// 1000/1s burst 1000 true <nil>
}

func ExampleTable_SetLimit() {
	table, err := gcra.NewTable[string](gcra.TableConfig{Limit: gcra.PerHour(1)})
	if err != nil {
		panic(err)
	}
	if _, err := table.TakeAt("a", nil, 0, 1); err != nil {
		panic(err)
	}
	d, _ := table.TakeAt("a", nil, 0, 1)
	fmt.Println(d.RetryAfter)
	if err := table.SetLimit(0, gcra.PerMinute(1)); err != nil {
		panic(err)
	}
	d, _ = table.TakeAt("a", nil, 0, 1)
	fmt.Println(d.RetryAfter)
	// Output:
	// 1h0m0s
	// 1m0s
}
