package main

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fluxlimiter/flux/gcra"
)

func TestQuantile(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(i + 1)
	}
	for _, tt := range []struct {
		of   []time.Duration
		q    float64
		want time.Duration
	}{
		{nil, 0.5, 0},
		{hundred[:1], 0.99, 1},
		{hundred[:2], 0.5, 1},
		{hundred[:3], 0.5, 2},
		{hundred, 0.5, 50},
		{hundred, 0.99, 99},
		{hundred[:99], 0.99, 99},
		{hundred, 1, 100},
		{hundred, 0, 1},
	} {
		if got := quantile(tt.of, tt.q); got != tt.want {
			t.Errorf("quantile(%d values, %v) = %d, want %d", len(tt.of), tt.q, got, tt.want)
		}
	}
}

func testTallies() []tally {
	return []tally{
		{
			name: "noisy", published: 1000, processed: 3, deferred: 5, deadLetters: 900, drops: 7,
			grants: []time.Duration{0, 0, time.Second}, dwells: []time.Duration{9 * time.Millisecond, time.Millisecond, 2 * time.Millisecond},
		},
		{name: "gold", published: 2, processed: 2, grants: []time.Duration{0, time.Second}, dwells: []time.Duration{1500 * time.Microsecond, 2 * time.Millisecond}},
		{name: noTenant, published: 1, deadLetters: 1},
	}
}

func testReport() report {
	o := options{rate: 1, burst: 2, limit: gcra.PerSecond(1).WithBurst(2)}
	return newReport(o, testTallies(), time.Second)
}

func TestReport(t *testing.T) {
	r := testReport()
	want := row{
		Name: "noisy", LimitPerS: 1, Burst: 2, Published: 1000, Processed: 3, Waiting: 90, Deferred: 5, DeadLettered: 900, Dropped: 7,
		DwellP50: 2, DwellP99: 9,
	}
	if r.tenants[0] != want {
		t.Errorf("noisy is %+v, want %+v", r.tenants[0], want)
	}
	if len(r.tenants) != 2 || r.nobody.DeadLettered != 1 {
		t.Errorf("tenants are %+v, nobody %+v", r.tenants, r.nobody)
	}
	if r.allowed() != 3 {
		t.Errorf("the limit allows %d", r.allowed())
	}
	for _, tt := range []struct{ left, dead, want int64 }{
		{90, 901, 0}, {89, 901, 1}, {90, 900, 1}, {91, 901, -1},
	} {
		r.account(tt.left, tt.dead)
		if r.unaccounted != tt.want || (r.check() == nil) != (tt.want == 0) {
			t.Errorf("with %d left and %d dead %d are unaccounted, want %d", tt.left, tt.dead, r.unaccounted, tt.want)
		}
	}
	r.account(90, 901)
	r.tenants[1].MaxRateExcess = 1e-9
	if r.check() == nil {
		t.Error("a limit was exceeded, and the report is fine with that")
	}
}

func TestReportJSON(t *testing.T) {
	r := testReport()
	r.account(90, 901)
	var out bytes.Buffer
	if err := r.writeJSON(&out); err != nil {
		t.Fatal(err)
	}
	want := `{"duration_s":1,"tenants":[` +
		`{"name":"noisy","limit_per_s":1,"burst":2,"published":1000,"processed":3,"waiting":90,"deferred":5,"dead_lettered":900,"dropped":7,"dwell_p50_ms":2,"dwell_p99_ms":9,"max_rate_excess":0},` +
		`{"name":"gold","limit_per_s":1,"burst":2,"published":2,"processed":2,"waiting":0,"deferred":0,"dead_lettered":0,"dropped":0,"dwell_p50_ms":1.5,"dwell_p99_ms":2,"max_rate_excess":-1}],` +
		`"unaccounted":0}` + "\n"
	if out.String() != want {
		t.Errorf("got  %swant %s", out.String(), want)
	}
	if !json.Valid(out.Bytes()) {
		t.Error("that is no JSON")
	}
}

func TestRecorder(t *testing.T) {
	start := time.Now()
	r := newRecorder([]tenant{{name: "a"}, {name: "b"}}, start)
	r.published("b")
	r.published("")
	r.published(noTenant)
	r.published("stranger")
	r.handled("b", time.Second)
	got := r.snapshot()
	r.handled("b", 2*time.Second) // must not show in the snapshot
	if got[0].published != 0 || got[1].published != 1 || got[2].published != 3 || !slices.Equal(got[1].dwells, []time.Duration{time.Second}) {
		t.Errorf("got %+v", got)
	}
}

func TestVerdict(t *testing.T) {
	limit := gcra.PerSecond(20).WithBurst(20)
	base := func() report {
		return report{
			duration: 15 * time.Second, limit: limit,
			tenants: []row{
				{Name: "noisy", Published: 15_020, Processed: 320, DeadLettered: 14_580, expired: 14_580, Waiting: 120},
				{Name: "gold", Published: 230, Processed: 230, DwellP99: 9},
				{Name: "quiet-1", Published: 150, Processed: 150, DwellP99: 12},
			},
		}
	}
	for _, tt := range []struct {
		name   string
		change func(*report)
		want   string
	}{
		{
			"flood", func(*report) {},
			"The noisy tenant sent 15,020 messages where its limit allows 320, and 320 were processed (14,580 dead-lettered instead of waiting longer than 5s, 120 still waiting their turn); meanwhile all 380 messages of the 2 others were processed, 99 % of each one's within 12ms of being sent; nothing was lost.",
		},
		{
			"no noise", func(r *report) { r.tenants[0] = row{Name: "noisy", Published: 319, Processed: 319} },
			"The noisy tenant kept to its limit and had all 319 messages processed; meanwhile all 380 messages of the 2 others were processed, 99 % of each one's within 12ms of being sent; nothing was lost.",
		},
		{
			"alone", func(r *report) { r.tenants = r.tenants[:1] },
			"The noisy tenant sent 15,020 messages where its limit allows 320, and 320 were processed (14,580 dead-lettered instead of waiting longer than 5s, 120 still waiting their turn); nothing was lost.",
		},
		{
			"one other, harmed", func(r *report) {
				r.tenants = r.tenants[:2]
				r.tenants[1].Processed, r.tenants[1].DeadLettered = 200, 30
			},
			"The noisy tenant sent 15,020 messages where its limit allows 320, and 320 were processed (14,580 dead-lettered instead of waiting longer than 5s, 120 still waiting their turn); meanwhile 200 of 230 messages of the other tenant were processed, 99 % of them within 9.0ms of being sent, and 30 dead-lettered; nothing was lost.",
		},
		{
			"other dead letters", func(r *report) { r.tenants = r.tenants[:1]; r.tenants[0].expired-- },
			"The noisy tenant sent 15,020 messages where its limit allows 320, and 320 were processed (14,580 dead-lettered, 120 still waiting their turn); nothing was lost.",
		},
		{
			"lost", func(r *report) {
				r.tenants = r.tenants[:1]
				r.tenants[0].DeadLettered, r.tenants[0].Waiting = 0, 0
				r.unaccounted = 1
			},
			"The noisy tenant sent 15,020 messages where its limit allows 320, and 320 were processed; but 1 message cannot be accounted for, which must never happen: please report it.",
		},
		{
			"twice", func(r *report) {
				r.tenants[0] = row{Published: 1, Processed: 1}
				r.tenants = r.tenants[:1]
				r.unaccounted = -2
			},
			"The noisy tenant kept to its limit and had 1 of 1 message processed; but the streams hold or settled 2 messages more than were sent: some were processed twice, or are somebody else's.",
		},
		{
			"exceeded", func(r *report) {
				r.tenants = r.tenants[:1]
				r.tenants[0].MaxRateExcess = 0.25
				r.tenants[0].DeadLettered = 0
			},
			"The noisy tenant sent 15,020 messages where its limit allows 320, and 320 were processed (120 still waiting their turn); but a limit was exceeded by 0.25 messages, which must never happen: please report it; nothing was lost.",
		},
		{"nothing", func(r *report) { clear(r.tenants) }, "The run ended before anything was sent."},
	} {
		r := base()
		tt.change(&r)
		if got := r.verdict(); got != tt.want {
			t.Errorf("%s:\ngot  %s\nwant %s", tt.name, got, tt.want)
		}
		if strings.Count(r.verdict(), ". ") > 0 {
			t.Errorf("%s: more than one sentence", tt.name)
		}
	}
}
