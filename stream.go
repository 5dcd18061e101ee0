package flux

import (
	"context"
	"maps"
	"sync"
)

// Request asks for tokens: for one of many, in [Limiter.Stream] and
// [Limiter.CheckAll].
type Request[K comparable] struct {
	Key K

	// N is the number of tokens. 0 is a peek, which is always let through.
	N int64

	// Value is the caller's: the event that waits, say. It comes back with the
	// answer.
	Value any
}

// Response is a [Request] with its [Result].
type Response[K comparable] struct {
	Request[K]
	Result
}

// Stream gates a channel: it reads requests from in, and each comes out when it
// was granted, or at once when it cannot wait, with the reason in Err. Requests
// for one key are granted in the order in which they came, and one that waits
// holds no other key up.
//
// It waits like [Limiter.WaitAsync] does, and has the same bounds: a request
// beyond [Config.MaxKeyWaiters] or [Config.MaxWaiters] comes out at once, to be
// put off elsewhere, with [ErrTooManyWaiters]. It reads no further while an
// answer is not received.
//
// The channel that it returns is closed when in was closed and everything is
// answered, or when ctx has ended. Nothing has been spent for a request that was
// not answered. One goroutine works for a Stream until then.
func (l *Limiter[K]) Stream(ctx context.Context, in <-chan Request[K]) <-chan Response[K] {
	out := make(chan Response[K])
	s := &stream[K]{lim: l, news: make(chan struct{}, 1), waiting: make(map[*waiter[K]]Request[K])}
	s.group.answer = s.answer
	go s.run(orBackground(ctx), in, out)
	return out
}

// stream is a Stream at work.
type stream[K comparable] struct {
	lim   *Limiter[K]
	group group[K]
	news  chan struct{} // holds a token when answers has grown

	// Locked by room.result with a room's lock held: no other lock may be taken
	// under this one.
	mu      sync.Mutex
	waiting map[*waiter[K]]Request[K]
	answers []Response[K]
}

// run moves requests from in to out.
func (s *stream[K]) run(ctx context.Context, in <-chan Request[K], out chan<- Response[K]) {
	defer close(out)
	var ready []Response[K]
	for {
		if len(ready) == 0 {
			var waiting int
			ready, waiting = s.take(ready)
			if len(ready) == 0 && in == nil && waiting == 0 {
				return
			}
		}
		from, to, next := in, out, Response[K]{}
		if len(ready) > 0 {
			from, next = nil, ready[0]
		} else {
			to = nil
		}
		select {
		case req, ok := <-from:
			if !ok {
				in = nil
				continue
			}
			s.start(ctx, req)
		case to <- next:
			ready = ready[1:]
		case <-s.news:
		case <-ctx.Done():
			s.stop(ready, ctx.Err())
			return
		}
	}
}

// start asks the limiter.
func (s *stream[K]) start(ctx context.Context, req Request[K]) {
	d, done, err := s.lim.try(ctx, req.Key, req.N)
	if done {
		s.add(Response[K]{req, resultOf(d, req.N, err)})
		return
	}
	w := &waiter[K]{n: req.N, group: &s.group}
	s.mu.Lock()
	s.waiting[w] = req
	s.mu.Unlock()
	if d, err := s.lim.room(s.lim.hash(req.Key)).join(ctx, req.Key, w, false); err != nil || d.Allowed() {
		s.answer(w, resultOf(d, req.N, err))
	}
}

// answer takes the result of one that waited.
func (s *stream[K]) answer(w *waiter[K], res Result) {
	s.mu.Lock()
	req := s.waiting[w]
	delete(s.waiting, w)
	s.mu.Unlock()
	s.add(Response[K]{req, res})
}

// add takes an answer.
func (s *stream[K]) add(r Response[K]) {
	s.mu.Lock()
	s.answers = append(s.answers, r)
	s.mu.Unlock()
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// take returns the answers so far, in exchange for a slice to collect more in,
// and how many requests wait.
func (s *stream[K]) take(spare []Response[K]) ([]Response[K], int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ready := s.answers
	s.answers = spare[:0]
	return ready, len(s.waiting)
}

// stop ends the waits, and takes back what was granted and nobody received.
func (s *stream[K]) stop(ready []Response[K], err error) {
	s.mu.Lock()
	waiting := maps.Clone(s.waiting)
	s.mu.Unlock()
	for w, req := range waiting {
		s.lim.room(s.lim.hash(req.Key)).leave(w, err)
	}
	rest, _ := s.take(nil)
	for _, res := range append(ready, rest...) {
		if res.Spent > 0 {
			_ = s.lim.refundAt(res.Key, s.lim.Now(), res.Spent) // spent a moment ago: n and the limit are valid
		}
	}
}
