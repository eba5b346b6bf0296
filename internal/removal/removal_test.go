package removal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tree makes folders below a folder, with files in them.
func tree(t *testing.T, dir string, depth int) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("f", i)), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if depth > 0 {
			tree(t, filepath.Join(dir, fmt.Sprint("d", i)), depth-1)
		}
	}
}

func gone(t *testing.T, path string) {
	t.Helper()
	if err := All(path); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is there: %v", path, err)
	}
}

func TestAllIsRemovedAndNothingElse(t *testing.T) {
	dir := t.TempDir()
	kept, top := filepath.Join(dir, "kept"), filepath.Join(dir, "top")
	tree(t, kept, 1)
	tree(t, top, 3)
	// Links lead to what stays, from every depth.
	for _, p := range []string{"to", "d0/to", "d1/d2/to", "d1/d2/d3/to"} {
		if err := os.Symlink(kept, filepath.Join(top, p)); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(kept, link); err != nil {
		t.Fatal(err)
	}
	gone(t, link)
	gone(t, top)
	gone(t, filepath.Join(dir, "never"))
	n := 0
	err := filepath.WalkDir(kept, func(string, fs.DirEntry, error) error { n++; return nil })
	if err != nil || n != 36 {
		t.Errorf("%d of 36 are kept, %v", n, err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	gone(t, file)
}

func TestFoldersThatNobodyMayWriteTo(t *testing.T) {
	for mode := range fs.FileMode(8) {
		top := filepath.Join(t.TempDir(), "top")
		tree(t, top, 2)
		for _, p := range []string{"d1/d2", "d1", "d3", "."} {
			if err := os.Chmod(filepath.Join(top, p), mode<<6); err != nil {
				t.Fatal(err)
			}
		}
		gone(t, top)
	}
}

// A name may be as long as it takes, when it is made a part at a time.
func TestAPathThatIsTooLongForOneName(t *testing.T) {
	top := filepath.Join(t.TempDir(), "top")
	if err := os.Mkdir(top, 0o755); err != nil {
		t.Fatal(err)
	}
	r, err := os.OpenRoot(top)
	if err != nil {
		t.Fatal(err)
	}
	part := strings.Repeat("a", 250)
	for range 20 {
		if err := r.Mkdir(part, 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := r.OpenRoot(part)
		if err := errors.Join(err, r.Close()); err != nil {
			t.Fatal(err)
		}
		r = next
	}
	if err := errors.Join(r.WriteFile("f", nil, 0o600), r.Close()); err != nil {
		t.Fatal(err)
	}
	gone(t, top)
}
