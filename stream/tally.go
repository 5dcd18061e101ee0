package stream

// A tenant's tally says what limits and a lack of workers cost it recently. It
// is halved at fixed times, so that what was long ago does not count for ever.
// It is kept in few bytes because there may be a hundred thousand tenants.

const (
	// A tick is 2²⁰ ns, about a millisecond, and the half-life 2¹⁶ of them, about
	// 69 s, so that both are shifts.
	tickBits     = 20
	halfLifeBits = 16
)

// ticks converts a reading of the clock. It wraps after 52 days.
func ticks(at int64) uint32 { return uint32(at >> tickBits) }

// tally brings the tally of t up to date. It must be called before waiting
// changes: the time that all its messages spend waiting is the integral of how
// many of them wait.
func (t *tenant[M]) tally(now int64) {
	at := ticks(now)
	passed := int32(at - t.tallied)
	if passed <= 0 {
		return
	}
	if halvings := uint16(at>>halfLifeBits) - uint16(t.tallied>>halfLifeBits); halvings > 0 {
		t.waited /= float32(uint64(1) << min(halvings, 63))
		t.denials >>= halvings
		// What was waited longer ago hardly counts any more.
		passed = min(passed, 2<<halfLifeBits)
	}
	t.waited += float32(t.waiting) * float32(passed)
	t.tallied = at
}

// count counts that n more messages of t wait in memory.
func (r *run[M]) count(t *tenant[M], n int, now int64) {
	t.tally(now)
	t.waiting += int32(n)
	r.waiting += n
}
