package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/storage/place"
	"github.com/katabuild/katabuild/internal/mountinfo"
	"github.com/katabuild/katabuild/internal/testenv"
)

func TestOptionsSayWhatAMountIs(t *testing.T) {
	for name, c := range map[string]struct {
		words       []string
		flags       uintptr
		propagation []uintptr
		data        []string
	}{
		"none": {},
		"a list": {words: []string{"ro,nosuid", "noexec"},
			flags: unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NOEXEC},
		"taken back":  {words: []string{"ro", "nodev", "rw"}, flags: unix.MS_NODEV},
		"asked again": {words: []string{"rw", "ro"}, flags: unix.MS_RDONLY},
		"times":       {words: []string{"noatime", "diratime", "lazytime"}, flags: unix.MS_NOATIME | unix.MS_LAZYTIME},
		"a bind": {words: []string{"rbind", "rprivate"}, flags: unix.MS_BIND | unix.MS_REC,
			propagation: []uintptr{unix.MS_PRIVATE | unix.MS_REC}},
		"propagation": {words: []string{"slave", "shared"}, propagation: []uintptr{unix.MS_SLAVE, unix.MS_SHARED}},
		"the file system's own": {words: []string{"size=1m,mode=755", "", "huge=always"},
			data: []string{"size=1m", "mode=755", "huge=always"}},
		"the host's alone": {words: []string{"defaults", "_netdev,nofail", "x"}, data: []string{"x"}},
	} {
		o := Parse(c.words)
		if o.Flags != c.flags || !slices.Equal(o.propagation, c.propagation) || !slices.Equal(o.Data, c.data) {
			t.Errorf("%s: %+v", name, o)
		}
	}
}

func TestTheLastOfAnOptionCounts(t *testing.T) {
	o := Parse([]string{"mode=1", "size=2,mode=3", "modeless", "mode"})
	if v, ok := o.Get("mode"); !ok || v != "3" {
		t.Errorf("get: %q, %v", v, ok)
	}
	if v, ok := o.Take("mode"); !ok || v != "3" || strings.Join(o.Data, " ") != "size=2 modeless mode" {
		t.Errorf("take: %q, %v, left %q", v, ok, o.Data)
	}
	if v, ok := o.Take("mode"); ok {
		t.Errorf("taken twice: %q", v)
	}
	if v, ok := o.Get("mode"); ok {
		t.Errorf("got what was taken: %q", v)
	}
}

// folder is on a file system of its own, whose mounts end with the process.
func folder(t *testing.T) place.Place {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "run")
	if err := errors.Join(os.Mkdir(dir, 0o755), unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""),
		unix.Mount("run", dir, "tmpfs", 0, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return place.Root(dir)
}

// at is the mount at a place, the last where there are several.
func at(t *testing.T, p place.Place) (mountinfo.Mount, bool) {
	t.Helper()
	all, err := mountinfo.Self()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range slices.Backward(all) {
		if m.Point == p.String() {
			return m, true
		}
	}
	return mountinfo.Mount{}, false
}

// flags are those of the mount that is on top at a place.
func flags(t *testing.T, p place.Place) uintptr {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(p.String(), &st); err != nil {
		t.Fatal(err)
	}
	return FlagsOf(st)
}

func open(t *testing.T, p place.Place) place.Handle {
	t.Helper()
	h, err := p.Open(unix.O_PATH)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

func write(t *testing.T, p place.Place, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(p.String()), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.String(), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(p place.Place) string {
	b, err := os.ReadFile(p.String())
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func TestAMountHasItsFlagsAndGoesAgain(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	p := folder(t).Join("a", "b")
	if err := At("memory", "tmpfs", p, Parse([]string{"nosuid,noexec,size=64k", "shared"})); err != nil {
		t.Fatal(err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(p.String(), &st); err != nil || int64(st.Blocks)*st.Bsize != 64<<10 {
		t.Errorf("%d blocks, %v", st.Blocks, err)
	}
	if f := flags(t, p); f&(unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_NODEV) != unix.MS_NOSUID|unix.MS_NOEXEC {
		t.Errorf("flags %x", f)
	}
	if m, there := at(t, p); !there || m.Type != "tmpfs" {
		t.Errorf("mounted: %+v, %v", m, there)
	}
	for range 2 { // nothing mounted is no error
		if err := Unmount(p); err != nil {
			t.Error(err)
		}
		if m, there := at(t, p); there {
			t.Errorf("still mounted: %+v", m)
		}
	}
	if err := Unmount(p.Join("none", "deeper")); err != nil {
		t.Error(err)
	}
}

func TestABindIsAsStrictAsItIsAsked(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	run := folder(t)
	write(t, run.Join("source", "file"), "x")
	if err := At("inner", "tmpfs", run.Join("source", "inner"), Options{}); err != nil {
		t.Fatal(err)
	}
	write(t, run.Join("source", "inner", "deep"), "y")
	flat, deep, file := run.Join("flat"), run.Join("deep"), run.Join("single", "file")
	for _, c := range []struct {
		from, to place.Place
		words    string
	}{{run.Join("source"), flat, "ro,nodev,private"}, {run.Join("source"), deep, "rbind"},
		{run.Join("source", "file"), file, "bind,nosuid"}} {
		if err := Bind(open(t, c.from), c.to, Parse([]string{c.words})); err != nil {
			t.Fatal(err)
		}
	}
	if got := read(flat.Join("file")) + read(deep.Join("inner", "deep")) + read(file); got != "xyx" {
		t.Errorf("bound: %q", got)
	}
	if _, err := os.Stat(flat.Join("inner", "deep").String()); err == nil {
		t.Error("a plain bind shows what is mounted below")
	}
	if f := flags(t, flat); f&(unix.MS_RDONLY|unix.MS_NODEV) != unix.MS_RDONLY|unix.MS_NODEV {
		t.Errorf("flags %x", f)
	}
	if f := flags(t, run.Join("source")); f&unix.MS_RDONLY != 0 {
		t.Error("the source became read-only")
	}
	if f := flags(t, file); f&unix.MS_NOSUID == 0 {
		t.Errorf("flags %x", f)
	}
	// What a bind has is kept where a bind of it asks for less.
	again := run.Join("again")
	if err := Bind(open(t, flat), again, Parse([]string{"noexec"})); err != nil {
		t.Fatal(err)
	}
	if f := flags(t, again); f&(unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOEXEC) !=
		unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOEXEC {
		t.Errorf("flags %x", f)
	}
	if err := os.WriteFile(again.Join("file").String(), nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("write: %v", err)
	}
}

func TestAFailedMountLeavesNone(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	run := folder(t)
	p := run.Join("p")
	for name, c := range map[string]struct {
		fstype string
		words  []string
		want   string
	}{
		"a file system that is none": {"nosuchfs", nil, "this kernel has no nosuchfs"},
		"an option that is none":     {"tmpfs", []string{"nosuch=1"}, "nosuch=1"},
		"too many options":           {"tmpfs", []string{strings.Repeat("x", pageSize)}, "4096 bytes of options"},
		// Two propagations in one call are refused, after the mount.
		"a propagation that is none": {"tmpfs", nil, "propagation"},
	} {
		o := Parse(c.words)
		if c.want == "propagation" {
			o.propagation = []uintptr{unix.MS_SHARED | unix.MS_PRIVATE}
		}
		err := At("x", c.fstype, p, o)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), p.String()) {
			t.Errorf("%s: %v", name, err)
		}
		if m, there := at(t, p); there {
			t.Errorf("%s left %+v", name, m)
		}
	}
	write(t, run.Join("file"), "x")
	if err := At("x", "tmpfs", run.Join("file"), Options{}); err == nil {
		t.Error("a file became a folder")
	}
	if err := Bind(place.Handle(-1), p, Options{}); err == nil {
		t.Error("a file that is not open was bound")
	}
	if err := Bind(open(t, run.Join("file")), run, Options{}); !errors.Is(err, place.ErrOutside) {
		t.Errorf("a bind over the folder itself: %v", err)
	}
}

func TestAnOverlayShowsItsFolders(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	run := folder(t)
	few, many := Overlay{}, Overlay{}
	for i := range 60 { // more than the options of mount(2) have room for
		dir := run.Join(fmt.Sprintf("layer-with-a-name-as-long-as-the-name-of-a-container-usually-is-%03d", i))
		write(t, dir.Join("same"), fmt.Sprint(i))
		write(t, dir.Join(fmt.Sprint(i)), "x")
		if i < 2 {
			few.Lower = append(few.Lower, dir.String())
		}
		many.Lower = append(many.Lower, dir.String())
	}
	for _, name := range []string{"few", "many"} {
		for _, d := range []string{"upper", "work"} {
			if err := os.MkdirAll(run.Join(name+"-"+d).String(), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, o := range map[string]Overlay{"few": few, "many": many} {
		// Without an upper folder it is read-only.
		p := run.Join(name + "-read-only")
		if err := o.Mount(p, Parse([]string{"nodev,noatime"})); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := read(p.Join("same")) + read(p.Join("1")); got != "0x" {
			t.Errorf("%s: %q", name, got)
		}
		if err := os.WriteFile(p.Join("new").String(), nil, 0o600); !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: write without an upper folder: %v", name, err)
		}
		if f := flags(t, p); f&(unix.MS_NODEV|unix.MS_NOATIME) != unix.MS_NODEV|unix.MS_NOATIME {
			t.Errorf("%s: flags %x", name, f)
		}
		o.Upper, o.Work = run.Join(name+"-upper").String(), run.Join(name+"-work").String()
		p = run.Join(name + "-writable")
		if err := o.Mount(p, Parse([]string{"metacopy=off", "shared"})); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		write(t, p.Join("same"), "new")
		if got := read(run.Join(name+"-upper", "same")); got != "new" {
			t.Errorf("%s: the upper folder has %q", name, got)
		}
		if err := o.Mount(run.Join(name+"-shut"), Parse([]string{"ro,metacopy=off"})); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if f := flags(t, run.Join(name+"-shut")); f&unix.MS_RDONLY == 0 {
			t.Errorf("%s, asked to be read-only: flags %x", name, f)
		}
	}
	for name, o := range map[string]Overlay{
		"no work folder":                   {Lower: few.Lower, Upper: run.Join("few-upper").String()},
		"a colon in a name":                {Lower: []string{run.String() + "/a:b"}},
		"a comma in a name":                {Lower: few.Lower, Upper: run.String() + "/a,b", Work: run.String()},
		"a folder that is not there":       {Lower: []string{run.String() + "/none"}},
		"one that is not there among many": {Lower: append(slices.Clone(many.Lower), run.String()+"/none")},
	} {
		p := run.Join("refused")
		if err := o.Mount(p, Options{}); err == nil {
			t.Errorf("%s: no error", name)
		}
		if m, there := at(t, p); there {
			t.Errorf("%s left %+v", name, m)
		}
	}
	for _, words := range []string{"nosuch=1", "nosuchflag"} {
		if err := many.Mount(run.Join("refused"), Parse([]string{words})); err == nil {
			t.Errorf("option %s was taken", words)
		}
	}
}

// FuzzParse: a request's options never ask for a bind or a remount that they do not name.
func FuzzParse(f *testing.F) {
	f.Add("ro,nosuid,size=1m")
	f.Add("rbind,rprivate")
	f.Fuzz(func(t *testing.T, words string) {
		o := Parse([]string{words})
		named := slices.ContainsFunc(strings.Split(words, ","),
			func(w string) bool { return w == "bind" || w == "rbind" })
		if o.Flags&unix.MS_REMOUNT != 0 || (o.Flags&(unix.MS_BIND|unix.MS_REC) != 0) != named {
			t.Fatalf("%q: flags %x", words, o.Flags)
		}
		for _, d := range o.Data {
			if d == "" || strings.Contains(d, ",") {
				t.Fatalf("%q: %q", words, o.Data)
			}
		}
	})
}
