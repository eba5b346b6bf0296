package modules

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/kmodule"
	"github.com/katabuild/katabuild/internal/testenv"
)

const dep = `kernel/drivers/net/dummy.ko:
kernel/fs/nfs/nfs-v4.ko: kernel/fs/nfs/nfs.ko kernel/fs/lockd/lockd.ko kernel/net/sunrpc/sunrpc.ko
kernel/fs/nfs/nfs.ko: kernel/fs/lockd/lockd.ko kernel/net/sunrpc/sunrpc.ko
kernel/fs/lockd/lockd.ko: kernel/net/sunrpc/sunrpc.ko
kernel/net/sunrpc/sunrpc.ko:
`

func folder(t *testing.T, index string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "6.12"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "6.12/modules.dep"), []byte(index), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestWhatAModuleNeedsComesFirst(t *testing.T) {
	dir := folder(t, dep)
	var got []string
	err := load(dir, "6.12", "nfs_v4", "callback_tcpport=1 x", func(file, params string) error {
		rel, err := filepath.Rel(filepath.Join(dir, "6.12"), file)
		got = append(got, rel+" "+params)
		if strings.HasSuffix(file, "lockd.ko") {
			return unix.EEXIST // which another one has loaded
		}
		return err
	})
	want := []string{"kernel/net/sunrpc/sunrpc.ko ", "kernel/fs/lockd/lockd.ko ", "kernel/fs/nfs/nfs.ko ",
		"kernel/fs/nfs/nfs-v4.ko callback_tcpport=1 x"}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %q", err, got)
	}
}

func TestWhatCannotBeLoadedIsNamed(t *testing.T) {
	refuse := func(string, string) error { return unix.EKEYREJECTED }
	if err := load(folder(t, dep), "6.12", "nfs", "", refuse); !errors.Is(err, unix.EKEYREJECTED) ||
		!strings.HasPrefix(err.Error(), "kernel module nfs: load kernel/net/sunrpc/sunrpc.ko: ") {
		t.Errorf("%v", err)
	}
	for _, c := range [][2]string{{"6.12", "ext9"}, {"6.13", "nfs"}} {
		_, no := errors.AsType[*missing](load(folder(t, dep), c[0], c[1], "", refuse))
		if !no {
			t.Errorf("%v: not missing", c)
		}
	}
	for _, index := range []string{"no colon\n", "../../x.ko:\n", "a.ko: /etc/x.ko\n", "\xff/../x.ko:\n"} {
		if err := load(folder(t, index), "6.12", "a", "", refuse); err == nil ||
			!strings.Contains(err.Error(), "modules.dep: line 1: ") {
			t.Errorf("%q: %v", index, err)
		}
	}
}

func TestAModuleThatIsBuiltInNeedsNoLoading(t *testing.T) {
	all, err := filepath.Glob("/sys/module/*")
	var there string
	for _, m := range all {
		if _, err := os.Stat(filepath.Join(m, "initstate")); err != nil {
			there = filepath.Base(m)
			break
		}
	}
	testenv.Require(t, testenv.Func(testenv.Proc, func() error {
		if there == "" {
			return errors.New("/sys/module lists none that is built in")
		}
		return err
	}))
	if err := Load(kmodule.Module{Name: there}); err != nil {
		t.Error(err)
	}
	if err := Load(kmodule.Module{Name: there, Params: []string{"x=1"}}); err == nil ||
		!strings.Contains(err.Error(), "as "+there+".NAME=VALUE") {
		t.Errorf("parameters that nobody sets: %v", err)
	}
	if _, no := errors.AsType[*missing](Load(kmodule.Module{Name: "katabuild-none"})); !no {
		t.Error("a module that nobody has")
	}
}

func TestWhatIsLoadedAtTheStart(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"usr/lib/modules-load.d/a.conf": "hidden\n",
		"etc/modules-load.d/a.conf":     "# comment\none\n\n; another\n two \n../four\n",
		"usr/lib/modules-load.d/b.conf": "three", "etc/modules-load.d/c.txt": "no\n",
	} {
		p := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := configured(root)
	if err != nil || strings.Join(got, " ") != "one two ../four three" {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := configured(t.TempDir()); err != nil || len(got) != 0 {
		t.Errorf("of nothing: %v, %v", got, err)
	}
	if err := LoadConfigured(root); err == nil || !strings.Contains(err.Error(), "kernel module two: ") ||
		!strings.Contains(err.Error(), `kernel module "../four": want a name`) ||
		!strings.Contains(err.Error(), "kernel module three: ") {
		t.Errorf("%v", err)
	}
}

func FuzzIndex(f *testing.F) {
	f.Add(dep)
	f.Add("a.ko: b.ko")
	f.Fuzz(func(t *testing.T, text string) {
		x, err := readIndex(strings.NewReader(text))
		if err != nil {
			return
		}
		for name := range x {
			for _, p := range x.order(name) {
				if !filepath.IsLocal(p) {
					t.Errorf("%q leads out", p)
				}
			}
		}
	})
}
