package place_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/registry/registrytest"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/releases/place"
	"github.com/katabuild/katabuild/releases/releasetest"
)

// small mounts a disk of 2 MiB, which takes root.
func small(t *testing.T) string {
	t.Helper()
	testenv.Require(t, testenv.Root)
	dir := filepath.Join(t.TempDir(), "small")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("small", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// full fails t unless an error says that there is no room, and where.
func full(t *testing.T, err error, where string) {
	t.Helper()
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), where) {
		t.Errorf("got %v, want that %s has no room", err, where)
	}
}

// versions are two releases of which the newer does not fit on a small disk beside the older, nor alone.
func versions(t *testing.T) (old, fresh string) {
	t.Helper()
	disk, _ := disks()
	old, _ = releasetest.Release(t, "1.4.0", releasetest.Guest{Mark: " old"})
	fresh, _ = releasetest.Release(t, "1.5.0", releasetest.Guest{Disk: true, Image: disk})
	return old, fresh
}

func TestAPullThatFindsNoRoomLeavesTheOlderRelease(t *testing.T) {
	dir := small(t)
	old, fresh := versions(t)
	host := filepath.Join(dir, "host")
	mustCopy(t, old, host)
	_, err := copyTo(t, fresh, host, place.Options{})
	full(t, err, host)
	same(t, old, host)
	if err := unix.Mount("small", dir, "tmpfs", unix.MS_REMOUNT, "size=20m"); err != nil {
		t.Fatal(err)
	}
	r := mustCopy(t, fresh, host)
	same(t, fresh, host)
	if disk, _ := disks(); r.Bytes >= int64(len(disk)) {
		t.Errorf("%d bytes moved: it did not go on where it stopped", r.Bytes)
	}
}

func TestABundleThatFindsNoRoomLeavesTheOlderOne(t *testing.T) {
	dir := small(t)
	old, fresh := versions(t)
	bundle := filepath.Join(dir, "release.tar")
	mustCopy(t, old, "bundle:"+bundle)
	_, err := copyTo(t, fresh, "bundle:"+bundle, place.Options{})
	full(t, err, dir)
	same(t, old, "bundle:"+bundle)
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%v is left, %v", left, err)
	}
}

func TestAPushIntoARegistryWithoutRoomLeavesTheOlderRelease(t *testing.T) {
	dir := small(t)
	old, fresh := versions(t)
	at := "oci:" + registrytest.DistributionIn(t, dir) + "/guests:stable"
	mustCopy(t, old, at)
	_, err := copyTo(t, fresh, at, place.Options{})
	if err == nil || !strings.Contains(err.Error(), "no space left on device") &&
		!strings.Contains(err.Error(), "response status code 500") {
		t.Errorf("got %v", err)
	}
	same(t, old, at)
}
