package rootfs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/checkout"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/rootfs/sbom"
	"github.com/katabuild/katabuild/rootfs/tree"
	"github.com/katabuild/katabuild/rootfs/tree/tarfile"
)

func x86(t testing.TB) arch.Arch {
	t.Helper()
	a, err := arch.Parse("x86_64")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// agent is a file that stands for one.
func agent(t testing.TB, init string) Agent {
	t.Helper()
	p := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(p, []byte("the agent"), 0o600); err != nil {
		t.Fatal(err)
	}
	return Agent{Path: p, Digest: digest.Of([]byte("the agent")), Size: 9, Go: "go1.26", Init: init}
}

func text(p, s string) File { return File{Path: p, Kind: tree.File, Mode: 0o644, Data: []byte(s)} }

func build(t *testing.T, r Request) *tree.Tree {
	t.Helper()
	r.Arch = x86(t)
	tr, _, err := r.tree(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func TestTheAgentIsTheInitOfAnOtherwiseEmptyRoot(t *testing.T) {
	tr := build(t, Request{Agent: agent(t, manifest.InitAgent), Time: 7})
	for _, p := range []string{"/sbin/init", "/usr/sbin/init", AgentPath} {
		if n, err := tr.Resolve(p); err != nil || n.Size() != 9 || n.Mode != 0o755 || n.Time.Sec != 7 {
			t.Errorf("%s: %+v, %v", p, n, err)
		}
	}
	for _, d := range []string{"/dev", "/proc", "/sys", "/run", "/tmp"} {
		if n, err := tr.Lookup(d); err != nil || n.Kind != tree.Dir {
			t.Errorf("%s: %v, %v", d, n, err)
		}
	}
	if n, err := tr.Lookup("/dev/console"); err != nil || n.Kind != tree.CharDevice || n.Major != 5 || n.Minor != 1 {
		t.Errorf("/dev/console: %+v, %v", n, err)
	}
}

func TestAnExtensionHasNothingButItsLayers(t *testing.T) {
	r := Request{Layers: []Layer{Files{text("/tool", "x")}}}
	var names []string
	if err := build(t, r).Walk(func(p string, _ *tree.Node, _ bool) error {
		names = append(names,
			p)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(names, []string{"/", "/tool"}) {
		t.Errorf("it has %q", names)
	}
	for _, in := range (Request{Arch: x86(t), Layers: r.Layers}).Inputs() {
		if in.Name == "agent" || in.Name == "init" {
			t.Errorf("its key has %s %q", in.Name, in.Value)
		}
	}
}

func TestSystemdStartsTheAgentAsAService(t *testing.T) {
	tr := build(t, Request{Layers: []Layer{Files{
		{Path: "/usr/sbin", Kind: tree.Dir, Mode: 0o755}, {Path: "/sbin", Kind: tree.Symlink, Target: "usr/sbin"},
		{Path: "/usr/sbin/init", Kind: tree.Symlink, Target: "../lib/systemd/systemd"},
	}}, Agent: agent(t, manifest.InitSystemd)})
	if n, err := tr.Lookup("/sbin/init"); err != nil || n.Target != "../lib/systemd/systemd" {
		t.Errorf("init: %+v, %v", n, err)
	}
	for _, u := range []string{"kata-agent.service", "kata-containers.target"} {
		if n, err := tr.Lookup("/usr/lib/systemd/system/" + u); err != nil || n.Size() == 0 {
			t.Errorf("%s: %v, %v", u, n, err)
		}
	}
}

func TestAnAgentThatIsAnotherIsRefused(t *testing.T) {
	a := agent(t, manifest.InitAgent)
	a.Digest = digest.Of([]byte("another"))
	if _, _, err := (Request{Arch: x86(t), Agent: a}).tree(context.Background()); err == nil ||
		!strings.Contains(err.Error(), "wrong digest") {
		t.Error(err)
	}
}

// folder is a layer of a folder of the host.
func folder(t *testing.T, dir string) *Folder {
	t.Helper()
	entries, err1 := checkout.List(t.Context(), dir)
	sum, err2 := checkout.Digest(t.Context(), dir)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return &Folder{Digest: sum, Origin: "folder x", Entries: entries}
}

func TestLaterLayersWinAndRemoveTakesAway(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "motd"), []byte("folder"), 0o600); err != nil {
		t.Fatal(err)
	}
	tr := build(t, Request{
		Layers: []Layer{
			Files{text("/motd", "files"), text("/doc/a/copyright", "keep"), text("/doc/a/README", "go"),
				text("/doc/b/README", "go"), text("/doc-not/x", "stay")},
			folder(t, dir),
		},
		Remove: []string{"/doc"}, Keep: []string{"/doc/*/copyright"}, Agent: agent(t, manifest.InitAgent),
	})
	if n, err := tr.Lookup("/motd"); err != nil || n.Size() != 6 || n.UID != 0 || n.Origin != "folder x/motd" {
		t.Errorf("motd: %+v, %v", n, err)
	}
	for p, want := range map[string]bool{"/doc/a/copyright": true, "/doc/a/README": false, "/doc/b": false,
		"/doc-not/x": true} {
		if _, err := tr.Lookup(p); (err == nil) != want {
			t.Errorf("%s: %v", p, err)
		}
	}
	r := Request{Arch: x86(t), Remove: []string{"/nothing/*"}, Agent: agent(t, manifest.InitAgent)}
	if _, _, err := r.tree(context.Background()); err == nil || !strings.Contains(err.Error(), "/nothing/*") {
		t.Errorf("a pattern that matches nothing: %v", err)
	}
}

func TestAccountsAreAddedOnce(t *testing.T) {
	l := Accounts{Users: []User{{Name: "app", UID: 1000, GID: new(uint32(1000)), Home: "/home/app",
		Shell: "/bin/sh"}}, Groups: []Group{{Name: "app", GID: new(uint32(1000)), Members: []string{"app"}}}}
	tr := build(t, Request{Layers: []Layer{Files{text("/etc/passwd",
		"root:x:0:0::/root:/bin/sh\ndaemon:x:1:1::/:/none\n")}, l, l}, Agent: agent(t, manifest.InitAgent)})
	for p, want := range map[string]string{
		"/etc/passwd": "root:x:0:0::/root:/bin/sh\ndaemon:x:1:1::/:/none\napp:x:1000:1000::/home/app:/bin/sh\n",
		"/etc/group":  "app:x:1000:app\n", "/etc/shadow": "app:!:::::::\n",
	} {
		n, err := tr.Lookup(p)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := tree.ReadAll(n); string(got) != want || err != nil {
			t.Errorf("%s is %q, %v", p, got, err)
		}
	}
	if n, _ := tr.Lookup("/etc/shadow"); n.Mode != 0o640 {
		t.Errorf("shadow has mode %o", n.Mode)
	}
}

// What changes in a folder after it was locked is in no image, whenever that happens.
func TestAFolderThatChangesIsAnError(t *testing.T) {
	for name, c := range map[string]struct {
		change func(dir string) error
		more   []Layer
		fails  bool
	}{
		"nothing":         {func(string) error { return nil }, nil, false},
		"another content": {func(d string) error { return os.WriteFile(d+"/a", []byte("2"), 0o600) }, nil, true},
		"another length":  {func(d string) error { return os.WriteFile(d+"/a", []byte("22"), 0o600) }, nil, true},
		"gone":            {func(d string) error { return os.Remove(d + "/a") }, nil, true},
		"a file that another layer hides": {func(d string) error { return os.WriteFile(d+"/a", []byte("2"), 0o600) },
			[]Layer{Files{text("/a", "hidden")}}, true},
		"a file that no layer finds": {func(d string) error { return os.WriteFile(d+"/a", []byte("2"), 0o600) },
			[]Layer{Permissions{{Path: "/none", At: "recipe.yaml:1"}}}, true},
		"after the list": {func(d string) error { return os.WriteFile(d+"/b", []byte("2"), 0o600) }, nil, false},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(dir+"/a", []byte("1"), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, write := range []func(r Request) error{
			func(r Request) error { _, err := r.WriteTar(t.Context(), t.TempDir()+"/tar"); return err },
			func(r Request) error {
				_, err := r.WriteImage(t.Context(), Disk{FileSystem: manifest.EROFS, Verity: true}, t.TempDir(), nil)
				return err
			},
			func(r Request) error {
				_, err := r.WriteImage(t.Context(), Disk{FileSystem: manifest.Ext4}, t.TempDir(), nil)
				return err
			},
		} {
			f := folder(t, dir)
			told := errors.New("told")
			f.Changed = func(err error) error { return errors.Join(told, err) }
			if err := c.change(dir); err != nil {
				t.Fatal(err)
			}
			err := write(Request{Arch: x86(t), Layers: append([]Layer{f}, c.more...)})
			if c.fails != errors.Is(err, told) || !c.fails && err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if err := os.WriteFile(dir+"/a", []byte("1"), 0o600); err != nil {
				t.Fatal(err)
			}
			os.Remove(dir + "/b")
		}
	}
}

// The agent is compared with its digest before, and what goes into the image is compared again.
func TestAFileThatChangesAfterItsCheckIsAnError(t *testing.T) {
	a := agent(t, manifest.InitAgent)
	r := Request{Arch: x86(t), Agent: a}
	files := &tree.Opener{WithSums: true}
	err := r.verified(t.Context(), files, func(tr *tree.Tree, _ []sbom.Component) error {
		err := os.WriteFile(a.Path, bytes.Repeat([]byte("x"), int(a.Size)), 0o755)
		if err != nil {
			return err
		}
		_, err = tarfile.Write(io.Discard, tr, files)
		return err
	})
	if m, ok := errors.AsType[*digest.Mismatch](err); !ok || m.Want != a.Digest {
		t.Error(err)
	}
}
