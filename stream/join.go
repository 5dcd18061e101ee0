package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Join returns a source that delivers what several deliver, so that their
// messages share one gate: its limits, its workers and its window.
//
// It is exhausted when all of them are. When one fails the others are told to
// stop, what they have delivered is processed, and then its Run returns that
// error. It can defer if all of them can.
//
// Messages of one order key are taken in the order of their [Meta.Order], from
// whichever source they come. The positions in two logs say nothing of each other:
// where sources have logs of their own, all messages of a key must come from one of
// them, or [Config.OrderKey] return another key for each.
//
// Join panics if one of them is nil.
func Join[M any](sources ...Source[M]) Source[M] {
	for i, src := range sources {
		require("Join", src == nil, fmt.Sprintf("source %d", i))
	}
	return joined[M](slices.Clone(sources))
}

type joined[M any] []Source[M]

func (j joined[M]) Run(ctx context.Context, in Intake[M]) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	errs := make([]error, len(j))
	var wg sync.WaitGroup
	for i, src := range j {
		wg.Go(func() {
			// Also when the goroutine ends in the source.
			errs[i] = errGoexit
			defer func() {
				if errs[i] != nil {
					stop(fmt.Errorf("%w: another source failed", ErrStopped))
				}
			}()
			err := src.Run(ctx, in)
			if orderly(ctx, err) == nil {
				// It stopped because it was told to. The error of a context that
				// has not ended is its own.
				err = nil
			}
			errs[i] = err
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// CanDefer implements [Deferrer].
func (j joined[M]) CanDefer() bool {
	for _, src := range j {
		if d, ok := src.(Deferrer); ok && !d.CanDefer() {
			return false
		}
	}
	return true
}
