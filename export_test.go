package flux

import "math"

// HoldTimers keeps the limiter's timers from firing, as a busy machine would,
// until [Limiter.ReleaseTimers].
func (l *Limiter[K]) HoldTimers() {
	for i := range l.rooms {
		r := &l.rooms[i]
		r.mu.Lock()
		if r.timer != nil {
			r.timer.Stop()
		}
		r.set = r.agenda.next()
		r.mu.Unlock()
	}
}

// ReleaseTimers lets the timers fire that should have.
func (l *Limiter[K]) ReleaseTimers() {
	for i := range l.rooms {
		l.rooms[i].wake()
	}
}

// Idle reports whether nothing is left behind by those who waited.
func (l *Limiter[K]) Idle() bool {
	for i := range l.rooms {
		r := &l.rooms[i]
		r.mu.Lock()
		idle := len(r.queues) == 0 && len(r.groups) == 0 && len(r.agenda) == 0 && r.set == math.MaxInt64
		r.mu.Unlock()
		if !idle {
			return false
		}
	}
	for i := range l.marks {
		if l.marks[i].count() != 0 {
			return false
		}
	}
	return l.waiting.Load() == 0 && l.marked.Load() == 0
}

// MaxLate is the lateness that the schedule makes up for.
const MaxLate = maxLate

// NewPace returns a pace, for its arithmetic.
func NewPace(from, start int64, speed uint64) *pace { return &pace{from, start, speed} }

// At is at.
func (p *pace) At(now int64) int64 { return p.at(now) }

// Until is until.
func (p *pace) Until(paced int64) int64 { return p.until(paced) }

// Between makes the next CheckAt one that looked at the mark before change and at
// the table after it.
func (h *Handle[K]) Between(change func()) {
	r := *h.current()
	change()
	r.stamp = h.mark.stamp()
	h.rule.Store(&r)
}
