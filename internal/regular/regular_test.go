package regular

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// soon fails the test when f waits.
func soon(t *testing.T, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(5 * time.Second):
		t.Fatal("still waiting after 5 seconds")
		return nil
	}
}

// zoo fills a folder with one of each kind that a plain user can make. The names say what each is.
func zoo(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	outside := filepath.Join(t.TempDir(), "secret")
	socket, err := net.Listen("unix", at("socket"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	if err := errors.Join(os.WriteFile(at("file"), []byte("plain"), 0o644), os.Mkdir(at("folder"), 0o755),
		unix.Mkfifo(at("fifo"), 0o644),
		os.Symlink("file", at("link")), os.Symlink(outside, at("out")),
		os.Symlink("../"+filepath.Base(filepath.Dir(outside))+"/secret", at("up")),
		os.Symlink("/dev/zero", at("zero")), os.Symlink("fifo", at("to-fifo")),
		os.WriteFile(outside, []byte("secret"), 0o600),
		os.Symlink(filepath.Dir(outside), at("way"))); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestOpenTakesNothingButPlainFiles(t *testing.T) {
	dir := zoo(t)
	for name, want := range map[string]string{
		"fifo": "a FIFO", "to-fifo": "a FIFO", "zero": "a device", "socket": "a socket", "folder": "a folder",
		"/proc/self/environ": "made up by the running kernel", "/proc/kmsg": "made up by the running kernel",
	} {
		path := name
		if !filepath.IsAbs(name) {
			path = filepath.Join(dir, name)
		}
		err := soon(t, func() error {
			_, err := ReadFile(path, 1<<20)
			return err
		})
		var kind *KindError
		if !errors.As(err, &kind) || kind.Kind != want {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
	for _, name := range []string{"file", "link"} {
		if got, err := ReadFile(filepath.Join(dir, name), 5); err != nil || string(got) != "plain" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := Open(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

func TestAFileIsReadUpToItsLimit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, bytes.Repeat([]byte{1}, 1000), 0o644); err != nil {
		t.Fatal(err)
	}
	var size *SizeError
	if _, err := ReadFile(path, 999); !errors.As(err, &size) || size.Limit != 999 {
		t.Errorf("got %v", err)
	}
	if got, err := ReadFile(path, 1000); err != nil || len(got) != 1000 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	// A sparse file is not read before it is refused.
	if err := os.Truncate(path, 1<<40); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFile(path, 1<<20); !errors.As(err, &size) {
		t.Errorf("got %v", err)
	}
}

func TestNothingInAFolderLeadsOutOfIt(t *testing.T) {
	dir := zoo(t)
	d, err := OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, name := range []string{"out", "up", "way/secret", "zero", "../secret", "/etc/passwd", "fifo", "to-fifo",
		"socket", "folder", "."} {
		if err := soon(t, func() error {
			_, err := d.ReadFile(name, 1<<20)
			return err
		}); err == nil {
			t.Errorf("%s can be read", name)
		}
	}
	for _, name := range []string{"file", "link"} {
		if got, err := d.ReadFile(name, 5); err != nil || string(got) != "plain" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	var kind *KindError
	if _, err := d.Open("fifo"); !errors.As(err, &kind) || kind.Kind != "a FIFO" {
		t.Errorf("a FIFO: %v", err)
	}
	if _, err := d.Open("socket"); !errors.As(err, &kind) || kind.Kind != "a socket" {
		t.Errorf("a socket: %v", err)
	}
	// Nothing is written through a link either, nor into a waiting FIFO.
	for _, name := range []string{"out", "link", "fifo", "new"} {
		if err := soon(t, func() error { return d.WriteFile(name, []byte("ours"), 0o644) }); err != nil {
			t.Errorf("write %s: %v", name, err)
		}
		if fi, err := os.Lstat(filepath.Join(dir, name)); err != nil || !fi.Mode().IsRegular() {
			t.Errorf("%s: %v, %v", name, fi.Mode(), err)
		}
	}
	if err := d.WriteFile("way/secret", []byte("ours"), 0o644); err == nil {
		t.Error("a file was written through a link to a folder outside")
	}
	target, err := os.Readlink(filepath.Join(dir, "way"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(target, "secret")); err != nil || string(got) != "secret" {
		t.Errorf("the file outside: %q, %v", got, err)
	}
	if got, err := d.ReadFile("file", 5); err != nil || string(got) != "plain" {
		t.Errorf("the target of a link inside: %q, %v", got, err)
	}
}

func TestAFolderIsAFileSystem(t *testing.T) {
	d, err := OpenFolder(zoo(t))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if got, err := fs.ReadFile(d.FS(5), "file"); err != nil || string(got) != "plain" {
		t.Errorf("%q, %v", got, err)
	}
	var size *SizeError
	if _, err := fs.ReadFile(d.FS(4), "file"); !errors.As(err, &size) {
		t.Errorf("got %v", err)
	}
	if _, err := fs.ReadFile(d.FS(5), "../x"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("got %v", err)
	}
	f, err := d.FS(5).Open("file")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := io.ReadAll(f); err != nil || string(got) != "plain" {
		t.Errorf("%q, %v", got, err)
	}
}
