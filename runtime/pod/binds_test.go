package pod

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/runtime/share"
	"github.com/katabuild/katabuild/runtime/translate"
	"golang.org/x/sys/unix"
)

// file makes an empty file.
func file(t *testing.T, path string) string {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAVolumeOfSeveralContainersIsSharedOnce(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s, err := share.New(filepath.Join(dir, "shares"), "p1")
	if err != nil {
		t.Fatal(err)
	}
	p := &Pod{share: s}
	a, b := &container{id: "aa"}, &container{id: "bb"}
	volume := file(t, dir+"/volume")
	bind := func(c *container, path string, readOnly bool) string {
		t.Helper()
		f, err := translate.ThisHost{}.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		b := translate.Bind{Source: path, File: f}
		if readOnly {
			b.Access = share.ReadOnly
		}
		name, err := p.bind(c, b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(s.Dir(), name)); err != nil {
			t.Error(err)
		}
		return name
	}
	first := bind(a, volume, true)
	second := bind(a, volume, false)
	if first == second {
		t.Error("one that is to be written to is what others may only read")
	}
	if err := os.WriteFile(filepath.Join(s.Dir(), first), nil, 0o644); err == nil {
		t.Error("one that is only read could be written")
	}
	if bind(b, dir+"/../"+filepath.Base(dir)+"/volume", false) != second || bind(b, volume, true) != second {
		t.Error("the same volume is there twice")
	}
	if err := os.Rename(file(t, dir+"/new"), volume); err != nil {
		t.Fatal(err)
	}
	if bind(b, volume, false) == second {
		t.Error("another file of that path is taken for the first")
	}
	for i, want := range []int{2, 0} {
		if err := p.unbind([]*container{a, b}[i]); err != nil {
			t.Error(err)
		}
		if list, err := os.ReadDir(s.Dir()); err != nil || len(list) != want {
			t.Errorf("after %d: %v, %v", i, list, err)
		}
	}
	if err := p.unbind(a); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestVolumesHaveNamesOfTheirOwn(t *testing.T) {
	a, err := volumeName("c1", "/etc/hosts")
	b, err2 := volumeName("c1", "/etc/hosts")
	if err != nil || err2 != nil || a == b || !strings.HasPrefix(a, "c1-") || !strings.HasSuffix(a, "-hosts") {
		t.Error(a, b, err, err2)
	}
}
