package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fluxlimiter/flux/examples/internal/program/programtest"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
	"github.com/fluxlimiter/flux/stream/streamtest"
)

// TestPicture holds what the picture is there to show.
func TestPicture(t *testing.T) {
	for _, c := range contenders() {
		history, err := play(c, plan())
		if err != nil {
			t.Fatal(err)
		}
		if err := history.Lost(nil); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		points := dwells(history)
		dwell, want := p99(points, quiet...), 2*service
		t.Logf("%s: quiet p99 %v, noisy p99 %v", c.name, dwell, p99(points, noisy))
		if fair := dwell <= want; fair != (c.name == "flux") {
			t.Errorf("%s: the quiet tenants' p99 is %v", c.name, dwell)
		}
		if dwell > want && dwell < 10*time.Second {
			t.Errorf("%s: the quiet tenants' p99 is %v: the load is no flood", c.name, dwell)
		}
	}
}

// TestDraw holds that the program draws the same well-formed picture each time.
func TestDraw(t *testing.T) {
	var pictures [2][]byte
	for i := range pictures {
		name := filepath.Join(t.TempDir(), "noisy.svg")
		if err := run(t.Context(), []string{"-o", name}, io.Discard, io.Discard); err != nil {
			t.Fatal(err)
		}
		var err error
		if pictures[i], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(pictures[0], pictures[1]) {
		t.Error("two pictures of the same load differ")
	}
	decoder := xml.NewDecoder(bytes.NewReader(pictures[0]))
	for {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"prefers-color-scheme: dark", ">flux: quiet", ">plain consumer: quiet", ">one limiter for all: quiet"} {
		if !bytes.Contains(pictures[0], []byte(want)) {
			t.Errorf("the picture lacks %q", want)
		}
	}
}

// TestCommitted holds that the figures in the picture that is committed are
// those of today: "go run ." draws it anew.
func TestCommitted(t *testing.T) {
	committed, err := os.ReadFile("noisy.svg")
	if err != nil {
		t.Fatal(err)
	}
	var drawn bytes.Buffer
	if err := draw(&drawn); err != nil {
		t.Fatal(err)
	}
	figures := regexp.MustCompile(`>[^<>]* p99 is [^<>]*<`)
	got, want := figures.FindAll(committed, -1), figures.FindAll(drawn.Bytes(), -1)
	if len(want) != len(contenders()) || !slices.EqualFunc(got, want, bytes.Equal) {
		t.Errorf("the committed picture says %s, that of today %s", got, want)
	}
}

func TestFigures(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), []string{"-figures"}, &out, io.Discard); err != nil {
		t.Error(err)
	}
	t.Logf("\n%s", &out)
}

// TestFiguresOfFIFO holds that each figure tells a consumer that takes messages
// as they come from a fair one.
func TestFiguresOfFIFO(t *testing.T) {
	measured, err := measure(func(gcra.Limit, stream.Config[*message]) consumer {
		return consumer{"fifo", func(ctx context.Context, src *streamtest.Broker, handle stream.Handler[*message]) error {
			return inOrder(ctx, src, handle, nil)
		}}
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range measured {
		if !f.broken() {
			t.Errorf("%s: %v is within the bound %v", f.name, f.value, f.bound)
		}
	}
	if err := report(io.Discard, measured); err == nil {
		t.Error("report does not say that bounds are broken")
	}
}

func TestRefusedCommandLines(t *testing.T) {
	programtest.Refuse(t, "noisy", run, 2, map[string][]string{
		"-x":     {"-x"},
		`"more"`: {"more"},
		`-o ""`:  {"-o", ""},
	})
}
