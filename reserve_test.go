package flux_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
)

func TestReservation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := newLimiter(t, flux.Config[string]{Limit: gcra.PerSecond(10).WithBurst(1)})
		var rs [5]*flux.Reservation[string]
		for i := range rs {
			r, err := lim.Reserve(t.Context(), key, 1)
			if err != nil {
				t.Fatal(err)
			}
			rs[i] = r
		}
		delays := func(want ...time.Duration) {
			t.Helper()
			for i, r := range rs {
				if d := r.Delay(); d != want[i] {
					t.Errorf("delay of %d = %v, want %v", i, d, want[i])
				}
			}
		}
		delays(0, 100*ms, 200*ms, 300*ms, 400*ms)
		rs[0].Cancel() // too late: its turn has come
		rs[2].Cancel()
		rs[2].Cancel()
		delays(0, 100*ms, gcra.Forever, 200*ms, 300*ms)
		time.Sleep(150 * ms)
		delays(0, 0, gcra.Forever, 50*ms, 150*ms)
		rs[1].Cancel()
		rs[3].Cancel()
		delays(0, 0, gcra.Forever, gcra.Forever, 50*ms)
		lim.Close()
		delays(0, 0, gcra.Forever, gcra.Forever, gcra.Forever)
		if !lim.Idle() {
			t.Error("something was left behind")
		}
	})
}
