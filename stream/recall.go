package stream

import "slices"

// Recall implements [Intake].
func (r *run[M]) Recall(revoked <-chan struct{}) {
	if revoked == nil {
		return
	}
	r.mu.Lock()
	now := r.clock.now()
	if !r.isRecalled(revoked) {
		r.recalled = append(r.recalled, revoked)
	}
	for _, w := range r.watches {
		if w.id.revoked != revoked {
			continue
		}
		for e := w.first; e != nil; e = e.older {
			switch e.state {
			case stateQueued, stateEarly, stateBlocked, stateBackoff, stateGathered:
				r.withdraw(e, now)
			}
		}
	}
	r.unlock(now)
}

// isRecalled reports whether the source wants those messages back that are revoked
// by this channel, as soon as no handler and no settler has them. Once it is closed
// that goes without saying, and it is forgotten.
func (r *run[M]) isRecalled(revoked <-chan struct{}) bool {
	if len(r.recalled) == 0 {
		return false
	}
	r.recalled = slices.DeleteFunc(r.recalled, func(ch <-chan struct{}) bool {
		select {
		case <-ch:
			return true
		default:
			return false
		}
	})
	return slices.Contains(r.recalled, revoked)
}
