package main

import (
	"io"
	"math"
	"strings"
	"testing"
	"time"
)

// A figure of an adapter that limits wrongly would be worth nothing.
func TestPeersLimitEachKey(t *testing.T) {
	all := append(append([]peer(nil), peers...), stalls...)
	for _, p := range append(all, bounded...) {
		if p.floor || p.blocks {
			continue
		}
		want := 3
		if p.pacer {
			want = 1
		}
		lim := p.open(limit{interval: time.Hour, burst: 3})
		for _, key := range []string{"a", "b"} {
			got := 0
			for range 10 {
				if lim.allow(key) {
					got++
				}
			}
			if got != want {
				t.Errorf("%s: %d of 10 calls of key %q admitted, want %d", p.name, got, key, want)
			}
		}
		lim.done()
	}
}

func TestPeersAdmitAll(t *testing.T) {
	for _, p := range peers {
		for _, l := range []limit{open, live} {
			lim := p.start(l)
			if got := lim.spin(keySet(8), 0, 1000); got != 1000 {
				t.Errorf("%s under %v: %d of 1000 calls admitted", p.name, l, got)
			}
			lim.done()
		}
	}
}

func TestSpin(t *testing.T) {
	var seen []string
	polls := 0
	lim := limiter{
		poll:  func() { polls++ },
		allow: func(key string) bool { seen = append(seen, key); return key == "a" },
	}
	if got := lim.spin([]string{"a", "b"}, 1, pollSize+1); got != pollSize/2 || polls != 2 || len(seen) != pollSize+1 || seen[0] != "b" {
		t.Errorf("admitted %d of %d calls in %d polls, the first of key %q", got, len(seen), polls, seen[0])
	}
}

func TestOvertaken(t *testing.T) {
	ms := func(at ...time.Duration) []time.Duration {
		for i := range at {
			at[i] *= time.Millisecond
		}
		return at
	}
	for _, tt := range []struct {
		released []time.Duration
		want     int
	}{
		{nil, 0},
		{ms(1, 2, 3), 0},
		{ms(3, 2, 1), 0}, // within the tolerance
		{ms(9, 2, 1), 1},
		{ms(9, 9, 1, 20, 30), 2},
	} {
		if got := overtaken(tt.released); got != tt.want {
			t.Errorf("overtaken(%v) = %d, want %d", tt.released, got, tt.want)
		}
	}
}

func TestZipf(t *testing.T) {
	const n = 1 << 16
	count := make(map[string]int)
	most := 0
	for _, key := range zipf(n, 1_000_000) {
		count[key]++
		most = max(most, count[key])
	}
	if share := float64(most) / n; share < 0.11 || share > 0.14 {
		t.Errorf("the busiest key is drawn %.3f of the time", share)
	}
	if len(count) < n/10 {
		t.Errorf("only %d keys drawn", len(count))
	}
}

func TestStale(t *testing.T) {
	if got := staleFlux(); got > 1 {
		t.Errorf("flux admits %v of what it may when clocks are late", got)
	}
	// What the measure is there to see.
	if got := staleXTime(); got < 1.5 {
		t.Errorf("x/time/rate admits %v of what it may: the measure has no teeth", got)
	}
}

func TestGrid(t *testing.T) {
	g := newGrid(3)
	for round, v := range []float64{10, 30, 20} {
		g.put("x", "c", round, v)
		g.put("base", "c", round, v/2)
	}
	g.put("part", "c", 1, 60)
	if s, ok := g.at("x", "c"); !ok || s != (summary{20, 10, 30}) {
		t.Errorf("at = %v, %v", s, ok)
	}
	if s, ok := g.at("part", "c"); !ok || s != (summary{60, 60, 60}) {
		t.Errorf("at = %v, %v", s, ok)
	}
	if _, ok := g.at("none", "c"); ok {
		t.Error("a cell without samples has a summary")
	}
	if r, ok := g.ratio("x", "base", "c"); !ok || r != 2 {
		t.Errorf("ratio = %v, %v", r, ok)
	}
	if r, ok := g.ratio("part", "base", "c"); !ok || r != 4 {
		t.Errorf("ratio = %v, %v", r, ok)
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.3: "0.30", 0.999: "1.0", 4.44: "4.4", 9.96: "10", 123.4: "123", 1234567: "1,234,567", -0.5: "-0.50", -12345: "-12,345"} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %q, want %q", v, got, want)
		}
	}
	if got := (summary{2, 1, 3}).String(); got != "2.0 (1.0–3.0)" {
		t.Errorf("summary is %q", got)
	}
	if got := (summary{2, 2, 2}).String(); got != "2.0" {
		t.Errorf("summary is %q", got)
	}
}

func TestTargets(t *testing.T) {
	b := newBench(options{rounds: 1}, io.Discard)
	b.calls.put("clock read", "hot key"+colCPU, 0, 52)
	b.calls.put("none", "hot key"+colCPU, 0, 2)
	for _, tt := range []struct {
		took float64
		want string
	}{
		{83, "| ≤ 42 ns | 84 | 83 | 100, rival | met |"},
		{85, "| ≤ 42 ns | 84 | 85 | 100, rival | **missed** |"},
	} {
		b.calls.put(reference, "hot key"+colCPU, 0, tt.took)
		b.calls.put("rival", "hot key"+colCPU, 0, 100)
		var p page
		b.reportTargets(&p)
		if got := p.String(); !strings.Contains(got, tt.want) {
			t.Errorf("no %q in\n%s", tt.want, got)
		}
	}
	if c := b.clock(); math.Abs(c-50) > 1e-9 {
		t.Errorf("clock = %v", c)
	}
}

func TestArguments(t *testing.T) {
	for _, args := range [][]string{
		{"-rounds", "0"},
		{"-sample", "-1s"},
		{"-keys", "10"},
		{"-only", "calls,nothing"},
		{"-unknown"},
	} {
		if err := run(args, io.Discard, io.Discard); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}

func TestReport(t *testing.T) {
	var out strings.Builder
	if err := run([]string{"-quick", "-only", "calls,keys"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"## A call that never waits", "x/time/rate v0.16.0", "| **flux** |", "## Targets", "GOMAXPROCS"} {
		if !strings.Contains(strings.ReplaceAll(out.String(), "golang.org/x/time v", "x/time/rate v"), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}
