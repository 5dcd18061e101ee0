package main

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// TestQuietTenantsStayBelowTheirLimits holds that the load is what the reader
// is told: whoever is throttled is so because of its own limit.
func TestQuietTenantsStayBelowTheirLimits(t *testing.T) {
	for _, args := range []string{"", "-burst 1", "-rate 0.3 -duration 1h", "-rate 5000 -burst 7", "-tenants 40 -rate 3", "-noisy 1"} {
		for seed := range uint64(10) {
			o, err := parseFlags(strings.Fields(args), nil)
			if err != nil {
				t.Fatal(err)
			}
			tenants := workload(o)
			if len(tenants) != o.tenants {
				t.Fatalf("%d tenants, want %d", len(tenants), o.tenants)
			}
			for i, tenant := range tenants[1:] {
				tat, d, err := o.limit.Take(0, 0, tenant.opening)
				if err != nil || !d.Allowed() {
					t.Fatalf("%q: %s opens with %d messages: %v", args, tenant.name, tenant.opening, err)
				}
				n := 0
				last := time.Duration(0)
				for at := range tenant.arrivals(rand.New(rand.NewPCG(seed, uint64(i)))) {
					next, d, err := o.limit.Take(tat, int64(at), 1)
					if err != nil {
						t.Fatal(err)
					}
					if !d.Allowed() {
						t.Fatalf("%q: %s sends its message %d at %v, %v too early for its limit", args, tenant.name, n, at, d.RetryAfter)
					}
					if at < last || at >= o.duration {
						t.Fatalf("%q: %s sends at %v after %v", args, tenant.name, at, last)
					}
					tat, last = next, at
					n++
				}
				if share := float64(n) / (o.rate * o.duration.Seconds()); n > 100 && (share < 0.3 || share > 1) {
					t.Errorf("%q: %s sends %v of its rate", args, tenant.name, share)
				}
			}
		}
	}
}

func TestNoisyTenantSendsSoManyTimesItsLimit(t *testing.T) {
	for _, tt := range []struct {
		args string
		want int
	}{
		{"", 20 + 50*20*15 - 1}, // the last would be at the end
		{"-noisy 1", 20 + 20*15 - 1},
		{"-noisy 0.5 -burst 1 -duration 10s", 1 + 100 - 1},
	} {
		o, err := parseFlags(strings.Fields(tt.args), nil)
		if err != nil {
			t.Fatal(err)
		}
		noisy := workload(o)[0]
		n := int(noisy.opening)
		for range noisy.arrivals(rand.New(rand.NewPCG(1, 1))) {
			n++
		}
		if n != tt.want {
			t.Errorf("%q: %d messages, want %d", tt.args, n, tt.want)
		}
	}
}

func TestArrivalsStop(t *testing.T) {
	n := 0
	for range (tenant{rate: 1, until: time.Hour}).arrivals(rand.New(rand.NewPCG(1, 1))) {
		if n++; n == 2 {
			break
		}
	}
	if n != 2 {
		t.Errorf("%d arrivals", n)
	}
}

func TestOpeningInTurn(t *testing.T) {
	var got []string
	err := open(t.Context(), []tenant{{name: "a", opening: 3}, {name: "b", opening: 1}, {name: "c"}, {name: "d", opening: 2}}, func(tenant string) error {
		got = append(got, tenant)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := "a b d a d a"; strings.Join(got, " ") != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
