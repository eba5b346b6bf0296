package changelog_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/golden"
	"github.com/katabuild/katabuild/releases/changelog"
)

// folder makes a folder of releases with notes and a page of an older release.
func folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"notes/two.md":              "# The second change\n\nIt is [here](../../docs/x.md).\n\n## In detail\n\nMore.\n",
		"notes/one.md":              "# The first change\n\nIt is good.\n",
		"notes/README":              "no note",
		"dated/2026-01-02-1.0.0.md": "# 1.0.0, 2026-01-02\n\n## It begins\n\nAt last.\n",
	} {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func write(t *testing.T, dir string) []byte {
	t.Helper()
	text, err := changelog.Write(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestNotesBecomeThePageOfARelease(t *testing.T) {
	dir := folder(t)
	golden.Check(t, "before.md", write(t, dir))
	page, err := changelog.Release(dir, "1.1.0", "2026-11-30")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "release.md", text)
	golden.Check(t, "after.md", write(t, dir))
	if left, err := filepath.Glob(filepath.Join(dir, "notes/*.md")); err != nil || len(left) > 0 {
		t.Errorf("%q is left, %v", left, err)
	}
}

func TestWhatIsNoReleaseIsRefused(t *testing.T) {
	dir := folder(t)
	for _, c := range []struct{ version, day, want string }{
		{"1.1", "2026-11-30", "MAJOR.MINOR.PATCH"},
		{"1.1.0", "today", "want YEAR-MONTH-DAY"},
		{"1.0.0", "2026-11-30", "has its page already"},
	} {
		if _, err := changelog.Release(dir, c.version, c.day); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
	if _, err := changelog.Release(dir, "1.0.0", "2026-11-30"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a version twice: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "notes/three.md"), []byte("no title\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := changelog.Write(os.DirFS(dir)); err == nil || !strings.Contains(err.Error(), "want a title") {
		t.Errorf("a note without a title: %v", err)
	}
	if _, err := changelog.Release(t.TempDir(), "1.1.0", "2026-11-30"); err == nil {
		t.Error("a release without notes")
	}
}
