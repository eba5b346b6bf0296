package install

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/testenv"
)

// TestAnInstallationThatFindsNoRoomLeavesTheOlderOne installs on a disk that has room for one release. It takes
// root.
func TestAnInstallationThatFindsNoRoomLeavesTheOlderOne(t *testing.T) {
	testenv.Require(t, testenv.Root)
	root := filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("small", root, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	from, of := programs(t), guest(t, "first")
	if err := child([]string{"install", root, "1.0.0", from, of}); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, root)
	filler := filepath.Join(root, "filler")
	room(t, filler, 1<<20) // less than a program has
	err := child([]string{"install", root, "2.0.0", from, guest(t, "second")})
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v, want that there is no room", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if after := snapshot(t, root); after != before {
		t.Errorf("it was\n%s\nand is\n%s", before, after)
	}
	if err := child([]string{"install", root, "2.0.0", from, guest(t, "third")}); err != nil {
		t.Errorf("once there is room: %v", err)
	}
}

// room fills a disk with one file but for so many bytes.
func room(t *testing.T, path string, left int64) {
	t.Helper()
	var s unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(path), &s); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err == nil {
		err = unix.Fallocate(int(f.Fd()), 0, 0, int64(s.Bavail)*s.Bsize-left)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}
