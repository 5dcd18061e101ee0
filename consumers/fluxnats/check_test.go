package fluxnats_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
)

// setup is a stream, a consumer and a dead-letter stream that are as they must be.
func setup() (s jetstream.StreamConfig, c jetstream.ConsumerConfig, dead jetstream.StreamConfig) {
	s = jetstream.StreamConfig{Name: "S", Subjects: []string{"in.>", "flux.defer.>"}, AllowMsgSchedules: true}
	c = jetstream.ConsumerConfig{Durable: "c", FilterSubject: "in.>", AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: -1}
	return s, c, jetstream.StreamConfig{Name: "DLQ_S", Subjects: []string{"dlq.>"}}
}

type (
	streamConfig   = jetstream.StreamConfig
	consumerConfig = jetstream.ConsumerConfig
)

func TestRunRefusesAnUnfitSetup(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(s *streamConfig, c *consumerConfig, dead *streamConfig)
		others []consumerConfig
		cfg    fluxnats.Config
		want   []string // in the error; none if the setup is fit
	}{
		{name: "as it must be"},
		{
			name:   "no stream",
			change: func(s *streamConfig, _ *consumerConfig, _ *streamConfig) { s.Name = "" },
			want:   []string{"stream S: ", "stream not found", "Provision"},
		},
		{
			name:   "no consumer",
			change: func(_ *streamConfig, c *consumerConfig, _ *streamConfig) { c.Durable = "" },
			want:   []string{"consumer c of stream S", "consumer not found", "Provision"},
		},
		{
			name:   "no dead-letter stream",
			change: func(_ *streamConfig, _ *consumerConfig, d *streamConfig) { d.Name = "" },
			want:   []string{"dead-letter stream DLQ_S", "stream not found"},
		},
		{
			name:   "push consumer",
			change: func(_ *streamConfig, c *consumerConfig, _ *streamConfig) { c.DeliverSubject = "to" },
			want:   []string{"consumer c of stream S pushes", "DeliverSubject"},
		},
		{
			name:   "no acknowledgements",
			change: func(_ *streamConfig, c *consumerConfig, _ *streamConfig) { c.AckPolicy = jetstream.AckNonePolicy },
			want:   []string{"AckPolicy is AckNone", "AckExplicitPolicy"},
		},
		{
			name:   "acknowledgements of all before",
			change: func(_ *streamConfig, c *consumerConfig, _ *streamConfig) { c.AckPolicy = jetstream.AckAllPolicy },
			want:   []string{"AckPolicy is AckAll"},
		},
		{
			name:   "not durable",
			change: func(_ *streamConfig, c *consumerConfig, _ *streamConfig) { c.Durable, c.Name = "", "c" },
			want:   []string{"consumer c is not durable"},
		},
		{
			name:   "MaxDeliver",
			change: func(_ *streamConfig, c *consumerConfig, _ *streamConfig) { c.MaxDeliver = 5 },
			want:   []string{"MaxDeliver is 5", "AllowMaxDeliver"},
		},
		{
			name:   "MaxDeliver allowed",
			change: func(_ *streamConfig, c *consumerConfig, _ *streamConfig) { c.MaxDeliver = 5 },
			cfg:    fluxnats.Config{AllowMaxDeliver: true},
		},
		{
			name: "BackOff",
			change: func(_ *streamConfig, c *consumerConfig, _ *streamConfig) {
				c.BackOff = []time.Duration{time.Second, time.Minute}
			},
			want: []string{"BackOff is [1s 1m0s]"},
		},
		{
			name:   "headers only",
			change: func(_ *streamConfig, c *consumerConfig, _ *streamConfig) { c.HeadersOnly = true },
			want:   []string{"HeadersOnly is set"},
		},
		{
			name: "priority groups",
			change: func(_ *streamConfig, c *consumerConfig, _ *streamConfig) {
				c.PriorityPolicy, c.PriorityGroups = jetstream.PriorityPolicyOverflow, []string{"a"}
			},
			want: []string{"PriorityPolicy"},
		},
		{
			name:   "short AckWait",
			change: func(_ *streamConfig, c *consumerConfig, _ *streamConfig) { c.AckWait = 10 * time.Millisecond },
			want:   []string{"AckWait is 10ms", "100ms"},
		},
		{
			name:   "short requests",
			change: func(_ *streamConfig, c *consumerConfig, _ *streamConfig) { c.MaxRequestExpires = time.Millisecond },
			want:   []string{"MaxRequestExpires is 1ms"},
		},
		{
			name:   "no schedules",
			change: func(s *streamConfig, _ *consumerConfig, _ *streamConfig) { s.AllowMsgSchedules = false },
			want:   []string{"AllowMsgSchedules is not set", "2.12", "NakDeferrals"},
		},
		{
			name:   "no schedules needed",
			change: func(s *streamConfig, _ *consumerConfig, _ *streamConfig) { s.AllowMsgSchedules = false },
			cfg:    fluxnats.Config{NakDeferrals: true},
		},
		{
			name:   "interest",
			change: func(s *streamConfig, _ *consumerConfig, _ *streamConfig) { s.Retention = jetstream.InterestPolicy },
			want:   []string{"Retention is Interest"},
		},
		{
			name:   "work queue",
			change: func(s *streamConfig, _ *consumerConfig, _ *streamConfig) { s.Retention = jetstream.WorkQueuePolicy },
		},
		{
			name:   "MaxAge",
			change: func(s *streamConfig, _ *consumerConfig, _ *streamConfig) { s.MaxAge = time.Hour },
			want:   []string{"MaxAge is 1h0m0s", "AllowMsgTTL"},
		},
		{
			name:   "MaxAge and TTLs",
			change: func(s *streamConfig, _ *consumerConfig, _ *streamConfig) { s.MaxAge, s.AllowMsgTTL = time.Hour, true },
		},
		{
			name:   "one message a subject",
			change: func(s *streamConfig, _ *consumerConfig, _ *streamConfig) { s.MaxMsgsPerSubject = 1 },
			want:   []string{"MaxMsgsPerSubject is 1", "ReturnSubject"},
		},
		{
			name: "transformed subjects",
			change: func(s *streamConfig, _ *consumerConfig, _ *streamConfig) {
				s.SubjectTransform = &jetstream.SubjectTransformConfig{Source: "in.*", Destination: "in.x.$1"}
			},
			want: []string{"SubjectTransform"},
		},
		{
			name:   "no confirmations",
			change: func(s *streamConfig, _ *consumerConfig, d *streamConfig) { s.NoAck, d.NoAck = true, true },
			want:   []string{"stream S: NoAck is set", "dead-letter stream DLQ_S: NoAck is set"},
		},
		{
			name:   "no room for copies",
			change: func(s *streamConfig, _ *consumerConfig, _ *streamConfig) { s.Subjects = []string{"in.>"} },
			want:   []string{`["in.>"]`, `add "flux.defer.S.c.*"`},
		},
		{
			name:   "no filter",
			change: func(_ *streamConfig, c *consumerConfig, _ *streamConfig) { c.FilterSubject = "" },
			want:   []string{"consumer c: it has no filter"},
		},
		{
			name: "a filter too wide",
			change: func(_ *streamConfig, c *consumerConfig, _ *streamConfig) {
				c.FilterSubject, c.FilterSubjects = "", []string{"in.>", "*.defer.>"}
			},
			want: []string{`its filter "*.defer.>"`, `"flux.defer.S.c.*"`},
		},
		{
			name:   "no room for dead letters",
			change: func(_ *streamConfig, _ *consumerConfig, d *streamConfig) { d.Subjects = []string{"dlq.S.other"} },
			want:   []string{`dead-letter stream DLQ_S: its subjects ["dlq.S.other"]`, `"dlq.S.c"`},
		},
		{
			name:   "dead letters that nobody keeps",
			change: func(_ *streamConfig, _ *consumerConfig, d *streamConfig) { d.Retention = jetstream.InterestPolicy },
			want:   []string{"dead-letter stream DLQ_S: Retention is Interest", "use Limits"},
		},
		{
			name: "a filter of a work queue too wide",
			change: func(s *streamConfig, c *consumerConfig, _ *streamConfig) {
				s.Retention, c.FilterSubject = jetstream.WorkQueuePolicy, ">"
			},
			want: []string{`its filter ">" takes in the copies that wait to be due`, `"flux.defer.S.c.*"`},
		},
		{
			name:   "another consumer of a work queue",
			change: func(s *streamConfig, _ *consumerConfig, _ *streamConfig) { s.Retention = jetstream.WorkQueuePolicy },
			others: []consumerConfig{{Durable: "o", FilterSubject: "flux.>", AckPolicy: jetstream.AckExplicitPolicy}},
			cfg:    fluxnats.Config{AllowSharedCopies: true},
			want:   []string{`consumer o of stream S reads "flux.>"`, `"flux.defer.S.c.*"`, "deleted from a work queue", "NakDeferrals"},
		},
		{
			name:   "another consumer of the same",
			others: []consumerConfig{{Durable: "o", FilterSubject: "in.a.>"}, {Durable: "p", FilterSubject: "flux.other"}},
			want:   []string{`consumer o of stream S reads "in.a.>"`, `"in.>"`, "ReturnSubject", "AllowSharedCopies"},
		},
		{
			name:   "another consumer of everything",
			others: []consumerConfig{{Durable: "o"}},
			cfg:    fluxnats.Config{ReturnSubject: "in.back"},
			want:   []string{`consumer o of stream S reads ">"`, `"in.back.*"`, `"flux.defer.S.c.*"`},
		},
		{
			name:   "other consumers allowed",
			others: []consumerConfig{{Durable: "o"}},
			cfg:    fluxnats.Config{AllowSharedCopies: true},
		},
		{
			name:   "no schedules, any consumers",
			others: []consumerConfig{{Durable: "o"}},
			cfg:    fluxnats.Config{NakDeferrals: true},
		},
		{
			name:   "return subject",
			others: []consumerConfig{{Durable: "o", FilterSubject: "in.a"}},
			change: func(_ *streamConfig, c *consumerConfig, _ *streamConfig) {
				c.FilterSubject, c.FilterSubjects = "", []string{"in.a", "in.back.>"}
			},
			cfg: fluxnats.Config{ReturnSubject: "in.back"},
		},
		{
			name: "return subject that nobody reads",
			cfg:  fluxnats.Config{ReturnSubject: "back.{consumer}"},
			want: []string{`stream S: its subjects`, `add "back.c.*"`, `consumer c: its filters ["in.>"]`},
		},
		{
			name: "all at once",
			change: func(s *streamConfig, c *consumerConfig, d *streamConfig) {
				s.AllowMsgSchedules, c.MaxDeliver, d.Subjects = false, 5, []string{"no"}
			},
			want: []string{"AllowMsgSchedules", "MaxDeliver is 5", "dlq.S.c"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(e *env) {
				s, con, dead := setup()
				if c.change != nil {
					c.change(&s, &con, &dead)
				}
				for _, sc := range []streamConfig{s, dead} {
					if sc.Name == "" {
						continue
					}
					if _, err := e.js.CreateStream(e.Context(), sc); err != nil {
						t.Fatal(err)
					}
				}
				for _, cc := range append(c.others, con) {
					if s.Name == "" || cc.Durable == "" && cc.Name == "" {
						continue
					}
					create := func() error { _, err := e.js.CreateConsumer(e.Context(), "S", cc); return err }
					if cc.DeliverSubject != "" {
						create = func() error { _, err := e.js.CreatePushConsumer(e.Context(), "S", cc); return err }
					}
					if err := create(); err != nil {
						t.Fatal(err)
					}
				}
				ctx, cancel := context.WithTimeout(e.Context(), 3*time.Second)
				defer cancel()
				err := e.newSource(c.cfg).Run(ctx, newIntake(64, func(ctx context.Context, d delivery) { e.must(d.Ack(ctx)) }))
				if len(c.want) == 0 {
					if err != nil {
						t.Errorf("Run: %v", err)
					}
					return
				}
				if !errors.Is(err, fluxnats.ErrSetup) {
					t.Fatalf("Run: %v", err)
				}
				for _, want := range c.want {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("no word of %s in: %v", want, err)
					}
				}
			})
		})
	}
}
