package fluxnats_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
	"github.com/fluxlimiter/flux/stream"
)

// bare makes the source's streams, with a consumer that gives up after two
// deliveries, and returns that consumer.
func (e *env) bare(l fluxnats.Layout) (*fluxnats.Source, jetstream.Consumer) {
	e.Helper()
	l.AckWait = time.Second
	src := e.source(fluxnats.Config{}, l)
	config := e.info().Config
	e.must(e.js.DeleteConsumer(e.Context(), "S", "c"))
	config.MaxDeliver = 2
	con, err := e.js.CreateConsumer(e.Context(), "S", config)
	e.must(err)
	return src, con
}

// abandon takes what the consumer gives for some seconds and acknowledges
// nothing.
func (e *env) abandon(con jetstream.Consumer) {
	e.Helper()
	for range 5 {
		batch, err := con.FetchNoWait(1000)
		e.must(err)
		for range batch.Messages() {
		}
		time.Sleep(1100 * time.Millisecond)
	}
}

// watch begins a Watch.
func (e *env) watch(src *fluxnats.Source, cfg fluxnats.WatchConfig) *running {
	r := e.begin(func(ctx context.Context) error { return src.Watch(ctx, cfg) })
	time.Sleep(10 * time.Millisecond) // it has set up
	return r
}

func TestWatch(t *testing.T) {
	for name, c := range map[string]struct {
		retention jetstream.RetentionPolicy
		left      int
	}{"limits": {jetstream.LimitsPolicy, 20}, "work queue": {jetstream.WorkQueuePolicy, 0}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(e *env) {
				src, con := e.bare(fluxnats.Layout{Retention: c.retention})
				w := e.watch(src, fluxnats.WatchConfig{Create: true})
				for i := range 20 {
					e.send(&nats.Msg{Subject: fmt.Sprint("in.", i), Data: fmt.Append(nil, i), Header: nats.Header{"X": {"y"}, "Nats-Msg-Id": {fmt.Sprint("mine", i)}}})
				}
				e.abandon(con)
				w.stop()
				if got := src.Stats(); got.Abandoned != 20 || got.Gone != 0 || e.count("DLQ_S", ">") != 20 || e.count("S", ">") != c.left {
					t.Errorf("%+v, dead letters %d, left %d", got, e.count("DLQ_S", ">"), e.count("S", ">"))
				}
				dead, err := e.js.Stream(e.Context(), "DLQ_S")
				e.must(err)
				m, err := dead.GetMsg(e.Context(), 1)
				e.must(err)
				i := string(m.Data)
				for key, want := range map[string]string{
					"X": "y", "Flux-Reason": "max_deliveries", "Flux-Error": "delivered 2 times and not acknowledged", "Flux-Msg-Id": "mine" + i,
					"Flux-Subject": "in." + i, "Flux-Stream": "S", "Flux-Consumer": "c",
				} {
					if got := m.Header.Get(key); got != want {
						t.Errorf("%s: got %q, want %q", key, got, want)
					}
				}
			})
		})
	}
}

// Advisories wait while nobody watches, also through a restart of the server.
func TestWatchLater(t *testing.T) {
	bubble(t, func(e *env) {
		src, con := e.bare(fluxnats.Layout{})
		e.watch(src, fluxnats.WatchConfig{Create: true}).stop()
		e.publish(10)
		e.abandon(con)
		e.stop()
		time.Sleep(time.Second)
		e.start()
		time.Sleep(time.Hour)
		w := e.watch(e.newSource(fluxnats.Config{}), fluxnats.WatchConfig{})
		time.Sleep(10 * time.Second)
		w.stop()
		if n := e.count("DLQ_S", ">"); n != 10 {
			t.Errorf("%d dead letters", n)
		}
	})
}

// Several share the work; each message becomes one dead letter, through restarts
// of the server while they watch.
func TestWatchTogether(t *testing.T) {
	bubble(t, func(e *env) {
		_, con := e.bare(fluxnats.Layout{})
		var sources []*fluxnats.Source
		var watches []*running
		for range 3 {
			src := e.newSource(fluxnats.Config{})
			sources = append(sources, src)
			watches = append(watches, e.watch(src, fluxnats.WatchConfig{Create: true}))
		}
		e.publish(100)
		e.abandon(con)
		e.stop()
		time.Sleep(time.Second)
		e.start()
		time.Sleep(2 * time.Second)
		e.publish(100)
		e.abandon(con)
		time.Sleep(time.Minute)
		var abandoned int64
		for i, w := range watches {
			w.stop()
			abandoned += sources[i].Stats().Abandoned
		}
		if n := e.count("DLQ_S", ">"); n != 200 || abandoned < 200 {
			t.Errorf("%d dead letters, %d abandoned", n, abandoned)
		}
	})
}

// A dead letter whose confirmation is lost is stored once, and one that cannot be
// stored is stored later.
func TestWatchIsConfirmed(t *testing.T) {
	bubble(t, func(e *env) {
		_, con := e.bare(fluxnats.Layout{})
		var lost atomic.Int32
		l := line{after: func(b []byte) bool {
			return bytes.Contains(b, []byte("HPUB dlq.")) && lost.Add(1) == 1
		}}
		src := e.sourceOver(&l, fluxnats.Config{})
		w := e.watch(src, fluxnats.WatchConfig{Create: true})
		e.publish(5)
		e.abandon(con)
		time.Sleep(time.Minute)
		if n := e.count("DLQ_S", ">"); n != 5 || lost.Load() < 2 {
			t.Errorf("%d dead letters, %d sent", n, lost.Load())
		}
		dead, err := e.js.Stream(e.Context(), "DLQ_S")
		e.must(err)
		e.must(e.js.DeleteStream(e.Context(), "DLQ_S"))
		e.publish(5)
		e.abandon(con)
		_, err = e.js.CreateStream(e.Context(), dead.CachedInfo().Config)
		e.must(err)
		time.Sleep(time.Minute)
		w.stop()
		if n := e.count("DLQ_S", ">"); n != 5 {
			t.Errorf("%d dead letters after the stream was gone", n)
		}
	})
}

// What a client terminates becomes a dead letter, if that is wanted, and what
// the gate terminates is one already.
func TestWatchTerminated(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.source(fluxnats.Config{}, fluxnats.Layout{})
		w := e.watch(src, fluxnats.WatchConfig{Create: true, Terminated: true})
		e.publish(2)
		con, err := e.js.Consumer(e.Context(), "S", "c")
		e.must(err)
		batch, err := con.Fetch(2)
		e.must(err)
		for m := range batch.Messages() {
			e.must(m.TermWithReason("poison"))
		}
		time.Sleep(time.Second)
		e.publish(3)
		r := e.run(src, newIntake(4, func(ctx context.Context, d delivery) {
			e.must(d.DeadLetter(ctx, stream.Letter{Reason: stream.ReasonAttempts}))
		}))
		time.Sleep(time.Hour) // beyond the duplicate window
		r.stop()
		w.stop()
		if got := src.Stats(); got.Abandoned != 2 || e.count("DLQ_S", ">") != 5 {
			t.Errorf("%+v, %d dead letters", got, e.count("DLQ_S", ">"))
		}
		dead, err := e.js.Stream(e.Context(), "DLQ_S")
		e.must(err)
		m, err := dead.GetMsg(e.Context(), 1)
		e.must(err)
		if m.Header.Get("Flux-Reason") != "terminated" || m.Header.Get("Flux-Error") != "poison" {
			t.Error(m.Header)
		}
	})
}

// A message that is not there any more is counted, and an advisory that cannot be
// read stops nobody.
func TestWatchOddAdvisories(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.source(fluxnats.Config{}, fluxnats.Layout{})
		w := e.watch(src, fluxnats.WatchConfig{Create: true})
		before := time.Now()
		time.Sleep(time.Second)
		e.publish(2)
		const subject = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.S.c"
		for _, body := range []string{
			"", "{", `[]`, `{"stream":"S"}`, `{"stream":"T","consumer":"c","stream_seq":1}`, `{"stream":"S","consumer":"d","stream_seq":1}`,
			`{"stream":"S","consumer":"c","stream_seq":-1}`, `{"stream":"S","consumer":"c","stream_seq":1,"timestamp":"x"}`,
			strings.Repeat("x", 10000),
			`{"stream":"S","consumer":"c","stream_seq":99,"timestamp":"2000-01-01T00:00:00Z"}`,                          // it is gone
			fmt.Sprintf(`{"stream":"S","consumer":"c","stream_seq":1,"timestamp":%q}`, before.Format(time.RFC3339Nano)), // another one
			fmt.Sprintf(`{"stream":"S","consumer":"c","stream_seq":2,"timestamp":%q}`, time.Now().Format(time.RFC3339Nano)),
		} {
			e.send(&nats.Msg{Subject: subject, Data: []byte(body)})
		}
		time.Sleep(time.Minute)
		w.stop()
		if got := src.Stats(); got.Abandoned != 1 || got.Gone != 2 || e.count("DLQ_S", ">") != 1 || e.count("ADVISORIES_S_c", ">") != 0 {
			t.Errorf("%+v, dead letters %d, advisories %d", got, e.count("DLQ_S", ">"), e.count("ADVISORIES_S_c", ">"))
		}
	})
}

func TestWatchRefuses(t *testing.T) {
	bubble(t, func(e *env) {
		src := e.newSource(fluxnats.Config{})
		refused := func(cfg fluxnats.WatchConfig, want error, text string) {
			t.Helper()
			ctx, cancel := context.WithTimeout(e.Context(), time.Minute)
			defer cancel()
			if err := src.Watch(ctx, cfg); !errors.Is(err, want) || !strings.Contains(fmt.Sprint(err), text) {
				t.Errorf("%v, want %q", err, text)
			}
		}
		for _, name := range []string{"a.b", "S", "DLQ_{stream}", "x y"} {
			refused(fluxnats.WatchConfig{AdvisoryStream: name}, fluxnats.ErrInvalidConfig, fmt.Sprintf("AdvisoryStream = %q", name))
		}
		refused(fluxnats.WatchConfig{Create: true}, fluxnats.ErrSetup, "stream S: ")
		e.source(fluxnats.Config{}, fluxnats.Layout{})
		// It would confirm dead letters and throw them away.
		e.must(e.js.DeleteStream(e.Context(), "DLQ_S"))
		dead := jetstream.StreamConfig{Name: "DLQ_S", Subjects: []string{"dlq.S.c"}, Retention: jetstream.InterestPolicy}
		_, err := e.js.CreateStream(e.Context(), dead)
		e.must(err)
		refused(fluxnats.WatchConfig{Create: true}, fluxnats.ErrSetup, "dead-letter stream DLQ_S: Retention is Interest")
		e.must(e.js.DeleteStream(e.Context(), "DLQ_S"))
		dead.Retention = jetstream.LimitsPolicy
		_, err = e.js.CreateStream(e.Context(), dead)
		e.must(err)
		refused(fluxnats.WatchConfig{}, fluxnats.ErrSetup, "advisory stream ADVISORIES_S_c: ")
		adv, err := e.js.CreateStream(e.Context(), jetstream.StreamConfig{Name: "A", Subjects: []string{"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.S.other"}})
		e.must(err)
		refused(fluxnats.WatchConfig{AdvisoryStream: "A"}, fluxnats.ErrSetup, `"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.S.c"; add it`)
		config := adv.CachedInfo().Config
		config.Subjects = []string{"$JS.EVENT.ADVISORY.CONSUMER.>"}
		_, err = e.js.UpdateStream(e.Context(), config)
		e.must(err)
		refused(fluxnats.WatchConfig{AdvisoryStream: "A"}, fluxnats.ErrSetup, "consumer S-c of advisory stream A: ")
		for text, c := range map[string]jetstream.ConsumerConfig{
			"AckPolicy is AckNone": {AckPolicy: jetstream.AckNonePolicy},
			"MaxDeliver is 3":      {AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: 3},
			"filters are []":       {AckPolicy: jetstream.AckExplicitPolicy},
		} {
			c.Durable = "S-c"
			_, err := e.js.CreateConsumer(e.Context(), "A", c)
			e.must(err)
			refused(fluxnats.WatchConfig{AdvisoryStream: "A", Create: true}, fluxnats.ErrSetup, text)
			e.must(e.js.DeleteConsumer(e.Context(), "A", "S-c"))
		}
		// One that is deleted meanwhile ends it, as does the end of the connection.
		w := e.watch(src, fluxnats.WatchConfig{AdvisoryStream: "A", Create: true})
		e.must(e.js.DeleteConsumer(e.Context(), "A", "S-c"))
		if <-w.done; !errors.Is(w.err, jetstream.ErrConsumerDeleted) {
			t.Error(w.err)
		}
		nc := e.connect()
		js, err := jetstream.New(nc)
		e.must(err)
		w = e.watch(e.sourceOn(js, fluxnats.Config{}), fluxnats.WatchConfig{AdvisoryStream: "A", Create: true})
		nc.Close()
		if <-w.done; !errors.Is(w.err, nats.ErrConnectionClosed) {
			t.Error(w.err)
		}
	})
}
