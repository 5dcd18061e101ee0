package natsnode

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/fluxlimiter/flux/examples/internal/program"
)

func TestOpenStartsAServer(t *testing.T) {
	for _, withJetStream := range []bool{false, true} {
		folder := t.TempDir()
		t.Setenv("TMPDIR", folder)
		n, err := Open(t.Context(), "", "test", withJetStream)
		if err != nil {
			t.Fatal(err)
		}
		js, err := jetstream.New(n.Conn)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.AccountInfo(t.Context()); (err == nil) != withJetStream {
			t.Errorf("with JetStream %v: %v", withJetStream, err)
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		if left, err := os.ReadDir(folder); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	if n, err := Open(t.Context(), "nats://ada:secret@127.0.0.1:1", "test", false); err == nil {
		t.Errorf("connected to %s", n.Where)
	} else if got := err.Error(); !strings.HasPrefix(got, "-nats nats://xxxxx@127.0.0.1:1: cannot connect: ") {
		t.Error(got)
	}
}

func TestRedacted(t *testing.T) {
	for urls, want := range map[string]string{
		"nats://127.0.0.1:4222":               "nats://127.0.0.1:4222",
		"nats://ada:pw@a:1, nats://token@b:2": "nats://xxxxx@a:1,nats://xxxxx@b:2",
	} {
		if got := redacted(urls); got != want {
			t.Errorf("%s is shown as %s", urls, got)
		}
	}
}

func TestFlag(t *testing.T) {
	var urls string
	parse := func(args ...string) error {
		flags := flag.NewFlagSet("test", flag.ContinueOnError)
		Flag(flags, &urls)
		return program.Parse(flags, "", args, nil)
	}
	if err := parse("-nats", "nats://a:1"); err != nil || urls != "nats://a:1" {
		t.Errorf("%q, %v", urls, err)
	}
	if err := parse("-nats", ""); err == nil || !strings.Contains(err.Error(), `"" for flag -nats: want a URL`) {
		t.Error(err)
	}
}
