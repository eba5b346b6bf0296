package locks

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/katabuild/katabuild/internal/mountinfo"
)

func TestLocksAreRefusedOnForeignMountsAndBelow(t *testing.T) {
	all := []mountinfo.Mount{
		{ID: 1, Device: "0:1", Root: "/", Point: "/"},
		{ID: 2, Device: "0:2", Root: "/", Point: "/v"},        // virtio-fs: a file system of its own
		{ID: 3, Device: "0:3", Root: "/", Point: "/v/nested"}, // which the host has mounted below
		{ID: 4, Device: "0:9", Root: "/name-x", Point: "/nine"},
		{ID: 5, Device: "0:9", Root: "/name-y", Point: "/other"},
	}
	list := Foreign{{"0:2", "/"}, {"0:9", "/name-x"}}
	for point, want := range map[string]bool{"/": false, "/v": true, "/v/nested": true, "/nine": true,
		"/other": false, "/various": false} {
		if got := foreignPoint(all, point, list); got != want {
			t.Errorf("%s: %v", point, got)
		}
	}
}

func TestAForeignFolderIsFoundInItsFileSystem(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "folder")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	list, err := foreignOf([]string{dir})
	if err != nil || len(list) != 1 || filepath.Base(list[0].root) != "folder" {
		t.Errorf("%v, %v", list, err)
	}
	if _, err := foreignOf([]string{dir + "/missing"}); err == nil {
		t.Error("a folder that is not there is found")
	}
}
