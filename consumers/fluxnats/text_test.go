package fluxnats_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fluxlimiter/flux/consumers/fluxnats"
)

// FuzzText puts any text into a header, sends that as the protocol does, and
// wants it back. What is sent must be one line of printable ASCII.
func FuzzText(f *testing.F) {
	for _, s := range []string{"", " ", "a b", " a ", "100 %", "%41", "a\r\nNats-Rollup: all", "żółw", "\xff\x00", strings.Repeat(" ", 3)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h := nats.Header{}
		fluxnats.SetText(h, "K", s)
		sent := h.Get("K")
		if strings.ContainsFunc(sent, func(r rune) bool { return r < ' ' || r > '~' }) || strings.TrimSpace(sent) != sent {
			t.Fatalf("%q is sent as %q", s, sent)
		}
		if got := fluxnats.Text(h, "K"); got != s {
			t.Fatalf("%q came back as %q", s, got)
		}
	})
}

// FuzzParseAck compares with the client library's own reading.
func FuzzParseAck(f *testing.F) {
	for _, s := range []string{
		"$JS.ACK.S.c.1.2.3.1500000000000000000.4",
		"$JS.ACK.hub.acc.S.c.1.2.3.1500000000000000000.4",
		"$JS.ACK._.acc.S.c.1.2.3.1500000000000000000.4.rnd",
		"$JS.ACK.S.c.1.2.3.4", "$JS.ACK.", "$JS.ACK.S.c.1.2.3.x.4", "$JS.ACK.........", "_INBOX.x", "",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, reply string) {
		got, ok := fluxnats.ParseAck(reply)
		m := &nats.Msg{Reply: reply, Sub: &nats.Subscription{}}
		want, err := m.Metadata()
		if err != nil {
			if ok {
				t.Fatalf("%q is none, parsed as %+v", reply, got)
			}
			return
		}
		if !ok {
			// The library takes what is no number for a large one.
			for _, token := range strings.Split(reply, ".")[4:] {
				if strings.Trim(token, "0123456789") != "" || token == "" {
					return
				}
			}
			t.Fatalf("%q was not parsed", reply)
		}
		if got.Delivered != want.NumDelivered || got.Seq != want.Sequence.Stream || got.Pending != want.NumPending || !got.Stored.Equal(want.Timestamp) {
			t.Fatalf("%q: got %+v, want %+v", reply, got, want)
		}
	})
}

// FuzzReadHistory reads whatever stands in the headers of a copy, and changes
// nothing of the user's.
func FuzzReadHistory(f *testing.F) {
	f.Add("flux.defer.S.c.9", "S:1", "2000-01-01T00:00:00Z", "1", "2", "3", "id%20", "in.a")
	f.Add("flux.defer.S.c.", "S:", "x", "-1", "99999999999999999999", "-9223372036854775809", "%", "%zz")
	f.Add("flux.defer.S.cc.9", ":1", "2999-01-01T00:00:00Z", "1.5", "0x1", "", "", "")
	f.Fuzz(func(t *testing.T, by, origin, seen, deferrals, attempts, order, id, subject string) {
		stored := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
		h := nats.Header{
			"Nats-Scheduler": {by}, "Flux-Origin": {origin}, "Flux-First-Seen": {seen}, "Flux-Deferrals": {deferrals},
			"Flux-Attempts": {attempts}, "Flux-Order": {order}, "Flux-Msg-Id": {id}, "Flux-Subject": {subject}, "X": {"y"},
		}
		hist, ok := fluxnats.ReadHistory(h, "in.x", fluxnats.Config{Stream: "S", DeferSubject: "flux.defer.S.c"}, stored)
		if ours := strings.HasPrefix(by, "flux.defer.S.c."); ok && !ours {
			t.Fatalf("%q is none of ours", by)
		}
		if !ok {
			if len(h) != 9 {
				t.Fatalf("headers of another message were changed: %v", h)
			}
			return
		}
		if !strings.HasPrefix(hist.Origin, "S:") || hist.Subject != "in.x" || hist.Deferrals < 0 || hist.Attempts < 0 || hist.FirstSeen.After(stored) {
			t.Fatalf("%+v", hist)
		}
		if want := 1 + min(len(h.Get("Nats-Msg-Id")), 1); len(h) != want || h.Get("X") != "y" {
			t.Fatalf("%v", h)
		}
	})
}

// Every key that is copied can be sent, and every one that cannot is left out.
func TestValidKeys(t *testing.T) {
	bubble(t, func(e *env) {
		for c := range rune(256) {
			key := "X" + string(c)
			copied := fluxnats.CopyHeaders(nats.Header{key: {"v"}})
			err := e.nc.PublishMsg(&nats.Msg{Subject: "nowhere", Header: nats.Header{key: {"v"}}})
			if sends := err == nil; sends != (len(copied) == 1) {
				t.Errorf("%q: copied %v, sent %v", key, copied, err)
			}
		}
	})
}

func TestCopyHeaders(t *testing.T) {
	from := nats.Header{
		"Nats-Msg-Id": {"a b"}, "Nats-TTL": {"1s"}, "Nats-Rollup": {"all"}, "NATS-expected-Stream": {"X"}, "Nats": {"kept"}, "Natsy-X": {"kept"},
		"Flux-Tenant": {"x"}, "Flux-Other": {"kept"}, "X-A": {"1", "2"}, "bad key": {"x"}, "żółw": {"x"}, "": {"x"},
	}
	got := fluxnats.CopyHeaders(from)
	want := nats.Header{"Nats": {"kept"}, "Natsy-X": {"kept"}, "Flux-Other": {"kept"}, "X-A": {"1", "2"}, "Flux-Msg-Id": {"a b"}}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestSubjects(t *testing.T) {
	for s, want := range map[string]bool{
		"a": true, "a.b": true, "*": true, ">": true, "a.*.b": true, "a.>": true, "a*": true,
		"": false, ".": false, "a.": false, ".a": false, "a..b": false, "a.>.b": false, "a b": false, "a\x00": false,
	} {
		if fluxnats.ValidPattern(s) != want {
			t.Errorf("%q: valid is %v", s, !want)
		}
	}
}

// Both relations of patterns are compared with what they mean for all subjects
// of up to three tokens of a small alphabet.
func TestSubjectRelations(t *testing.T) {
	letters := []string{"a", "b"}
	var subjects []string
	for _, x := range letters {
		subjects = append(subjects, x)
		for _, y := range letters {
			subjects = append(subjects, x+"."+y)
			for _, z := range letters {
				subjects = append(subjects, x+"."+y+"."+z)
			}
		}
	}
	matches := func(pattern, subject string) bool {
		p, s := strings.Split(pattern, "."), strings.Split(subject, ".")
		for i, token := range p {
			if token == ">" {
				return len(s) > i
			}
			if i >= len(s) || token != "*" && token != s[i] {
				return false
			}
		}
		return len(p) == len(s)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	pattern := func() string {
		var tokens []string
		for range 1 + rng.IntN(3) {
			tokens = append(tokens, []string{"a", "b", "*", "*"}[rng.IntN(4)])
		}
		if rng.IntN(4) == 0 {
			tokens[len(tokens)-1] = ">"
		}
		return strings.Join(tokens, ".")
	}
	for range 20_000 {
		a, b := pattern(), pattern()
		all, some := true, false
		for _, s := range subjects {
			x, y := matches(a, s), matches(b, s)
			all = all && (x || !y)
			some = some || x && y
		}
		if strings.HasSuffix(b, ">") && !strings.HasSuffix(a, ">") {
			all = false // b has subjects longer than those tried
		}
		if got := fluxnats.Covers(a, b); got != all {
			t.Fatalf("%q covers %q: %v", a, b, got)
		}
		if got := fluxnats.Overlaps(a, b); got != some {
			t.Fatalf("%q overlaps %q: %v", a, b, got)
		}
	}
}
