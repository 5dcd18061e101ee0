package gcra

// Live returns how many keys owe tokens at now: those that were used and are not
// yet as good as new. The others that Len counts are what a Sweep would forget.
//
// It looks at every slot, about a nanosecond each, without a lock. Calls that run
// at the same time may be counted or not.
func (t *Table[K]) Live(now int64) int {
	n := 0
	for i := range t.core.shards {
		n += t.core.shards[i].owing(now)
	}
	return n
}

// owing returns how many keys owe tokens at now.
func (s *shard) owing(now int64) (n int) {
	var last *page
	d := s.directory.Load()
	for i := range d.pages {
		p := d.pages[i].Load()
		if p == last {
			continue // the places of a page are neighbours
		}
		last = p
		for j := range p {
			// moved is earlier than any clock, and the TAT of a slot without a key is 0.
			if p[j].tat.Load() > now && p[j].fp.Load() != 0 {
				n++
			}
		}
	}
	return n
}
