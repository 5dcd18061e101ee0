package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/fluxlimiter/flux/examples/internal/program"
	"github.com/fluxlimiter/flux/examples/internal/program/programtest"
	"github.com/fluxlimiter/flux/gcra"
	"github.com/fluxlimiter/flux/stream"
)

// The flood is held to the limit and mostly deferred, the others get all of
// theirs through.
func TestDemo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var net kfake.VirtualNetwork
		cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(9092), kfake.ListenFn(net.Listen))
		if err != nil {
			t.Fatal(err)
		}
		defer cluster.Close()
		var out bytes.Buffer
		err = demo(t.Context(), config{
			brokers: cluster.ListenAddrs(), dialer: &kafka.Dialer{DialFunc: net.DialContext, Timeout: time.Second},
			topic: "t", group: "g", rate: 50, duration: 20 * time.Second, out: &out,
		})
		if err != nil {
			t.Fatal(err)
		}
		// A row of the table: processed, deferred, and the median age.
		row := func(tenant string) (processed, deferred int) {
			for line := range strings.Lines(out.String()) {
				var age string
				if _, err := fmt.Sscanf(strings.TrimSpace(line), tenant+" %d %d %s", &processed, &deferred, &age); err == nil {
					return processed, deferred
				}
			}
			t.Fatalf("no %s in\n%s", tenant, out.String())
			return 0, 0
		}
		if n, deferred := row("acme"); n < 50*15 || n > 50*21 || deferred == 0 {
			t.Errorf("of the flood %d were processed and %d deferred", n, deferred)
		}
		for tenant, rate := range map[string]int{"bolt": 20, "cara": 10} {
			if n, deferred := row(tenant); n < rate*18 || deferred > 0 {
				t.Errorf("of %s %d were processed and %d deferred", tenant, n, deferred)
			}
		}
		if want := "In 20s the limit, 50/1s burst 50, allows 1050 of each tenant's.\n"; !strings.HasSuffix(out.String(), want) {
			t.Errorf("the output does not end with %q:\n%s", want, out.String())
		}
	})
}

// A limit that was not kept is noticed.
func TestFinal(t *testing.T) {
	b := newBoard(io.Discard)
	b.start = time.Now().Add(-time.Second)
	limit := gcra.PerHour(1).WithBurst(2)
	for range 2 {
		b.admitted(stream.Info{Tenant: "bolt"})
	}
	b.admitted(stream.Info{Tenant: "of somebody else"})
	if err := b.final(limit); err != nil {
		t.Error(err)
	}
	b.admitted(stream.Info{Tenant: "bolt"})
	if err := b.final(limit); err == nil || !strings.Contains(err.Error(), "bolt: 3 admitted, the limit allows 2") {
		t.Error(err)
	}
}

func TestRefusedCommandLines(t *testing.T) {
	programtest.Refuse(t, "kafka", run, 2, map[string][]string{
		"-rate 0: ":                    {"-rate", "0"},
		"-rate -1: ":                   {"-rate", "-1"},
		`"1e3" for flag -rate`:         {"-rate", "1e3"},
		"-duration 0s: ":               {"-duration", "0"},
		"-duration 2h0m0s: ":           {"-duration", "2h"},
		`-topic "": `:                  {"-topic", ""},
		`-group "": `:                  {"-group", ""},
		`-topic "a b" `:                {"-topic", "a b"},
		`-group "c d": `:               {"-group", "c d"},
		`"" for flag -brokers`:         {"-brokers", ""},
		`"a:1,,b:1" for flag -brokers`: {"-brokers", "a:1,,b:1"},
		"-fast":                        {"-fast"},
		`"now"`:                        {"now"},
	})
	programtest.Refuse(t, "kafka", run, 1, map[string][]string{
		"-brokers 127.0.0.1:1: ": {"-brokers", "127.0.0.1:1"},
	})
	programtest.Refuse(t, "kafka", run, 2, map[string][]string{
		`-from "": `:        {"redrive"},
		"-rate 0: ":         {"redrive", "-from", "dlq", "-rate", "0"},
		`"(" for flag -key`: {"redrive", "-from", "dlq", "-key", "("},
		`"more"`:            {"redrive", "-from", "dlq", "more"},
	})
	programtest.Refuse(t, "kafka", run, 1, map[string][]string{
		"-brokers 127.0.0.1:1: ": {"redrive", "-from", "dlq", "-brokers", "127.0.0.1:1"},
	})
	var help bytes.Buffer
	if code := program.Run(t.Context(), "kafka", run, []string{"redrive", "-h"}, &help, io.Discard); code != 0 || !strings.Contains(help.String(), "-dry-run") {
		t.Errorf("exit code %d, help\n%s", code, help.String())
	}
}
