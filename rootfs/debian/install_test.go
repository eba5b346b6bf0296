package debian

import (
	"archive/tar"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/rootfs/debian/control"
	"github.com/katabuild/katabuild/rootfs/tree"
	"github.com/katabuild/katabuild/rootfs/tree/treetest"
)

func TestPatternsMatchAsDpkgDoes(t *testing.T) {
	for _, c := range []struct {
		pattern, path string
		want          bool
	}{
		{"/a", "/a", true}, {"/a", "/ab", false}, {"/a*", "/a", true}, {"/a/*", "/a/b/c", true},
		{"/a/*", "/a", false}, {"*", "", true},
		{"/*/copyright", "/a/b/copyright", true}, {"/a?c", "/a/c", true}, {"/[ab]c", "/bc", true},
		{"/[!ab]c", "/bc", false}, {"/[!ab]c", "/cc", true},
		{"/[a-c]", "/b", true}, {"/[a-c]", "/d", false}, {"/[]]", "/]", true}, {"/[", "/[", true},
		{`/\*`, "/*", true}, {`/\*`, "/a", false}, {`\`, `\`, true},
		{"/*a*b*c", "/xaxbxc", true}, {"/*a*b*c", "/xaxcxb", false}, {"/*" + strings.Repeat("a*", 30) + "b",
			"/" + strings.Repeat("a", 200), false},
	} {
		if got := tree.Match(c.pattern, c.path); got != c.want {
			t.Errorf("%s %s: %v", c.pattern, c.path, got)
		}
	}
	r := append(Exclude("/usr/share/doc/*"), Include("/usr/share/doc/*/copyright")...)
	for p, want := range map[string]bool{"/usr/bin/x": true, "/usr/share/doc": true, "/usr/share/doc/x": false,
		"/usr/share/doc/x/README": false, "/usr/share/doc/x/copyright": true} {
		if r.keep(p) != want {
			t.Errorf("%s: %v", p, !want)
		}
	}
}

// small is packages that have something of everything.
func small(t testing.TB) []*Deb {
	t.Helper()
	unpack := func(control string, more []item, data ...item) *Deb {
		d, err := Unpack(onDisk(t, debOf(t, ".xz", control+"Maintainer: A <a@example.org>\nDescription: x\n", more,
			data...)), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	sums := []item{{name: "md5sums", text: "5d41402abc4b2a76b9719d911017c592  x\n"}}
	head := func(name, arch string) string {
		return fmt.Sprintf("Package: %s\nVersion: 1.0-1\nArchitecture: %s\n", name, arch)
	}
	return []*Deb{
		unpack(head("base-files", "amd64"), sums, item{name: "./"}, item{name: "./bin/"}, item{name: "./etc/"},
			item{name: "./tmp/", mode: 0o1777}, item{name: "./var/run/"},
			item{name: "./etc/debian_version", text: "13.1\n"}, item{name: "./etc/dpkg/origins/debian",
				text: "Vendor: Debian\n"}, item{name: "./usr/share/base-files/profile", text: "# profile\n"}),
		unpack(head("base-passwd", "amd64"), sums, item{name: "./usr/share/base-passwd/passwd.master",
			text: "root:*:0:0:root:/root:/bin/bash\nnobody:*:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"},
			item{name: "./usr/share/base-passwd/group.master", text: "root:*:0:\nshadow:*:42:\n"}),
		unpack(head("debianutils", "amd64"), sums, item{name: "./usr/share/debianutils/shells",
			text: "# shells\n/bin/sh\n"}, item{name: "./usr/bin/which.debianutils", text: "w", mode: 0o755}),
		unpack(head("bash", "amd64"), append(sums, item{name: "conffiles", text: "/etc/bash.bashrc\n"}),
			item{name: "./etc/bash.bashrc", text: "hello"}, item{name: "./bin/bash", text: "bash", mode: 0o755},
			item{name: "./usr/share/debianutils/shells.d/bash", text: "/usr/bin/bash\n"},
			item{name: "./usr/share/doc/bash/", mode: 0o700}, item{name: "./usr/share/doc/bash/README", text: "r"},
			item{name: "./usr/share/doc/bash/copyright", text: "c"}),
		unpack(head("mawk", "amd64"), sums, item{name: "./usr/bin/mawk", text: "mawk", mode: 0o755},
			item{name: "./usr/share/man/man1/mawk.1.gz", text: "m"}),
		unpack(head("libc6", "amd64")+"Multi-Arch: same\n", sums, item{name: "./lib/", mode: 0o700},
			item{name: "./lib64/"}, item{name: "./lib64/ld.so", link: "../lib/ld", kind: tar.TypeSymlink},
			item{name: "./usr/lib/ld", text: "ld"}, item{name: "./var/run/socket", text: "s"},
			item{name: "./tmp/", mode: 0o700}),
		unpack(head("ca-certificates", "all"), sums, item{name: "./usr/share/ca-certificates/mozilla/B.crt",
			text: "-b-\n"}, item{name: "./usr/share/ca-certificates/mozilla/A.crt", text: "-a-"}),
		unpack(head("tzdata", "all"), sums, item{name: "./usr/share/zoneinfo/Etc/UTC", text: "TZif"}),
		unpack(head("newer", "all")+"Replaces: bash (<< 2)\n", sums, item{name: "./usr/bin/bash", text: "newer",
			mode: 0o755}),
	}
}

var now = tree.Time{Sec: 1700000000}

func install(t testing.TB, debs []*Deb, o Options) *tree.Tree {
	t.Helper()
	tr := tree.New()
	if err := Install(tr, debs, o); err != nil {
		t.Fatal(err)
	}
	return tr
}

func read(t testing.TB, tr *tree.Tree, p string) string {
	t.Helper()
	n, err := tr.Resolve(p)
	if err != nil {
		t.Fatal(err)
	}
	return treetest.Text(t, n)
}

func TestPackagesBecomeARootFileSystem(t *testing.T) {
	tr := install(t, small(t), Options{Time: now, Paths: append(Exclude("/usr/share/doc/*", "/usr/share/man/*"),
		Include("/usr/share/doc/*/copyright")...)})
	for p, want := range map[string]string{
		"/bin/bash":    "newer",
		"/lib64/ld.so": "ld",
		"/run/socket":  "s",
		"/etc/passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/" +
			"nonexistent:/usr/sbin/nologin\n",
		"/etc/shadow":                         "root:*:19675:0:99999:7:::\nnobody:*:19675:0:99999:7:::\n",
		"/etc/group":                          "root:x:0:\nshadow:x:42:\n",
		"/etc/gshadow":                        "root:*::\nshadow:*::\n",
		"/etc/profile":                        "# profile\n",
		"/etc/shells":                         "# shells\n/bin/sh\n/usr/bin/bash\n/bin/bash\n",
		"/usr/bin/awk":                        "mawk",
		"/usr/bin/which":                      "w",
		"/etc/localtime":                      "TZif",
		"/etc/ssl/certs/ca-certificates.crt":  "-a-\n-b-\n",
		"/etc/dpkg/origins/default":           "Vendor: Debian\n",
		"/usr/share/doc/bash/copyright":       "c",
		"/var/lib/dpkg/info/bash.conffiles":   "/etc/bash.bashrc\n",
		"/var/lib/dpkg/info/libc6:amd64.list": "/lib\n/lib64\n/lib64/ld.so\n/usr/lib/ld\n/var/run/socket\n/tmp\n",
		"/var/lib/dpkg/info/mawk.list":        "/usr/bin/mawk\n",
		"/var/lib/dpkg/info/ca-certificates.list": "/usr/share/ca-certificates/mozilla/B.crt\n/usr/share/" +
			"ca-certificates/mozilla/A.crt\n",
	} {
		if got := read(t, tr, p); got != want {
			t.Errorf("%s: got %q, want %q", p, got, want)
		}
	}
	for p, want := range map[string]string{
		"/bin": "symbolic link 777 0 usr/bin", "/lib64": "symbolic link 777 0 usr/lib64",
		"/var/run": "symbolic link 777 0 /run", "/usr/lib": "folder 755 0 ", "/tmp": "folder 1777 0 ",
		"/etc/shadow": "file 640 42 ", "/var/mail": "folder 2775 8 ", "/var/log/btmp": "file 660 43 ",
		"/usr/share/doc/bash": "folder 700 0 ",
	} {
		n, err := tr.Lookup(p)
		if err != nil {
			t.Errorf("%s: %v", p, err)
			continue
		}
		if got := fmt.Sprintf("%v %o %d %s", n.Kind, n.Mode, n.GID, n.Target); got != want {
			t.Errorf("%s: got %s, want %s", p, got, want)
		}
	}
	for _, p := range []string{"/usr/share/doc/bash/README", "/usr/share/man/man1"} {
		if _, err := tr.Lookup(p); err == nil {
			t.Errorf("%s is there", p)
		}
	}
	if n, _ := tr.Lookup("/usr/bin/mawk"); n.Origin != "package mawk 1.0-1" {
		t.Errorf("origin %q", n.Origin)
	}
	status := read(t, tr, "/var/lib/dpkg/status")
	want := "Package: bash\nStatus: install ok installed\nVersion: 1.0-1\nArchitecture: amd64\nMaintainer: A " +
		"<a@example.org>\nDescription: x\nConffiles:\n /etc/bash.bashrc 5d41402abc4b2a76b9719d911017c592\n\n"
	if !strings.Contains(status, want) {
		t.Errorf("status:\n%s", status)
	}
}

func TestTheOrderOfPackagesDoesNotCount(t *testing.T) {
	want := install(t, small(t), Options{Time: now})
	for i := range 5 {
		debs := small(t) // elsewhere, too
		rand.New(rand.NewSource(int64(i))).Shuffle(len(debs), func(i, j int) { debs[i], debs[j] = debs[j], debs[i] })
		if d, err := treetest.Equal(want, install(t, debs, Options{Time: now})); d != "" || err != nil {
			t.Errorf("%s, %v", d, err)
		}
	}
}

func TestTwoPackagesWithOneFileAreAnError(t *testing.T) {
	debs := small(t)
	debs[len(debs)-1].Control = control.Stanza{{Name: "Replaces", Value: "bash (<< 1)"}}
	err := Install(tree.New(), debs, Options{})
	want := `entry "./usr/bin/bash": package bash 1.0-1 has /usr/bin/bash too, and neither replaces the other (diversions are not made)`
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
	if err := Install(tree.New(), append(debs, debs[0]), Options{}); err == nil || !strings.Contains(err.Error(),
		"once") {
		t.Errorf("got %v", err)
	}
}

// dpkg's own tools find nothing amiss in the database, and see what is installed.
func TestDpkgReadsTheDatabase(t *testing.T) {
	testenv.Require(t, testenv.Tool("dpkg"), testenv.Tool("dpkg-query"))
	root := t.TempDir()
	tr := install(t, small(t), Options{Time: now})
	if err := tr.Walk(func(p string, n *tree.Node, _ bool) error {
		host := filepath.Join(root, p)
		switch n.Kind {
		case tree.Dir:
			return os.MkdirAll(host, 0o755)
		case tree.Symlink:
			return os.Symlink(n.Target, host)
		}
		return os.WriteFile(host, []byte(read(t, tr, p)), 0o644)
	}); err != nil {
		t.Fatal(err)
	}
	admin := "--admindir=" + filepath.Join(root, adminDir)
	if out, err := exec.Command("dpkg", admin, "--audit").CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("dpkg --audit: %v\n%s", err, out)
	}
	out, err := exec.Command("dpkg-query", admin, "-W", "-f",
		"${db:Status-Abbrev}${binary:Package} ${Version} ${Conffiles}\n").CombinedOutput()
	want := "ii base-files 1.0-1 \nii base-passwd 1.0-1 \nii bash 1.0-1  /etc/bash.bashrc " +
		"5d41402abc4b2a76b9719d911017c592\nii ca-certificates 1.0-1 \nii debianutils 1.0-1 \nii libc6:amd64 1.0-1 " +
		"\nii mawk 1.0-1 \nii newer 1.0-1 \nii tzdata 1.0-1 \n"
	if err != nil || string(out) != want {
		t.Errorf("%v, got\n%s\nwant\n%s", err, out, want)
	}
	out, err = exec.Command("dpkg-query", admin, "-S", "/usr/bin/mawk").CombinedOutput()
	if err != nil || string(out) != "mawk: /usr/bin/mawk\n" {
		t.Errorf("%v, %s", err, out)
	}
}

// A file of a folder that stands where a conffile would is read once: the database and the image have the same bytes.
func TestAConffileIsReadOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "conf")
	n := &tree.Node{Kind: tree.File, Content: &tree.Live{Path: file, Length: 5}}
	if err := os.WriteFile(file, []byte("first"), 0o600); err != nil {
		t.Fatal(err)
	}
	if sum, err := md5Of(n); sum != "8b04d5e3775d298e78455efc5ca404d5" || err != nil { // md5sum's
		t.Fatalf("%s, %v", sum, err)
	}
	if err := os.WriteFile(file, []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := tree.ReadAll(n); string(b) != "first" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}
