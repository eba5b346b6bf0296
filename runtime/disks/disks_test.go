package disks

import (
	"os"
	"testing"
)

// file makes an empty file.
func file(t *testing.T, path string) string {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDisksAreToldApart(t *testing.T) {
	dir := t.TempDir()
	a, b := file(t, dir+"/a"), file(t, dir+"/b")
	if err := os.Symlink("a", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	of := func(path string, readOnly bool) key {
		t.Helper()
		k, err := keyOf(path, readOnly)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	if of(a, true) != of(dir+"/link", true) {
		t.Error("two paths of one file are two disks")
	}
	if of(a, true) == of(b, true) || of(a, true) == of(a, false) {
		t.Error("two disks are one")
	}
	for _, path := range []string{dir, dir + "/none", "/dev/null"} {
		if k, err := keyOf(path, true); err == nil {
			t.Errorf("%s is a disk: %+v", path, k)
		}
	}
}
