package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

func TestMain(m *testing.M) {
	if !serve() {
		os.Exit(m.Run())
	}
}

func TestQuick(t *testing.T) {
	var out bytes.Buffer
	if err := run([]string{"-quick"}, &out); err != nil {
		t.Fatal(err)
	}
	for _, p := range peers {
		if !strings.Contains(out.String(), "| "+p.name+" | ") {
			t.Errorf("no row of %s in\n%s", p.name, &out)
		}
	}
	if err := run([]string{"-rounds", "0"}, &out); err == nil {
		t.Error("no rounds were accepted")
	}
}

// BenchmarkPeers is for profiles of one of them.
func BenchmarkPeers(b *testing.B) {
	c, err := open(b.Context(), "", 100_000)
	if err != nil {
		b.Fatal(err)
	}
	defer c.close(b.Context())
	for _, p := range peers {
		b.Run(p.name, func(b *testing.B) {
			for b.Loop() {
				if _, err := c.measure(b.Context(), p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
