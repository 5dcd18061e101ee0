package main

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

func TestQuick(t *testing.T) {
	for storage, args := range map[string][]string{"file storage": {"-quick"}, "memory storage": {"-quick", "-memory"}} {
		var out bytes.Buffer
		if err := run(args, &out); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), storage) {
			t.Errorf("%v does not say that it used %s:\n%s", args, storage, &out)
		}
		for _, p := range peers {
			if !strings.Contains(out.String(), "| "+p.name+" | ") {
				t.Errorf("no row of %s in\n%s", p.name, &out)
			}
		}
	}
	if err := run([]string{"-rounds", "0"}, io.Discard); err == nil {
		t.Error("no rounds were accepted")
	}
}

// BenchmarkPeers is for profiles of one of them.
func BenchmarkPeers(b *testing.B) {
	broker, err := open(20_000, jetstream.FileStorage)
	if err != nil {
		b.Fatal(err)
	}
	defer broker.close()
	for _, p := range peers {
		b.Run(p.name, func(b *testing.B) {
			for b.Loop() {
				if _, err := broker.measure(b.Context(), p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
