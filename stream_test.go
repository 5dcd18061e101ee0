package flux_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
)

func TestStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := func(key string) (own gcra.Limit) {
			if key == "quiet" {
				own = gcra.PerSecond(8).WithBurst(2)
			}
			return own
		}
		lim := newLimiter(t, flux.Config[string]{Limit: gcra.PerSecond(10).WithBurst(2), LimitFor: limits, MaxKeyWaiters: 4, MaxWaiters: 6})
		in := make(chan flux.Request[string])
		out := lim.Stream(t.Context(), in)
		go func() {
			defer close(in)
			for i := range 7 {
				in <- flux.Request[string]{Key: "noisy", N: 1, Value: i}
			}
			in <- flux.Request[string]{Key: "noisy", N: 3, Value: "oversize"}
			in <- flux.Request[string]{Key: "quiet", N: 2, Value: "quiet"}
			in <- flux.Request[string]{Key: "quiet", N: 1, Value: "quiet waits"}
		}()
		for _, want := range []struct {
			value any
			at    time.Duration
			err   error
		}{
			{0, 0, nil},
			{1, 0, nil},
			{6, 0, flux.ErrTooManyWaiters},
			{"oversize", 0, gcra.ErrExceedsBurst},
			{"quiet", 0, nil},
			{2, 100 * ms, nil},
			{"quiet waits", 125 * ms, nil},
			{3, 200 * ms, nil},
			{4, 300 * ms, nil},
			{5, 400 * ms, nil},
		} {
			res := <-out
			if res.Value != want.value || time.Duration(lim.Now()) != want.at || !errors.Is(res.Err, want.err) {
				t.Errorf("got %v at %v, %v; want %v at %v, %v", res.Value, time.Duration(lim.Now()), res.Err, want.value, want.at, want.err)
			}
			if spent := res.Spent; res.Err == nil && (spent != res.N || !res.Allowed()) || res.Err != nil && spent != 0 {
				t.Errorf("%v: %+v", res.Value, res)
			}
		}
		if res, ok := <-out; ok {
			t.Errorf("then %+v", res)
		}
		if !lim.Idle() {
			t.Error("something was left behind")
		}
	})
}

// What is not received is not spent, and what is not answered holds no place.
func TestStreamEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := newLimiter(t, flux.Config[string]{Limit: gcra.PerSecond(10)})
		ctx, cancel := context.WithCancel(t.Context())
		in := make(chan flux.Request[string], 10)
		for range 4 {
			in <- flux.Request[string]{Key: key, N: 4}
		}
		out := lim.Stream(ctx, in)
		<-out // 4 spent
		<-out // 4 more
		time.Sleep(time.Second)
		// The third and the fourth waited, and were granted after 200ms and
		// 600ms. Nobody took them.
		if d, _ := lim.Check(t.Context(), key, 0); d.ResetAfter != 600*ms {
			t.Errorf("debt = %v", d.ResetAfter)
		}
		cancel()
		synctest.Wait()
		if res, ok := <-out; ok {
			t.Errorf("one more answer: %+v", res)
		}
		if d, _ := lim.Check(t.Context(), key, 0); d.ResetAfter != 0 {
			t.Errorf("debt after the end = %v, want none", d.ResetAfter)
		}
		if !lim.Idle() {
			t.Error("something was left behind")
		}
	})
}

// A stream that ends while more is granted than anyone receives takes all of it
// back.
func TestStreamEndsWithManyAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 10_000
		lim := newLimiter(t, flux.Config[string]{Limit: gcra.PerHour(n)})
		_, _ = lim.Debt(t.Context(), key, n)
		for range 2 {
			ctx, cancel := context.WithCancel(t.Context())
			in := make(chan flux.Request[string], n)
			for range n {
				in <- flux.Request[string]{Key: key, N: 1}
			}
			out := lim.Stream(ctx, in)
			synctest.Wait()
			if err := lim.Refund(t.Context(), key, n); err != nil { // the turn of all
				t.Fatal(err)
			}
			const received = 100
			for i := range received {
				if res := <-out; res.Err != nil || res.Spent != 1 {
					t.Fatalf("answer %d: %+v", i, res)
				}
			}
			synctest.Wait()
			cancel()
			synctest.Wait()
			if d, _ := lim.Check(t.Context(), key, 0); d.Remaining() != n-received || !lim.Idle() {
				t.Errorf("%d left, want %d", d.Remaining(), n-received)
			}
			_, _ = lim.Debt(t.Context(), key, n-received)
		}
	})
}

// A stream reads no further while its answers are not received, and goes on when
// they are. Ended inputs, closed limiters and nil contexts are answered.
func TestStreamEdges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := newLimiter(t, flux.Config[string]{Limit: gcra.PerSecond(1000)})
		in := make(chan flux.Request[string], 100)
		for i := range 100 {
			in <- flux.Request[string]{Key: fmt.Sprint(i), N: 1}
		}
		close(in)
		var ctx context.Context
		out := lim.Stream(ctx, in)
		synctest.Wait()
		const ahead = 64 + 1 // answers in the channel, and on their way to it
		if len(in) != 100-ahead {
			t.Errorf("read %d requests with no one receiving, want %d", 100-len(in), ahead)
		}
		lim.Close()
		n := 0
		for res := range out {
			if n++; n > ahead && !errors.Is(res.Err, flux.ErrClosed) {
				t.Errorf("%+v", res)
			}
		}
		if n != 100 {
			t.Errorf("%d answers, want 100", n)
		}
	})
}

// What was answered and received belongs to the receiver alone, though others who
// were granted together with it are not received yet.
func TestStreamKeepsNoValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 200 // more than are sent ahead
		type value struct {
			number int
			_      [64]byte // too large to share its memory with another
		}
		lim := newLimiter(t, flux.Config[string]{Limit: gcra.PerSecond(1000).WithBurst(n)})
		if _, err := lim.Check(t.Context(), key, n); err != nil {
			t.Fatal(err)
		}
		in := make(chan flux.Request[string], n)
		var values [n]weak.Pointer[value]
		for i := range n {
			v := &value{number: i}
			values[i] = weak.Make(v)
			in <- flux.Request[string]{Key: key, N: 1, Value: v}
		}
		out := lim.Stream(t.Context(), in)
		synctest.Wait()
		lim.HoldTimers()
		time.Sleep(time.Second)
		lim.ReleaseTimers()
		for i := range n - 1 {
			if res := <-out; res.Err != nil || res.Value.(*value).number != i {
				t.Fatalf("answer %d: %+v", i, res)
			}
		}
		synctest.Wait()
		runtime.GC()
		for i, p := range values[:n-1] {
			if p.Value() != nil {
				t.Errorf("value %d is still kept", i)
			}
		}
		<-out
		close(in)
		<-out
	})
}
