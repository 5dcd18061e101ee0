package fluxkafka

import "iter"

// tracker knows which offsets of a partition are done. It holds the records
// that are not, in the order of their offsets; whatever lies below position and
// is not held is done: settled, or nothing that a consumer sees (control
// records, aborted ones, offsets that compaction left empty). So its memory is
// bounded by the records that are out, whatever finished behind a stuck one.
//
// The zero value is not ready; see reset. It is not safe for concurrent use.
type tracker struct {
	head, tail *record
	position   int64
	ahead      []span // done offsets beyond position, known from an earlier owner
	known      int64  // an earlier owner was here: it took records up to this offset
	gaps       int    // runs of done offsets between held records

	// Of crowded: what it measured last, and when.
	large             bool
	changes, measured int
}

// reset starts the tracker anew, at an offset with nothing held.
func (t *tracker) reset(position int64, ahead []span) {
	*t = tracker{position: position, ahead: ahead, known: position}
	if n := len(ahead); n > 0 {
		t.known = ahead[n-1].to
	}
	t.pass(position)
}

// pass moves position to offset, and on over what an earlier owner did from
// there on.
func (t *tracker) pass(offset int64) {
	t.position = max(t.position, offset)
	for len(t.ahead) > 0 && t.ahead[0].from <= t.position {
		t.position = max(t.position, t.ahead[0].to)
		t.ahead = t.ahead[1:]
	}
}

// end returns the offset up to which something is known.
func (t *tracker) end() int64 {
	if n := len(t.ahead); n > 0 {
		return t.ahead[n-1].to
	}
	return t.position
}

// add holds r, whose offset must be at or above position, and passes it.
func (t *tracker) add(r *record) {
	r.prev, r.next = t.tail, nil
	if t.tail == nil {
		t.head = r
	} else {
		t.tail.next = r
		t.gaps += gap(t.tail, r)
	}
	t.tail = r
	t.changes++
	t.pass(r.offset + 1)
}

// remove marks r done.
func (t *tracker) remove(r *record) {
	if r.prev == nil {
		t.head = r.next
	} else {
		r.prev.next = r.next
		t.gaps -= gap(r.prev, r)
	}
	if r.next == nil {
		t.tail = r.prev
	} else {
		r.next.prev = r.prev
		t.gaps -= gap(r, r.next)
	}
	if r.prev != nil && r.next != nil {
		t.gaps++
	}
	r.prev, r.next = nil, nil
	t.changes++
}

// replace puts other in the place of r, which has the same offset.
func (t *tracker) replace(r, other *record) {
	other.prev, other.next = r.prev, r.next
	if r.prev == nil {
		t.head = other
	} else {
		r.prev.next = other
	}
	if r.next == nil {
		t.tail = other
	} else {
		r.next.prev = other
	}
	r.prev, r.next = nil, nil
}

func gap(a, b *record) int {
	if b.offset > a.offset+1 {
		return 1
	}
	return 0
}

// commit returns the offset below which everything is done.
func (t *tracker) commit() int64 {
	if t.head != nil {
		return t.head.offset
	}
	return t.position
}

// completed yields the spans of done offsets above commit, sorted and apart.
func (t *tracker) completed() iter.Seq[span] {
	return func(yield func(span) bool) {
		for r := t.head; r != nil; r = r.next {
			s := span{r.offset + 1, t.position}
			if r.next != nil {
				s.to = r.next.offset
			}
			if s.from < s.to && !yield(s) {
				return
			}
		}
		for _, s := range t.ahead {
			if !yield(s) {
				return
			}
		}
	}
}

// metadata returns the completed map for a commit, empty if there is nothing
// above it or it does not fit limit bytes.
func (t *tracker) metadata(limit int) string {
	m := encodeCompleted(t.commit(), t.completed())
	if len(m) > limit {
		return ""
	}
	return m
}

// Short cuts of crowded: with so few runs of up to three bytes a length, or so
// few offsets, the map is small whatever it says.
const (
	fewGaps = fullMetadata * 3 / 4 / 6
	fewBits = fullMetadata * 3 / 4 * 7
)

// crowded reports whether the completed map is so large that it might not fit
// if more offsets came to it. It never is while there are holes in what an
// earlier owner did: to fill them makes the map smaller.
func (t *tracker) crowded() bool {
	if len(t.ahead) > 0 || t.gaps < fewGaps || t.position-t.commit() < fewBits {
		return false
	}
	if t.measured == 0 || t.changes-t.measured >= measureEvery {
		t.measured = t.changes
		t.large = len(encodeCompleted(t.commit(), t.completed())) > fullMetadata
	}
	return t.large
}

// measureEvery is how many changes go by between two measurements of the map,
// which take a look at every held record. As many more runs fit between
// fullMetadata and maxMetadata.
const measureEvery = 32
