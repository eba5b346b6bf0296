package install

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/manifest"
)

// childVariable makes the test program a command that a test kills: its value is the command and its arguments.
const childVariable = "KATABUILD_TEST_INSTALL"

func TestMain(m *testing.M) {
	if v := os.Getenv(childVariable); v != "" {
		if err := child(strings.Split(v, "\n")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child does what a command of kata-runtime does.
func child(args []string) error {
	i, err := Open(args[1], DefaultPrefix, true)
	if err != nil {
		return err
	}
	defer i.Close()
	switch args[0] {
	case "install":
		ch, err := i.Plan(Source{Version: args[2], Programs: args[3], Guests: args[4:]}, Defaults())
		if err != nil {
			return err
		}
		return i.Apply(ch, nil)
	case "rollback":
		ch, err := i.PlanRollback("")
		if err != nil {
			return err
		}
		return i.Apply(ch, nil)
	default:
		ch, err := i.PlanUninstall(false)
		if err != nil {
			return err
		}
		return i.Uninstall(ch)
	}
}

// programs makes a folder of programs: this test's own, by the names of ours.
func programs(t testing.TB) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, n := range []string{shimProgram, runtimeProgram} {
		if err := os.Link(self, filepath.Join(dir, n)); err != nil {
			data, rerr := os.ReadFile(self)
			if err := errors.Join(rerr, os.WriteFile(filepath.Join(dir, n), data, 0o755)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// guest makes a folder of a guest, each another one.
func guest(t testing.TB, name string) string {
	t.Helper()
	dir := t.TempDir()
	file := func(n string) manifest.File {
		data := make([]byte, 1000)
		rand.Read(data)
		if err := os.WriteFile(filepath.Join(dir, n), data, 0o600); err != nil {
			t.Fatal(err)
		}
		return manifest.File{Path: n, Digest: digest.Of(data), Size: 1000}
	}
	host, err := archOf(filepath.Join(programs(t), shimProgram))
	if err != nil {
		t.Fatal(err)
	}
	m := manifest.Manifest{Version: manifest.Version, Name: name, Arch: host, Recipe: digest.Of(nil),
		Lock: digest.Of(nil),
		Kernel: manifest.Kernel{Release: "6.12.1", Image: file("bzImage"), Vmlinux: file("vmlinux"),
			Config: file("config"), SystemMap: file("System.map")},
		Initrd: &manifest.Initrd{File: file("initrd.img"), Compression: "none"},
		Agent:  manifest.Agent{Path: "/init", Init: "agent", Digest: digest.Of(nil), Go: "go1.26"},
		Root:   manifest.Root{Kind: "initrd"},
		Boot:   manifest.Boot{CPUs: 1, MemoryMiB: 64},
	}
	data, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := manifest.Write(dir, data); err != nil {
		t.Fatal(err)
	}
	return dir
}

// newHost makes a root file system with what hosts have.
func newHost(t testing.TB, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for _, d := range []string{"etc/containerd", "usr/local/bin", "opt"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for n, text := range files {
		p := filepath.Join(root, n)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), 0o640)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// snapshot is every name below a folder, with what it is.
func snapshot(t testing.TB, root string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		text := ""
		switch {
		case fi.Mode()&fs.ModeSymlink != 0:
			text, err = os.Readlink(p)
		case fi.Mode().IsRegular():
			var x digest.Digest
			x, _, err = digest.File(p)
			text = string(x)
		}
		fmt.Fprintf(&b, "%s %v %s\n", strings.TrimPrefix(p, root), fi.Mode(), text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// do plans something and does it.
func do(t testing.TB, root, prefix string, plan func(*Installation) (*Change, error)) *Change {
	t.Helper()
	i, err := Open(root, prefix, true)
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	ch, err := plan(i)
	if err != nil {
		t.Fatal(err)
	}
	if ch.state == nil {
		err = i.Uninstall(ch)
	} else {
		err = i.Apply(ch, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// put installs a guest.
func put(t testing.TB, root, prefix string, s Source, o Options) *Change {
	t.Helper()
	ch := do(t, root, prefix, func(i *Installation) (*Change, error) { return i.Plan(s, o) })
	wantGood(t, root, prefix, ch.Release)
	return ch
}

func wantGood(t testing.TB, root, prefix, release string) {
	t.Helper()
	i, err := Open(root, prefix, false)
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	got, problems, err := i.Verify()
	if err != nil || got != release || len(problems) > 0 {
		t.Errorf("release %s, want %s; %v %v", got, release, problems, err)
	}
}

func uninstall(t testing.TB, root, prefix string) {
	t.Helper()
	do(t, root, prefix, func(i *Installation) (*Change, error) { return i.PlanUninstall(false) })
}

func read(t testing.TB, names ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(names...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

const mainV2 = "version = 2\n\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\n  default_runtime_name = " +
	"\"runc\"\n" +
	"[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n  runtime_type = \"io.containerd.runc.v2\" # " +
	"ours\n"

func TestWhatIsInstalledGoesWithoutATrace(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"no containerd":            {},
		"version 2":                {"etc/containerd/config.toml": mainV2},
		"no line break at the end": {"etc/containerd/config.toml": strings.TrimSuffix(mainV2, "\n")},
		"version 3":                {"etc/containerd/config.toml": "version = 3\n"},
		"version 3 that imports": {"etc/containerd/config.toml": "version = 3\nimports = " +
			"['/etc/containerd/conf.d/*.toml']",
			"etc/containerd/conf.d/mine.toml": "version = 3\n"},
		"imports from its folder": {"etc/containerd/config.toml": "version = 3\nimports = ['conf.d/*']"},
		"CRI-O":                   {"etc/crio/crio.conf": "[crio]\n"},
		"their own configuration": {"etc/katabuild/configuration.toml": "# mine\n"},
	} {
		t.Run(name, func(t *testing.T) {
			root := newHost(t, files)
			before := snapshot(t, root)
			a, b := guest(t, "default"), guest(t, "default")
			src := Source{Version: "1.0", Programs: programs(t), Guests: []string{a}}
			put(t, root, DefaultPrefix, src, Defaults())
			if ch := put(t, root, DefaultPrefix, src, Defaults()); !ch.Nothing() {
				t.Errorf("the second time it wants to %q", ch.Steps)
			}
			src.Version, src.Guests = "1.1", []string{b}
			put(t, root, DefaultPrefix, src, Defaults())
			do(t, root, DefaultPrefix, func(i *Installation) (*Change, error) { return i.PlanRollback("") })
			wantGood(t, root, DefaultPrefix, "1.0")
			for n, text := range files {
				if got := read(t, root, n); !strings.Contains(got, strings.TrimSuffix(text, "\n")) {
					t.Errorf("%s has become %q", n, got)
				}
			}
			uninstall(t, root, DefaultPrefix)
			if after := snapshot(t, root); after != before {
				t.Errorf("before:\n%s\nafter:\n%s", before, after)
			}
		})
	}
}

func TestOptionsAreReconciled(t *testing.T) {
	root := newHost(t, map[string]string{"etc/containerd/config.toml": "version = 3\nimports = ['conf.d/*.toml']\n",
		"etc/crio/crio.conf": ""})
	src := Source{Version: "1", Programs: programs(t), Guests: []string{guest(t, "default")}}
	there := func(n string, want bool) {
		t.Helper()
		_, err := os.Lstat(filepath.Join(root, n))
		if (err == nil) != want {
			t.Errorf("%s: %v, want it there: %v", n, err, want)
		}
	}
	const dropIn, crio = "etc/containerd/conf.d/katabuild.toml", "etc/crio/crio.conf.d/99-katabuild.conf"
	put(t, root, DefaultPrefix, src, Defaults())
	there(dropIn, true)
	there(crio, true)
	o := Defaults()
	o.Containerd, o.CRIO = wayBlock, wayNo
	put(t, root, DefaultPrefix, src, o)
	there(dropIn, false)
	there(crio, false)
	if got := read(t, root, "etc/containerd/config.toml"); !strings.Contains(got, "io.containerd.kata.v2") {
		t.Errorf("no block: %s", got)
	}
	o.Handler = "vm"
	put(t, root, DefaultPrefix, src, o)
	if got := read(t, root, "etc/containerd/config.toml"); !strings.Contains(got, "runtimes.vm]") ||
		strings.Contains(got, "runtimes.kata]") {
		t.Errorf("another handler: %s", got)
	}
	o.Containerd = wayNo
	put(t, root, DefaultPrefix, src, o)
	if got := read(t, root, "etc/containerd/config.toml"); got != "version = 3\nimports = ['conf.d/*.toml']\n" {
		t.Errorf("not told: %s", got)
	}
}

func TestTwoInstallationsDoNotTouchEachOther(t *testing.T) {
	root := newHost(t, map[string]string{"etc/containerd/config.toml": mainV2})
	before := snapshot(t, root)
	src := Source{Version: "1", Programs: programs(t), Guests: []string{guest(t, "default")}}
	put(t, root, DefaultPrefix, src, Defaults())
	one := snapshot(t, root)
	o := Defaults()
	o.Suffix = "test"
	put(t, root, Prefix("test"), src, o)
	wantGood(t, root, DefaultPrefix, "1")
	text := read(t, root, "etc/containerd/config.toml")
	if !strings.Contains(text, "runtimes.kata-test]") || !strings.Contains(text, `"io.containerd.kata-test.v2"`) ||
		!strings.Contains(text, "runtimes.kata]") {
		t.Errorf("containerd hears:\n%s", text)
	}
	uninstall(t, root, Prefix("test"))
	if after := snapshot(t, root); after != one {
		t.Errorf("before:\n%s\nafter:\n%s", one, after)
	}
	put(t, root, Prefix("test"), src, o)
	uninstall(t, root, DefaultPrefix)
	wantGood(t, root, Prefix("test"), "1")
	uninstall(t, root, Prefix("test"))
	if after := snapshot(t, root); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

func TestWhatOthersWroteIsKept(t *testing.T) {
	src := Source{Version: "1", Programs: programs(t), Guests: []string{guest(t, "default")}}
	for name, c := range map[string]struct {
		files map[string]string
		o     func(*Options)
		want  string
	}{
		"a shim of Kata's": {map[string]string{"usr/local/bin/containerd-shim-kata-v2": "ELF"}, nil,
			"/usr/local/bin/containerd-shim-kata-v2 is there and not ours"},
		"a runtime of that name": {map[string]string{"etc/containerd/config.toml": mainV2 +
			"[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.kata]\nruntime_type = \"x\"\n"}, nil,
			"there is a runtime kata that is not ours"},
		"runtimes in one line": {map[string]string{"etc/containerd/config.toml": "version = 2\n[plugins]\n" +
			"\"io.containerd.grpc.v1.cri\" = {containerd = {runtimes = {}}}\n"}, nil, "does not fit"},
		"version 1": {map[string]string{"etc/containerd/config.toml": "[plugins.cri]\n"}, nil, "has version 1"},
		"no TOML": {map[string]string{"etc/containerd/config.toml": "version = 2\n[plugins\n"}, nil,
			"config.toml:2:9"},
		"a drop-in that nobody reads": {map[string]string{"etc/containerd/config.toml": "version = 3\n"},
			func(o *Options) { o.Containerd = wayDropIn }, "does not import"},
		"a drop-in for containerd 1": {map[string]string{
			"etc/containerd/config.toml": "version = 2\nimports = ['conf.d/*']\n"},
			func(o *Options) { o.Containerd = wayDropIn }, "containerd 1 forgets"},
		"an odd suffix": {nil, func(o *Options) { o.Suffix = "../x" }, "suffix"},
	} {
		t.Run(name, func(t *testing.T) {
			root := newHost(t, c.files)
			before, o := snapshot(t, root), Defaults()
			if c.o != nil {
				c.o(&o)
			}
			i, err := Open(root, DefaultPrefix, true)
			if err != nil {
				t.Fatal(err)
			}
			defer i.Close()
			if _, err := i.Plan(src, o); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
			if after := snapshot(t, root); after != before {
				t.Errorf("before:\n%s\nafter:\n%s", before, after)
			}
		})
	}
}

func TestABlockThatSomebodyTouchedIsNotGuessedAt(t *testing.T) {
	root := newHost(t, map[string]string{"etc/containerd/config.toml": mainV2})
	src := Source{Version: "1", Programs: programs(t), Guests: []string{guest(t, "default")}}
	put(t, root, DefaultPrefix, src, Defaults())
	p := filepath.Join(root, "etc/containerd/config.toml")
	text := read(t, p)
	_, _, end := blockMarks(Defaults())
	if err := os.WriteFile(p, []byte(strings.Replace(text, end, "", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	i, err := Open(root, DefaultPrefix, true)
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	if _, err := i.PlanUninstall(false); err == nil || !strings.Contains(err.Error(), "our block has no end") {
		t.Errorf("got %v", err)
	}
	// What others add behind it stays.
	if err := os.WriteFile(p, []byte(text+"# more\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	ch, err := i.PlanUninstall(false)
	if err == nil {
		err = i.Uninstall(ch)
	}
	if got := read(t, p); err != nil || got != mainV2+"# more\n" {
		t.Errorf("%v: %q", err, got)
	}
}

func TestAPrefixThatOthersDecideAboutIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(root string) error
		prefix  string
		want    string
	}{
		"a link": {func(root string) error { return os.Symlink("opt", filepath.Join(root, "srv")) }, "/srv/katabuild",
			"/srv is a symbolic link"},
		"a link at its end": {func(root string) error { return os.Symlink("x", filepath.Join(root, "opt/katabuild")) },
			"/opt/katabuild", "/opt/katabuild is a symbolic link"},
		"others write": {func(root string) error { return os.Chmod(filepath.Join(root, "opt"), 0o777) },
			"/opt/katabuild", "others may write to /opt"},
		"a file": {func(root string) error { return os.WriteFile(filepath.Join(root, "x"), nil, 0o644) }, "/x/y",
			"no folder"},
		"relative": {func(string) error { return nil }, "opt/katabuild", "want an absolute path"},
		"upwards":  {func(string) error { return nil }, "/opt/../etc", "want an absolute path"},
		"the root": {func(string) error { return nil }, "/", "want an absolute path"},
	} {
		t.Run(name, func(t *testing.T) {
			root := newHost(t, nil)
			if err := c.prepare(root); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(root, c.prefix, true); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestVerifyNamesWhatIsOtherwiseAndInstallPutsItRight(t *testing.T) {
	root := newHost(t, map[string]string{"etc/containerd/config.toml": mainV2})
	src := Source{Version: "1", Programs: programs(t), Guests: []string{guest(t, "default")}}
	put(t, root, DefaultPrefix, src, Defaults())
	at := func(n string) string { return filepath.Join(root, DefaultPrefix, n) }
	rel := at("releases/1/")
	for name, c := range map[string]struct {
		damage func() error
		want   string
	}{
		"a kernel swapped": {func() error { return os.WriteFile(rel+"/guests/default/vmlinux", []byte("x"), 0o644) },
			"guests/default/vmlinux is "},
		"a file gone": {func() error { return os.Remove(rel + "/bin/kata-runtime") }, "bin/kata-runtime is gone"},
		"a file more": {func() error { return os.WriteFile(rel+"/guests/default/x", nil, 0o644) },
			"is not of the release"},
		"a mode":   {func() error { return os.Chmod(rel+"/guests/default/vmlinux", 0o666) }, "has mode"},
		"a folder": {func() error { return os.Chmod(rel+"/guests", 0o777) }, "can be written by others"},
		"a link": {func() error { return os.Remove(filepath.Join(root, defaultBin, "kata-runtime")) },
			"does not lead"},
		"the settings": {func() error { return os.WriteFile(at("current/configuration.toml"), nil, 0o644) },
			"what was written"},
		"the block": {func() error {
			return os.WriteFile(filepath.Join(root, "etc/containerd/config.toml"), []byte(mainV2), 0o640)
		}, "does not have our block"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.damage(); err != nil {
				t.Fatal(err)
			}
			i, err := Open(root, DefaultPrefix, false)
			if err != nil {
				t.Fatal(err)
			}
			_, problems, err := i.Verify()
			i.Close()
			if err != nil || len(problems) != 1 || !strings.Contains(problems[0], c.want) {
				t.Errorf("%q %v, want %s", problems, err, c.want)
			}
			put(t, root, DefaultPrefix, src, Defaults())
		})
	}
}

func TestReleasesThatNobodyUsesAreCollected(t *testing.T) {
	root := newHost(t, nil)
	src := Source{Programs: programs(t)}
	for _, v := range []string{"1", "2", "3"} {
		src.Version, src.Guests = v, []string{guest(t, "default")}
		put(t, root, DefaultPrefix, src, Defaults())
	}
	i, err := Open(root, DefaultPrefix, true)
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	removed, kept, err := i.Collect(false)
	if err != nil || !slices.Equal(removed, []string{"1"}) || len(kept) > 0 {
		t.Errorf("%v %v %v", removed, kept, err)
	}
	if _, err := i.PlanRollback("1"); err == nil || !strings.Contains(err.Error(), "there are: 2, 3") {
		t.Errorf("got %v", err)
	}
	if _, err := i.PlanRollback(""); err != nil {
		t.Error(err)
	}
}

// A host's root file system that is mounted elsewhere brings its own proc along, as a container sees it.
func TestPodsOfAHostThatIsMountedElsewhereAreSeen(t *testing.T) {
	root := newHost(t, nil)
	src := Source{Version: "1", Programs: programs(t), Guests: []string{guest(t, "default")}}
	put(t, root, DefaultPrefix, src, Defaults())
	proc := filepath.Join(root, "proc/4711")
	if err := os.MkdirAll(filepath.Join(proc, "fd"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(DefaultPrefix+"/releases/1/bin/"+shimProgram, filepath.Join(proc, "exe")); err != nil {
		t.Fatal(err)
	}
	i, err := Open(root, DefaultPrefix, true)
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	if _, err := i.PlanUninstall(false); !errors.Is(err, ErrInUse) {
		t.Errorf("got %v", err)
	}
	// A shim whose pod is gone takes a moment to end.
	ended := make(chan error, 1)
	time.AfterFunc(lingering/10, func() { ended <- os.RemoveAll(filepath.Join(root, "proc")) })
	if _, err := i.PlanUninstall(false); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestAReleaseThatIsThereNeedsNoSource(t *testing.T) {
	root := newHost(t, nil)
	for _, v := range []string{"1", "2"} {
		put(t, root, DefaultPrefix, Source{Version: v, Programs: programs(t), Guests: []string{guest(t, "default")}},
			Defaults())
	}
	o := Defaults()
	o.Place = "oci:registry.example/guests:1"
	ch := do(t, root, DefaultPrefix, func(i *Installation) (*Change, error) { return i.PlanInstalled("1", o) })
	wantGood(t, root, DefaultPrefix, "1")
	if ch.NeedsSource() || ch.Restart || ch.Before != "2" {
		t.Errorf("%+v", ch)
	}
	i, err := Open(root, DefaultPrefix, true)
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	if was, ok, err := i.Options(); err != nil || !ok || was != o {
		t.Errorf("%+v %v %v", was, ok, err)
	}
	if has, err := i.Has("3"); err != nil || has {
		t.Error(has, err)
	}
	if r, err := i.InForce(); err != nil || r != "1" {
		t.Error(r, err)
	}
	if err := os.Remove(filepath.Join(root, DefaultPrefix, "releases/1/bin", shimProgram)); err != nil {
		t.Fatal(err)
	}
	if ch, err := i.PlanInstalled("1", o); err != nil || !ch.NeedsSource() {
		t.Errorf("%+v %v", ch, err)
	}
}

func TestAReleaseWithoutItsListIsPutAgain(t *testing.T) {
	root := newHost(t, nil)
	src := Source{Version: "1", Programs: programs(t), Guests: []string{guest(t, "default")}}
	put(t, root, DefaultPrefix, src, Defaults())
	before := snapshot(t, root)
	if err := os.Remove(filepath.Join(root, DefaultPrefix, "releases/1", contentsName)); err != nil {
		t.Fatal(err)
	}
	i, err := Open(root, DefaultPrefix, false)
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	if has, err := i.Has("1"); err != nil || has {
		t.Error(has, err)
	}
	put(t, root, DefaultPrefix, src, Defaults())
	if after := snapshot(t, root); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

func TestWhatWasReadIsReadAgainOnceItChanged(t *testing.T) {
	root := newHost(t, nil)
	put(t, root, DefaultPrefix, Source{Version: "1", Programs: programs(t), Guests: []string{guest(t, "default")}},
		Defaults())
	i, err := Open(root, DefaultPrefix, false)
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	memory := Read{}
	i.Remember(memory)
	verify := func(want int) {
		t.Helper()
		if _, problems, err := i.Verify(); err != nil || len(problems) != want {
			t.Errorf("%q %v, want %d", problems, err, want)
		}
	}
	verify(0)
	if len(memory) < 5 {
		t.Fatalf("remembered %v", memory)
	}
	// As many bytes, at the same time as before, as far as a file says.
	p := filepath.Join(root, DefaultPrefix, "releases/1/guests/default/vmlinux")
	was, err := os.Stat(p)
	if err == nil {
		err = os.WriteFile(p, make([]byte, was.Size()), 0o644)
	}
	if err = errors.Join(err, os.Chtimes(p, was.ModTime(), was.ModTime())); err != nil {
		t.Fatal(err)
	}
	verify(1)
	verify(1)
	// Whoever could set what the kernel says would not be seen: what is remembered is not read.
	fi, err := os.Stat(p)
	if err != nil {
		t.Fatal(err)
	}
	s := fi.Sys().(*syscall.Stat_t)
	e := memory["1/guests/default/vmlinux"]
	memory["1/guests/default/vmlinux"] = seen{s.Ino, s.Size, s.Ctim, e.digest}
	verify(0)
	clear(memory)
	verify(1)
}

// A command may be killed at any moment: the host is in the state before or in the one that was asked for, and the same
// command completes it.
func TestKilledCommandsLeaveOneStateOrTheOther(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	tools, one, two := programs(t), guest(t, "default"), guest(t, "default")
	run := func(kill time.Duration, args ...string) (killed bool) {
		t.Helper()
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), childVariable+"="+strings.Join(args, "\n"))
		var said bytes.Buffer
		cmd.Stderr = &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if kill > 0 {
			time.Sleep(kill)
			cmd.Process.Kill() // or it has ended
		}
		err := cmd.Wait()
		if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() {
			return true
		}
		if err != nil {
			t.Fatalf("%v: %v: %s", args, err, said.String())
		}
		return false
	}
	files := map[string]string{"etc/containerd/config.toml": mainV2}
	clean := snapshot(t, newHost(t, files))
	rounds := 3
	if os.Getenv("KATABUILD_TEST_FAULTS") != "" { // set by `make test-faults`
		rounds = 50
	}
	for _, c := range []struct {
		name    string
		prepare [][]string
		command []string
		states  []string // releases in force, before and after; empty for none
	}{
		{"install", nil, []string{"install", "", "1", tools, one}, []string{"", "1"}},
		{"upgrade", [][]string{{"install", "", "1", tools, one}}, []string{"install", "", "2", tools, two},
			[]string{"1", "2"}},
		{"rollback", [][]string{{"install", "", "1", tools, one}, {"install", "", "2", tools, two}},
			[]string{"rollback", ""}, []string{"2", "1"}},
		{"uninstall", [][]string{{"install", "", "1", tools, one}}, []string{"uninstall", ""}, []string{"1", ""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			killed, longest := 0, 60*time.Millisecond
			for range rounds {
				root := newHost(t, files)
				in := func(args []string) []string {
					args = slices.Clone(args)
					args[1] = root
					return args
				}
				for _, p := range c.prepare {
					run(0, in(p)...)
				}
				if run(time.Millisecond+mathrand.N(longest), in(c.command)...) {
					killed++
				} else {
					longest = max(longest*3/4, 2*time.Millisecond)
				}
				i, err := Open(root, DefaultPrefix, false)
				if err != nil {
					t.Fatal(err)
				}
				s, err := i.current()
				now := ""
				if s != nil {
					now = s.Release
				}
				if err != nil || !slices.Contains(c.states, now) {
					t.Errorf("release %q is in force (%v), want one of %q", now, err, c.states)
				}
				i.Close()
				if now != c.states[1] || c.name == "install" || c.name == "upgrade" {
					run(0, in(c.command)...)
				}
				if c.states[1] != "" {
					wantGood(t, root, DefaultPrefix, c.states[1])
					uninstall(t, root, DefaultPrefix)
				} else if _, err := os.Lstat(filepath.Join(root, DefaultPrefix)); err == nil {
					uninstall(t, root, DefaultPrefix)
				}
				if after := snapshot(t, root); after != clean {
					t.Errorf("left over:\n%s", after)
				}
			}
			t.Logf("%d of %d were killed before their end", killed, rounds)
		})
	}
}

func TestOneCommandAtATime(t *testing.T) {
	root := newHost(t, nil)
	i, err := Open(root, DefaultPrefix, true)
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	if _, err := Open(root, DefaultPrefix, true); err == nil || !strings.Contains(err.Error(), "another command") {
		t.Errorf("got %v", err)
	}
}
