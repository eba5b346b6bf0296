package place

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// in is a place below a folder.
func in(t *testing.T, folder, rest string) Place {
	t.Helper()
	p, err := In([]string{folder}, folder+"/"+rest)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAPlaceSaysWhereItIs(t *testing.T) {
	p, err := In([]string{"/other", "/run"}, "/run//a/./b/")
	if err != nil || p.String() != "/run/a/b" || p.Rest() != "a/b" || p.Name() != "b" || p.Folder().Rest() != "a" {
		t.Errorf("%+v, %v", p, err)
	}
	root := Root("/run")
	if p != root.Join("a", "b") || p.Folder().Folder() != root || root.Folder() != root {
		t.Errorf("%+v is not what its folder and name say", p)
	}
	for name, path := range map[string]string{"nothing": "", "relative": "run/a", "a NUL": "/run/a\x00",
		"a way up":          "/run/../x",
		"a way up and back": "/run/../run/x", "a neighbour": "/running", "above": "/"} {
		if p, err := In([]string{"/run", "/other"}, path); !errors.Is(err, ErrOutside) {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
}

func TestNoLinkIsFollowed(t *testing.T) {
	folder, outside := t.TempDir(), t.TempDir()
	if err := errors.Join(os.Symlink(outside, folder+"/out"), os.Mkdir(folder+"/real", 0o755),
		os.Symlink("real", folder+"/in")); err != nil {
		t.Fatal(err)
	}
	for _, rest := range []string{"out", "in", "out/x", "in/x"} {
		p := in(t, folder, rest)
		for deed, do := range map[string]func() (Handle, error){
			"open":        func() (Handle, error) { return p.Open(unix.O_PATH) },
			"make a file": p.MakeFile,
			"make":        func() (Handle, error) { return p.MakeDirs(DirMode, nil) },
		} {
			if h, err := do(); !errors.Is(err, ErrOutside) {
				t.Errorf("%s %s: %d, %v", deed, rest, h, err)
			}
		}
	}
	for _, rest := range []string{"out/x", "in/x"} {
		if err := in(t, folder, rest).RemoveAll(); !errors.Is(err, ErrOutside) {
			t.Errorf("remove %s: %v", rest, err)
		}
	}
	if e, err := os.ReadDir(outside); err != nil || len(e) != 0 {
		t.Errorf("made outside: %v, %v", e, err)
	}
	// A link itself is removed, and what it names is left alone.
	if err := in(t, folder, "in").RemoveAll(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(folder + "/real"); err != nil {
		t.Error(err)
	}
}

func TestFoldersAndFilesAreMadeOnTheWay(t *testing.T) {
	folder := t.TempDir()
	var made []string
	own := func(h Handle) error {
		name, err := os.Readlink(h.Path())
		made = append(made, strings.TrimPrefix(name, folder))
		return err
	}
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	for range 2 { // what is there is not made again
		h, err := in(t, folder, "a/b").MakeDirs(0o751, own)
		if err != nil {
			t.Fatal(err)
		}
		h.Close()
	}
	if got := fmt.Sprint(made); got != "[/a /a/b]" {
		t.Errorf("made %s", got)
	}
	if fi, err := os.Stat(folder + "/a/b"); err != nil || fi.Mode() != fs.ModeDir|0o751 {
		t.Errorf("the folder is %v, %v", fi.Mode(), err)
	}
	for range 2 {
		h, err := in(t, folder, "c/file").MakeFile()
		if err != nil {
			t.Fatal(err)
		}
		h.Close()
	}
	if fi, err := os.Stat(folder + "/c/file"); err != nil || !fi.Mode().IsRegular() {
		t.Errorf("the file is %v, %v", fi, err)
	}
	h, err := Root(folder).MakeDirs(DirMode, own)
	if err != nil {
		t.Fatal(err)
	}
	h.Close()
	refused := errors.New("refused")
	refuse := func(Handle) error { return refused }
	if _, err := in(t, folder, "d").MakeDirs(DirMode, refuse); !errors.Is(err, refused) {
		t.Errorf("an owner that cannot be set: %v", err)
	}
	for name, do := range map[string]func() error{
		"a folder where a file is": func() error {
			_, err := in(t, folder, "c/file").MakeDirs(DirMode, nil)
			return err
		},
		"a file below a file": func() error { _, err := in(t, folder, "c/file/x").MakeFile(); return err },
		"a file as a root":    func() error { _, err := Root(folder).MakeFile(); return err },
		"what is not there":   func() error { _, err := in(t, folder, "none").Open(unix.O_PATH); return err },
		"below no root":       func() error { _, err := Root(folder + "/none").Open(unix.O_PATH); return err },
		"made below no root": func() error {
			_, err := Root(folder+"/none").Join("x").MakeDirs(DirMode, nil)
			return err
		},
	} {
		if err := do(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestOnlyWhatIsToGoIsRemoved(t *testing.T) {
	folder := t.TempDir()
	if err := errors.Join(os.MkdirAll(folder+"/a/empty/deep", 0o755), os.MkdirAll(folder+"/b/empty", 0o755),
		os.WriteFile(folder+"/a/file", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, rest := range []string{"b", "none", "none/deeper"} {
		if err := in(t, folder, rest).RemoveEmpty(); err != nil {
			t.Errorf("%s: %v", rest, err)
		}
	}
	if err := in(t, folder, "a").RemoveEmpty(); err == nil {
		t.Error("a folder with a file was removed as an empty one")
	}
	if _, err := os.Stat(folder + "/a/file"); err != nil {
		t.Error(err)
	}
	for _, rest := range []string{"a", "none", "none/deeper"} {
		if err := in(t, folder, rest).RemoveAll(); err != nil {
			t.Errorf("%s: %v", rest, err)
		}
	}
	if e, err := os.ReadDir(folder); err != nil || len(e) != 0 {
		t.Errorf("left: %v, %v", e, err)
	}
}

func TestANameForWhatIsNotCompleteFits(t *testing.T) {
	long := strings.Repeat("x", unix.NAME_MAX)
	if got := TempName("file"); got != ".file.copying" {
		t.Error(got)
	}
	if got := TempName(long); len(got) > unix.NAME_MAX || filepath.Base(got) != got {
		t.Errorf("%d bytes", len(got))
	}
}

func FuzzIn(f *testing.F) {
	for _, s := range []string{"/run/a", "/run/../a", "/run//a/.", "/runa", "", "/run"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := In([]string{"/run"}, s)
		if err == nil && (!filepath.IsLocal(p.rest) || p.String() != "/run" && !strings.HasPrefix(p.String(),
			"/run/")) {
			t.Fatalf("%q is %+v", s, p)
		}
	})
}
