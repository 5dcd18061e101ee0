package fluxkafka

import (
	"cmp"
	"slices"
)

// memory is what this member did in a partition and could not commit, because
// the coordinator was gone or did not know it any more. If the member gets the
// partition again before anybody else commits, it goes on from there instead of
// repeating it all. Only the run's goroutine and its generation use it.
type memory map[topicPartition]remembered

type remembered struct {
	// What the group has, as far as this member knows: the commit that was
	// confirmed last (offset -1 if none was), or one that was tried since.
	confirmed committedOffset
	tried     []committedOffset

	base int64  // below it everything is done
	done []span // above it
}

// keep remembers a partition that was left with news, and forgets one that was
// not.
func (m memory) keep(p *partition) {
	p.mu.Lock()
	defer p.mu.Unlock()
	tp := topicPartition{p.topic, p.id}
	if !p.dirty {
		delete(m, tp)
		return
	}
	m[tp] = remembered{
		confirmed: committedOffset{p.committed, p.lastMap}, tried: slices.Clone(p.tried),
		base: p.tracker.commit(), done: slices.Collect(p.tracker.completed()),
	}
}

// recall adds what this member remembers of a partition to what is known to be
// done above the committed offset, -1 if there is none. It reports whether that
// was anything.
func (m memory) recall(tp topicPartition, committed committedOffset, ahead []span) ([]span, bool) {
	r, ok := m[tp]
	delete(m, tp)
	if !ok || committed != r.confirmed && !slices.Contains(r.tried, committed) {
		return ahead, false
	}
	ahead = append(ahead, r.done...)
	if r.base > committed.offset {
		ahead = append(ahead, span{committed.offset, r.base})
	}
	return union(ahead), true
}

// union puts spans in order and joins those that overlap or touch.
func union(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	out := spans[:0]
	for _, s := range spans {
		if n := len(out); n > 0 && s.from <= out[n-1].to {
			out[n-1].to = max(out[n-1].to, s.to)
			continue
		}
		out = append(out, s)
	}
	return out
}

// maxTried is how many unconfirmed commits are remembered.
const maxTried = 64
