package checkout

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/digest"
)

// folder makes a folder with the umask of the moment.
func folder(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "f")
	for _, d := range []string{"", "bin", "empty"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	err := errors.Join(os.WriteFile(filepath.Join(dir, "bin/tool"), []byte("tool"), 0o777),
		os.WriteFile(filepath.Join(dir, "key"), []byte("key"), 0o666),
		os.Symlink("/etc/passwd", filepath.Join(dir, "link")), os.WriteFile(filepath.Join(dir, "odd\xff"), nil, 0o666))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func mustDigest(t *testing.T, dir string) digest.Digest {
	t.Helper()
	d, err := Digest(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// copied is what a copy holds, as its user sees it, the digest over just that, and what a copy loses.
func copied(t *testing.T, dir string) (string, digest.Digest, []string) {
	t.Helper()
	list, err := List(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	s := ""
	var lost []string
	for i, e := range list {
		text := ""
		if e.Kind == File || e.Kind == Executable {
			data, err := os.ReadFile(e.Path)
			if err != nil || int64(len(data)) != e.Size {
				t.Fatalf("%s: %v, size %d", e.Name, err, e.Size)
			}
			text, list[i].Sum = string(data), digest.Of(data)
		}
		if e.Lost != "" {
			lost = append(lost, e.Name+" ("+e.Lost+")")
		}
		s += string(e.Kind) + e.Name + "=" + e.Target + text + "\n"
	}
	return s, Sum(list), lost
}

// What a digest does not see makes no difference in the copy, and what makes one it sees.
func TestEqualDigestsAreEqualCopies(t *testing.T) {
	dir := folder(t)
	want, d, lost := copied(t, dir)
	if d != mustDigest(t, dir) || len(lost) != 0 {
		t.Fatalf("%s, %q", d, lost)
	}
	if want != "d.=\ndbin=\nxbin/tool=tool\ndempty=\nfkey=key\nllink=/etc/passwd\nfodd\xff=\n" {
		t.Errorf("it holds %q", want)
	}
	in := filepath.Join
	for name, c := range map[string]struct {
		change func(string) error
		same   bool
	}{
		"set-id bits":    {func(d string) error { return os.Chmod(in(d, "bin/tool"), 0o755|os.ModeSetuid) }, true},
		"private":        {func(d string) error { return os.Chmod(in(d, "key"), 0o600) }, true},
		"private folder": {func(d string) error { return os.Chmod(in(d, "empty"), 0o700) }, true},
		"sticky folder":  {func(d string) error { return os.Chmod(in(d, "empty"), 0o777|os.ModeSticky) }, true},
		"time": {func(d string) error { return os.Chtimes(in(d, "key"), time.Unix(1, 0), time.Unix(2, 0)) },
			true},
		"git":          {func(d string) error { return os.Mkdir(in(d, ".git"), 0o755) }, true},
		"git worktree": {func(d string) error { return os.WriteFile(in(d, ".git"), []byte("x"), 0o644) }, true},
		"attribute": {func(d string) error {
			return ignoreUnsupported(syscall.Setxattr(in(d, "key"), "user.x", []byte("y"), 0))
		}, true},
		"hard link": {func(d string) error {
			return errors.Join(os.Remove(in(d, "key")), os.WriteFile(in(d, "../key"), []byte("key"), 0o644),
				os.Link(in(d, "../key"), in(d, "key")))
		}, true},
		"executable":     {func(d string) error { return os.Chmod(in(d, "key"), 0o755) }, false},
		"not executable": {func(d string) error { return os.Chmod(in(d, "bin/tool"), 0o644) }, false},
		"content":        {func(d string) error { return os.WriteFile(in(d, "key"), []byte("kez"), 0o644) }, false},
		"empty folder":   {func(d string) error { return os.Remove(in(d, "empty")) }, false},
		"name":           {func(d string) error { return os.Rename(in(d, "odd\xff"), in(d, "odd\xfe")) }, false},
		"target": {func(d string) error {
			return errors.Join(os.Remove(in(d, "link")), os.Symlink("/etc/group", in(d, "link")))
		}, false},
		"git further in":  {func(d string) error { return os.Mkdir(in(d, "bin/.git"), 0o755) }, false},
		"replaced letter": {func(d string) error { return os.Rename(in(d, "odd\xff"), in(d, "odd\ufffd")) }, false},
	} {
		dir := folder(t)
		if err := c.change(dir); err != nil {
			t.Fatal(err)
		}
		got, sum, _ := copied(t, dir)
		if sum != mustDigest(t, dir) {
			t.Errorf("%s: the copy has another digest than the folder", name)
		}
		if (sum == d) != c.same || (got == want) != c.same {
			t.Errorf("%s: same digest %v, same copy %v, want %v", name, sum == d, got == want, c.same)
		}
	}
	old := syscall.Umask(0o077)
	other := folder(t)
	syscall.Umask(old)
	if mustDigest(t, other) != d {
		t.Error("another umask is another digest")
	}
}

func ignoreUnsupported(err error) error {
	if errors.Is(err, syscall.EOPNOTSUPP) {
		return nil
	}
	return err
}

func TestWhatIsLostIsTold(t *testing.T) {
	dir := folder(t)
	if err := os.Chmod(filepath.Join(dir, "bin/tool"), 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	if _, _, lost := copied(t, dir); len(lost) != 1 || lost[0] != "bin/tool (set-id bits)" {
		t.Errorf("%q", lost)
	}
}

func TestALinkToAFolderIsTheFolder(t *testing.T) {
	dir := folder(t)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if mustDigest(t, link) != mustDigest(t, dir) {
		t.Error("another digest")
	}
}

func TestOddFoldersAreRefused(t *testing.T) {
	dir := folder(t)
	if _, err := Digest(t.Context(), filepath.Join(dir, "key")); err == nil || !strings.Contains(err.Error(),
		"is no folder") {
		t.Errorf("a file: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Digest(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Digest(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "pipe in the folder") {
		t.Errorf("a pipe: %v", err)
	}
}
