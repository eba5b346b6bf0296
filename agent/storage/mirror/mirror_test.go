package mirror

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// pair is a mirror from one folder to another.
func pair(t *testing.T) (m *Mirror, from, to string) {
	t.Helper()
	from, to = t.TempDir(), t.TempDir()
	m = &Mirror{Every: time.Minute}
	var err error
	if m.From, err = os.OpenRoot(from); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.From.Close() })
	if m.To, err = os.OpenRoot(to); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.To.Close() })
	return m, from, to
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// tree is what is in a folder, with modes and contents.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		line := fmt.Sprint(strings.TrimPrefix(p, dir+"/"), " ", fi.Mode())
		switch {
		case fi.Mode().IsRegular():
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += " " + string(b)
		case fi.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			line += " " + target
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

func TestACopyIsAsItsSource(t *testing.T) {
	m, from, to := pair(t)
	write(t, from+"/..1/key", "old")
	write(t, from+"/dir/deep/file", "x")
	write(t, from+"/kind", "file")
	if err := errors.Join(os.Symlink("..1", from+"/..data"), os.Symlink("..data/key", from+"/key"),
		os.Chmod(from+"/dir/deep/file", 0o4751), os.Chmod(from+"/dir", 0o700)); err != nil {
		t.Fatal(err)
	}
	same := func(what string) {
		t.Helper()
		if err := m.Copy(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if want, got := tree(t, from), tree(t, to); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", what, got, want)
		}
	}
	same("the first copy")
	// As Kubernetes publishes a change: a new folder, then a link that swaps.
	write(t, from+"/..2/key", "new")
	if err := errors.Join(os.Symlink("..2", from+"/..tmp"), os.Rename(from+"/..tmp", from+"/..data"),
		os.RemoveAll(from+"/..1")); err != nil {
		t.Fatal(err)
	}
	same("a change as Kubernetes makes it")
	if err := errors.Join(os.Remove(from+"/kind"), os.RemoveAll(from+"/dir")); err != nil {
		t.Fatal(err)
	}
	write(t, from+"/kind/inside", "y")
	write(t, from+"/dir", "z")
	same("a folder where a file was, and the other way round")
	if err := os.Chmod(from+"/dir", 0o600); err != nil {
		t.Fatal(err)
	}
	same("another mode")
	before, err := os.Stat(to + "/dir")
	if err != nil {
		t.Fatal(err)
	}
	same("nothing new")
	if after, err := os.Stat(to + "/dir"); err != nil || !os.SameFile(before, after) {
		t.Errorf("what did not change was copied: %v", err)
	}
	if err := syscall.Mkfifo(from+"/pipe", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.Copy(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(to + "/pipe"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a pipe was copied: %v", err)
	}
}

func TestASingleFileIsChangedInPlace(t *testing.T) {
	m, from, to := pair(t)
	m.Only = "key"
	write(t, from+"/key", "a long text")
	write(t, from+"/other", "x")
	if err := m.Copy(); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(to + "/key")
	if err != nil {
		t.Fatal(err)
	}
	write(t, from+"/key", "short")
	if err := m.Copy(); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(to + "/key")
	if err != nil || !os.SameFile(before, after) || tree(t, to) != "key -rw-r--r-- short" {
		t.Errorf("got %q, %v", tree(t, to), err)
	}
	if err := os.Remove(from + "/key"); err != nil {
		t.Fatal(err)
	}
	if err := m.Check(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is gone: %v", err)
	}
}

func TestWhatIsTooMuchIsNotCopied(t *testing.T) {
	for name, fill := range map[string]func(from string){
		"too many files": func(from string) {
			for i := range MaxFiles + 1 {
				write(t, fmt.Sprintf("%s/%d", from, i), "x")
			}
		},
		"too many bytes": func(from string) {
			write(t, from+"/1", strings.Repeat("x", MaxBytes))
			write(t, from+"/2", "x")
		},
		"too many folders": func(from string) {
			for i := range 8 * MaxFiles {
				if err := os.Mkdir(fmt.Sprintf("%s/%d", from, i), 0o755); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		m, from, to := pair(t)
		fill(from)
		if err := m.Check(); !errors.Is(err, ErrTooMuch) {
			t.Errorf("%s: %v", name, err)
		}
		if err := m.Copy(); !errors.Is(err, ErrTooMuch) || tree(t, to) != "" {
			t.Errorf("%s: %v, and copied %s", name, err, tree(t, to))
		}
	}
	m, from, _ := pair(t)
	for i := range MaxFiles {
		write(t, fmt.Sprintf("%s/%d", from, i), strings.Repeat("x", MaxBytes/MaxFiles))
	}
	if err := errors.Join(m.Check(), m.Copy()); err != nil {
		t.Errorf("as much as there may be: %v", err)
	}
}

func TestAMirrorCopiesUntilItIsStoppedAndComplainsOnce(t *testing.T) {
	m, from, to := pair(t)
	write(t, from+"/key", "1")
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		var said []string
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			m.Run(ctx, func(err error) { said = append(said, err.Error()) })
		}()
		look := func() {
			time.Sleep(m.Every)
			synctest.Wait()
		}
		look()
		if got := tree(t, to); got != "key -rw-r--r-- 1" {
			t.Errorf("after a look: %q", got)
		}
		for i := range MaxFiles {
			write(t, fmt.Sprintf("%s/%d", from, i), "x")
		}
		look()
		look()
		if err := os.Remove(from + "/0"); err != nil {
			t.Error(err)
		}
		look()
		if len(said) != 1 || said[0] != ErrTooMuch.Error() {
			t.Errorf("complained of %q, want one", said)
		}
		write(t, from+"/0", "x")
		look()
		if len(said) != 2 {
			t.Errorf("what went wrong again was not told: %q", said)
		}
		stop()
		<-ended
	})
}
