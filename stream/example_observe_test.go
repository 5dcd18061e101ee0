package stream_test

import (
	"context"
	"log"
	"os"
	"time"

	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// Why was a tenant delayed? Hooks say it of each message, a snapshot of the
// tenants.
func ExampleGate_Snapshot() {
	log := log.New(os.Stdout, "", 0)

	hooks := stream.Hooks{
		Parked: func(m stream.Info, delay time.Duration) {
			log.Printf("%s: waits in memory, for about %v", m.Tenant, delay.Round(time.Millisecond))
		},
		Settled: func(m stream.Info, outcome stream.Outcome, reason stream.Reason) {
			if reason != stream.ReasonNone { // it was not simply processed
				log.Printf("%s: %v, reason %v", m.Tenant, outcome, reason)
			}
		},
	}

	limiter := newLimiter(gcra.PerHour(1))
	gate := newGate(limiter, stream.Config[order]{
		Policy: stream.Policy{MaxWait: time.Minute, OnDenied: stream.Drop},
		Hooks:  hooks,
	})
	source := stream.FromChan(orders("acme tea", "acme coffee", "acme milk", "umbra tea"), nil)
	err := gate.Run(context.Background(), source, func(_ context.Context, o order) error {
		if o.tenant == "umbra" {
			for _, t := range gate.Snapshot(10).ByDenied { // the most often denied first
				log.Printf("%s: denied %d times of late, waited %v in all", t.Tenant, t.Denied, t.Waited.Round(time.Second))
			}
		}
		return nil
	})
	if err != nil {
		log.Print(err)
	}
	// Unordered output:
	// acme: drop, reason quota_exceeded
	// acme: drop, reason quota_exceeded
	// acme: denied 2 times of late, waited 0s in all
}
