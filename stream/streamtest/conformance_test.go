package streamtest_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux/stream"
	"github.com/fluxlimiter/flux/stream/streamtest"
)

// TestBroker holds that the broker of this package keeps the contract that it
// is used to test others with.
func TestBroker(t *testing.T) {
	for name, cfg := range map[string]streamtest.Config{
		"plain":      {},
		"partitions": {Partitions: 3},
		"eager":      {Eager: true},
		"tail":       {Tail: true, Order: streamtest.Kept},
	} {
		t.Run(name, func(t *testing.T) {
			streamtest.TestSource(t, func(t *testing.T, test func(*testing.T, streamtest.Fixture[*streamtest.Message])) {
				t.Helper()
				synctest.Test(t, func(t *testing.T) { test(t, fixture(streamtest.NewBroker(cfg))) })
			})
		})
	}
}

func fixture(b *streamtest.Broker) streamtest.Fixture[*streamtest.Message] {
	n := 0
	return streamtest.Fixture[*streamtest.Message]{
		Source: b,
		Publish: func(body string) error {
			n++
			b.Publish(streamtest.Message{Tenant: body, Partition: n % b.Partitions()})
			return nil
		},
		Body: func(m *streamtest.Message) string { return m.Tenant },
		DeadLetters: func() (bodies []string, err error) {
			for _, e := range b.History() {
				if e.Kind == streamtest.DeadLettered {
					bodies = append(bodies, e.Message.Tenant)
				}
			}
			return bodies, nil
		},
		Revoke: func() error {
			for i := range b.Partitions() {
				b.Revoke(i)
			}
			return nil
		},
	}
}

// defects are ways in which a source can be wrong, and the test of TestSource
// that finds each.
var defects = map[string]string{
	"twice":     "delivers_each_message_once",
	"deaf":      "lets_go_of_what_is_acknowledged",
	"impatient": "waits_for_room",
	"hasty":     "defers_until_it_is_time",
	"forgetful": "keeps_counts_through_a_redelivery",
	"careless":  "moves_dead_letters",
	"grudging":  "redelivers_what_is_released",
	"mute":      "revokes",
	"abrupt":    "ends_when_all_it_delivered_is_let_go",
	"lossy":     "keeps_what_the_gate_refuses",
	"obedient":  "settles_what_it_delivered_before_an_end",
}

const defectOf = "STREAMTEST_DEFECT"

// TestSpoiled fails if it is told to have a defect, see TestSourceFindsDefects.
func TestSpoiled(t *testing.T) {
	defect := os.Getenv(defectOf)
	streamtest.TestSource(t, func(t *testing.T, test func(*testing.T, streamtest.Fixture[*streamtest.Message])) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			b := streamtest.NewBroker(streamtest.Config{})
			f := fixture(b)
			f.Source = &spoiled{b, defect}
			test(t, f)
		})
	})
}

// TestSourceFindsDefects runs TestSpoiled with each defect in another process,
// where it must fail.
func TestSourceFindsDefects(t *testing.T) {
	for defect, finder := range defects {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestSpoiled$/^"+finder+"$")
		cmd.Env = append(os.Environ(), defectOf+"="+defect)
		out, err := cmd.CombinedOutput()
		if failed := (*exec.ExitError)(nil); !errors.As(err, &failed) || !strings.Contains(string(out), "--- FAIL: TestSpoiled/"+finder) {
			t.Errorf("a source that is %s passes %s: %v\n%s", defect, finder, err, out)
		}
	}
}

// spoiled is a broker with a defect, and the intake between it and the gate.
type spoiled struct {
	*streamtest.Broker
	defect string
}

type spoiledIntake struct {
	stream.Intake[*streamtest.Message]
	defect string
	ctx    context.Context //nolint:containedctx // of the run
}

func (s *spoiled) Run(ctx context.Context, in stream.Intake[*streamtest.Message]) error {
	ended := make(chan error, 1)
	go func() { ended <- s.Broker.Run(ctx, &spoiledIntake{in, s.defect, ctx}) }()
	if s.defect == "abrupt" {
		<-ctx.Done()
		return nil
	}
	return <-ended
}

func (in *spoiledIntake) Room(ctx context.Context, most int) (int, error) {
	if in.defect == "impatient" {
		return 1, nil
	}
	return in.Intake.Room(ctx, most)
}

func (in *spoiledIntake) Deliver(ctx context.Context, deliveries ...stream.Delivery[*streamtest.Message]) error {
	for i, d := range deliveries {
		if err := in.deliver(ctx, d); err != nil {
			for _, d := range deliveries[i+1:] {
				d.Release()
			}
			return err
		}
	}
	return nil
}

func (in *spoiledIntake) deliver(ctx context.Context, d stream.Delivery[*streamtest.Message]) error {
	if in.defect == "impatient" { // and drops what there is no room for
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Millisecond)
		defer cancel()
	}
	spoiled := &spoiledDelivery{Delivery: d, in: in}
	err := in.Intake.Deliver(ctx, spoiled)
	spoiled.taken.Store(err == nil)
	switch {
	case err == nil && in.defect == "twice":
		return in.Intake.Deliver(ctx, &spoiledDelivery{Delivery: d, in: in})
	case err != nil && (in.defect == "lossy" || in.defect == "impatient"):
		return nil
	}
	return err
}

type spoiledDelivery struct {
	stream.Delivery[*streamtest.Message]
	in    *spoiledIntake
	taken atomic.Bool
}

func (d *spoiledDelivery) Ack(ctx context.Context) error {
	switch {
	case d.in.defect == "deaf":
		d.Delivery.Release()
		return nil
	case d.in.defect == "obedient" && d.in.ctx.Err() != nil:
		d.Delivery.Release()
		return d.in.ctx.Err()
	}
	return d.Delivery.Ack(ctx)
}

func (d *spoiledDelivery) Defer(ctx context.Context, to stream.Deferral) error {
	switch d.in.defect {
	case "hasty":
		to.Until = time.Now()
	case "forgetful":
		to.Attempts, to.Deferrals = 0, 0
	}
	return d.Delivery.Defer(ctx, to)
}

func (d *spoiledDelivery) DeadLetter(ctx context.Context, l stream.Letter) error {
	if d.in.defect == "careless" {
		return d.Delivery.Ack(ctx)
	}
	return d.Delivery.DeadLetter(ctx, l)
}

func (d *spoiledDelivery) Release() {
	refused := !d.taken.Load() && (d.in.defect == "lossy" || d.in.defect == "impatient")
	if d.in.defect == "grudging" || refused {
		_ = d.Delivery.Ack(context.Background())
		return
	}
	d.Delivery.Release()
}

func (d *spoiledDelivery) Revoked() <-chan struct{} {
	if d.in.defect == "mute" {
		return nil
	}
	return d.Delivery.Revoked()
}
