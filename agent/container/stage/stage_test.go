package stage

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestProgramsAreLookedFor(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"a/tool": 0o755, "b/tool": 0o755, "a/data": 0o644, "b/late": 0o755,
		"a/late/x": 0o755} {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, nil, mode)); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"X=1", "PATH=" + dir + "/a:" + dir + "/b"}
	for name, want := range map[string]string{"tool": "/a/tool", "late": "/b/late", dir + "/a/tool": "/a/tool"} {
		if got, err := lookUp(name, env); err != nil || got != dir+want {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
	for name, want := range map[string]error{"nothing": syscall.ENOENT, "data": syscall.EACCES, "": syscall.ENOENT,
		dir + "/a/data": syscall.EACCES, dir + "/a": syscall.EISDIR, dir + "/x/y": syscall.ENOENT} {
		if _, err := lookUp(name, env); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	if _, err := lookUp("nothing", env); !strings.Contains(err.Error(), "executable file not found in $PATH") {
		t.Error(err)
	}
}

func TestHomesAreFound(t *testing.T) {
	const passwd = "root:x:0:0::/root:/bin/sh\nshort:x:1\nodd:x:abc:1::/odd:\nnone:x:2:2:::\nuser:x:1000:1000:,,,:/" +
		"home/user:\n"
	for uid, want := range map[uint32]string{0: "/root", 1: "/", 2: "/", 1000: "/home/user", 5: "/"} {
		if got := homeIn(strings.NewReader(passwd), uid); got != want {
			t.Errorf("%d: %s, want %s", uid, got, want)
		}
	}
	if got := home(t.TempDir(), 0); got != "/" {
		t.Error(got)
	}
}

func TestCodeIsFoundInTheAddressSpace(t *testing.T) {
	const maps = "00400000-00a00000 r-xp 00000000 00:01 1024 /memfd:x (deleted)\n00a00000-00c00000 r--p 00600000 " +
		"00:01 1024 /memfd:x (deleted)\n" +
		"00c00000-00c40000 rw-p 00800000 00:01 1024 /memfd:x (deleted)\nc000000000-c000400000 rw-p 00000000 00:00 " +
		"0\n7ffe0000-7ffe1000 r-xp 00000000 00:00 0 [vdso]\nnonsense\n"
	if got := constant(maps); !slices.Equal(got, []span{{0x400000, 0xa00000}, {0xa00000, 0xc00000}}) {
		t.Errorf("%x", got)
	}
	own, err := os.ReadFile("/proc/self/maps")
	if err != nil || len(constant(string(own))) == 0 {
		t.Errorf("nothing in %s, %v", own, err)
	}
}

func FuzzHome(f *testing.F) {
	f.Add("root:x:0:0::/root:/bin/sh\n", uint32(0))
	f.Fuzz(func(t *testing.T, s string, uid uint32) {
		if homeIn(strings.NewReader(s), uid) == "" {
			t.Error("no home at all")
		}
	})
}

// TestPathsStayInTheRoom needs no privileges: what is made is folders and files.
func TestPathsStayInTheRoom(t *testing.T) {
	outside := t.TempDir()
	root := t.TempDir()
	for link, target := range map[string]string{"abs": outside, "up": "../../../../.." + outside, "loop": "loop",
		"dangling": "nowhere"} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(root, outside), 0o755); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	r := &room{fd}
	for name, want := range map[string]string{
		"/a/b/c": "/a/b/c", "/abs/x": outside + "/x", "/up/y/z": outside + "/y/z", "../../../d": "/d", "/": "",
		"/abs/../e": "/e",
	} {
		got, err := r.make(name, true)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if p, _ := os.Readlink(fdPath(got)); p != root+want {
			t.Errorf("%s is %s, want %s", name, p, root+want)
		}
		unix.Close(got)
	}
	if f, err := r.make("/f/file", false); err != nil {
		t.Error(err)
	} else if fi, err := os.Stat(root + "/f/file"); err != nil || !fi.Mode().IsRegular() {
		t.Error(fi, err)
	} else {
		unix.Close(f)
	}
	for _, bad := range []string{"/loop/x", "/f/file/x"} {
		if _, err := r.make(bad, true); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
	if e, _ := os.ReadDir(outside); len(e) > 0 {
		t.Error("made outside:", e)
	}
}

func TestLinksThatLeadNowhereYetHaveTheirTargetsMade(t *testing.T) {
	outside, root := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(root+"/etc/deep/er", 0o755); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{
		"etc/resolv.conf": "../run/systemd/resolve/stub-resolv.conf", "abs": "/run/abs",
		"out": "../../../../.." + outside + "/x", "outabs": outside + "/y",
		"one": "two", "two": "./three", "three": "/run/../run/chain", "etc/deep/er/up": "../../../top/../sibling",
		"folder": "missing/", "loopa": "loopb", "loopb": "loopa/x",
		"past": "gone/../../../past2", "etc/self": "self",
	} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	r := &room{fd}
	for name, want := range map[string]string{
		"/etc/resolv.conf": "/run/systemd/resolve/stub-resolv.conf", "/abs": "/run/abs", "/abs2/../abs": "/run/abs",
		"/out": outside + "/x", "/outabs": outside + "/y",
		"/one": "/run/chain", "/etc/deep/er/up": "/sibling", "/folder/below/it": "/missing/below/it", "/past": "/past2",
	} {
		for _, folder := range []bool{false, true} {
			got, err := r.make(name, folder)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			var st unix.Stat_t
			if p, _ := os.Readlink(fdPath(got)); p != root+want {
				t.Errorf("%s is %s, want %s", name, p, root+want)
			} else if err := unix.Fstat(got, &st); err != nil || (st.Mode&unix.S_IFMT == unix.S_IFDIR) != folder {
				t.Errorf("%s: mode %o, %v", name, st.Mode, err)
			}
			unix.Close(got)
			if err := os.Remove(root + want); err != nil {
				t.Error(err)
			}
		}
	}
	for _, bad := range []string{"/loopa", "/etc/self", "/etc/self/x"} {
		if _, err := r.make(bad, true); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
	if e, _ := os.ReadDir(outside); len(e) > 0 {
		t.Error("made outside:", e)
	}
	// A link that took the place of a folder while its path was being made leads nowhere.
	if _, err := makeAt(fd, "abs", true); !errors.Is(err, errReplaced) {
		t.Error(err)
	}
}

func TestAFolderIsCopiedWithAllItHolds(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	at := unix.Timespec{Sec: 1000000}
	if err := errors.Join(os.MkdirAll(from+"/a/b", 0o750), os.WriteFile(from+"/a/b/file", []byte("text"), 0o640),
		os.WriteFile(from+"/empty", nil, 0o600),
		os.Symlink("/nowhere", from+"/a/link"), unix.Mkfifo(from+"/pipe", 0o622),
		os.Chmod(from+"/a", 0o1777|os.ModeSticky), os.Chmod(from+"/pipe", 0o622),
		unix.UtimesNanoAt(unix.AT_FDCWD, from+"/a/b/file", []unix.Timespec{at, at}, 0)); err != nil {
		t.Fatal(err)
	}
	open := func(p string) int {
		fd, err := unix.Open(p, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	if err := copyFolder(open(from), open(to)); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"a", "a/b", "a/b/file", "a/link", "empty", "pipe"} {
		var want, got unix.Stat_t
		if err := errors.Join(unix.Lstat(from+"/"+n, &want), unix.Lstat(to+"/"+n, &got)); err != nil ||
			got.Mode != want.Mode || got.Uid != want.Uid || got.Gid != want.Gid || got.Mtim != want.Mtim {
			t.Errorf("%s: %+v, want %+v, %v", n, got, want, err)
		}
	}
	if b, err := os.ReadFile(to + "/a/b/file"); string(b) != "text" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	if l, err := os.Readlink(to + "/a/link"); l != "/nowhere" || err != nil {
		t.Error(l, err)
	}
	if err := copyFolder(open(from), open(to)); !errors.Is(err, os.ErrExist) {
		t.Error("over what is there:", err)
	}
}

func TestCapsetHalves(t *testing.T) {
	c := newCapset(1<<40|1, 1<<33, 2)
	if c.data[0] != (unix.CapUserData{Effective: 1, Inheritable: 2}) ||
		c.data[1] != (unix.CapUserData{Effective: 1 << 8, Permitted: 2}) {
		t.Errorf("%+v", c.data)
	}
}

// fill gives every part of a value something that is not its zero.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString("x")
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(-7)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		v.SetUint(250)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(1))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("a"), reflect.ValueOf("b"))
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	default:
		panic("a plan with a " + v.Kind().String())
	}
}

func TestNothingOfAPlanIsLost(t *testing.T) {
	var full Plan
	fill(reflect.ValueOf(&full).Elem())
	zero := uint32(0)
	for _, want := range []Plan{{}, full, {Process: Process{Umask: &zero, Groups: []uint32{0}, Caps: &Caps{}},
		Root: &Root{}}} {
		b, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got Plan
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s became %+v", b, got)
		}
	}
	for _, bad := range []string{`{"Process":{"Filter":"AAAA"}}`, `{"Process":{"Filter":"?"}}`} {
		if err := json.Unmarshal([]byte(bad), &Plan{}); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}
