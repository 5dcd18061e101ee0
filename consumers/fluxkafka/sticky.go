package fluxkafka

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"sync"

	"github.com/segmentio/kafka-go"
)

// claims remembers what this member owned last, over generations and
// memberships.
type claims struct {
	mu         sync.Mutex
	generation int32
	owned      map[string][]int
}

func (c *claims) set(generation int32, assigned map[string][]kafka.PartitionAssignment) {
	owned := make(map[string][]int)
	for topic, list := range assigned {
		for _, a := range list {
			owned[topic] = append(owned[topic], a.ID)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation, c.owned = generation, owned
}

// claim is what a member tells the group's leader of its past.
type claim struct {
	Generation int32            `json:"generation"`
	Owned      map[string][]int `json:"owned"`
}

// sticky assigns as evenly as possible, and among even assignments one that
// moves few partitions. A partition and its lanes go to the same member,
// and under Config.TenantAffinity those of the same number of all topics.
type sticky struct {
	session *session
}

var _ kafka.GroupBalancer = (*sticky)(nil)

func (*sticky) ProtocolName() string { return "flux-sticky" }

func (b *sticky) UserData() ([]byte, error) {
	c := &b.session.claims
	c.mu.Lock()
	defer c.mu.Unlock()
	return json.Marshal(claim{c.generation, c.owned})
}

func (b *sticky) AssignGroups(members []kafka.GroupMember, partitions []kafka.Partition) kafka.GroupMemberAssignments {
	l := b.session.layout.Load()
	// The client gives no partitions at all when one topic of many is gone.
	counts := maps.Clone(l.partitions)
	seen := make(map[string]int)
	for _, p := range partitions {
		seen[p.Topic] = max(seen[p.Topic], p.ID+1)
	}
	maps.Copy(counts, seen)
	base := func(topic string) string {
		base, _ := l.laneOf(topic)
		return base
	}
	if b.session.cfg.TenantAffinity != AnyPartition && sameTopics(members) {
		// A tenant is in the same partition of every topic, and so is one of them
		// as good a name for all as another.
		first := slices.Min(slices.Collect(maps.Keys(counts)))
		base = func(string) string { return first }
	}
	return assign(members, counts, base)
}

// sameTopics reports whether all members asked for the same topics.
func sameTopics(members []kafka.GroupMember) bool {
	for _, m := range members {
		if !slices.Equal(slices.Sorted(slices.Values(m.Topics)), slices.Sorted(slices.Values(members[0].Topics))) {
			return false
		}
	}
	return true
}

// unit is what moves as one: a partition of a topic and of its lanes.
type unit struct {
	base string
	id   int
}

// assign shares out counts[topic] partitions of each topic.
func assign(members []kafka.GroupMember, counts map[string]int, base func(topic string) string) kafka.GroupMemberAssignments {
	members = slices.Clone(members)
	slices.SortFunc(members, func(a, b kafka.GroupMember) int { return cmp.Compare(a.ID, b.ID) })
	topics := make(map[unit][]string)
	for topic, n := range counts {
		for id := range n {
			u := unit{base(topic), id}
			topics[u] = append(topics[u], topic)
		}
	}
	units := slices.SortedFunc(maps.Keys(topics), func(a, b unit) int {
		return cmp.Or(cmp.Compare(a.base, b.base), cmp.Compare(a.id, b.id))
	})
	// Who may own a unit: those who asked for its base topic, or for one of its
	// topics if nobody asked for that.
	eligible := make(map[string][]int)
	for i, m := range members {
		for _, topic := range m.Topics {
			if base(topic) == topic {
				eligible[topic] = append(eligible[topic], i)
			}
		}
	}

	owner := previous(members)
	load := make([]int, len(members))
	mine := make([][]unit, len(members))
	give := func(i int, u unit) {
		load[i]++
		mine[i] = append(mine[i], u)
	}
	var free []unit
	for _, u := range units {
		if i, ok := owner[u]; ok && slices.Contains(eligible[u.base], i) {
			give(i, u)
		} else {
			free = append(free, u)
		}
	}
	least := func(of []int) int {
		return slices.MinFunc(of, func(a, b int) int { return cmp.Or(cmp.Compare(load[a], load[b]), cmp.Compare(a, b)) })
	}
	for _, u := range free {
		if of := eligible[u.base]; len(of) > 0 {
			give(least(of), u)
		}
	}
	// Move one unit at a time, from the member with most that can give one to a
	// member with two less. Each move brings the loads closer, so this ends; and
	// nobody gives more than it must.
	order := make([]int, len(members))
	for i := range order {
		order[i] = i
	}
	for moved := true; moved; {
		moved = false
		slices.SortFunc(order, func(a, b int) int { return cmp.Or(cmp.Compare(load[b], load[a]), cmp.Compare(a, b)) })
		for _, i := range order {
			k := slices.IndexFunc(mine[i], func(u unit) bool { return load[least(eligible[u.base])]+2 <= load[i] })
			if k < 0 {
				continue
			}
			u := mine[i][k]
			mine[i] = slices.Delete(mine[i], k, k+1)
			load[i]--
			give(least(eligible[u.base]), u)
			moved = true
			break
		}
	}

	out := make(kafka.GroupMemberAssignments, len(members))
	for i, m := range members {
		out[m.ID] = make(map[string][]int)
		for _, u := range mine[i] {
			for _, topic := range topics[u] {
				if slices.Contains(m.Topics, topic) {
					out[m.ID][topic] = append(out[m.ID][topic], u.id)
				}
			}
		}
	}
	return out
}

// previous returns who owned a unit last. Where members disagree the one of the
// later generation is right: the other missed a rebalance.
func previous(members []kafka.GroupMember) map[unit]int {
	owner := make(map[unit]int)
	when := make(map[unit]int32)
	for i, m := range members {
		var c claim
		if err := json.Unmarshal(m.UserData, &c); err != nil {
			continue
		}
		for topic, ids := range c.Owned {
			for _, id := range ids {
				u := unit{topic, id}
				if last, ok := when[u]; !ok || c.Generation > last {
					owner[u], when[u] = i, c.Generation
				}
			}
		}
	}
	return owner
}
