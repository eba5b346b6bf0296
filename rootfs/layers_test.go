package rootfs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/checkout"
	"github.com/katabuild/katabuild/internal/progress"
	"github.com/katabuild/katabuild/rootfs/tree"
)

// told builds a tree and returns what is told meanwhile.
func told(t *testing.T, r Request) (*tree.Tree, string, error) {
	t.Helper()
	var lines []string
	r.Arch = x86(t)
	r.Progress = func(e progress.Event) {
		if e.Kind == progress.Log {
			lines = append(lines, e.Message)
		}
	}
	tr, _, err := r.tree(t.Context())
	return tr, strings.Join(lines, "\n"), err
}

// merged is a tree whose /lib is a link, as Debian's is.
func merged() Files {
	return Files{text("/usr/lib/old", "x"), {Path: "/lib", Kind: tree.Symlink, Target: "usr/lib"},
		{Path: "/root", Kind: tree.Dir, Mode: 0o700}}
}

func TestAFolderOnALinkAddsToWhereItLeads(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"lib", "root"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "lib/new"), []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	tr, said, err := told(t, Request{Layers: []Layer{merged(), folder(t, dir)}})
	if err != nil || said != "" {
		t.Fatalf("%q, %v", said, err)
	}
	if n, err := tr.Lookup("/lib"); err != nil || n.Kind != tree.Symlink {
		t.Errorf("/lib: %v, %v", n, err)
	}
	if n, err := tr.Lookup("/usr/lib/new"); err != nil || n.Mode != 0o644 {
		t.Errorf("/usr/lib/new: %+v, %v", n, err)
	}
	if n, err := tr.Lookup("/root"); err != nil || n.Mode != 0o700 {
		t.Errorf("a folder that was there has another mode: %+v, %v", n, err)
	}
	tr, said, err = told(t, Request{Layers: []Layer{merged(), Files{{Path: "/lib", Kind: tree.Dir, Mode: 0o711}}}})
	if n, _ := tr.Lookup("/usr/lib"); err != nil || said != "" || n.Mode != 0o711 {
		t.Errorf("a mode that the recipe gives: %o, %q, %v", n.Mode, said, err)
	}
}

func TestWhatALayerHidesIsTold(t *testing.T) {
	var many Files
	for i := range manyFiles {
		many = append(many, text(fmt.Sprintf("/many/%d", i), "1"))
	}
	for name, c := range map[string]struct {
		layers []Layer
		want   string
	}{
		"a link by a file": {[]Layer{merged(), Files{text("/lib", "x")}},
			"layer 1: replaces the symbolic link /lib (to usr/lib) by a file"},
		"a link by another": {[]Layer{merged(), Files{{Path: "/lib", Kind: tree.Symlink, Target: "opt"}}},
			"layer 1: replaces the symbolic link /lib (to usr/lib) by one to opt"},
		"a folder by a link": {[]Layer{merged(), Files{{Path: "/usr", Kind: tree.Symlink, Target: "opt"}}},
			"layer 1: replaces the folder /usr by a symbolic link"},
		"a file by a folder": {[]Layer{merged(), Files{text("/usr/lib/old/x", "x")}},
			"layer 1: replaces the file /usr/lib/old by a folder"},
		"many files": {[]Layer{many, many}, fmt.Sprintf("layer 1: replaces %d files", manyFiles)},
		"a folder with many": {[]Layer{many, Files{text("/many", "x")}},
			fmt.Sprintf("layer 1: replaces the folder /many by a file\nlayer 1: takes away %d files, links and "+
				"folders", manyFiles)},
		"a file by a file": {[]Layer{merged(), Files{text("/usr/lib/old", "y")}}, ""},
		"set-id bits of one": {[]Layer{&Folder{Origin: "folder f",
			Entries: []checkout.Entry{{Name: "tool", Lost: "set-id bits"}}}},
			"layer 0 (folder f): of files in it counts"},
		"nothing is replaced": {[]Layer{merged(), Files{text("/usr/lib/new", "y")}}, ""},
	} {
		_, said, err := told(t, Request{Layers: c.layers})
		if err != nil || !strings.HasPrefix(said, c.want) || (said == "") != (c.want == "") {
			t.Errorf("%s: %v, got %s\nwant %s", name, err, said, c.want)
		}
	}
}

func num(n uint32) *uint32 { return &n }

// debianAccounts is a little of what the package base-passwd brings.
func debianAccounts() Files {
	return Files{
		text("/etc/passwd", "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"),
		text("/etc/group", "root:x:0:\ndisk:x:6:\nkvm:x:103:qemu\n"), text("/etc/gshadow", "disk:*::\nkvm:!::qemu\n"),
	}
}

func TestAccountsAreMergedWithThoseThatAreThere(t *testing.T) {
	l := Accounts{
		Users: []User{{Name: "app", UID: 1000, Group: "disk", Home: "/home/app", CreateHome: true, Shell: "/bin/sh",
			At: "r.yaml:7"}},
		Groups: []Group{{Name: "kvm", Members: []string{"app", "qemu"}, At: "r.yaml:8"}, {Name: "own", GID: num(2000),
			At: "r.yaml:9"}},
	}
	tr, _, err := told(t, Request{Layers: []Layer{debianAccounts(), l}})
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]string{
		"/etc/passwd": "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\napp:x:" +
			"1000:6::/home/app:/bin/sh\n",
		"/etc/group":   "root:x:0:\ndisk:x:6:\nkvm:x:103:qemu,app\nown:x:2000:\n",
		"/etc/gshadow": "disk:*::\nkvm:!::qemu,app\nown:!::\n",
		"/etc/shadow":  "app:!:::::::\n",
	} {
		n, err := tr.Lookup(p)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := tree.ReadAll(n); string(got) != want || err != nil {
			t.Errorf("%s is %q, %v", p, got, err)
		}
	}
	if n, err := tr.Lookup("/home/app"); err != nil || n.Mode != 0o700 || n.UID != 1000 || n.GID != 6 {
		t.Errorf("home: %+v, %v", n, err)
	}
}

func TestAccountsThatDoNotFitAreToldAtTheirLine(t *testing.T) {
	user := func(u User) Accounts {
		u.At, u.Home, u.Shell = "r.yaml:7", "/", "/x"
		return Accounts{Users: []User{u}}
	}
	group := func(g Group) Accounts { g.At = "r.yaml:7"; return Accounts{Groups: []Group{g}} }
	for name, c := range map[string]struct {
		layers []Layer
		want   string
	}{
		"a user that is there": {[]Layer{debianAccounts(), user(User{Name: "daemon", UID: 5, GID: num(5)})},
			"r.yaml:7: user daemon: a layer before has a user of this name, uid 1, gid 1"},
		"a uid that is there": {[]Layer{debianAccounts(), user(User{Name: "app", UID: 1, GID: num(5)})},
			"r.yaml:7: user app: its uid 1 is already that of the user daemon"},
		"a group with another number": {[]Layer{debianAccounts(), group(Group{Name: "kvm", GID: num(7)})},
			"r.yaml:7: group kvm: a layer before has it with gid 103, and the recipe says 7"},
		"a gid that is there": {[]Layer{debianAccounts(), group(Group{Name: "own", GID: num(6)})},
			"r.yaml:7: group own: its gid 6 is already that of the group disk"},
		"a group of nowhere": {[]Layer{debianAccounts(), group(Group{Name: "own"})},
			"r.yaml:7: group own: no layer before has it: give it a gid"},
		"a primary group of nowhere": {[]Layer{debianAccounts(), user(User{Name: "app", UID: 9, Group: "own"})},
			"r.yaml:7: user app: its group own is neither in the recipe nor in a layer before"},
		"a layer that comes later": {[]Layer{user(User{Name: "app", UID: 9, GID: num(9)}), debianAccounts()},
			"r.yaml:7: user app is lost: a later layer brought its own /etc/passwd"},
	} {
		if _, _, err := told(t, Request{Layers: c.layers}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
}

func TestPermissionsChangeWhatIsThere(t *testing.T) {
	base := Files{{Path: "/bin/tool", Kind: tree.File, Mode: 0o4755, Data: []byte("x")},
		{Path: "/sbin", Kind: tree.Symlink, Target: "bin"}}
	tr, said, err := told(t, Request{Layers: []Layer{base, Permissions{{Path: "/sbin/tool", UID: num(7)},
		{Path: "/bin", Mode: num(0)}, {Path: "/", Mode: num(0o711), GID: num(5)}}}})
	if err != nil || said != "" {
		t.Fatalf("%v, %s", err, said)
	}
	if n, _ := tr.Lookup("/bin/tool"); n.Mode != 0o755 || n.UID != 7 {
		t.Errorf("another owner keeps the set-uid bit: %+v", n)
	}
	if n, _ := tr.Lookup("/bin"); n.Mode != 0 {
		t.Errorf("%+v", n)
	}
	if n := tr.Root(); n.Mode != 0o711 || n.GID != 5 {
		t.Errorf("%+v", n)
	}
	if _, _, err := told(t, Request{Layers: []Layer{base,
		Permissions{{Path: "/no", Mode: num(0), At: "r.yaml:9"}}}}); err == nil || !strings.Contains(err.Error(),
		"r.yaml:9: permissions") {
		t.Error(err)
	}
}
