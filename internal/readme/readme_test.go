// Package readme holds the tests that keep README.md true.
package readme

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var root = filepath.Join("..", "..")

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestExample holds that the code in README is code that compiles and runs.
func TestExample(t *testing.T) {
	const source = "consumers/fluxnats/example_test.go"
	_, block, ok := strings.Cut(read(t, "README.md"), "```go\n")
	block, _, closed := strings.Cut(block, "```")
	if !ok || !closed || strings.TrimSpace(block) == "" {
		t.Fatal("README.md has no Go example")
	}
	if !strings.Contains(read(t, source), block) {
		t.Errorf("the example of README.md is not in %s:\n%s", source, block)
	}
	if n := strings.Count(block, "\n"); n > 30 {
		t.Errorf("the example of README.md has %d lines", n)
	}
}

// TestLinks holds that what README, CHANGELOG and CONTRIBUTING link to exists.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#\s]+)`)
	found := 0
	for _, doc := range []string{"README.md", "CHANGELOG.md", "CONTRIBUTING.md"} {
		for _, m := range link.FindAllStringSubmatch(read(t, doc), -1) {
			if strings.HasPrefix(m[1], "http") {
				continue
			}
			found++
			if _, err := os.Stat(filepath.Join(root, filepath.FromSlash(m[1]))); err != nil {
				t.Errorf("%s links to %s, which does not exist", doc, m[1])
			}
		}
	}
	if found < 5 {
		t.Errorf("found %d links only", found)
	}
}
