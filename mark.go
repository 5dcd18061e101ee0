package flux

import "sync/atomic"

// mark tells those who come for a key of which nothing is known but its hash
// whether there is more to it than a look at the table, by one load. Its lower
// half counts the keys that have a queue, or whose limit is being changed; the
// upper half is the generation of what is known of the keys, which a change
// leaves behind.
type mark struct{ bits atomic.Uint64 }

// generation is 1 in the upper half of a mark.
const generation = 1 << 32

// count returns how many keys have a queue, or are being changed.
func (m *mark) count() uint32 { return uint32(m.bits.Load()) }

// stamp returns the generation, as a mark that counts nothing shows it.
func (m *mark) stamp() uint64 { return m.bits.Load() &^ (generation - 1) }

// is reports whether the mark counts nothing and shows the generation of stamp.
func (m *mark) is(stamp uint64) bool { return m.bits.Load() == stamp }

// mark returns the mark of the keys with this hash.
func (l *Limiter[K]) mark(hash uint64) *mark { return &l.marks[hash%uint64(len(l.marks))] }

// addMark adds one to the count of the mark of the keys with this hash.
func (l *Limiter[K]) addMark(hash uint64) {
	l.mark(hash).bits.Add(1)
	l.marked.Add(1)
}

// removeMark takes it off again.
func (l *Limiter[K]) removeMark(hash uint64) {
	l.mark(hash).bits.Add(^uint64(0))
	l.marked.Add(-1)
}

// renew begins a new generation of the keys with this hash.
func (l *Limiter[K]) renew(hash uint64) { l.mark(hash).bits.Add(generation) }

// renewAll begins a new generation of all keys.
func (l *Limiter[K]) renewAll() {
	for i := range l.marks {
		l.marks[i].bits.Add(generation)
	}
}
