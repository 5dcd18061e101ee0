package fluxkafka_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/segmentio/kafka-go"

	"github.com/fluxlimiter/flux/consumers/fluxkafka"
)

func baseTopic(topic string) string {
	base, _, _ := strings.Cut(topic, ".")
	return base
}

func userData(generation int, owned map[string][]int) []byte {
	b, _ := json.Marshal(map[string]any{"generation": generation, "owned": owned})
	return b
}

// TestStickyMovesLittle lets members come and go at random, and holds each
// assignment to be complete, even, co-partitioned, and no more than needed away
// from the one before.
func TestStickyMovesLittle(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		counts := map[string]int{"a": 1 + rnd.IntN(30), "b": 1 + rnd.IntN(10)}
		counts["a.5s"], counts["a.30s"] = counts["a"], counts["a"]
		units := counts["a"] + counts["b"]
		topics := []string{"a", "a.5s", "a.30s", "b"}
		owned := map[string]map[string][]int{"m0": nil}
		next := 1
		for generation := range 12 {
			var members []kafka.GroupMember
			for id, o := range owned {
				members = append(members, kafka.GroupMember{ID: id, Topics: topics, UserData: userData(generation, o)})
			}
			got := fluxkafka.Assign(members, counts, baseTopic)
			owner := make(map[string]string)
			least, most, kept, before := units, 0, 0, 0
			for id, assigned := range got {
				n := len(assigned["a"]) + len(assigned["b"])
				least, most = min(least, n), max(most, n)
				for topic, partitions := range assigned {
					for _, p := range partitions {
						name := fmt.Sprint(topic, "/", p)
						if owner[name] != "" {
							t.Fatalf("seed %d: %s belongs to %s and %s", seed, name, owner[name], id)
						}
						owner[name] = id
						if topic == baseTopic(topic) && slices.Contains(owned[id][topic], p) {
							kept++
						}
					}
					if slices.Sort(partitions); topic == "a" && (!slices.Equal(sorted(assigned["a.5s"]), partitions) || !slices.Equal(sorted(assigned["a.30s"]), partitions)) {
						t.Fatalf("seed %d: lanes are elsewhere: %v", seed, assigned)
					}
				}
			}
			for topic, n := range counts {
				for p := range n {
					if owner[fmt.Sprint(topic, "/", p)] == "" {
						t.Fatalf("seed %d: nobody has %s/%d", seed, topic, p)
					}
				}
			}
			if most > least+1 {
				t.Fatalf("seed %d: from %d to %d partitions", seed, least, most)
			}
			// Whoever stays may lose only what is above an even share.
			must := 0
			shares := make([]int, 0, len(owned))
			for _, o := range owned {
				shares = append(shares, len(o["a"])+len(o["b"]))
			}
			slices.Sort(shares)
			slices.Reverse(shares)
			for i, n := range shares {
				before += n
				share := units / len(owned)
				if i < units%len(owned) {
					share++
				}
				must += max(0, n-share)
			}
			if moved := before - kept; moved > must {
				t.Fatalf("seed %d, generation %d: %d partitions moved where %d must", seed, generation, moved, must)
			}
			owned = make(map[string]map[string][]int)
			maps.Copy(owned, got)
			switch {
			case len(owned) > 1 && rnd.IntN(2) == 0:
				for id := range owned {
					delete(owned, id)
					break
				}
			default:
				owned[fmt.Sprint("m", next)] = nil
				next++
			}
		}
	}
}

func sorted(p []int) []int { return slices.Sorted(slices.Values(p)) }

func TestStickyOddMembers(t *testing.T) {
	counts := map[string]int{"a": 4, "b": 2, "nobody": 3}
	got := fluxkafka.Assign([]kafka.GroupMember{
		{ID: "both", Topics: []string{"a", "b"}, UserData: []byte("not JSON")},
		{ID: "only a", Topics: []string{"a"}, UserData: userData(1, map[string][]int{"b": {0, 1}, "a": {9, -1}})},
		{ID: "none", Topics: nil},
		// Both claim a/0: the later generation is right.
		{ID: "stale", Topics: []string{"a"}, UserData: userData(3, map[string][]int{"a": {0}})},
		{ID: "recent", Topics: []string{"a"}, UserData: userData(4, map[string][]int{"a": {0}})},
	}, counts, baseTopic)
	if len(got["both"]["b"]) != 2 || len(got["none"]) != 0 {
		t.Errorf("got %v", got)
	}
	if !slices.Contains(got["recent"]["a"], 0) {
		t.Errorf("a/0 is not with the member that had it last: %v", got)
	}
	total := 0
	for _, assigned := range got {
		total += len(assigned["a"])
	}
	if total != 4 {
		t.Errorf("%d of 4 partitions assigned: %v", total, got)
	}
}
