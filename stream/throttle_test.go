package stream_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// firstLetter is the key of the messages of these tests.
func firstLetter(m string) string { return m[:1] }

// throttleLimiter returns a limiter with a limit for each key.
func throttleLimiter(t *testing.T, l limits) *flux.Limiter[string] {
	t.Helper()
	lim, err := flux.New(flux.Config[string]{Limit: gcra.Unlimited(), LimitFor: func(key string) gcra.Limit { return l[key] }})
	if err != nil {
		t.Fatal(err)
	}
	return lim
}

// feed returns a channel with these messages, which is closed behind them.
func feed(messages ...string) <-chan string {
	in := make(chan string)
	go func() {
		defer close(in)
		for _, m := range messages {
			in <- m
		}
	}()
	return in
}

// TestThrottle holds that messages pass at the times of their grants, in the order
// of their key, and that the channel is closed behind the last.
func TestThrottle(t *testing.T) {
	for _, remote := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			lim := throttleLimiter(t, limits{"a": gcra.PerSecond(2).WithBurst(1), "b": gcra.PerSecond(10).WithBurst(2)})
			var checker flux.Checker[string] = lim
			if remote {
				checker = checkerFunc(lim.Check)
			}
			begin := time.Now()
			var got []string
			for m := range stream.Throttle(t.Context(), feed("a1", "a2", "a3", "b1", "b2", "b3", "c1", "b4", "a4", "c2"), checker, firstLetter) {
				got = append(got, fmt.Sprintf("%v %s", time.Since(begin), m))
			}
			slices.Sort(got)
			want := []string{"0s a1", "0s b1", "0s b2", "0s c1", "0s c2", "1.5s a4", "100ms b3", "1s a3", "200ms b4", "500ms a2"}
			if !slices.Equal(got, want) {
				t.Errorf("remote %v:\ngot  %q\nwant %q", remote, got, want)
			}
		})
	}
}

// TestThrottleKeepsAll holds that nothing is lost, repeated or out of the order of
// its key, and that the limit is kept, with readers and limiters of any speed.
func TestThrottleKeepsAll(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			rng, remote := rand.New(rand.NewPCG(seed, 8)), rand.New(rand.NewPCG(seed, 9))
			lim := throttleLimiter(t, limits{"a": gcra.PerSecond(100).WithBurst(1), "b": gcra.PerSecond(50), "c": gcra.PerSecond(1000).WithBurst(3)})
			fails := checkerFunc(func(ctx context.Context, key string, n int64) (flux.Decision, error) {
				time.Sleep(time.Duration(remote.IntN(300)) * time.Microsecond)
				if remote.IntN(50) == 0 {
					return flux.Decision{}, errors.New("no connection")
				}
				return lim.Check(ctx, key, n)
			})
			var checker flux.Checker[string] = lim
			if seed%2 == 0 {
				checker = fails
			}
			const each = 200
			var messages []string
			for i := range each {
				for _, key := range []string{"a", "b", "c", "d"} {
					messages = append(messages, fmt.Sprint(key, i))
				}
			}
			begin := time.Now()
			next := map[string]int{}
			slow := seed%3 == 0
			for m := range stream.Throttle(t.Context(), feed(messages...), checker, firstLetter) {
				key := firstLetter(m)
				if m != fmt.Sprint(key, next[key]) {
					t.Fatalf("%s came, want number %d", m, next[key])
				}
				next[key]++
				// a has a burst of 1, and 100 a second.
				if passed := time.Since(begin); key == "a" && int64(passed/(10*time.Millisecond))+1 < int64(next["a"]) {
					t.Fatalf("%d of a have come by %v", next["a"], passed)
				}
				if slow {
					time.Sleep(time.Duration(rng.IntN(5)) * time.Millisecond)
				}
			}
			for key, n := range next {
				if n != each {
					t.Errorf("%d of %s came, want %d", n, key, each)
				}
			}
			if took := time.Since(begin); !slow && checker == flux.Checker[string](lim) && took > 10*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

// TestThrottleCatchUp holds that slots which are noticed a little late, here because
// the reader is busy, are not lost: limits with a burst of 1 keep their rate.
func TestThrottleCatchUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const each, rate = 1000, 100
		rng := rand.New(rand.NewPCG(1, 2))
		lim := throttleLimiter(t, limits{"a": gcra.PerSecond(rate).WithBurst(1), "b": gcra.PerSecond(rate).WithBurst(1)})
		var messages []string
		for range each {
			messages = append(messages, "a", "b")
		}
		begin := time.Now()
		for range stream.Throttle(t.Context(), feed(messages...), lim, firstLetter) {
			time.Sleep(time.Duration(rng.IntN(8)) * time.Millisecond) // busy for 70% of the time
		}
		if took, want := time.Since(begin), each*time.Second/rate; took > want {
			t.Errorf("took %v, want %v at most", took, want)
		}
	})
}

// TestThrottleSlowReader holds that a reader who comes late does not find more
// than the limit allows.
func TestThrottleSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := throttleLimiter(t, limits{"a": gcra.PerSecond(10).WithBurst(2)})
		out := stream.Throttle(t.Context(), feed("a1", "a2", "a3", "a4", "a5", "a6"), lim, firstLetter)
		time.Sleep(time.Minute)
		begin := time.Now()
		var got []string
		for m := range out {
			got = append(got, fmt.Sprintf("%v %s", time.Since(begin), m))
		}
		// One was granted a minute ago, the burst of two is there, and then it is by the rate.
		want := []string{"0s a1", "0s a2", "0s a3", "100ms a4", "200ms a5", "300ms a6"}
		if !slices.Equal(got, want) {
			t.Errorf("\ngot  %q\nwant %q", got, want)
		}
	})
}

// TestThrottleBackpressure holds that no more is received than can be held, and
// that other keys go on until then.
func TestThrottleBackpressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := throttleLimiter(t, limits{"a": gcra.DenyAll()})
		ctx, cancel := context.WithCancel(t.Context())
		in := make(chan string)
		out := stream.Throttle(ctx, in, lim, firstLetter)
		for range 1023 {
			in <- "a"
		}
		in <- "b"
		if m := <-out; m != "b" {
			t.Errorf("received %q", m)
		}
		in <- "a"
		select {
		case in <- "b":
			t.Error("it took one more than 1024")
		case <-time.After(time.Hour):
		}
		cancel()
		if m, ok := <-out; ok {
			t.Errorf("received %q after the end", m)
		}
	})
}

// TestThrottleEnd holds that the end of the context closes the channel, and that
// the token of a message which nobody received is given back.
func TestThrottleEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := throttleLimiter(t, limits{"a": gcra.PerMinute(1).WithBurst(1)})
		ctx, cancel := context.WithCancel(t.Context())
		in := make(chan string, 2)
		in <- "a1"
		in <- "a2"
		out := stream.Throttle(ctx, in, lim, firstLetter)
		synctest.Wait()
		if d, err := lim.Check(t.Context(), "a", 0); err != nil || d.Remaining() != 0 {
			t.Errorf("%d tokens are left, %v", d.Remaining(), err)
		}
		cancel()
		synctest.Wait()
		if m, ok := <-out; ok {
			t.Errorf("received %q after the end", m)
		}
		if d, err := lim.Check(t.Context(), "a", 0); err != nil || d.Remaining() != 1 {
			t.Errorf("%d tokens are left, %v", d.Remaining(), err)
		}
	})
}

// TestThrottleEndsLate holds that a token which was spent long ago, and which others
// have had since, is not given back at the end.
func TestThrottleEndsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := throttleLimiter(t, limits{"a": gcra.PerSecond(1).WithBurst(1)})
		ctx, cancel := context.WithCancel(t.Context())
		in := make(chan string, 1)
		in <- "a1"
		out := stream.Throttle(ctx, in, lim, firstLetter)
		time.Sleep(time.Minute)
		if d, err := lim.Check(t.Context(), "a", 1); err != nil || !d.Allowed() {
			t.Errorf("%+v, %v", d, err)
		}
		cancel()
		for m := range out {
			t.Errorf("received %q after the end", m)
		}
		if d, err := lim.Check(t.Context(), "a", 1); err != nil || d.Allowed() {
			t.Errorf("two tokens of a second at once: %+v, %v", d, err)
		}
	})
}

// TestThrottleRaise holds that a key that is let through again is noticed.
func TestThrottleRaise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim, err := flux.New(flux.Config[string]{Limit: gcra.DenyAll()})
		if err != nil {
			t.Fatal(err)
		}
		out := stream.Throttle(t.Context(), feed("a1"), lim, firstLetter)
		time.Sleep(time.Hour + 500*time.Millisecond)
		if err := lim.SetDefault(gcra.PerSecond(1), 1); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		<-out
		if took := time.Since(begin); took != 500*time.Millisecond {
			t.Errorf("noticed after %v, want half a second", took)
		}
		if _, ok := <-out; ok {
			t.Error("it is not closed")
		}
	})
}

func TestThrottleNil(t *testing.T) {
	lim := throttleLimiter(t, nil)
	in, seq := make(chan string), slices.Values([]string{"a"})
	for want, call := range map[string]func(){
		"stream: Throttle: in is nil":         func() { stream.Throttle(t.Context(), nil, lim, firstLetter) },
		"stream: Throttle: limiter is nil":    func() { stream.Throttle(t.Context(), in, nil, firstLetter) },
		"stream: Throttle: key is nil":        func() { stream.Throttle[string, string](t.Context(), in, lim, nil) },
		"stream: ThrottleSeq: seq is nil":     func() { stream.ThrottleSeq(t.Context(), nil, lim, firstLetter) },
		"stream: ThrottleSeq: limiter is nil": func() { stream.ThrottleSeq(t.Context(), seq, (*flux.Limiter[string])(nil), firstLetter) },
		"stream: ThrottleSeq: key is nil":     func() { stream.ThrottleSeq[string, string](t.Context(), seq, lim, nil) },
	} {
		panics(t, want, call)
	}
}

// TestThrottleSeq holds that the iterator passes what the channel would, that it
// can be left early and used again, and that nothing is left running.
func TestThrottleSeq(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := throttleLimiter(t, limits{"a": gcra.PerSecond(2).WithBurst(1)})
		begin := time.Now()
		var got []string
		throttled := stream.ThrottleSeq(t.Context(), slices.Values([]string{"a1", "a2", "b1", "a3"}), lim, firstLetter)
		for m := range throttled {
			got = append(got, fmt.Sprintf("%v %s", time.Since(begin), m))
		}
		if want := []string{"0s a1", "0s b1", "500ms a2", "1s a3"}; !slices.Equal(got, want) {
			t.Errorf("\ngot  %q\nwant %q", got, want)
		}
		time.Sleep(time.Minute)
		for m := range throttled {
			if m == "b1" {
				break
			}
		}
		// An endless one that is left, and one whose context ends.
		endless := iter.Seq[string](func(yield func(string) bool) {
			for yield("b") {
				time.Sleep(time.Second)
			}
		})
		n := 0
		for range stream.ThrottleSeq(t.Context(), endless, lim, firstLetter) {
			if n++; n == 3 {
				break
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second+1)
		defer cancel()
		n = 0
		for range stream.ThrottleSeq(ctx, endless, lim, firstLetter) {
			n++
		}
		if n != 11 {
			t.Errorf("%d came within 10s, want 11", n)
		}
	})
}

func TestThrottleSeqPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer func() {
			if v := recover(); v == nil || !strings.Contains(fmt.Sprint(v), "out of range") {
				t.Errorf("panic %v", v)
			}
		}()
		broken := iter.Seq[string](func(yield func(string) bool) {
			yield("a1")
			panic("out of range")
		})
		n := 0
		for range stream.ThrottleSeq(t.Context(), broken, throttleLimiter(t, nil), firstLetter) {
			n++
		}
		t.Errorf("the loop ended after %d", n)
	})
}

// TestThrottleSeqGoexit holds that an iterator that ends its goroutine, as one
// that fails a test does, ends that of the loop instead of looking exhausted.
func TestThrottleSeqGoexit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := iter.Seq[string](func(yield func(string) bool) {
			yield("a1")
			runtime.Goexit()
		})
		n, left := 0, false
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for range stream.ThrottleSeq(t.Context(), broken, throttleLimiter(t, nil), firstLetter) {
				n++
			}
			left = true
		}()
		<-ended
		if n != 1 || left {
			t.Errorf("%d came, the loop was left: %t", n, left)
		}
	})
}
