package fluxkafka_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A member that could not commit and gets its partitions back repeats nothing,
// unless somebody moved the group meanwhile.
func TestRemembersWhatItCouldNotCommit(t *testing.T) {
	for _, tt := range []struct {
		name       string
		before     int  // messages committed before
		move       bool // somebody moves the group to the start meanwhile
		duplicates int
	}{{"from nothing", 0, false, 0}, {"from a commit", 50, false, 0}, {"moved", 50, true, 100}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, 1, kfake.SeedTopics(1, "t"))
				defer c.close()
				h := newHistory()
				m := c.start(c.config("t"), h.handle)
				c.produce("t", 0, tt.before, 10, 1)
				time.Sleep(2 * time.Second)
				commits := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Err: kerr.CoordinatorNotAvailable, Count: -1})
				c.produce("t", tt.before, 100, 10, 1)
				c.handled(h, 100, 5*time.Second)
				// It loses its membership before it can commit.
				heartbeat := c.Fault(
					kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat}, Err: kerr.UnknownMemberID, Count: 1},
					kfake.Fault{Keys: []kmsg.Key{kmsg.JoinGroup}, TopLevel: true, Err: kerr.CoordinatorNotAvailable, Count: -1},
				)
				time.Sleep(20 * time.Second)
				commits.Remove()
				if tt.move {
					offsets := make(kadm.Offsets)
					offsets.AddOffset("t", 0, 0, -1)
					c.eventually(time.Minute, func() error { return kadm.NewClient(c.cl).CommitAllOffsets(t.Context(), groupName, offsets) })
				}
				heartbeat.Remove()
				c.allCommitted("t", time.Minute)
				m.stop()
				if h.distinct() != 100 || h.duplicates() != tt.duplicates {
					t.Errorf("handled %d of 100, %d twice, want %d", h.distinct(), h.duplicates(), tt.duplicates)
				}
			})
		})
	}
}
