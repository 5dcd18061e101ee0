package main

import (
	"bytes"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluxlimiter/flux/gcra"
)

// In virtual time, what each tenant gets is exact.
func TestDemo(t *testing.T) {
	// The client library keeps timers in a pool of the process, and a timer of
	// another bubble is of no use here. Two collections empty the pool.
	runtime.GC()
	runtime.GC()
	synctest.Test(t, func(t *testing.T) {
		nc, closeAll, err := connect("")
		if err != nil {
			t.Fatal(err)
		}
		defer closeAll()
		r, err := demo(t.Context(), nc, gcra.PerSecond(10).WithBurst(5), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.check(); err != nil {
			t.Error(err)
		}
		flood, patient, quiet := r.lines[0], r.lines[1], r.lines[2]
		if flood.asked < 2000 || flood.served < 104 || flood.served > 106 {
			t.Errorf("%+v", flood)
		}
		// It was not told to ask too early, nor much too late.
		if patient.served < 100 || patient.served > 106 || patient.refused == 0 || patient.refused > 2*patient.served {
			t.Errorf("%+v", patient)
		}
		if quiet.asked != 34 || quiet.served != 34 || quiet.median != 10*time.Millisecond {
			t.Errorf("%+v", quiet)
		}
		var out bytes.Buffer
		r.print(&out)
		if !strings.Contains(out.String(), "flood") || !strings.Contains(out.String(), "allows 10") {
			t.Error(out.String())
		}
	})
}

func TestConnectRefuses(t *testing.T) {
	if _, _, err := connect("nats://127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "-nats") {
		t.Error(err)
	}
}

// A limit that was not kept is noticed, and so is a tenant that was forgotten.
func TestCheck(t *testing.T) {
	r := &report{limit: gcra.PerSecond(10).WithBurst(5), took: time.Second, lines: []line{
		{tenant: "a", asked: 20, served: 17}, {tenant: "b"}, {tenant: "c", asked: 16, served: 16},
	}}
	if err := r.check(); err == nil || !strings.Contains(err.Error(), "a: 17 served, the limit allows 16") ||
		!strings.Contains(err.Error(), "b: nothing") || strings.Contains(err.Error(), "c:") {
		t.Error(err)
	}
}
