package chunks_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/katabuild/katabuild/releases/chunks"
)

// Only plain files that can have a part are looked through, and not more of them than is said.
func TestSeedsArePlainFilesOfSomeSize(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, size int) string {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
		return p
	}
	big, deep := file("a", chunks.Least), file("b/c", chunks.Least+1)
	file("small", chunks.Least-1)
	if err := os.Symlink(dir, filepath.Join(dir, "b/round")); err != nil {
		t.Fatal(err)
	}
	var s chunks.Seeds
	s.AddBelow(dir)
	s.AddBelow(filepath.Join(dir, "nothing"))
	s.Add(dir)
	if want := []string{big, deep}; !slices.Equal(s, want) {
		t.Errorf("%v, want %v", s, want)
	}
	for range chunks.MaxSeeds + 1 {
		s.Add(big)
	}
	if len(s) != chunks.MaxSeeds {
		t.Errorf("%d seeds", len(s))
	}
}
