package toolroot

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/katabuild/katabuild/builder/fetch/archivetest"
	"github.com/katabuild/katabuild/internal/digest"
)

// packages are two small ones, and a request of them that counts how often it asks for them.
func packages(t *testing.T) (Request, *int) {
	t.Helper()
	dir := t.TempDir()
	var files []string
	for _, p := range []archivetest.Package{
		{Name: "tool", Version: "1", Files: map[string]string{
			"/usr/bin/tool": "first", "/usr/lib/tool/data": "some data", "/usr/share/doc/tool/copyright": "mine",
			"/etc/tool.conf": "no",
		}},
		{Name: "other", Version: "2", Files: map[string]string{"/lib/libother.so": "library"}},
	} {
		file := filepath.Join(dir, p.Name+".deb")
		if err := os.WriteFile(file, archivetest.Deb(t, p), 0o644); err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	asked := new(int)
	return Request{
		Dir: filepath.Join(dir, "roots"), Key: digest.Of([]byte("tool 1, other 2")),
		Links: map[string]string{"/usr/bin/awk": "tool"},
		Packages: func(context.Context) ([]string, error) {
			*asked++
			return files, nil
		},
	}, asked
}

func open(t *testing.T, r Request) string {
	t.Helper()
	dir, done, err := Open(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	done()
	return dir
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestARootHasWhatProgramsNeed(t *testing.T) {
	r, asked := packages(t)
	dir := open(t, r)
	for path, want := range map[string]string{
		"usr/bin/tool": "first", "bin/tool": "first", "usr/bin/awk": "first", "lib/tool/data": "some data",
		"usr/lib/libother.so": "library", // which the package calls /lib/libother.so
	} {
		if got := read(t, filepath.Join(dir, path)); got != want {
			t.Errorf("%s: %q", path, got)
		}
	}
	for _, path := range []string{"usr/share/doc/tool", "etc"} {
		if _, err := os.Lstat(filepath.Join(dir, path)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if again := open(t, r); again != dir || *asked != 1 {
		t.Errorf("%s, and packages were asked for %d times", again, *asked)
	}
	r.Key = digest.Of([]byte("others"))
	if other := open(t, r); other == dir || *asked != 2 {
		t.Errorf("other packages: %s, asked %d times", other, *asked)
	}
}

func TestARootThatIsNotWhatItWasIsMadeAnew(t *testing.T) {
	for name, change := range map[string]func(dir string) error{
		"other bytes of the same length and time": func(dir string) error {
			path := filepath.Join(dir, "usr/bin/tool")
			fi, err := os.Stat(path)
			return errors.Join(err, os.Remove(path), os.WriteFile(path, []byte("f1rst"), 0o444),
				os.Chtimes(path, fi.ModTime(), fi.ModTime()))
		},
		"a file more": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "usr/bin/cc"), []byte("mine"), 0o755)
		},
		"a file less":  func(dir string) error { return os.Remove(filepath.Join(dir, "usr/lib/tool/data")) },
		"another mode": func(dir string) error { return os.Chmod(filepath.Join(dir, "usr/bin/tool"), 0o755) },
		"another link": func(dir string) error {
			link := filepath.Join(dir, "usr/bin/awk")
			return errors.Join(os.Remove(link), os.Symlink("../lib/tool/data", link))
		},
		"no folder":       os.RemoveAll,
		"no index":        func(dir string) error { return os.Remove(indexPath(dir)) },
		"an index cut":    func(dir string) error { return os.Truncate(indexPath(dir), 100) },
		"an empty index":  func(dir string) error { return os.WriteFile(indexPath(dir), []byte("{}"), 0o644) },
		"a killed making": func(dir string) error { return os.Rename(dir, dir+".new") },
	} {
		t.Run(name, func(t *testing.T) {
			r, asked := packages(t)
			dir := open(t, r)
			if err := change(dir); err != nil {
				t.Fatal(err)
			}
			open(t, r)
			if got := read(t, filepath.Join(dir, "usr/bin/awk")); got != "first" || *asked != 2 {
				t.Errorf("%q, asked %d times", got, *asked)
			}
			entries, err := os.ReadDir(r.Dir)
			if err != nil || len(entries) != 3 { // the root, its index and its lock
				t.Errorf("%v, %v", entries, err)
			}
			if open(t, r); *asked != 2 {
				t.Error("it is made anew each time")
			}
		})
	}
}

func TestATouchedFileIsReadAgainAndBelieved(t *testing.T) {
	r, asked := packages(t)
	dir := open(t, r)
	before := read(t, indexPath(dir))
	for _, p := range []string{"usr/bin/tool", "usr/lib/tool/data"} {
		if err := os.Chtimes(filepath.Join(dir, p), time.Now(), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if open(t, r); *asked != 1 {
		t.Error("it was made anew")
	}
	if read(t, indexPath(dir)) == before {
		t.Error("what was read again is not remembered")
	}
}

func TestManyOpenOneRootAtOnce(t *testing.T) {
	r, asked := packages(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			dir, done, err := Open(t.Context(), r)
			if err != nil {
				t.Error(err)
				return
			}
			defer done()
			if data, err := os.ReadFile(filepath.Join(dir, "usr/bin/tool")); string(data) != "first" || err != nil {
				t.Errorf("%q, %v", data, err)
			}
		})
	}
	if wg.Wait(); *asked != 1 {
		t.Errorf("made %d times", *asked)
	}
}

func TestWhoeverUsesARootKeepsNobodyWaiting(t *testing.T) {
	r, asked := packages(t)
	first, done, err := Open(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	second, done, err := Open(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	if second != first || *asked != 1 {
		t.Errorf("%s and %s, made %d times", first, second, *asked)
	}
	// One that is broken is made anew only when nobody uses it.
	if err := os.Remove(filepath.Join(first, "usr/bin/tool")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 3*poll)
	defer cancel()
	if _, _, err := Open(ctx, r); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a root that is used was made anew: %v", err)
	}
}

func TestWhatCannotBeMadeLeavesNothing(t *testing.T) {
	r, _ := packages(t)
	bad := filepath.Join(t.TempDir(), "bad.deb")
	if err := os.WriteFile(bad, []byte("no package"), 0o644); err != nil {
		t.Fatal(err)
	}
	r.Packages = func(context.Context) ([]string, error) { return []string{bad}, nil }
	if _, _, err := Open(t.Context(), r); err == nil || !strings.Contains(err.Error(), "bad.deb") {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := Open(ctx, r); !errors.Is(err, context.Canceled) && !strings.Contains(err.Error(), "bad.deb") {
		t.Errorf("%v", err)
	}
	entries, err := os.ReadDir(r.Dir)
	if err != nil || len(entries) != 1 || !strings.HasSuffix(entries[0].Name(), ".lock") {
		t.Errorf("%v, %v", entries, err)
	}
}
