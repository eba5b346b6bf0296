package template

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/documenttest"
	"github.com/katabuild/katabuild/internal/golden"
	"github.com/katabuild/katabuild/internal/owned"
	"github.com/katabuild/katabuild/internal/testenv"
)

func of(s string) digest.Digest { return digest.Of([]byte(s)) }

func key() Key {
	return Key{Manifest: of("manifest"), Machine: of("machine"), Program: of("program"), CPU: of("cpu"),
		Katabuild: "v1.2.3"}
}

func sample() *Document {
	return &Document{Version: version, Guest: "default", Key: key(), Made: 1700000000,
		Memory: File{256 << 20, of("memory")}, State: File{332000, of("state")}, Attested: of("verdict")}
}

func TestTheDocumentKeepsItsForm(t *testing.T) {
	b, err := sample().encode()
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "template.json", b)
	documenttest.Strict(t, b, func(b []byte) error { _, err := decode(b); return err })
}

func TestDocumentsThatMakeNoSenseAreRefused(t *testing.T) {
	for name, spoil := range map[string]func(*Document){
		"no guest":              func(d *Document) { d.Guest = "" },
		"a guest with a line":   func(d *Document) { d.Guest = "a\nb" },
		"no katabuild":          func(d *Document) { d.Key.Katabuild = "" },
		"no digest of QEMU":     func(d *Document) { d.Key.Program = "" },
		"half a digest":         func(d *Document) { d.Memory.Digest = d.Memory.Digest[:20] },
		"no time":               func(d *Document) { d.Made = 0 },
		"memory of half a page": func(d *Document) { d.Memory.Size = page / 2 },
		"too much memory":       func(d *Document) { d.Memory.Size = 2 * maxMemory },
		"no state":              func(d *Document) { d.State.Size = 0 },
		"too much state":        func(d *Document) { d.State.Size = maxState + 1 },
	} {
		d := sample()
		spoil(d)
		if _, err := d.encode(); err == nil {
			t.Errorf("%s is written", name)
		}
	}
}

func FuzzDecode(f *testing.F) {
	b, err := sample().encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("{}"))                            // no field at all
	f.Add(bytes.Replace(b, []byte("v1"), nil, 1))  // another katabuild
	f.Add(bytes.Replace(b, []byte("268"), nil, 1)) // memory that is no multiple of a page
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := decode(b)
		if err != nil {
			return
		}
		if again, err := d.encode(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%v: %q became %q", err, b, again)
		}
	})
}

// memory is a memory with a page here and there.
func memory(t testing.TB) *os.File {
	t.Helper()
	f, err := NewMemory(8 << 20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	for _, at := range []int64{0, page, 5 * page, chunk - page, chunk, 3<<20 + 7, 8<<20 - 1} {
		if _, err := f.WriteAt([]byte("x"), at); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// saved is what is put into a folder.
func saved(t testing.TB) Copies {
	t.Helper()
	state, err := NewMemory(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = state.Close() })
	if _, err := state.WriteString("the state"); err != nil {
		t.Fatal(err)
	}
	return Copies{Memory: memory(t), State: state}
}

func all(t testing.TB, f *os.File) string {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<40))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// put puts a template into a new folder.
func put(t testing.TB) (Folder, *Template, Copies) {
	t.Helper()
	f, from := Folder(filepath.Join(t.TempDir(), "templates")), saved(t)
	d := *sample()
	d.Memory, d.State = File{}, File{}
	if _, err := f.Put(t.Context(), d, from); err != nil {
		t.Fatal(err)
	}
	found, err := f.Find(key())
	if err != nil {
		t.Fatal(err)
	}
	return f, found, from
}

func TestATemplateIsCopiedAsItWasPut(t *testing.T) {
	f, found, from := put(t)
	for range 2 {
		c, err := found.Copy()
		if err != nil {
			t.Fatal(err)
		}
		if all(t, c.Memory) != all(t, from.Memory) || all(t, c.State) != "the state" {
			t.Error("the copies are not what was put")
		}
		if _, err := c.Memory.WriteAt([]byte("a guest's own"), 0); err != nil {
			t.Error(err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(c.Memory.Fd()), &st); err != nil || st.Blocks*512 > 1<<20 {
			t.Errorf("a copy takes %d bytes, %v", st.Blocks*512, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if list, err := f.List(); err != nil || len(list) != 1 || list[0].Digest != found.Digest {
		t.Errorf("%v, %v", list, err)
	}
	if n, err := f.Destroy(t.Context()); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := f.Find(key()); !errors.Is(err, errNone) {
		t.Error(err)
	}
}

func TestHolesMakeNoDifferenceToTheDigest(t *testing.T) {
	sparse := memory(t)
	want, err := copyMemory(discard{}, sparse, 8<<20)
	if err != nil {
		t.Fatal(err)
	}
	full, err := os.Create(filepath.Join(t.TempDir(), "full"))
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	if _, err := full.WriteString(all(t, sparse)); err != nil {
		t.Fatal(err)
	}
	if got, err := copyMemory(discard{}, full, 8<<20); err != nil || got != want {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
	if _, err := full.WriteAt([]byte{1}, 6<<20); err != nil { // in what was a hole
		t.Fatal(err)
	}
	if got, err := copyMemory(discard{}, full, 8<<20); err != nil || got == want {
		t.Errorf("a byte more makes no difference: %s, %v", got, err)
	}
	if _, err := copyMemory(discard{}, full, 9<<20); err != nil { // behind its end is a hole, too
		t.Error(err)
	}
}

type discard struct{}

func (discard) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }

func TestATemplateThatWasChangedIsRefusedByName(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(dir string) error
		want  string
	}{
		"one byte of the memory": {func(d string) error { return change(d, memoryName, []byte{0xff}, 5*page+9) },
			"memory: wrong digest"},
		"a byte in a hole": {func(d string) error { return change(d, memoryName, []byte{1}, 2<<20) },
			"memory: wrong digest"},
		"one byte of the state": {func(d string) error { return change(d, stateName, []byte("S"), 4) },
			"state: wrong digest"},
		"the memory cut off": {func(d string) error { return truncate(d, memoryName, 1<<20) },
			"memory has 1048576 bytes, and its document says 8388608"},
		"the state cut off":  {func(d string) error { return truncate(d, stateName, 3) }, "state has 3 bytes"},
		"no state":           {func(d string) error { return os.Remove(filepath.Join(d, stateName)) }, "no such file"},
		"memory by a link":   {link, "too many levels of symbolic links"},
		"writable memory":    {func(d string) error { return os.Chmod(d+"/memory", 0o600) }, "mode 0600"},
		"everybody's memory": {func(d string) error { return os.Chmod(d+"/memory", 0o446) }, "mode 0446"},
	} {
		_, found, _ := put(t)
		if err := c.spoil(found.Dir()); err != nil {
			t.Fatal(err)
		}
		if _, err := found.Copy(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func change(dir, name string, b []byte, at int64) error {
	path := filepath.Join(dir, name)
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, at)
	return errors.Join(err, f.Close(), os.Chmod(path, 0o400))
}

func truncate(dir, name string, size int64) error {
	return errors.Join(os.Chmod(filepath.Join(dir, name), 0o600), os.Truncate(filepath.Join(dir, name), size),
		os.Chmod(filepath.Join(dir, name), 0o400))
}

func link(dir string) error {
	path := filepath.Join(dir, memoryName)
	return errors.Join(os.Rename(path, path+"2"), os.Symlink(path+"2", path))
}

func TestADocumentThatWasChangedIsRefused(t *testing.T) {
	f, found, _ := put(t)
	if err := change(found.Dir(), documentName, []byte("x"), 5); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Find(key()); err == nil || errors.Is(err, errNone) || !strings.Contains(err.Error(), documentName) {
		t.Error(err)
	}
}

func TestAnotherKeyHasNoTemplate(t *testing.T) {
	f, _, _ := put(t)
	for want, spoil := range map[string]func(*Key){
		"for this guest":                          func(k *Key) { k.Manifest = of("other") },
		"another machine or its configuration":    func(k *Key) { k.Machine = of("other") },
		"another hypervisor's program":            func(k *Key) { k.Program = of("other") },
		"another host's processor":                func(k *Key) { k.CPU = of("other") },
		"another version of katabuild":            func(k *Key) { k.Katabuild = "v2" },
		"processor, another version of katabuild": func(k *Key) { k.CPU, k.Katabuild = of("other"), "v2" },
	} {
		k := key()
		spoil(&k)
		if _, err := f.Find(k); !errors.Is(err, errNone) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestFoldersOfOthersAreNotRead(t *testing.T) {
	f, found, _ := put(t)
	for _, dir := range []string{string(f), found.Dir()} {
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Find(key()); !unsafe(err) {
			t.Errorf("%s is everybody's: %v", dir, err)
		}
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Folder("templates").Find(key()); err == nil {
		t.Error("a folder that is somewhere")
	}
}

func unsafe(err error) bool { _, ok := errors.AsType[*owned.Unsafe](err); return ok }

func TestNothingPartialIsFoundOrStays(t *testing.T) {
	f, _, from := put(t)
	left := filepath.Join(string(f), makingPrefix+"123")
	// as a killed one leaves it
	if err := errors.Join(os.Mkdir(left, 0o700), os.WriteFile(left+"/memory", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if list, err := f.List(); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
	d := *sample()
	d.Key.Katabuild = "v2"
	half := Copies{Memory: from.Memory, State: os.NewFile(^uintptr(0), "none")}
	if _, err := f.Put(t.Context(), d, half); err == nil {
		t.Error("a template without a state is kept")
	}
	entries, err := os.ReadDir(string(f))
	if err != nil || len(entries) != 2 { // the lock and the whole one
		t.Errorf("left: %v, %v", entries, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	lock, err := f.lock(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	cancel()
	if _, err := f.Put(ctx, d, from); !errors.Is(err, context.Canceled) {
		t.Errorf("two at once: %v", err)
	}
}

func TestADuplicateIsAsItsOriginal(t *testing.T) {
	from := saved(t)
	c, err := from.Duplicate()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if all(t, c.Memory) != all(t, from.Memory) || all(t, c.State) != "the state" {
		t.Error("it is not")
	}
}

func TestOneAtATimeMakesATemplate(t *testing.T) {
	f := Folder(filepath.Join(t.TempDir(), "templates"))
	c, err := f.Claim(key(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Claim(key(), time.Hour); !errors.Is(err, ErrClaimed) ||
		!strings.Contains(err.Error(), "another process makes it") {
		t.Errorf("a second one: %v", err)
	}
	other := key()
	other.Katabuild = "v2"
	o, err := f.Claim(other, time.Hour)
	if err != nil {
		t.Errorf("another key: %v", err)
	}
	if err := errors.Join(o.End(nil), c.End(errors.New("no hot-plug"))); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Claim(key(), time.Hour); !errors.Is(err, ErrClaimed) ||
		!strings.Contains(err.Error(), "no hot-plug") {
		t.Errorf("after a failure: %v", err)
	}
	if c, err = f.Claim(key(), 0); err != nil {
		t.Fatal(err)
	}
	if err := c.End(nil); err != nil {
		t.Fatal(err)
	}
	if c, err = f.Claim(key(), time.Hour); err != nil {
		t.Fatal(err)
	}
	if list, err := f.List(); err != nil || len(list) > 0 {
		t.Errorf("claims are listed: %v, %v", list, err)
	}
	if n, err := f.Destroy(t.Context()); err != nil || n > 0 {
		t.Errorf("claims are removed: %d, %v", n, err)
	}
	if _, err := f.Claim(key(), 0); !errors.Is(err, ErrClaimed) {
		t.Errorf("after the templates were removed: %v", err)
	}
	if err := c.End(nil); err != nil {
		t.Fatal(err)
	}
}

func TestAFullDiskLeavesNothingOfATemplate(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	dir := t.TempDir()
	// Too small for the memory, of which every page is used.
	if err := errors.Join(unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""),
		unix.Mount("tmpfs", dir, "tmpfs", 0, "size=512k,mode=700")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }) // the folder's removal says why not
	from := saved(t)
	if _, err := from.Memory.WriteAt(bytes.Repeat([]byte("x"), 1<<20), 0); err != nil {
		t.Fatal(err)
	}
	f := Folder(filepath.Join(dir, "templates"))
	if _, err := f.Put(t.Context(), Document{Guest: "default", Key: key(), Made: 1, Attested: of("verdict")},
		from); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("%v", err)
	}
	entries, err := os.ReadDir(string(f))
	if err != nil || len(entries) != 1 || entries[0].Name() != lockName {
		t.Errorf("left over: %v, %v", entries, err)
	}
	if _, err := f.Find(key()); !errors.Is(err, errNone) {
		t.Errorf("there is a template: %v", err)
	}
}
