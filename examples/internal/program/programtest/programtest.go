// Package programtest tests how an example program refuses what it is given.
package programtest

import (
	"bytes"
	"strings"
	"testing"

	"github.com/fluxlimiter/flux/examples/internal/program"
)

// Refuse runs a program with command lines, each of which it must refuse with
// that exit code. It must say why in one line that contains what the command line
// is listed under, and write nothing else.
func Refuse(t *testing.T, name string, body program.Body, code int, commandLines map[string][]string) {
	t.Helper()
	for want, args := range commandLines {
		var stdout, stderr bytes.Buffer
		if got := program.Run(t.Context(), name, body, args, &stdout, &stderr); got != code || stdout.Len() > 0 {
			t.Errorf("%q: exit code %d, want %d, stdout %q", args, got, code, stdout.String())
		}
		said := stderr.String()
		if !strings.HasPrefix(said, name+": ") || !strings.Contains(said, want) || strings.Count(said, "\n") != 1 || !strings.HasSuffix(said, "\n") {
			t.Errorf("%q: stderr is %q, want one line with %q", args, said, want)
		}
	}
}
