package stream_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// What is denied is a dead letter that says when it could have run.
func TestTurnOfADeadLetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, limits{"a": gcra.PerSecond(1), "never": gcra.DenyAll()}, stream.Config[*parcel]{
			Policy: stream.Policy{MaxWait: -1, OnDenied: stream.DeadLetter},
		}, nil)
		r.deliver(&parcel{name: "1", tenant: "a"})
		synctest.Wait()
		r.deliver(&parcel{name: "2", tenant: "a"}, &parcel{name: "3", tenant: "never"}, &parcel{name: "4"})
		synctest.Wait()
		r.want("0s 1 run", "0s 1 ack", "0s 2 dead quota_exceeded", "0s 3 dead quota_exceeded", "0s 4 dead no_tenant")
		for i, want := range []time.Time{r.begin.Add(time.Second), {}, {}} {
			if got := r.letters[i].Turn; !got.Equal(want) {
				t.Errorf("letter %d: turn %v, want %v", i, got, want)
			}
		}
		r.end()
	})
}
