package streamtest

import (
	"slices"
	"time"
)

// FairnessLag finds pairs of tenants between which more was given to one than
// start-time fair queueing allows: over any interval, |W(f)/w(f) - W(g)/w(g)|
// <= c(f)/w(f) + c(g)/w(g), where W is the cost of the messages started, w the
// weight and c the largest cost (Goyal, Vin, Cheng: SIGCOMM 1996). It holds while
// all that published anything have work: only the first n starts are looked at.
func (h History) FairnessLag(n int, weight func(tenant string) int64) error {
	var p problems
	for _, l := range h.lags(n, weight) {
		if l.lag > l.bound {
			p.add("tenants %q and %q: lag %d/%d, want at most %d/%d", l.f, l.g, l.lag, l.scale, l.bound, l.scale)
		}
	}
	return p.err()
}

// WorstLag returns the largest of the lags that FairnessLag looks at, as a
// share of its bound: a fair gate keeps it within 1.
func (h History) WorstLag(n int, weight func(tenant string) int64) (worst float64) {
	for _, l := range h.lags(n, weight) {
		worst = max(worst, float64(l.lag)/float64(l.bound))
	}
	return worst
}

// lag is how far two tenants were apart, and may have been: multiplied by both
// weights, so that all is whole.
type lag struct {
	f, g              string
	lag, bound, scale int64
}

func (h History) lags(n int, weight func(tenant string) int64) (lags []lag) {
	starts := h.starts(n)
	largest := make(map[string]int64)
	var tenants []string // also those that were given nothing
	for i := range h {
		if h[i].Kind != Published {
			continue
		}
		m := h[i].Message
		if largest[m.Tenant] == 0 {
			tenants = append(tenants, m.Tenant)
		}
		largest[m.Tenant] = max(largest[m.Tenant], m.Cost)
	}
	for i, f := range tenants {
		for _, g := range tenants[:i] {
			wf, wg := weight(f), weight(g)
			var d, low, high int64
			for _, m := range starts {
				switch m.Tenant {
				case f:
					d += m.Cost * wg
				case g:
					d -= m.Cost * wf
				}
				low, high = min(low, d), max(high, d)
			}
			lags = append(lags, lag{f: f, g: g, lag: high - low, bound: largest[f]*wg + largest[g]*wf, scale: wf * wg})
		}
	}
	return lags
}

// Jain returns Jain's index of fairness of the first n starts, (sum x)^2 / (k sum x^2)
// where x is what each of the k tenants that published anything was given, its
// cost over its weight: 1 if all are served alike, 1/k if one of them is served
// alone (Jain, Chiu, Hawe: DEC-TR-301, 1984).
func (h History) Jain(n int, weight func(tenant string) int64) float64 {
	given := make(map[string]float64)
	for i := range h {
		if h[i].Kind == Published {
			given[h[i].Message.Tenant] = 0
		}
	}
	for _, m := range h.starts(n) {
		given[m.Tenant] += float64(m.Cost) / float64(weight(m.Tenant))
	}
	xs := make([]float64, 0, len(given))
	for _, x := range given {
		xs = append(xs, x)
	}
	slices.Sort(xs) // so that the same history always gives the same sum
	var sum, squares float64
	for _, x := range xs {
		sum += x
		squares += x * x
	}
	if squares == 0 {
		return 1
	}
	return sum * sum / (float64(len(xs)) * squares)
}

// starts returns the messages of the first n starts.
func (h History) starts(n int) (starts []*Message) {
	for i := range h {
		if h[i].Kind == Started && len(starts) < n {
			starts = append(starts, h[i].Message)
		}
	}
	return starts
}

// Dwells returns how long after its publication each message of a tenant was
// first started, in the order of the starts.
func (h History) Dwells(tenant string) (dwells []time.Duration) {
	published, started := make(map[int64]time.Time), make(map[int64]bool)
	for i := range h {
		switch e := &h[i]; {
		case e.Kind == Published:
			published[e.Message.ID] = e.At
		case e.Kind == Started && e.Message.Tenant == tenant && !started[e.Message.ID]:
			started[e.Message.ID] = true
			dwells = append(dwells, e.At.Sub(published[e.Message.ID]))
		}
	}
	return dwells
}
