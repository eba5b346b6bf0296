package owned

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOnlyWhatNobodyElseCouldHaveWrittenIsRead(t *testing.T) {
	for what, c := range map[string]struct {
		file, folder os.FileMode
		unsafe       string // the last part of the path to blame; empty is none
	}{
		"our own":                      {0o644, 0o755, ""},
		"one that a group writes":      {0o664, 0o755, "f"},
		"one that everybody replaces":  {0o644, 0o777, "d"},
		"one that only we can replace": {0o644, 0o777 | os.ModeSticky, ""},
	} {
		dir := filepath.Join(t.TempDir(), "d")
		path := filepath.Join(dir, "f")
		if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(path, []byte("words"), 0o600),
			os.Chmod(path, c.file), os.Chmod(dir, c.folder)); err != nil {
			t.Fatal(err)
		}
		b, err := Read(path, 4)
		var no *Unsafe
		switch {
		case c.unsafe == "":
			if string(b) != "word" || err != nil {
				t.Errorf("%s: %q, %v", what, b, err)
			}
		case !errors.As(err, &no) || filepath.Base(no.Path) != c.unsafe:
			t.Errorf("%s: %q, %v", what, b, err)
		}
	}
	dir := t.TempDir()
	if err := unix.Mkfifo(dir+"/pipe", 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, dir + "/pipe", dir + "/none"} {
		if b, err := Read(path, 4); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %q, %v", path, b, err)
		}
	}
}

func TestAFolderOfSomebodyElseIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(dir+"/open", 0o700), os.Chmod(dir+"/open", 0o770), os.Symlink("open", dir+"/link"),
		os.WriteFile(dir+"/file", nil, 0o600), os.Mkdir(dir+"/own", 0o700)); err != nil {
		t.Fatal(err)
	}
	for name, says := range map[string]string{"own": "", "none": "", "open": "has mode 0770", "link": "symbolic link",
		"file": "no folder"} {
		if err := Folder(filepath.Join(dir, name)); (err == nil) != (says == "") || err != nil &&
			!strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := By("/x", uint32(os.Geteuid())+1, 0o600); err == nil || !strings.Contains(err.Error(), "belongs to user") {
		t.Errorf("another's file: %v", err)
	}
}
