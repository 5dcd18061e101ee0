package fluxkafka

import (
	"context"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/fluxlimiter/flux/stream"
)

// Headers of this package. Times are milliseconds since 1970, all values text.
const (
	headerPrefix = "flux-"

	headerID        = "flux-id" // group, origin and counts: the same for every try to publish the same fact
	headerTopic     = "flux-origin-topic"
	headerPartition = "flux-origin-partition"
	headerOffset    = "flux-origin-offset"
	headerTime      = "flux-origin-time"
	headerTenant    = "flux-tenant"
	headerReason    = "flux-reason"
	headerAttempts  = "flux-attempts"
	headerDeferrals = "flux-deferrals"
	headerDue       = "flux-due"
	headerUntil     = "flux-until"
	headerStack     = "flux-stack"
)

// hold publishes r to a lane. reason is why it was deferred: that of d, unless it
// comes from a lane.
func (s *session) hold(ctx context.Context, r *record, d stream.Deferral, reason string) error {
	if len(s.cfg.Lanes) == 0 {
		return ErrNoLanes
	}
	now := time.Now()
	wait := d.Until.Sub(now)
	// The longest lane that does not overshoot, then, from there, the next: one
	// that is long enough at once would bring most messages back far too late, and
	// leave their tenants' limits unused. Only the shortest holds messages of
	// different waits, each late by no more than its delay.
	delay := s.cfg.Lanes[0]
	for _, l := range s.cfg.Lanes {
		if l <= wait {
			delay = l
		}
	}
	due := now.Add(min(delay, max(0, wait)))
	headers := s.factHeaders(r, d.Tenant, reason, d.Attempts, d.Deferrals)
	headers = append(headers,
		textHeader(headerDue, millis(due)),
		textHeader(headerUntil, millis(d.Until)),
	)
	return s.publisher.publish(ctx, kafka.Message{
		Topic: s.cfg.laneTopic(r.msg.Topic, delay), WriterData: r.part.id,
		Key: r.msg.Key, Value: r.msg.Value, Headers: headers, Time: now,
	})
}

// factHeaders returns the message's own headers and what there is to know of
// it.
func (s *session) factHeaders(r *record, tenant, reason string, attempts, deferrals int) []kafka.Header {
	headers := make([]kafka.Header, 0, len(r.msg.Headers)+24)
	for _, h := range r.msg.Headers {
		if !strings.HasPrefix(h.Key, headerPrefix) {
			headers = append(headers, h)
		}
	}
	return append(headers,
		textHeader(headerID, s.cfg.Group+"/"+r.id()+"/"+strconv.Itoa(attempts)+"/"+strconv.Itoa(deferrals)),
		textHeader(headerTopic, r.msg.Topic),
		textHeader(headerPartition, strconv.Itoa(r.msg.Partition)),
		textHeader(headerOffset, strconv.FormatInt(r.msg.Offset, 10)),
		textHeader(headerTime, millis(r.msg.Time)),
		textHeader(headerTenant, tenant),
		textHeader(headerReason, reason),
		textHeader(headerAttempts, strconv.Itoa(attempts)),
		textHeader(headerDeferrals, strconv.Itoa(deferrals)),
	)
}

func textHeader(name, value string) kafka.Header {
	return kafka.Header{Key: name, Value: []byte(value)}
}

// millis is t in whole milliseconds, rounded up so that nothing is early.
func millis(t time.Time) string {
	return strconv.FormatInt(t.Add(time.Millisecond-1).UnixMilli(), 10)
}

// recall makes r, which a lane brought, look as it did at first.
func (r *record) recall() {
	facts := make(map[string]string)
	own := r.msg.Headers[:0:0]
	for _, h := range r.msg.Headers {
		if strings.HasPrefix(h.Key, headerPrefix) {
			facts[h.Key] = string(h.Value)
		} else {
			own = append(own, h)
		}
	}
	number := func(name string) (int64, bool) {
		n, err := strconv.ParseInt(facts[name], 10, 64)
		return n, err == nil && n >= 0
	}
	partition, ok1 := number(headerPartition)
	offset, ok2 := number(headerOffset)
	published, ok3 := number(headerTime)
	due, ok4 := number(headerDue)
	until, ok5 := number(headerUntil)
	attempts, ok6 := number(headerAttempts)
	deferrals, ok7 := number(headerDeferrals)
	if topic := facts[headerTopic]; topic != r.part.base || !ok1 || !ok2 || !ok3 || !ok4 || !ok5 || !ok6 || !ok7 {
		// Not of our making: it is a message of its own, and due.
		r.part.gen.session.log.LogAttrs(context.Background(), slog.LevelWarn, "lane holds a message that was not deferred here", r.part.attr(), slog.Int64("offset", r.offset))
		return
	}
	r.msg.Topic, r.msg.Partition, r.msg.Offset = r.part.base, int(partition), offset
	r.msg.Time, r.msg.Headers = time.UnixMilli(published), own
	r.stay = &stay{
		due: time.UnixMilli(due), until: time.UnixMilli(until), tenant: facts[headerTenant], reason: facts[headerReason], attempts: int(attempts), deferrals: int(deferrals),
	}
}

// untilDue waits until a lane's record is due. If its time has not come even
// then, it is sent to a lane again and hopped is true. ok is false when ctx ended.
//
// No record is due later than the lane's delay, and the rounding of [millis],
// after it was read: one that says so was written by a clock that is ahead of ours,
// or ours went back, and must not keep those behind it for as long.
func (p *partition) untilDue(ctx context.Context, in stream.Intake[*kafka.Message], r *record) (hopped, ok bool) {
	for {
		wait := min(time.Until(r.stay.due), p.delay+time.Millisecond-time.Since(p.fetched))
		if wait <= 0 {
			break
		}
		p.mu.Lock()
		p.waiting = true
		again := len(p.again) > 0
		p.mu.Unlock()
		if again {
			if !p.redeliver(ctx, in) {
				return false, false
			}
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-p.wake:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return false, false
		}
	}
	if time.Until(r.stay.until) <= 0 {
		return false, true
	}
	return true, p.hop(ctx, r)
}

// hopsAtOnce is how many records of a lane's partition are on their way to a
// lane at once, so that they share batches.
const hopsAtOnce = 256

// hop publishes r, which its lane has held long enough, to the next lane in a
// goroutine of its own. It returns false when ctx ended first.
func (p *partition) hop(ctx context.Context, r *record) bool {
	select {
	case p.hops <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	p.hopping.Go(func() {
		defer func() { <-p.hops }()
		// To be cut off between sending and knowing would make a second copy.
		late, cancel := outlive(ctx, slack)
		defer cancel()
		for failures := 1; ; failures++ {
			err := p.gen.session.hold(late, r, stream.Deferral{
				Until: r.stay.until, Tenant: r.stay.tenant, Attempts: r.stay.attempts, Deferrals: r.stay.deferrals,
			}, r.stay.reason)
			if err == nil {
				p.pass(r)
				return
			}
			if failures&(failures-1) == 0 { // ever more rarely: there may be hundreds
				p.gen.session.log.LogAttrs(late, slog.LevelWarn, "a deferred message cannot move to the next lane", p.attr(), slog.Int64("offset", r.offset), slog.Int("failures", failures), slog.Any("error", err))
			}
			if !sleep(ctx, backoff(failures)) {
				return
			}
		}
	})
	return true
}

// outlive returns a context that ends some time after ctx.
func outlive(ctx context.Context, by time.Duration) (context.Context, context.CancelFunc) {
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		sleep(late, by)
		cancel()
	})
	return late, func() {
		stop()
		cancel()
	}
}

// sourcePartition sends a message to the partition that it came from, which
// every lane has, and folds it where there are fewer.
type sourcePartition struct{}

func (sourcePartition) Balance(m kafka.Message, partitions ...int) int {
	from, _ := m.WriterData.(int)
	return partitions[from%len(partitions)]
}
