package flux

import (
	"context"
	"sync"
)

// Request asks for tokens: for one of many, in [Limiter.Stream] and
// [Limiter.CheckAll].
type Request[K comparable] struct {
	// Key is whose tokens they are.
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
// put off elsewhere, with [ErrTooManyWaiters]. It reads no further while some
// dozens of answers are not received.
//
// The channel that it returns is closed when in was closed and everything is
// answered, or when ctx has ended. Nothing has been spent for a request whose
// answer was not received. One goroutine works for a Stream until then. It is the
// way for many to wait that takes the least memory: beyond the request, some 40
// bytes for each.
func (l *Limiter[K]) Stream(ctx context.Context, in <-chan Request[K]) <-chan Response[K] {
	out := make(chan Response[K], answersAhead)
	s := &stream[K]{lim: l, news: make(chan struct{}, 1), groups: make([]group[K], len(l.rooms))}
	for i := range s.groups {
		s.groups[i].answer = s.answer
	}
	go s.run(orBackground(ctx), in, out)
	return out
}

// answersAhead is how many answers may be waiting to be received: with room for
// none, each of them would cost a change of goroutines.
const answersAhead = 64

// stream is a Stream at work.
type stream[K comparable] struct {
	lim    *Limiter[K]
	groups []group[K]    // those who wait in each of the rooms
	news   chan struct{} // holds a token when answers has grown

	// Locked by answer with a room's lock held: no other lock may be taken under
	// this one.
	mu      sync.Mutex
	answers []Response[K]
}

// run moves requests from in to out.
//
// A select among several channels takes longer than all else that a request
// needs, so what can be had without waiting is had by itself first.
func (s *stream[K]) run(ctx context.Context, in <-chan Request[K], out chan Response[K]) {
	defer close(out)
	done := ctx.Done()
	var ready []Response[K]
	sent, unanswered := 0, 0
	for {
		select {
		case <-done:
			s.stop(ready[sent:], out, ctx.Err())
			return
		default:
		}
		if sent == len(ready) && len(s.news) > 0 {
			<-s.news
			ready, sent = s.take(ready), 0
			unanswered -= len(ready)
		}
		if sent < len(ready) {
			select {
			case out <- ready[sent]:
			default:
				select {
				case out <- ready[sent]:
				case <-done:
					continue
				}
			}
			ready[sent] = Response[K]{} // whose value is the receiver's now
			sent++
			continue
		}
		if in == nil && unanswered == 0 {
			return
		}
		var req Request[K]
		var ok bool
		select {
		case req, ok = <-in:
		default:
			select {
			case req, ok = <-in:
			case <-s.news:
				ready, sent = s.take(ready), 0
				unanswered -= len(ready)
				continue
			case <-done:
				continue
			}
		}
		if !ok {
			in = nil
			continue
		}
		unanswered++
		s.start(ctx, req)
	}
}

// start asks the limiter.
func (s *stream[K]) start(ctx context.Context, req Request[K]) {
	d, room, err := s.lim.try(ctx, req.Key, req.N)
	if room == nil {
		s.add(Response[K]{req, resultOf(d, req.N, err)})
		return
	}
	w := &waiter[K]{n: req.N, to: req.Value, group: &s.groups[room.number]}
	if d, err := room.join(ctx, req.Key, w, false); err != nil || d.Allowed() {
		s.answer(req.Key, w, resultOf(d, req.N, err))
	}
}

// answer takes the result of one that waited.
func (s *stream[K]) answer(key K, w *waiter[K], res Result) {
	s.add(Response[K]{Request[K]{Key: key, N: w.n, Value: w.to}, res})
}

// add takes an answer, of one that waited or of none.
func (s *stream[K]) add(r Response[K]) {
	s.mu.Lock()
	s.answers = append(s.answers, r)
	s.mu.Unlock()
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// take returns the answers so far, and collects more in the place of those that
// were sent.
func (s *stream[K]) take(spare []Response[K]) []Response[K] {
	if cap(spare) > spareAnswers {
		spare = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	ready := s.answers
	s.answers = spare[:0]
	return ready
}

// spareAnswers is the most answers whose place is kept for more.
const spareAnswers = 1 << 12

// stop ends the waits, and takes back what was granted and nobody received.
func (s *stream[K]) stop(ready []Response[K], out <-chan Response[K], err error) {
	for i := range s.groups {
		s.lim.rooms[i].dismiss(&s.groups[i], err)
	}
	for {
		select {
		case res := <-out:
			s.takeBack(res)
			continue
		default:
		}
		break
	}
	for _, res := range append(ready, s.take(nil)...) {
		s.takeBack(res)
	}
}

// takeBack undoes what was granted.
func (s *stream[K]) takeBack(res Response[K]) {
	if res.Spent > 0 {
		_ = s.lim.refundAt(res.Key, s.lim.Now(), res.Spent) // spent a moment ago: n and the limit are valid
	}
}
