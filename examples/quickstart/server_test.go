package main

import (
	"bytes"
	"context"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux/examples/internal/natsnode"
)

// listening starts a NATS server on a free port of this machine.
func listening(t *testing.T, withJetStream bool) (*server.Server, jetstream.JetStream) {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: withJetStream, StoreDir: t.TempDir(), NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return s, js
}

func streams(t *testing.T, js jetstream.JetStream) []string {
	t.Helper()
	var names []string
	list := js.StreamNames(t.Context())
	for name := range list.Name() {
		names = append(names, name)
	}
	if err := list.Err(); err != nil {
		t.Fatal(err)
	}
	return slices.Sorted(slices.Values(names))
}

// wantRefusal runs the program, which must give up before it begins.
func wantRefusal(t *testing.T, url string, parts ...string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if code := exitCode(t.Context(), []string{"-nats", url, "-duration", "100ms"}, &stdout, &stderr); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if stdout.Len() > 0 {
		t.Errorf("stdout has %q", stdout.String())
	}
	wantOneLine(t, stderr.String(), parts...)
}

func TestUnreachableServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "nats://ada:secret@" + l.Addr().String()
	l.Close()
	wantRefusal(t, url, "-nats", l.Addr().String())

	var stderr bytes.Buffer
	exitCode(t.Context(), []string{"-nats", url}, &bytes.Buffer{}, &stderr)
	if strings.Contains(stderr.String(), "secret") || strings.Contains(stderr.String(), "ada") {
		t.Errorf("the message shows credentials: %q", stderr.String())
	}
}

// TestSilentServer connects to something that takes connections and says
// nothing. The test ends because the program gives up.
func TestSilentServer(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	wantRefusal(t, "nats://"+l.Addr().String(), "-nats", l.Addr().String())
}

func TestNotAURL(t *testing.T) {
	wantRefusal(t, "nats://a b:x", "-nats")
}

func TestServerWithoutJetStream(t *testing.T) {
	s, _ := listening(t, false)
	wantRefusal(t, s.ClientURL(), "-nats", s.ClientURL(), "JetStream")
}

func TestOtherStream(t *testing.T) {
	for _, tt := range []struct {
		name  string
		have  jetstream.StreamConfig
		parts []string
	}{
		{"other subjects", jetstream.StreamConfig{Name: streamName, Subjects: []string{"orders.*"}}, []string{streamName, "Subjects", "orders.*"}},
		{"other dead letters", jetstream.StreamConfig{Name: deadName, Subjects: []string{"graves.*"}}, []string{deadName, "Subjects", "graves.*"}},
		{"stream with our subjects", jetstream.StreamConfig{Name: "ALL", Subjects: []string{"flux.>"}}, []string{streamName, "overlap"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, js := listening(t, true)
			if _, err := js.CreateStream(t.Context(), tt.have); err != nil {
				t.Fatal(err)
			}
			wantRefusal(t, s.ClientURL(), append(tt.parts, s.ClientURL())...)
			if got := streams(t, js); !slices.Equal(got, []string{tt.have.Name}) {
				t.Errorf("streams are %q", got)
			}
			after, err := js.Stream(t.Context(), tt.have.Name)
			if err != nil {
				t.Fatal(err)
			}
			if got := after.CachedInfo().Config.Subjects; !slices.Equal(got, tt.have.Subjects) {
				t.Errorf("its subjects are %q now", got)
			}
		})
	}
}

// leaveQueue makes the streams as a run does, and leaves them.
func leaveQueue(t *testing.T, s *server.Server) {
	t.Helper()
	node, err := natsnode.Open(t.Context(), s.ClientURL(), "quickstart", true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = node.Close() }()
	if _, err := openQueue(t.Context(), node); err != nil {
		t.Fatal(err)
	}
}

func TestUsedStream(t *testing.T) {
	s, js := listening(t, true)
	leaveQueue(t, s)
	for _, tt := range []struct{ stream, subject string }{
		{streamName, subject + ".noisy"},
		{deadName, "dlq." + streamName + "." + consumerName},
	} {
		if _, err := js.Publish(t.Context(), tt.subject, nil); err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, s.ClientURL(), s.ClientURL(), tt.stream, "1 message")
		stream, err := js.Stream(t.Context(), tt.stream)
		if err != nil {
			t.Fatal(err)
		}
		if n := stream.CachedInfo().State.Msgs; n != 1 {
			t.Errorf("%s has %d messages now", tt.stream, n)
		}
		if err := stream.Purge(t.Context()); err != nil {
			t.Fatal(err)
		}
	}

	// A request for messages that waits is a run that goes on.
	consumer, err := js.Consumer(t.Context(), streamName, consumerName)
	if err != nil {
		t.Fatal(err)
	}
	nc := js.Conn()
	if err := nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+streamName+"."+consumerName, nc.NewRespInbox(), []byte(`{"batch":1,"expires":60000000000}`)); err != nil {
		t.Fatal(err)
	}
	for {
		info, err := consumer.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if info.NumWaiting > 0 {
			break
		}
	}
	wantRefusal(t, s.ClientURL(), s.ClientURL(), consumerName, "in use")
}

func TestOwnServer(t *testing.T) {
	for _, there := range []bool{false, true} {
		s, js := listening(t, true)
		want := []string(nil)
		note := "Created stream " + streamName
		if there {
			leaveQueue(t, s)
			want = []string{streamName, deadName}
			note = "which were there"
		}
		var stdout, stderr bytes.Buffer
		ctx, cancel := context.WithCancel(t.Context())
		if code := exitCode(ctx, strings.Fields("-duration 300ms -rate 100 -nats "+s.ClientURL()), &stdout, &stderr); code != 0 {
			t.Errorf("exit code %d, stderr %q", code, stderr.String())
		}
		cancel()
		if !strings.Contains(stdout.String(), note) || !strings.Contains(stdout.String(), s.ClientURL()) {
			t.Errorf("the output does not say %q: %s", note, stdout.String())
		}
		if got := streams(t, js); !slices.Equal(got, want) {
			t.Errorf("streams are %q, want %q", got, want)
		}
		for _, name := range want {
			stream, err := js.Stream(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			if n := stream.CachedInfo().State.Msgs; n > 0 {
				t.Errorf("%s holds %d messages", name, n)
			}
		}
	}
}

// TestLossIsSeen loses a message on purpose: a dead letter is deleted while the
// program runs.
func TestLossIsSeen(t *testing.T) {
	s, js := listening(t, true)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	deleted := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			stream, err := js.Stream(ctx, deadName)
			if err == nil && stream.CachedInfo().State.Msgs > 0 {
				deleted <- stream.DeleteMsg(ctx, stream.CachedInfo().State.FirstSeq)
				return
			}
		}
	}()
	var stdout, stderr bytes.Buffer
	if code := exitCode(ctx, strings.Fields("-duration 500ms -nats "+s.ClientURL()), &stdout, &stderr); code != 1 {
		t.Errorf("exit code %d", code)
	}
	wantOneLine(t, stderr.String(), "unaccounted is 1")
	if err := <-deleted; err != nil {
		t.Fatal(err)
	}
	if said := strings.Join(strings.Fields(stdout.String()), " "); !strings.Contains(said, "but 1 message cannot be accounted for") {
		t.Errorf("the output does not say so:\n%s", stdout.String())
	}
}
