package fluxkafka_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/fluxlimiter/flux/consumers/fluxkafka"
)

// What the group's offsets carry is believed only as a whole map that fits the
// log: anything else is dropped and counted, and nothing is skipped for it.
func TestMetadataOfOthers(t *testing.T) {
	const messages = 10
	for _, tt := range []struct {
		name, metadata string
		handled        int
		dropped        int64
	}{
		{"a map", fluxkafka.EncodeCompleted(2, [][2]int64{{5, 8}}), messages - 2 - 3, 0},
		{"none", "", messages - 2, 0},
		{"of another client", "host-7", messages - 2, 1},
		{"of another offset", fluxkafka.EncodeCompleted(3, [][2]int64{{5, 8}}), messages - 2, 1},
		{"of another log", fluxkafka.EncodeCompleted(2, [][2]int64{{5, messages + 1}}), messages - 2, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, 1, kfake.SeedTopics(1, "t"))
				defer c.close()
				c.produce("t", 0, messages, 1, 1)
				offsets := make(kadm.Offsets)
				offsets.Add(kadm.Offset{Topic: "t", Partition: 0, At: 2, LeaderEpoch: -1, Metadata: tt.metadata})
				c.must(kadm.NewClient(c.cl).CommitAllOffsets(t.Context(), groupName, offsets))
				h := newHistory()
				m := c.start(c.config("t"), h.handle)
				c.allCommitted("t", 10*time.Second)
				m.stop()
				h.exactly(t, tt.handled)
				if got := m.src.Stats().MapsDropped; got != tt.dropped {
					t.Errorf("MapsDropped = %d, want %d", got, tt.dropped)
				}
			})
		})
	}
}
