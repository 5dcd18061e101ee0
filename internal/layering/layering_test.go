// Package layering holds the test that keeps the packages' imports in order.
package layering

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/fluxlimiter/flux"

// layers lists, lowest first, the packages that nobody should have to pay for
// with a dependency. Each may import the ones before it, the standard library
// and golang.org/x/sync. A package that does not exist yet is ready for the day
// that it does.
var layers = []string{"gcra", ".", "algorithm", "store", "quota", "adaptive", "stream", "stream/streamtest"}

func TestCoreImports(t *testing.T) {
	root := filepath.Join("..", "..")
	found := 0
	for rank, dir := range layers {
		files, err := filepath.Glob(filepath.Join(root, dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			found++
			for _, imported := range imports(t, file) {
				if !allowed(imported, rank) {
					t.Errorf("%s imports %s", file, imported)
				}
			}
		}
	}
	if found < 10 {
		t.Fatalf("looked at %d files only: is the list of layers out of date?", found)
	}
}

// TestAdaptersStayBelow holds that no library package imports a program or a
// package made for tests.
func TestAdaptersStayBelow(t *testing.T) {
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, file)
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && rel != "." || rel == "bench" || rel == "examples" || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		for _, imported := range imports(t, file) {
			if strings.HasPrefix(imported, module+"/examples") || strings.HasSuffix(imported, "test") && strings.HasPrefix(imported, module) && !strings.Contains(rel, "test/") {
				t.Errorf("%s imports %s", rel, imported)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestAllowed(t *testing.T) {
	stream := len(layers) - 2
	for _, tt := range []struct {
		imported string
		rank     int
		want     bool
	}{
		{"math/bits", 0, true},
		{"golang.org/x/sync/errgroup", stream, true},
		{module + "/gcra", 1, true},
		{module, 0, false},
		{module, stream, true},
		{module + "/stream", 1, false},
		{module + "/consumers/fluxnats", stream, false},
		{"github.com/nats-io/nats.go", stream, false},
		{"golang.org/x/synchro", stream, false},
	} {
		if got := allowed(tt.imported, tt.rank); got != tt.want {
			t.Errorf("%s from %s: allowed = %v, want %v", tt.imported, layers[tt.rank], got, tt.want)
		}
	}
}

// allowed reports whether the package at rank may import the one named.
func allowed(imported string, rank int) bool {
	first, _, _ := strings.Cut(imported, "/")
	if !strings.Contains(first, ".") {
		return true
	}
	if imported == "golang.org/x/sync" || strings.HasPrefix(imported, "golang.org/x/sync/") {
		return true
	}
	for _, lower := range layers[:rank] {
		if imported == path.Join(module, lower) {
			return true
		}
	}
	return false
}

// imports returns the import paths of a file.
func imports(t *testing.T, file string) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	paths := make([]string, 0, len(f.Imports))
	for _, spec := range f.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, p)
	}
	return paths
}
