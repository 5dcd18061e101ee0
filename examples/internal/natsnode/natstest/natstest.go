// Package natstest lets tests run example programs, and the NATS server that is
// inside them, in bubbles of virtual time.
package natstest

import (
	"os"
	"runtime"
	"testing"

	"github.com/nats-io/nats-server/v2/server/ats"
)

// Main runs the tests of a package: it is all that their TestMain does. It starts
// the one thing of the server that all servers of a process share, which would not
// end with the bubble of a test.
func Main(m *testing.M) {
	ats.Register()
	code := m.Run()
	ats.Unregister()
	os.Exit(code)
}

// Prepare makes a test ready for bubbles: call it before each. Nothing may be left
// in the folder for temporary files when the test ends.
func Prepare(t *testing.T) {
	t.Helper()
	// The client keeps timers in a pool of the whole process, and a timer made in
	// one bubble must not get into another, nor out of it: two garbage collections
	// empty a sync.Pool.
	emptyPools := func() { runtime.GC(); runtime.GC() }
	emptyPools()
	folder := t.TempDir()
	t.Setenv("TMPDIR", folder)
	t.Cleanup(func() {
		emptyPools()
		if left, err := os.ReadDir(folder); err != nil || len(left) > 0 {
			t.Errorf("left in the folder for temporary files: %v, %v", left, err)
		}
	})
}
