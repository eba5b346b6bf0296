package disk

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/storage/storagetest"
	"github.com/katabuild/katabuild/agent/uevent"
	"github.com/katabuild/katabuild/internal/testenv"
)

func TestEachDriverFindsItsDisk(t *testing.T) {
	f := Finder{Root: storagetest.Disks(t), Devices: &uevent.Listener{Root: t.TempDir(), Timeout: time.Millisecond}}
	for _, c := range []struct{ driver, source, name, number string }{
		{"blk", "02/01", "vdb", "254:16"}, {"blk", "/dev/vdb", "vdb", "254:16"}, {"mmioblk", "/dev/vdb", "vdb",
			"254:16"}, {"nvdimm", "/dev/pmem1", "pmem1", "259:1"},
		{"scsi", "1:3", "sda", "8:0"}, {"blk-ccw", "0.0.0005", "dasda", "94:0"},
	} {
		d, err := f.Find(t.Context(), c.driver, c.source)
		if err != nil || d.name != c.name || d.Number.String() != c.number {
			t.Errorf("%s %s: %+v, %v", c.driver, c.source, d, err)
		}
	}
	d, err := f.Find(t.Context(), "blk", "02/01")
	if err != nil {
		t.Fatal(err)
	}
	if p, err := f.Partition(t.Context(), d, 2); err != nil || p.Number.String() != "254:18" {
		t.Errorf("partition 2: %+v, %v", p, err)
	}
	if _, err := f.Partition(t.Context(), d, 1); !errors.Is(err, uevent.ErrTimeout) {
		t.Errorf("partition 1: %v", err)
	}
	// The kernel shows a disk before it can be opened: ENXIO, which the file of a UNIX socket gives too.
	node := filepath.Join(f.Root, "dev/vdb")
	if err := os.MkdirAll(filepath.Dir(node), 0o755); err != nil {
		t.Fatal(err)
	}
	// By a relative path, as the address of a socket is short.
	t.Chdir(filepath.Dir(node))
	socket, err := net.Listen("unix", "vdb")
	if err != nil {
		t.Fatal(err)
	}
	for _, source := range []string{"02/01", "/dev/vdb"} {
		if _, err := f.Find(t.Context(), "blk", source); !errors.Is(err, uevent.ErrTimeout) {
			t.Errorf("%s, which cannot be opened yet: %v", source, err)
		}
	}
	if err := socket.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Find(t.Context(), "blk", "02/01"); err != nil {
		t.Errorf("it can be opened now: %v", err)
	}
	for _, c := range [][2]string{{"blk", "02/02"}, {"mmioblk", "/dev/vdc"}, {"blk-ccw", "0.0.0006"}, {"scsi", "1:4"}} {
		if _, err := f.Find(t.Context(), c[0], c[1]); !errors.Is(err, uevent.ErrTimeout) ||
			!errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), c[1]) {
			t.Errorf("%v: %v", c, err)
		}
	}
	if got := storagetest.Read(f.Root + "/sys/class/scsi_host/host2/scan"); got != "0 1 4" {
		t.Errorf("asked the SCSI host for %q", got)
	}
	for _, c := range [][2]string{{"blk", "../x"}, {"blk", "/dev/../etc"}, {"mmioblk", "vdb"}, {"scsi", "*:1"},
		{"scsi", "1"}, {"blk-ccw", "*"}, {"nvdimm", "/dev/a/b"}, {"floppy", "0"}} {
		if d, err := f.Find(t.Context(), c[0], c[1]); err == nil || errors.Is(err, uevent.ErrTimeout) {
			t.Errorf("%v: %+v, %v", c, d, err)
		}
	}
}

func TestADriverNamesItsDisks(t *testing.T) {
	if got := strings.Join(Drivers(), " "); got != "blk blk-ccw mmioblk nvdimm scsi" {
		t.Errorf("drivers: %s", got)
	}
	for driver, want := range map[string]bool{"blk": true, "blk-ccw": true, "scsi": true, "mmioblk": false,
		"nvdimm": false, "floppy": false} {
		if got := HasPlaces(driver); got != want {
			t.Errorf("%s has places: %v", driver, got)
		}
	}
	for source, want := range map[string]string{"/dev/vdb": "mmioblk", "0:1": "scsi", "0.0.0005": "blk-ccw",
		"02/01": "blk", "02": "blk"} {
		if got := DriverOf(source); got != want {
			t.Errorf("%s is of %s, want %s", source, got, want)
		}
	}
}

func TestWithoutAWaiterADiskIsThereOrNot(t *testing.T) {
	f := Finder{Root: storagetest.Disks(t)}
	if d, err := f.Find(t.Context(), "blk", "02/01"); err != nil || d.Node != filepath.Join(f.Root, "dev/vdb") {
		t.Errorf("%+v, %v", d, err)
	}
	for _, c := range [][2]string{{"blk", "02/02"}, {"blk", "03"}, {"nvdimm", "/dev/pmem0"}, {"scsi", "1:4"}} {
		if d, err := f.Find(t.Context(), c[0], c[1]); !errors.Is(err, ErrNotFound) || !errors.Is(err, fs.ErrNotExist) ||
			!strings.Contains(err.Error(), c[1]) {
			t.Errorf("%v: %+v, %v", c, d, err)
		}
	}
	if d, err := (Finder{Root: t.TempDir()}).Find(t.Context(), "scsi", "0:1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("without a SCSI host: %+v, %v", d, err)
	}
	storagetest.Write(t, f.Root+"/sys/class/block/vdb/dev", "garbage")
	if d, err := f.Find(t.Context(), "blk", "02/01"); err == nil || !strings.Contains(err.Error(), "vdb") {
		t.Errorf("a disk without a number: %+v, %v", d, err)
	}
}

func TestADeviceFileIsTheDevice(t *testing.T) {
	if !testenv.Inside(t, 0) { // as root of a user namespace, which may make no device
		return
	}
	f := Finder{Root: storagetest.Disks(t)}
	if err := os.MkdirAll(f.Root+"/dev", 0o755); err != nil {
		t.Fatal(err)
	}
	d, err := f.Find(t.Context(), "blk", "02/01")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.MakeNode(); !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), d.Node) {
		t.Errorf("one that may not be made: %v", err)
	}
	for name, make := range map[string]func() error{
		"a file": func() error { return os.WriteFile(d.Node, nil, 0o600) },
		"a link": func() error { return os.Symlink("/dev/null", d.Node) },
	} {
		if err := make(); err != nil {
			t.Fatal(err)
		}
		if err := d.MakeNode(); err == nil || !strings.Contains(err.Error(), "is not the device 254:16") {
			t.Errorf("%s in its place: %v", name, err)
		}
		if err := os.Remove(d.Node); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(f.Root + "/dev"); err != nil {
		t.Fatal(err)
	}
	storagetest.Write(t, f.Root+"/dev", "a file where the folder should be")
	if err := d.MakeNode(); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("got %v", err)
	}
}
