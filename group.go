package flux

import "context"

// group is those who wait in a room on behalf of one context, and leave when it
// ends: one function to be called, not one for each of them. It is guarded by
// the room's lock.
type group[K comparable] struct {
	members []*waiter[K] // in no order: each knows its place
	done    <-chan struct{}
	unset   func() bool // calls the call off

	// answer takes the results of a group that is a Stream's instead, which sees
	// to the end of its context by itself. It is called with the room's lock
	// held.
	answer func(key K, w *waiter[K], res Result)
}

// add makes w one of them.
func (g *group[K]) add(w *waiter[K]) {
	w.group, w.place = g, len(g.members)
	g.members = append(g.members, w)
}

// enroll lets w, which has just joined, leave with ctx.
func (r *room[K]) enroll(ctx context.Context, w *waiter[K]) {
	done := ctx.Done()
	if done == nil {
		return
	}
	g := r.groups[done]
	if g == nil {
		g = &group[K]{done: done}
		g.unset = context.AfterFunc(ctx, func() { r.dismiss(g, ctx.Err()) })
		r.groups[done] = g
	}
	g.add(w)
}

// ungroup takes w out of its group.
func (r *room[K]) ungroup(w *waiter[K]) {
	g := w.group
	if g == nil {
		return
	}
	last := len(g.members) - 1
	if w.place != last {
		moved := g.members[last]
		g.members[w.place], moved.place = moved, w.place
	}
	g.members[last] = nil
	g.members = g.members[:last]
	w.group = nil
	if last == 0 && g.unset != nil {
		g.unset()
		delete(r.groups, g.done)
	}
}

// dismiss ends the waits of a group whose context has ended.
func (r *room[K]) dismiss(g *group[K], err error) {
	r.mu.Lock()
	defer r.unlock()
	now := r.lim.Now()
	for n := 1; len(g.members) > 0; n++ {
		w := g.members[len(g.members)-1]
		q := w.queue
		if r.advance(q, now); w.queue != nil { // its turn has not come by now
			r.strike(w, now, err)
			r.tell(q.key, w, g, Result{Err: err})
		}
		r.settle(q, now)
		if n%lockStep == 0 {
			now = r.yield()
		}
	}
}
