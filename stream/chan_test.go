package stream_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
	"github.com/fluxlimiter/flux/stream/streamtest"
)

// chanScene is a gate over a channel of strings, whose tenant is the first letter.
type chanScene struct {
	t     *testing.T
	gate  *stream.Gate[string]
	in    chan string
	src   *stream.ChanSource[string]
	begin time.Time

	mu      sync.Mutex
	log     []string
	letters []stream.Letter
	dead    func() error // asked for each dead letter, nil: no error
}

func newChanScene(t *testing.T, l limits, cfg stream.Config[string]) *chanScene {
	t.Helper()
	s := &chanScene{t: t, in: make(chan string), begin: time.Now()}
	cfg.Limiter, cfg.Tenant = throttleLimiter(t, l), firstLetter
	var err error
	if s.gate, err = stream.New(cfg); err != nil {
		t.Fatal(err)
	}
	s.src = stream.FromChan(s.in, func(_ context.Context, m string, letter stream.Letter) error {
		if s.dead != nil {
			if err := s.dead(); err != nil {
				return err
			}
		}
		s.note("dead %s %v", m, letter.Reason)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.letters = append(s.letters, letter)
		return nil
	})
	return s
}

func (s *chanScene) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, fmt.Sprintf("%v ", time.Since(s.begin))+fmt.Sprintf(format, args...))
}

// send sends messages, and closes the channel after them.
func (s *chanScene) send(messages ...string) {
	go func() {
		defer close(s.in)
		for _, m := range messages {
			s.in <- m
		}
	}()
}

func (s *chanScene) handle(_ context.Context, m string) error {
	s.note("%s", m)
	return nil
}

func (s *chanScene) run(ctx context.Context, handle stream.Handler[string]) {
	s.t.Helper()
	if err := s.gate.Run(ctx, s.src, handle); err != nil {
		s.t.Errorf("Run = %v", err)
	}
}

func (s *chanScene) want(want ...string) {
	s.t.Helper()
	slices.Sort(s.log)
	slices.Sort(want)
	if !slices.Equal(s.log, want) {
		s.t.Errorf("\ngot  %q\nwant %q", s.log, want)
	}
	s.log = nil
}

// TestFromChan holds that Run ends when the channel is closed and everything is
// done, what had to be deferred included.
func TestFromChan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newChanScene(t, limits{"a": gcra.PerSecond(1).WithBurst(1)}, stream.Config[string]{Policy: stream.Policy{MaxWait: 2 * time.Second}})
		s.send("a0", "a1", "a2", "a3", "a4", "b0")
		s.run(t.Context(), s.handle)
		s.want("0s a0", "1s a1", "2s a2", "3s a3", "4s a4", "0s b0")
		if st := s.gate.Stats(); st.Deferred == 0 || st.Processed != 6 {
			t.Errorf("Stats = %+v, want some deferred", st)
		}
		// It stays exhausted.
		s.run(t.Context(), s.handle)
		s.want()
	})
}

// TestFromChanCounts holds that counts survive a deferral, and that dead letters
// are given until they are taken.
func TestFromChanCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newChanScene(t, nil, stream.Config[string]{Policy: stream.Policy{
			MaxAttempts: 2, MaxDeferrals: 1, MaxWait: -1, Backoff: func(int) time.Duration { return time.Second },
		}})
		refusals := 2
		s.dead = func() error {
			if refusals--; refusals >= 0 {
				return errors.New("no disk")
			}
			return nil
		}
		failure := errors.New("no database")
		s.send("f", "l")
		s.run(t.Context(), func(ctx context.Context, m string) error {
			i, _ := stream.FromContext(ctx)
			s.note("%s attempt %d deferrals %d", m, i.Attempt, i.Deferrals)
			if m == "l" {
				return stream.RetryLater(time.Minute, failure)
			}
			return failure
		})
		s.want("0s f attempt 1 deferrals 0", "1s f attempt 2 deferrals 0", "1.15s dead f max_attempts",
			"0s l attempt 1 deferrals 0", "1m0s l attempt 1 deferrals 1", "1m0s dead l max_deferrals")
		for _, l := range s.letters {
			if !errors.Is(l.Err, failure) {
				t.Errorf("letter %+v", l)
			}
		}
	})
}

// TestFromChanBackpressure holds that no more is received than the gate holds.
func TestFromChanBackpressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newChanScene(t, nil, stream.Config[string]{Window: 10, TenantWindow: 10, Workers: 2})
		ctx, cancel := context.WithCancel(t.Context())
		open := make(chan struct{})
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s.run(ctx, func(context.Context, string) error { <-open; return nil })
		}()
		sent := 0
		for full := false; !full; {
			select {
			case s.in <- "a":
				sent++
			case <-time.After(time.Second):
				full = true
			}
		}
		if sent != 10 {
			t.Errorf("%d received, want 10", sent)
		}
		close(open)
		s.in <- "a"
		cancel()
		<-ended
	})
}

// TestFromChanHoldsBack holds that no more is received while too many wait to come
// back, whoever it belongs to.
func TestFromChanHoldsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newChanScene(t, limits{"a": gcra.PerMinute(1)}, stream.Config[string]{Policy: stream.Policy{MaxWait: -1}})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s.run(ctx, s.handle)
		}()
		// The first one runs, and 4096 can wait. Some more are with the gate, on
		// their way there.
		for range 4097 {
			s.in <- "a"
		}
		time.Sleep(10 * time.Second)
		full := 0
		for done := false; !done; {
			select {
			case s.in <- "b":
				full++
			case <-time.After(10 * time.Second):
				done = true
			}
		}
		if full > 1 {
			t.Errorf("%d were received beyond 4096 that wait", full)
		}
		cancel()
		<-ended
	})
}

// TestFromChanGoesOn holds that what was not settled when a run was ended comes
// with the next, in its order, before anything else.
func TestFromChanGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newChanScene(t, limits{"a": gcra.PerSecond(1).WithBurst(1)}, stream.Config[string]{Workers: 1, Policy: stream.Policy{MaxWait: 3 * time.Second}})
		s.send("a0", "a1", "a2", "a3", "a4", "a5", "a6", "b0")
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		s.run(ctx, s.handle)
		s.want("0s a0", "1s a1", "0s b0")
		time.Sleep(8500 * time.Millisecond)
		s.run(t.Context(), func(ctx context.Context, m string) error {
			if i, _ := stream.FromContext(ctx); m == "a2" && i.Deferrals != 0 {
				t.Errorf("%+v: a release is no deferral", i)
			}
			return s.handle(ctx, m)
		})
		s.want("10s a2", "11s a3", "12s a4", "13s a5", "14s a6")
	})
}

// TestFromChanTwice holds that a source runs once at a time.
func TestFromChanTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newChanScene(t, nil, stream.Config[string]{})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s.run(ctx, s.handle)
		}()
		synctest.Wait()
		other := newChanScene(t, nil, stream.Config[string]{})
		if err := other.gate.Run(t.Context(), s.src, s.handle); !errors.Is(err, stream.ErrRunning) {
			t.Errorf("Run = %v", err)
		}
		cancel()
		<-ended
	})
}

// TestFromChanKeepsAll holds, with handlers that fail in many ways and runs that
// are ended, that each message is processed, and those of a key in their order.
func TestFromChanKeepsAll(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 9))
			s := newChanScene(t, limits{"a": gcra.PerSecond(20), "b": gcra.PerSecond(50).WithBurst(2)}, stream.Config[string]{
				Window: 4 + rng.IntN(100), Workers: 1 + rng.IntN(8),
				OrderKey: func(m string) string { return m[:2] },
				Policy:   stream.Policy{MaxDeferrals: -1, MaxAttempts: -1, MaxWait: time.Duration(1+rng.IntN(2000)) * time.Millisecond},
			})
			const each = 100
			var messages []string
			for i := range each {
				for _, key := range []string{"a1", "a2", "b1", "c1"} {
					messages = append(messages, fmt.Sprint(key, "/", i))
				}
			}
			s.send(messages...)
			next := map[string]int{}
			var mu sync.Mutex
			chance := func(n int) bool {
				mu.Lock()
				defer mu.Unlock()
				return rng.IntN(n) == 0
			}
			for runs := 0; s.gate.Stats().Processed < 4*each; runs++ {
				ctx, cancel := context.WithCancel(t.Context())
				if runs < 5 {
					time.AfterFunc(time.Duration(rng.IntN(1000))*time.Millisecond, cancel)
				}
				s.run(ctx, func(_ context.Context, m string) error {
					time.Sleep(time.Millisecond)
					if chance(20) {
						return errors.New("failed")
					}
					if chance(50) {
						return stream.RetryLater(time.Second, nil)
					}
					key, number, _ := strings.Cut(m, "/")
					mu.Lock()
					defer mu.Unlock()
					// A run that was ended may have forgotten what it had deferred.
					if n, _ := strconv.Atoi(number); runs == 0 && n != next[key] {
						t.Errorf("%s came, want number %d", m, next[key])
					}
					next[key]++
					return nil
				})
				cancel()
				if runs > 100 {
					t.Fatal("does not come to an end")
				}
			}
			for key, n := range next {
				if n != each {
					t.Errorf("%d of %s were processed, want %d", n, key, each)
				}
			}
		})
	}
}

// TestFromChanConforms holds that the source keeps the contract of all sources.
func TestFromChanConforms(t *testing.T) {
	streamtest.TestSource(t, func(t *testing.T, test func(*testing.T, streamtest.Fixture[string])) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			in := make(chan string, 10_000)
			var mu sync.Mutex
			var dead []string
			test(t, streamtest.Fixture[string]{
				Source: stream.FromChan(in, func(_ context.Context, m string, _ stream.Letter) error {
					mu.Lock()
					defer mu.Unlock()
					dead = append(dead, m)
					return nil
				}),
				Publish: func(body string) error { in <- body; return nil },
				Body:    func(m string) string { return m },
				DeadLetters: func() ([]string, error) {
					mu.Lock()
					defer mu.Unlock()
					return slices.Clone(dead), nil
				},
			})
		})
	})
}
