package stream_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// supply is a source that delivers parcels and then waits for the end, or fails.
func supply(r *rig, err error, parcels ...*parcel) sourceFunc {
	return func(ctx context.Context, in stream.Intake[*parcel]) error {
		for _, p := range parcels {
			p.rig = r
			if err := in.Deliver(ctx, p); err != nil {
				return err
			}
		}
		if err != nil {
			time.Sleep(time.Second)
			return err
		}
		<-ctx.Done()
		for r.gate.Stats().Held > 0 {
			time.Sleep(time.Millisecond)
		}
		return ctx.Err()
	}
}

func TestJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, limits{"a": gcra.PerSecond(1)}, stream.Config[*parcel]{}, nil)
		r.end()
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		exhausted := sourceFunc(func(context.Context, stream.Intake[*parcel]) error { return nil })
		go func() {
			ended <- r.gate.Run(ctx, stream.Join[*parcel](
				supply(r, nil, &parcel{name: "1", tenant: "a"}), supply(r, nil, &parcel{name: "2", tenant: "a"}), exhausted,
			), func(context.Context, *parcel) error {
				r.note("run")
				return nil
			})
		}()
		time.Sleep(10 * time.Second)
		if got := r.gate.Stats(); got.Processed != 2 {
			t.Errorf("%+v", got)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// When one source fails, what the others have delivered is processed before the
// run ends with the error.
func TestJoinOfOneThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, limits{"a": gcra.PerSecond(1)}, stream.Config[*parcel]{}, nil)
		r.end()
		begin := time.Now()
		gone := errors.New("gone")
		parcels := named("a", 3)
		err := r.gate.Run(t.Context(), stream.Join[*parcel](supply(r, gone, parcels[0]), supply(r, nil, parcels[1:]...)),
			succeed)
		if !errors.Is(err, gone) || errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if got := r.gate.Stats(); got.Processed != 3 || got.Released != 0 || time.Since(begin).Round(time.Second) != 2*time.Second {
			t.Errorf("%+v after %v", got, time.Since(begin))
		}
	})
}

// An error that says that a context has ended is a failure like any other if it
// was not the context of the source.
func TestJoinOfOneWhoseContextEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil, stream.Config[*parcel]{}, nil)
		r.end()
		for _, fail := range []error{context.Canceled, context.DeadlineExceeded} {
			err := r.gate.Run(t.Context(), stream.Join[*parcel](supply(r, fail), supply(r, nil)), succeed)
			if !errors.Is(err, fail) {
				t.Errorf("Run = %v, want %v", err, fail)
			}
		}
	})
}

// All of what is joined must be able to defer for the whole to be.
func TestJoinCanDefer(t *testing.T) {
	f := sourceFunc(nil)
	for _, c := range []struct {
		src  stream.Source[*parcel]
		want bool
	}{
		{stream.Join[*parcel](f, f), true},
		{stream.Join[*parcel](f, cannotDefer{f}), false},
		{stream.Join(stream.Join[*parcel](f, cannotDefer{f}), f), false},
	} {
		if got := c.src.(stream.Deferrer).CanDefer(); got != c.want {
			t.Errorf("%v, want %v", got, c.want)
		}
	}
}
