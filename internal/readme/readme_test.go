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

// TestExamples holds that the code in README is code that compiles and runs: each
// block stands in the test that the text before it links to.
func TestExamples(t *testing.T) {
	tests := regexp.MustCompile(`\]\((\S+_test\.go)\)`)
	before, blocks := "", strings.Split(read(t, "README.md"), "```go\n")
	if len(blocks) < 3 {
		t.Fatalf("README.md has %d Go examples", len(blocks)-1)
	}
	for i, part := range blocks {
		block, after, closed := strings.Cut(part, "```")
		if i == 0 {
			before = part
			continue
		}
		links := tests.FindAllStringSubmatch(before, -1)
		before += after
		if !closed || strings.TrimSpace(block) == "" || len(links) == 0 {
			t.Fatalf("example %d of README.md is empty or names no test:\n%s", i, block)
		}
		source := links[len(links)-1][1]
		if !strings.Contains(unindented(read(t, source)), unindented(block)) {
			t.Errorf("example %d of README.md is not in %s:\n%s", i, source, block)
		}
		if n := strings.Count(block, "\n"); n > 30 {
			t.Errorf("example %d of README.md has %d lines", i, n)
		}
	}
}

// unindented returns code without what its lines begin with.
func unindented(code string) string {
	var b strings.Builder
	for line := range strings.Lines(code) {
		b.WriteString(strings.TrimLeft(line, "\t"))
	}
	return b.String()
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

// TestCommands holds that what the documents say to run is there.
func TestCommands(t *testing.T) {
	command := regexp.MustCompile(`go (?:-C (\S+) )?(?:run|test|vet)((?: '[^']*'| [^\s` + "`" + `|]+)*)`)
	found := 0
	for _, doc := range []string{"README.md", "CHANGELOG.md", "CONTRIBUTING.md"} {
		for _, m := range command.FindAllStringSubmatch(read(t, doc), -1) {
			for arg := range strings.FieldsSeq(m[2]) {
				if arg != "." && !strings.HasPrefix(arg, "./") {
					continue
				}
				found++
				dir := filepath.Join(root, m[1], strings.TrimSuffix(arg, "..."))
				if sources, err := filepath.Glob(filepath.Join(dir, "*.go")); err != nil || len(sources) == 0 {
					t.Errorf("%s says %q, but there is no package in %s", doc, m[0], dir)
				}
			}
		}
	}
	if found < 10 {
		t.Errorf("found %d commands only", found)
	}
}
