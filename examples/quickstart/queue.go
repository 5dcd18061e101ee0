package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/examples/internal/natsnode"
)

const (
	streamName   = "FLUX_QUICKSTART"
	deadName     = "FLUX_QUICKSTART_DEAD"
	consumerName = "worker"
	subject      = "flux.quickstart.jobs"

	tenantHeader = "Tenant" // whose message it is
	sentHeader   = "Sent"   // when it was sent, in nanoseconds since the run's start

	answerTimeout = 5 * time.Second
)

// queue is the stream that the workload goes through, its consumer and its dead
// letters.
type queue struct {
	js      jetstream.JetStream
	where   string // the server, for messages to the reader
	source  *fluxnats.Source
	created fluxnats.Created
	failed  atomic.Pointer[error] // of the first message that could not be published
}

// openQueue creates what does not exist of the queue. It refuses one that has
// another configuration, holds messages, or is in use.
func openQueue(ctx context.Context, node *natsnode.Node) (*queue, error) {
	q := &queue{where: node.Where}
	var err error
	q.js, err = jetstream.New(node.Conn,
		jetstream.WithPublishAsyncTimeout(answerTimeout),
		jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, m *nats.Msg, err error) {
			err = fmt.Errorf("publishing to %s: %w", m.Subject, err)
			q.failed.CompareAndSwap(nil, &err)
		}))
	if err != nil {
		return nil, err
	}
	q.source, err = fluxnats.New(q.js, fluxnats.Config{Stream: streamName, Consumer: consumerName, DeadLetterStream: deadName})
	if err != nil {
		return nil, err
	}
	q.created, err = q.source.Provision(ctx, fluxnats.Layout{
		Subjects:  []string{subject + ".*"},
		Retention: jetstream.WorkQueuePolicy, // so that what is in the stream is what is not done
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", node.Where, err)
	}
	if err := q.refuseUsed(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", node.Where, err), q.deleteCreated(ctx))
	}
	return q, nil
}

// note says what was created.
func (q *queue) note() string {
	var made []string
	if q.created.Stream {
		made = append(made, "stream "+streamName)
	}
	if q.created.Consumer {
		made = append(made, "consumer "+consumerName)
	}
	if q.created.DeadLetters {
		made = append(made, "stream "+deadName)
	}
	if len(made) == 0 {
		return fmt.Sprintf("Using streams %s and %s at %s, which were there; they are emptied at the end.", streamName, deadName, q.where)
	}
	return fmt.Sprintf("Created %s at %s; deleted again at the end.", strings.Join(made, ", "), q.where)
}

// refuseUsed returns an error if the queue is not as good as new. It looks for
// another run first: what that has in the streams must not be removed.
func (q *queue) refuseUsed(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	consumer, err := q.js.Consumer(ctx, streamName, consumerName)
	if err != nil {
		return fmt.Errorf("looking at consumer %s of stream %s: %w", consumerName, streamName, err)
	}
	if consumer.CachedInfo().NumWaiting > 0 {
		return fmt.Errorf("consumer %s of stream %s is in use: is another quickstart running?", consumerName, streamName)
	}
	left, dead, err := q.count(ctx)
	if err != nil {
		return err
	}
	if left > 0 || dead > 0 {
		return fmt.Errorf("stream %s holds %s and stream %s holds %s: if an earlier run left them, remove both with nats stream rm",
			streamName, messages(left), deadName, messages(dead))
	}
	return nil
}

// publish sends one message for a tenant and does not wait until the server has
// it: flush does.
func (q *queue) publish(tenant string, sent time.Duration) error {
	if err := q.failed.Load(); err != nil {
		return *err
	}
	m := nats.NewMsg(subject + "." + tenant)
	if tenant == noTenant {
		m.Subject = subject + ".nobody"
	} else {
		m.Header.Set(tenantHeader, tenant)
	}
	m.Header.Set(sentHeader, strconv.FormatInt(int64(sent), 10))
	if _, err := q.js.PublishMsgAsync(m, jetstream.WithStallWait(answerTimeout)); err != nil {
		return fmt.Errorf("publishing to %s: %w", m.Subject, err)
	}
	return nil
}

// flush waits until the server has everything that was published.
func (q *queue) flush() error {
	<-q.js.PublishAsyncComplete() // bounded by the timeout of each publication
	if err := q.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// tenantOf returns the tenant that a message belongs to.
func tenantOf(m *fluxnats.Msg) string { return m.Headers().Get(tenantHeader) }

// sentAt returns when a message was sent, counted from the run's start.
func sentAt(m *fluxnats.Msg) time.Duration {
	ns, _ := strconv.ParseInt(m.Headers().Get(sentHeader), 10, 64)
	return time.Duration(ns)
}

// count asks the server how many messages are in the stream, delivered or not,
// deferred ones included, and how many dead letters there are.
func (q *queue) count(ctx context.Context) (left, dead int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	counts := make([]int64, 0, 2)
	for _, name := range []string{streamName, deadName} {
		s, err := q.js.Stream(ctx, name)
		if err != nil {
			return 0, 0, fmt.Errorf("looking at stream %s: %w", name, err)
		}
		counts = append(counts, int64(s.CachedInfo().State.Msgs))
	}
	return counts[0], counts[1], nil
}

// account completes the report with what the streams say. The server applies
// acknowledgements a moment after they arrive, so the first look may be too
// early: a message that is lost, or handled twice, stays so at the last one.
func (q *queue) account(ctx context.Context, r *report) error {
	for range 50 {
		left, dead, err := q.count(ctx)
		if err != nil {
			return err
		}
		if r.account(left, dead); r.unaccounted == 0 || !sleep(ctx, 20*time.Millisecond) {
			break
		}
	}
	return nil
}

// close leaves the server as it was: it deletes what was created and empties
// what was there before.
func (q *queue) close(ctx context.Context) error {
	err := q.deleteCreated(ctx)
	for _, s := range []struct {
		name    string
		created bool
	}{{streamName, q.created.Stream}, {deadName, q.created.DeadLetters}} {
		if !s.created {
			err = errors.Join(err, q.purge(ctx, s.name))
		}
	}
	return err
}

func (q *queue) deleteCreated(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	var left []string
	var last error
	attempt := func(what string, err error) {
		if err != nil {
			left, last = append(left, what), err
		}
	}
	if q.created.Stream {
		attempt("stream "+streamName, q.js.DeleteStream(ctx, streamName))
	} else if q.created.Consumer {
		attempt("consumer "+consumerName, q.js.DeleteConsumer(ctx, streamName, consumerName))
	}
	if q.created.DeadLetters {
		attempt("stream "+deadName, q.js.DeleteStream(ctx, deadName))
	}
	if last != nil {
		return fmt.Errorf("left at %s: %s: cannot delete: %w", q.where, strings.Join(left, ", "), last)
	}
	return nil
}

func (q *queue) purge(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	s, err := q.js.Stream(ctx, name)
	if err == nil {
		err = s.Purge(ctx)
	}
	if err != nil {
		return fmt.Errorf("%s: emptying stream %s: %w", q.where, name, err)
	}
	return nil
}
