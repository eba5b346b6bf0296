package images

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/testenv"
)

func TestMain(m *testing.M) {
	// What TestAKilledDriverLeavesNothingHalf starts: it makes a volume, and is killed meanwhile.
	if dir := os.Getenv(killedVariable); dir != "" {
		ctx := context.Background()
		s, err := Open(ctx, Options{Dir: dir})
		if err == nil {
			_, err = s.Create(ctx, Wanted{Name: "a", Required: 8 << 20})
		}
		panic(err) // the volume was made, or it was not: both are wrong
	}
	os.Exit(m.Run())
}

func store(t *testing.T, o Options) *Store {
	t.Helper()
	if o.Dir == "" {
		o.Dir = filepath.Join(t.TempDir(), "volumes")
	}
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // some tests have closed it
	return s
}

// create makes a volume, which must succeed.
func create(t *testing.T, s *Store, w Wanted) *Volume {
	t.Helper()
	v, err := s.Create(t.Context(), w)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// blocks is the size that an ext4's own superblock tells, in bytes.
// Linux: Documentation/filesystems/ext4/super.rst: the superblock is at 1024.
func blocks(t *testing.T, image string) int64 {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1024)
	if _, err := f.ReadAt(b, 1024); err != nil {
		t.Fatal(err)
	}
	return int64(binary.LittleEndian.Uint32(b[4:])) << (10 + binary.LittleEndian.Uint32(b[24:]))
}

// sound has e2fsck judge an image.
func sound(t *testing.T, image string) {
	t.Helper()
	path, err := find("e2fsck")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(path, "-f", "-n", image).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// needPrograms skips a test where the programs of ext4 are missing.
func needPrograms(t *testing.T) {
	t.Helper()
	testenv.Require(t, testenv.Func("mkfs.ext4", func() error {
		_, err := find("mkfs.ext4")
		return err
	}))
}

func TestAVolumeIsASparseFileWithAFileSystem(t *testing.T) {
	needPrograms(t)
	s := store(t, Options{})
	v := create(t, s, Wanted{Name: "pvc-1", Required: 50<<20 + 1})
	if v.Size != 51<<20 || v.FSType != "ext4" || v.Used > v.Size/2 || !IsID(v.ID) || v.Name != "pvc-1" {
		t.Errorf("%+v", v)
	}
	if got := blocks(t, v.Image); got != v.Size {
		t.Errorf("the file system has %d bytes, the file %d", got, v.Size)
	}
	sound(t, v.Image)
	// Asked again it is the same one, and one that differs is refused.
	if again := create(t, s, Wanted{Name: "pvc-1", Required: 50 << 20, Limit: 60 << 20}); *again != *v {
		t.Errorf("%+v, want %+v", again, v)
	}
	for _, w := range []Wanted{{Name: "pvc-1", Required: 60 << 20}, {Name: "pvc-1", Limit: 20 << 20},
		{Name: "pvc-1", FSType: "xfs"}} {
		if _, err := s.Create(t.Context(), w); !errors.Is(err, ErrOther) {
			t.Errorf("%+v: %v", w, err)
		}
	}
	other := create(t, s, Wanted{Name: "pvc-2", Limit: 20<<20 + 5})
	if other.Size != 20<<20 {
		t.Errorf("a volume of at most 20 MiB and 5 bytes has %d", other.Size)
	}
	all, err := s.List()
	if err != nil || len(all) != 2 {
		t.Errorf("%v, %v", all, err)
	}
	// Removed, and removed again.
	for range 2 {
		if err := s.Delete(v.ID); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Volume(v.ID); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
}

func TestWhatCannotBeIsRefusedByItsKind(t *testing.T) {
	s := store(t, Options{Capacity: 100 << 20, MaxSize: 80 << 20})
	for _, c := range []struct {
		w    Wanted
		want error
	}{
		{Wanted{}, ErrName}, {Wanted{Name: strings.Repeat("n", 129)}, ErrName}, {Wanted{Name: "a\nb"}, ErrName},
		{Wanted{Name: "a", FSType: "btrfs"}, ErrFSType},
		{Wanted{Name: "a", Required: 81 << 20}, ErrSize},
		{Wanted{Name: "a", Required: 1<<63 - 1}, ErrSize},
		{Wanted{Name: "a", Required: 5<<20 + 1, Limit: 5<<20 + 2}, ErrSize},
		{Wanted{Name: "a", Limit: 1}, ErrSize},
		{Wanted{Name: "a", Required: 5 << 20, FSType: "xfs"}, ErrSize}, // it has 300 MiB at least
	} {
		if _, err := s.Create(t.Context(), c.w); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v, want %v", c.w, err, c.want)
		}
	}
	for _, id := range []string{"", "../etc", "vol-1", "vol-" + strings.Repeat("A", 32), ".lock"} {
		if _, err := s.Volume(id); !errors.Is(err, ErrNone) {
			t.Errorf("volume %q: %v", id, err)
		}
		if err := s.Delete(id); err != nil {
			t.Errorf("delete %q: %v", id, err)
		}
	}
	if _, err := os.Stat(filepath.Join(s.o.Dir, ".lock")); err != nil {
		t.Error(err)
	}
	list, err := os.ReadDir(s.o.Dir)
	if err != nil || len(list) != 1 {
		t.Errorf("left behind: %v, %v", list, err)
	}
}

func TestRoomIsNotGivenTwice(t *testing.T) {
	needPrograms(t)
	s := store(t, Options{Capacity: 100 << 20})
	v := create(t, s, Wanted{Name: "a", Required: 60 << 20})
	if _, err := s.Create(t.Context(), Wanted{Name: "b", Required: 41 << 20}); !errors.Is(err, ErrFull) {
		t.Error(err)
	}
	if _, err := s.GrowImage(v.ID, 101<<20, 0); !errors.Is(err, ErrFull) {
		t.Error(err)
	}
	create(t, s, Wanted{Name: "b", Required: 40 << 20})
	if room, err := s.Room(); err != nil || room != 0 {
		t.Errorf("%d, %v", room, err)
	}
	if err := s.Delete(v.ID); err != nil {
		t.Fatal(err)
	}
	if room, err := s.Room(); err != nil || room != 60<<20 {
		t.Errorf("%d, %v", room, err)
	}
}

func TestAVolumeGrows(t *testing.T) {
	needPrograms(t)
	s := store(t, Options{})
	v := create(t, s, Wanted{Name: "a", Required: 32 << 20})
	grown, err := s.GrowImage(v.ID, 64<<20, 0)
	if err != nil || grown.Size != 64<<20 {
		t.Fatalf("%+v, %v", grown, err)
	}
	// A driver that is killed here has left a file that is larger than its file system.
	if got := blocks(t, v.Image); got != 32<<20 {
		t.Errorf("the file system has %d bytes already", got)
	}
	for range 2 {
		if grown, err = s.GrowImage(v.ID, 64<<20, 70<<20); err != nil || grown.Size != 64<<20 {
			t.Fatalf("%+v, %v", grown, err)
		}
		if err := s.GrowFileSystem(t.Context(), grown); err != nil {
			t.Fatal(err)
		}
	}
	if got := blocks(t, v.Image); got != 64<<20 {
		t.Errorf("the file system has %d bytes", got)
	}
	sound(t, v.Image)
	if again, err := s.GrowImage(v.ID, 16<<20, 0); err != nil || again.Size != 64<<20 {
		t.Errorf("it shrinks: %+v, %v", again, err)
	}
	if _, err := s.GrowImage(v.ID, 16<<20, 32<<20); !errors.Is(err, ErrSize) {
		t.Errorf("a limit below its size: %v", err)
	}
	// Another file system's file stays what it is.
	note := filepath.Join(s.folder(v.ID), noteName)
	if err := os.WriteFile(note, []byte("{\n  \"version\": 1,\n  \"name\": \"a\",\n  \"fstype\": \"xfs\"\n}\n"),
		0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.GrowImage(v.ID, 128<<20, 0); !errors.Is(err, ErrNoGrowth) {
		t.Error(err)
	}
}

func TestAFolderIsOneDriversAlone(t *testing.T) {
	s := store(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, Options{Dir: s.o.Dir}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Error(err)
	}
	if _, err := Open(t.Context(), Options{Dir: "volumes"}); err == nil {
		t.Error("a relative folder is taken")
	}
}

// killedVariable names the folder for the program that is killed.
const killedVariable = "KATABUILD_TEST_KILLED_IMAGES"

func TestAKilledDriverLeavesNothingHalf(t *testing.T) {
	needPrograms(t)
	dir, bin := filepath.Join(t.TempDir(), "volumes"), t.TempDir()
	// The driver dies while the file system is made.
	if err := os.WriteFile(filepath.Join(bin, "mkfs.ext4"), []byte("#!/bin/sh\nkill -9 $PPID\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), killedVariable+"="+dir, "PATH="+bin+":"+os.Getenv("PATH"))
	out, err := c.CombinedOutput()
	e, is := errors.AsType[*exec.ExitError](err)
	if !is || e.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("%v: %s", err, out)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 { // the lock, and half a volume
		t.Fatalf("the test tests nothing: %v, %v", left, err)
	}
	// And one while a volume is removed.
	if err := os.MkdirAll(filepath.Join(dir, goneMark+idOf("b"), "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := store(t, Options{Dir: dir})
	if left, err = os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	v := create(t, s, Wanted{Name: "a", Required: 8 << 20})
	sound(t, v.Image)
}

func TestAFullDiskIsToldAndKeepsNothing(t *testing.T) {
	needPrograms(t)
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=256k,mode=700"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	// What the user says of the disk is not so.
	s := store(t, Options{Dir: dir, Capacity: 1 << 30})
	if v, err := s.Create(t.Context(), Wanted{Name: "a", Required: 256 << 20}); !errors.Is(err, ErrFull) {
		t.Errorf("%+v, %v", v, err)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
		t.Errorf("left behind: %v, %v", list, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// What is not there is not promised.
	s = store(t, Options{Dir: dir})
	if _, err := s.Create(t.Context(), Wanted{Name: "a", Required: 4 << 20}); !errors.Is(err, ErrFull) {
		t.Error(err)
	}
}

func TestAProgramThatFailsIsHeard(t *testing.T) {
	bin := t.TempDir()
	t.Setenv("PATH", bin)
	s := store(t, Options{})
	mkfs := filepath.Join(bin, "mkfs.ext4")
	if err := os.WriteFile(mkfs, []byte("#!/bin/sh\necho out of magic >&2\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(t.Context(), Wanted{Name: "a", Required: 8 << 20}); err == nil ||
		!strings.Contains(err.Error(), "out of magic") {
		t.Error(err)
	}
	if list, err := os.ReadDir(s.o.Dir); err != nil || len(list) != 1 {
		t.Errorf("left behind: %v, %v", list, err)
	}
}
