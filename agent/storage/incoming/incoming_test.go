package incoming

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/storage/place"
	"github.com/katabuild/katabuild/agent/storage/storagetest"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
)

// below takes files below a folder.
type below struct {
	Files
	folder string
}

func (b *below) take(r *katapb.CopyFileRequest) error {
	at, err := place.In([]string{b.folder}, r.Path)
	if err != nil {
		return err
	}
	return b.Take(at, r)
}

func copyRequest(path string, offset, size int64, data string) *katapb.CopyFileRequest {
	return &katapb.CopyFileRequest{Path: path, FileSize: size, FileMode: unix.S_IFREG | 0o640, DirMode: 0o750,
		Uid: int32(os.Getuid()), Gid: int32(os.Getgid()), Offset: offset, Data: []byte(data)}
}

func TestAFileAppearsWhole(t *testing.T) {
	m := &below{folder: t.TempDir()}
	path := m.folder + "/a/b/file"
	storagetest.Write(t, path, "before")
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if err := m.take(copyRequest(path, 0, 6, "abc")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half a file is there: %v", err)
	}
	if err := m.take(copyRequest(path, 3, 6, "def")); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode() != 0o640 || storagetest.Read(path) != "abcdef" {
		t.Errorf("%v, %q, %v", fi.Mode(), storagetest.Read(path), err)
	}
	if fi, err := os.Stat(filepath.Dir(path)); err != nil || fi.Mode().Perm() != 0o750 {
		t.Errorf("its folder is %v, %v", fi.Mode(), err)
	}
	// Over an older file, which stays whole until then; and one without bytes.
	if err := errors.Join(m.take(copyRequest(path, 0, 4, "ne")),
		m.take(copyRequest(path+"-empty", 0, 0, ""))); err != nil {
		t.Fatal(err)
	}
	if storagetest.Read(path) != "abcdef" || storagetest.Read(path+"-empty") != "" {
		t.Errorf("%q, %q", storagetest.Read(path), storagetest.Read(path+"-empty"))
	}
	// Begun anew, then complete.
	if err := errors.Join(m.take(copyRequest(path, 0, 4, "NE")),
		m.take(copyRequest(path, 2, 4, "W!"))); err != nil || storagetest.Read(path) != "NEW!" {
		t.Errorf("%q, %v", storagetest.Read(path), err)
	}
	link := copyRequest(filepath.Dir(path)+"/link", 0, 0, "../../../../etc/passwd")
	link.FileMode = unix.S_IFLNK | 0o777
	folder := copyRequest(filepath.Dir(path)+"/dir", 0, 0, "")
	folder.FileMode = unix.S_IFDIR | 0o701
	for range 2 { // again is fine
		if err := errors.Join(m.take(link), m.take(folder)); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.Readlink(link.Path); got != string(link.Data) {
		t.Errorf("link to %q, %v", got, err)
	}
	if fi, err := os.Stat(folder.Path); err != nil || fi.Mode() != fs.ModeDir|0o701 {
		t.Errorf("folder is %v, %v", fi.Mode(), err)
	}
	if err := m.take(copyRequest(path, 0, 90, "unfinished")); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if e, _ := filepath.Glob(filepath.Dir(path) + "/.*"); len(e) != 0 {
		t.Errorf("left: %v", e)
	}
}

func TestWrongChunksAreRefused(t *testing.T) {
	m := &below{folder: t.TempDir()}
	shared := m.folder
	outside := t.TempDir()
	storagetest.Write(t, shared+"/real/file", "x")
	if err := errors.Join(os.Symlink(outside, shared+"/out"), os.Symlink("real", shared+"/in")); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"elsewhere": outside + "/x", "up": shared + "/../x",
		"a link out": shared + "/out/x", "a link that stays in": shared + "/in/x",
		"the folder itself": shared, "relative": "x", "a NUL": shared + "/a\x00b", "a neighbour": shared + "-2/x",
	} {
		if err := m.take(copyRequest(path, 0, 1, "x")); !errors.Is(err, place.ErrOutside) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if e, _ := os.ReadDir(outside); len(e) != 0 {
		t.Errorf("written outside: %v", e)
	}
	for name, c := range map[string]struct {
		offset, size int64
		data         string
	}{
		"more than the file": {0, 2, "abc"}, "beyond its end": {2, 2, "a"}, "a negative offset": {-1, 2, "a"},
		"a negative size": {0, -1, ""}, "a start that is missing": {1, 2, "a"},
		"no bytes": {0, 2, ""}, "an offset that overflows": {1 << 62, 1<<63 - 1, "a"},
	} {
		if err := m.take(copyRequest(shared+"/f", c.offset, c.size, c.data)); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	// A hole, or another size half way, ends the file.
	for _, second := range []*katapb.CopyFileRequest{copyRequest(shared+"/g", 2, 4, "x"), copyRequest(shared+"/g", 1,
		5, "x")} {
		if err := m.take(copyRequest(shared+"/g", 0, 4, "a")); err != nil {
			t.Fatal(err)
		}
		if err := m.take(second); err == nil {
			t.Error("a chunk that does not fit is taken")
		}
		if err := m.take(copyRequest(shared+"/g", 1, 4, "bcd")); err == nil {
			t.Error("a file with a failed chunk goes on")
		}
	}
	device := copyRequest(shared+"/dev", 0, 0, "")
	device.FileMode = unix.S_IFCHR | 0o666
	if err := m.take(device); err == nil {
		t.Error("a device is taken")
	}
	over := copyRequest(shared+"/real", 0, 1, "x")
	if err := m.take(over); err == nil {
		t.Error("a file replaced a folder")
	}
	if e, _ := filepath.Glob(shared + "/.*"); len(e) != 0 {
		t.Errorf("left: %v", e)
	}
	// A link at the path itself is replaced, not followed.
	if err := m.take(copyRequest(shared+"/out", 0, 1, "x")); err != nil || storagetest.Read(shared+"/out") != "x" {
		t.Errorf("%v", err)
	}
}
