package stream_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// TestIdleTenantsAreForgotten holds that the gate's memory does not grow with
// the tenants and keys that it has ever seen.
func TestIdleTenantsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, byKey(stream.Config[*parcel]{}), nil)
		for i := range 3 * stream.MinIdle {
			name := fmt.Sprint(i)
			r.deliver(&parcel{name: name, tenant: name, key: name})
		}
		if n := r.gate.Tenants(); n > stream.MinIdle {
			t.Errorf("%d tenants kept, want %d", n, stream.MinIdle)
		}
		if n := r.gate.Keys(); n != 0 {
			t.Errorf("%d keys kept, want none", n)
		}
		r.end()
	})
}

// TestManyTenantsAreForgotten holds the same of a hundred thousand tenants that
// come and go while the gate is busy.
func TestManyTenantsAreForgotten(t *testing.T) {
	const tenants = 30_000
	lim, err := flux.New(flux.Config[string]{Limit: gcra.PerSecond(1000)})
	if err != nil {
		t.Fatal(err)
	}
	gate, err := stream.New(stream.Config[*benchMessage]{Limiter: lim, Tenant: func(m *benchMessage) string { return m.tenant }})
	if err != nil {
		t.Fatal(err)
	}
	src := newBenchSource(tenants, 1)
	src.n = 2 * tenants
	var count, most atomic.Int64
	if err := gate.Run(t.Context(), src, func(context.Context, *benchMessage) error {
		if n := count.Add(1); n%10_000 == 0 {
			most.Store(max(most.Load(), int64(gate.Tenants())))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	// A thousand may have messages besides those that are kept.
	if n := most.Load(); n > stream.MinIdle+1024 {
		t.Errorf("%d tenants known, want %d at most", n, stream.MinIdle+1024)
	}
}

func TestWeightOfNoTenant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, stream.Config[*parcel]{Weight: func(tenant string) int64 {
			if tenant == "" {
				t.Error("Weight asked for no tenant")
			}
			return -1
		}}, nil)
		r.deliver(&parcel{name: "x"}, &parcel{name: "y", tenant: "a"})
		r.want("0s x dead no_tenant", "0s y run", "0s y ack")
		r.end()
	})
}
