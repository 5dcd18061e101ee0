package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/fluxlimiter/flux"
	"github.com/fluxlimiter/flux/gcra"
)

// redriveConfig says which dead letters to publish again, and how fast.
type redriveConfig struct {
	brokers        []string
	dialer         *kafka.Dialer
	from, group    string
	rate           int64
	tenant, reason string
	key            *regexp.Regexp
	dryRun         bool
	out            io.Writer
}

// result is how many dead letters were published and left out.
type result struct{ redriven, skipped int64 }

// batchSize is how many dead letters are published at once at most. They are
// committed together: what was published of a batch that failed is published
// again the next time.
const batchSize = 100

// quiet is how long to wait for a record that the end of a partition promises.
// It may not come: markers of transactions count, too. Nothing that was not seen
// is committed for that: the next run looks for it again.
const quiet = 5 * time.Second

// driver is a redrive under way.
type driver struct {
	redriveConfig
	client  *kafka.Client
	writer  *kafka.Writer
	limiter *flux.Limiter[string]
	total   int64 // dead letters to look at
	done    result
	told    time.Time
}

// redrive publishes those dead letters that are there now and that the config's
// filter lets through. Run one at a time for each group.
func redrive(ctx context.Context, cfg redriveConfig) (result, error) {
	if cfg.group == "" {
		cfg.group = cfg.from + ".redrive"
	}
	if cfg.dialer == nil {
		cfg.dialer = &kafka.Dialer{Timeout: 10 * time.Second}
	}
	limiter, err := flux.New(flux.Config[string]{Limit: gcra.PerSecond(cfg.rate).WithBurst(batchSize)})
	if err != nil {
		return result{}, fmt.Errorf("-rate %d: %w", cfg.rate, err)
	}
	transport := &kafka.Transport{Dial: cfg.dialer.DialFunc, TLS: cfg.dialer.TLS, SASL: cfg.dialer.SASLMechanism}
	defer transport.CloseIdleConnections()
	d := &driver{
		redriveConfig: cfg, limiter: limiter, told: time.Now(),
		client: &kafka.Client{Addr: kafka.TCP(cfg.brokers...), Transport: transport, Timeout: 10 * time.Second},
		writer: &kafka.Writer{
			Addr: kafka.TCP(cfg.brokers...), Transport: transport, Balancer: originBalancer{},
			RequiredAcks: kafka.RequireAll, BatchTimeout: time.Millisecond,
		},
	}
	defer func() { _ = d.writer.Close() }()

	from, to, err := d.bounds(ctx)
	if err != nil {
		return result{}, err
	}
	for p := range to {
		d.total += to[p] - from[p]
	}
	for p := range to {
		if err = d.partition(ctx, p, from[p], to[p]); err != nil {
			break
		}
	}
	d.tell()
	return d.done, err
}

// bounds returns where to begin and to end in each partition.
func (d *driver) bounds(ctx context.Context) (from, to []int64, err error) {
	meta, err := d.client.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{d.from}})
	if err != nil {
		return nil, nil, fmt.Errorf("-brokers %s: %w", strings.Join(d.brokers, ","), err)
	}
	if len(meta.Topics) != 1 || meta.Topics[0].Error != nil {
		return nil, nil, fmt.Errorf("-from %q: there is no such topic at %s", d.from, strings.Join(d.brokers, ","))
	}
	n := len(meta.Topics[0].Partitions)
	ids, requests := make([]int, n), make([]kafka.OffsetRequest, 0, 2*n)
	for p := range n {
		ids[p] = p
		requests = append(requests, kafka.FirstOffsetOf(p), kafka.LastOffsetOf(p))
	}
	edges, err := d.client.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{d.from: requests}})
	if err != nil {
		return nil, nil, err
	}
	committed, err := d.client.OffsetFetch(ctx, &kafka.OffsetFetchRequest{GroupID: d.group, Topics: map[string][]int{d.from: ids}})
	if err != nil {
		return nil, nil, err
	}
	from, to = make([]int64, n), make([]int64, n)
	for _, e := range edges.Topics[d.from] {
		if e.Error != nil {
			return nil, nil, e.Error
		}
		from[e.Partition], to[e.Partition] = e.FirstOffset, e.LastOffset
	}
	for _, c := range committed.Topics[d.from] {
		if c.Error != nil {
			return nil, nil, c.Error
		}
		from[c.Partition] = min(max(from[c.Partition], c.CommittedOffset), to[c.Partition])
	}
	return from, to, nil
}

// partition redrives what one partition has from an offset up to another.
func (d *driver) partition(ctx context.Context, p int, from, to int64) error {
	if from >= to {
		return nil
	}
	r := kafka.NewReader(kafka.ReaderConfig{Brokers: d.brokers, Dialer: d.dialer, Topic: d.from, Partition: p, MaxWait: 100 * time.Millisecond})
	defer func() { _ = r.Close() }()
	if err := r.SetOffset(from); err != nil {
		return err
	}
	var batch []kafka.Message
	for next := from; next < to; {
		short, cancel := context.WithTimeout(ctx, quiet)
		letter, err := r.FetchMessage(short)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, context.DeadlineExceeded):
			_, _ = fmt.Fprintf(d.out, "%s: partition %d gave nothing for %v: stopped at offset %d of %d\n", d.from, p, quiet, next, to)
			to = next
		case err != nil:
			return err
		case letter.Offset >= to:
			next = to
		default:
			next = letter.Offset + 1
			if m, ok := d.original(&letter); ok {
				batch = append(batch, m)
			} else {
				d.done.skipped++
			}
		}
		if len(batch) == batchSize || next == to {
			if err := d.publish(ctx, batch); err != nil {
				return err
			}
			if err := d.commit(ctx, p, next); err != nil {
				return err
			}
			batch = batch[:0]
		}
		if time.Since(d.told) >= time.Second {
			d.tell()
		}
	}
	return nil
}

// publish waits until the rate allows a batch and publishes it.
func (d *driver) publish(ctx context.Context, batch []kafka.Message) error {
	if len(batch) == 0 {
		return nil
	}
	if !d.dryRun {
		if err := d.limiter.Wait(ctx, "", int64(len(batch))); err != nil {
			return err
		}
		if err := d.writer.WriteMessages(ctx, batch...); err != nil {
			return err
		}
	}
	d.done.redriven += int64(len(batch))
	return nil
}

func (d *driver) commit(ctx context.Context, p int, offset int64) error {
	if d.dryRun {
		return nil
	}
	res, err := d.client.OffsetCommit(ctx, &kafka.OffsetCommitRequest{
		GroupID: d.group, GenerationID: -1, Topics: map[string][]kafka.OffsetCommit{d.from: {{Partition: p, Offset: offset}}},
	})
	if err != nil {
		return err
	}
	for _, c := range res.Topics[d.from] {
		err = errors.Join(err, c.Error)
	}
	return err
}

// tell prints the progress line.
func (d *driver) tell() {
	d.told = time.Now()
	verb := "redriven"
	if d.dryRun {
		verb = "would be redriven"
	}
	_, _ = fmt.Fprintf(d.out, "%s: %d of %d %s, %d skipped\n", d.from, d.done.redriven, d.total, verb, d.done.skipped)
}

// Headers that flux and KIP-1191 give a dead letter.
const (
	fluxPrefix = "flux-"
	kipPrefix  = "__dlq.errors."
)

// original returns the message that a dead letter was, to be published where it
// was read. ok is false for one that the filter leaves out, or that does not say
// where it came from.
func (d *driver) original(letter *kafka.Message) (m kafka.Message, ok bool) {
	facts := make(map[string]string)
	// It is published now: its old age might kill it again.
	m = kafka.Message{Key: letter.Key, Value: letter.Value, Time: time.Now()}
	for _, h := range letter.Headers {
		if strings.HasPrefix(h.Key, fluxPrefix) || strings.HasPrefix(h.Key, kipPrefix) {
			facts[h.Key] = string(h.Value)
		} else {
			m.Headers = append(m.Headers, h)
		}
	}
	m.Topic = facts[kipPrefix+"topic"]
	partition, err := strconv.Atoi(facts[kipPrefix+"partition"])
	if m.Topic == "" || err != nil {
		return m, false
	}
	m.WriterData = partition
	return m, (d.tenant == "" || facts["flux-tenant"] == d.tenant) &&
		(d.reason == "" || facts["flux-reason"] == d.reason) &&
		(d.key == nil || d.key.Match(letter.Key))
}

// originBalancer sends a message to the partition that it came from.
type originBalancer struct{}

func (originBalancer) Balance(m kafka.Message, partitions ...int) int {
	if p, ok := m.WriterData.(int); ok && slices.Contains(partitions, p) {
		return p
	}
	return (&kafka.Hash{}).Balance(m, partitions...)
}
