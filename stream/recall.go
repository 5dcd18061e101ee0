package stream

// Recall implements [Intake].
func (r *run[M]) Recall(revoked <-chan struct{}) {
	r.mu.Lock()
	now := r.clock.now()
	for _, w := range r.watches {
		if revoked == nil || w.id.revoked != revoked {
			continue
		}
		w.recalled = true
		for e := w.first; e != nil; e = e.older {
			switch e.state {
			case stateQueued, stateEarly, stateBlocked, stateBackoff, stateGathered:
				r.withdraw(e, now)
			}
		}
	}
	r.unlock(now)
}

// recalled reports whether the source wants e back as soon as no handler and no
// settler has it.
func (e *entry[M]) recalled() bool { return e.watch != nil && e.watch.recalled }
