package disks

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/katabuild/katabuild/runtime/machine"
)

// file makes an empty file.
func file(t *testing.T, path string) string {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDisksAreToldApart(t *testing.T) {
	dir := t.TempDir()
	a, b := file(t, dir+"/a"), file(t, dir+"/b")
	if err := os.Symlink("a", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	of := func(path string, readOnly bool) key {
		t.Helper()
		k, err := keyOf(path, readOnly)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	if of(a, true) != of(dir+"/link", true) {
		t.Error("two paths of one file are two disks")
	}
	if of(a, true) == of(b, true) || of(a, true) == of(a, false) {
		t.Error("two disks are one")
	}
	for _, path := range []string{dir, dir + "/none", "/dev/null"} {
		if k, err := keyOf(path, true); err == nil {
			t.Errorf("%s is a disk: %+v", path, k)
		}
	}
}

// plugs is a machine that writes down what is plugged in.
type plugs struct {
	t    *testing.T
	hang chan struct{} // PlugDisk waits for it; nil waits for nothing
	has  map[*machine.Plugged]string
}

func (m *plugs) PlugDisk(_ context.Context, d machine.Disk) (*machine.Plugged, error) {
	if m.hang != nil {
		m.hang <- struct{}{}
		<-m.hang
	}
	if len(m.has) == 2 {
		return nil, machine.ErrNoPlace
	}
	p := &machine.Plugged{}
	m.has[p] = filepath.Base(d.Path)
	return p, nil
}

func (m *plugs) UnplugDisk(_ context.Context, p *machine.Plugged) error {
	if m.has[p] == "" {
		m.t.Error("a disk is taken away that is not there")
	}
	delete(m.has, p)
	return nil
}

func TestADiskThatHasGrownIsToldByItsSize(t *testing.T) {
	dir := t.TempDir()
	a, b := file(t, dir+"/a"), file(t, dir+"/b")
	m := &plugs{t: t, has: map[*machine.Plugged]string{}}
	var p Pool
	use, err := p.Plug(t.Context(), m, machine.Disk{Path: a})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Plug(t.Context(), m, machine.Disk{Path: b, ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(a, 12345); err != nil {
		t.Fatal(err)
	}
	var told []int64
	resize := func(_ context.Context, d *machine.Plugged, size int64) error {
		if d != use.Disk {
			t.Error("another disk")
		}
		told = append(told, size)
		return nil
	}
	size, err := p.Resize(t.Context(), a, resize)
	if err != nil || size != 12345 || !slices.Equal(told, []int64{size}) {
		t.Errorf("%d, %v, %v", size, told, err)
	}
	for _, path := range []string{b, dir + "/none"} { // only read, and not there
		if _, err := p.Resize(t.Context(), path, resize); err == nil {
			t.Errorf("%s: no error", path)
		}
	}
}

func TestADiskIsPluggedInOnceAndGoesWithItsLastUse(t *testing.T) {
	dir := t.TempDir()
	a, b := file(t, dir+"/a"), file(t, dir+"/b")
	m := &plugs{t: t, has: map[*machine.Plugged]string{}}
	var p Pool
	plug := func(path string, readOnly bool) *Use {
		t.Helper()
		u, err := p.Plug(t.Context(), m, machine.Disk{Path: path, ReadOnly: readOnly})
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	first := plug(a, true)
	if p.Written() {
		t.Error("a disk to read is written to")
	}
	second, third := plug(a, true), plug(b, false)
	if first.Disk != second.Disk || len(m.has) != 2 || !p.Written() {
		t.Errorf("plugged in: %v", m.has)
	}
	if _, err := p.Plug(t.Context(), m, machine.Disk{Path: a}); !errors.Is(err, machine.ErrNoPlace) {
		t.Errorf("a third disk: %v", err)
	}
	if _, err := p.Plug(t.Context(), m, machine.Disk{Path: dir}); err == nil {
		t.Error("a folder is a disk")
	}
	for i, uses := range [][]*Use{{first}, {second, third}, nil} {
		if err := p.Unplug(t.Context(), m, uses); err != nil || len(m.has) != []int{2, 0, 0}[i] {
			t.Errorf("%d: %v, %v", i, m.has, err)
		}
	}
}

func TestAPlugThatHangsKeepsNobodyFromAsking(t *testing.T) {
	path := file(t, t.TempDir()+"/a")
	m := &plugs{t: t, has: map[*machine.Plugged]string{}, hang: make(chan struct{})}
	var p Pool
	plugged := make(chan error, 1)
	go func() {
		_, err := p.Plug(t.Context(), m, machine.Disk{Path: path})
		plugged <- err
	}()
	<-m.hang
	if p.Written() || p.has(path) {
		t.Error("it is there before it is")
	}
	m.hang <- struct{}{}
	if err := <-plugged; err != nil || !p.Written() {
		t.Errorf("%v", err)
	}
}

func TestOneImageHasOnePack(t *testing.T) {
	dir := t.TempDir()
	layers := []string{dir + "/a", dir + "/b"}
	for _, l := range layers {
		if err := os.WriteFile(l, make([]byte, packAlign), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m := &plugs{t: t, has: map[*machine.Plugged]string{}}
	var p Pool
	first, err := p.Pack(dir, layers)
	if err != nil || len(first.Parts) != 4 || !first.ReadOnly {
		t.Fatalf("%+v, %v", first, err)
	}
	if _, err := p.Plug(t.Context(), m, first); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(first.Path)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := p.Pack(dir, layers); err != nil || second.Path != first.Path {
		t.Errorf("%+v, %v", second, err)
	}
	if after, err := os.Stat(first.Path); err != nil || !os.SameFile(before, after) {
		t.Errorf("a pack in use is made anew: %v", err)
	}
	if other, err := p.Pack(dir, layers[:1]); err != nil || other.Path == first.Path {
		t.Errorf("%+v, %v", other, err)
	}
	if d, err := p.Pack(dir, []string{dir + "/none"}); !errors.Is(err, ErrNoPack) {
		t.Errorf("%+v, %v", d, err)
	}
}
