package flux

import "context"

// group is those who wait in a room on behalf of one context, and leave when it
// ends: one function to be called, not one for each of them. It is guarded by
// the room's lock.
type group[K comparable] struct {
	head  *waiter[K]
	done  <-chan struct{}
	unset func() bool // calls the call off

	// answer takes the results of a group that is a Stream instead: it sees to
	// the end of its context by itself, and keeps no list.
	answer func(*waiter[K], Result)
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
	w.group = g
	if g.head != nil {
		w.gnext, g.head.gprev = g.head, w
	}
	g.head = w
}

// ungroup takes w out of its group.
func (r *room[K]) ungroup(w *waiter[K]) {
	g := w.group
	if g == nil || g.answer != nil {
		return
	}
	if w.gprev != nil {
		w.gprev.gnext = w.gnext
	} else {
		g.head = w.gnext
	}
	if w.gnext != nil {
		w.gnext.gprev = w.gprev
	}
	w.group, w.gnext, w.gprev = nil, nil, nil
	if g.head == nil {
		g.unset()
		delete(r.groups, g.done)
	}
}

// dismiss ends the waits of a group whose context has ended.
func (r *room[K]) dismiss(g *group[K], err error) {
	r.mu.Lock()
	defer r.unlock()
	now := r.lim.Now()
	for g.head != nil {
		if w := g.head; r.cancel(w, now, err) {
			w.to <- Result{Err: err}
		}
	}
}
