package pod

import (
	"os"
	"strings"
	"testing"
)

func TestDisksAreToldApart(t *testing.T) {
	dir := t.TempDir()
	a, b := file(t, dir+"/a"), file(t, dir+"/b")
	if err := os.Symlink("a", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	key := func(path string, readOnly bool) diskKey {
		t.Helper()
		k, err := keyOf(path, readOnly)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	if key(a, true) != key(dir+"/link", true) {
		t.Error("two paths of one file are two disks")
	}
	if key(a, true) == key(b, true) || key(a, true) == key(a, false) {
		t.Error("two disks are one")
	}
	for _, path := range []string{dir, dir + "/none", "/dev/null"} {
		if k, err := keyOf(path, true); err == nil {
			t.Errorf("%s is a disk: %+v", path, k)
		}
	}
}

func TestACopyHasBounds(t *testing.T) {
	r := room{bytes: 10, files: 3}
	for i, c := range []struct {
		size int64
		says string
	}{{10, ""}, {0, ""}, {1, "MiB"}} {
		if err := r.take(c.size); (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(),
			c.says) {
			t.Errorf("%d: %v", i, err)
		}
	}
	r = room{bytes: 10, files: 1}
	if r.take(0) != nil || !strings.Contains(r.take(0).Error(), "files") {
		t.Error("the number of files has no bound")
	}
}
