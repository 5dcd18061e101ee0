package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"github.com/fluxlimiter/flux/gcra"
)

// report is what happened, so far or in all.
type report struct {
	duration    time.Duration
	limit       gcra.Limit
	tenants     []row // the noisy one first
	nobody      row   // messages without a tenant
	unaccounted int64 // final reports only
}

// row is what happened to one tenant's messages. Waiting are those that were
// published and are not done: in the stream, deferred, or held by the gate.
// Deferred counts deferrals, and a message may have several.
type row struct {
	Name          string  `json:"name"`
	LimitPerS     float64 `json:"limit_per_s"`
	Burst         int64   `json:"burst"`
	Published     int64   `json:"published"`
	Processed     int64   `json:"processed"`
	Waiting       int64   `json:"waiting"`
	Deferred      int64   `json:"deferred"`
	DeadLettered  int64   `json:"dead_lettered"`
	Dropped       int64   `json:"dropped"`
	DwellP50      float64 `json:"dwell_p50_ms"`
	DwellP99      float64 `json:"dwell_p99_ms"`
	MaxRateExcess float64 `json:"max_rate_excess"`

	expired int64 // of the dead letters, those that would have become too old
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// newReport makes the report of a run that has lasted for duration. It sorts
// what the tallies hold.
func newReport(o options, tallies []tally, duration time.Duration) report {
	r := report{duration: duration, limit: o.limit}
	for _, t := range tallies {
		slices.Sort(t.dwells)
		row := row{
			Name:         t.name,
			LimitPerS:    o.rate,
			Burst:        o.burst,
			Published:    t.published,
			Processed:    t.processed,
			Waiting:      t.published - t.processed - t.deadLetters - t.drops,
			Deferred:     t.deferred,
			DeadLettered: t.deadLetters,
			expired:      t.expired,
			Dropped:      t.drops,
			DwellP50:     milliseconds(quantile(t.dwells, 0.50)),
			DwellP99:     milliseconds(quantile(t.dwells, 0.99)),
		}
		row.MaxRateExcess = maxRateExcess(t.grants, o.limit)
		r.tenants = append(r.tenants, row)
	}
	last := len(r.tenants) - 1
	r.tenants, r.nobody = r.tenants[:last], r.tenants[last]
	r.nobody.LimitPerS, r.nobody.Burst, r.nobody.MaxRateExcess = 0, 0, 0
	return r
}

// quantile returns the smallest of the sorted values that at least the share q
// of them does not exceed, and 0 of none.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(int(math.Ceil(q*float64(len(sorted)))), 1)-1]
}

// account compares what was published with what the streams themselves say: left
// is how many messages are in the stream, dead how many in that of dead letters.
func (r *report) account(left, dead int64) {
	all := total(append(slices.Clone(r.tenants), r.nobody))
	r.unaccounted = all.Published - all.Processed - all.Dropped - left - dead
}

// total adds up the counts of rows, and takes the worst of their dwells and
// excesses.
func total(rows []row) row {
	sum := row{MaxRateExcess: math.Inf(-1)}
	for _, t := range rows {
		sum.Published += t.Published
		sum.Processed += t.Processed
		sum.Waiting += t.Waiting
		sum.Deferred += t.Deferred
		sum.DeadLettered += t.DeadLettered
		sum.Dropped += t.Dropped
		sum.DwellP50 = max(sum.DwellP50, t.DwellP50)
		sum.DwellP99 = max(sum.DwellP99, t.DwellP99)
		sum.MaxRateExcess = max(sum.MaxRateExcess, t.MaxRateExcess)
	}
	return sum
}

// check says in what the run did not keep what flux promises.
func (r *report) check() error {
	var errs []error
	if r.unaccounted != 0 {
		errs = append(errs, fmt.Errorf("unaccounted is %d, which must be 0", r.unaccounted))
	}
	if over := total(r.tenants).MaxRateExcess; over > 0 {
		errs = append(errs, fmt.Errorf("max_rate_excess is %g, which must not be above 0", over))
	}
	return errors.Join(errs...)
}

// allowed returns how many messages the limit allows a tenant in the time of
// the report.
func (r *report) allowed() int64 {
	rate, period := r.limit.Rate()
	return r.limit.Burst() + int64(float64(r.duration)/float64(period)*float64(rate))
}

// writeJSON writes the report as one JSON object.
func (r *report) writeJSON(w io.Writer) error {
	return json.NewEncoder(w).Encode(struct {
		DurationS   float64 `json:"duration_s"`
		Tenants     []row   `json:"tenants"`
		Unaccounted int64   `json:"unaccounted"`
	}{r.duration.Seconds(), r.tenants, r.unaccounted})
}
