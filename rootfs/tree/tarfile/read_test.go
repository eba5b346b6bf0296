package tarfile_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/rootfs/tree"
	"github.com/katabuild/katabuild/rootfs/tree/tarfile"
	"github.com/katabuild/katabuild/rootfs/tree/treetest"
)

type item struct {
	tar.Header
	text string
}

func reg(name, text string) item {
	return item{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, text}
}
func folder(name string) item {
	return item{tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}, ""}
}
func symlink(name, to string) item {
	return item{tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to, Mode: 0o777}, ""}
}
func hard(name, to string) item {
	return item{tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to, Mode: 0o644}, ""}
}

func tarOf(t testing.TB, items ...item) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, i := range items {
		i.Size = int64(len(i.text))
		if err := w.WriteHeader(&i.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, i.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func onDisk(t testing.TB, data []byte) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "a.tar")
	if err := os.WriteFile(p, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return p
}

func put(t *testing.T, tr *tree.Tree, p string, n *tree.Node) {
	t.Helper()
	if err := tr.Put(p, n); err != nil {
		t.Fatal(err)
	}
}

func list(tr *tree.Tree) string {
	var s []string
	tr.Walk(func(p string, n *tree.Node, first bool) error {
		s = append(s, fmt.Sprintf("%s %v", p, n.Kind))
		return nil
	})
	return strings.Join(s, "\n")
}

func TestATarBecomesATree(t *testing.T) {
	long := strings.Repeat("long/", 60) + strings.Repeat("n", 200)
	gnu := reg("gnu/"+strings.Repeat("g", 150), "g")
	gnu.Format = tar.FormatGNU
	gnu.ModTime = time.Unix(-5, 0)
	full := reg("./full", strings.Repeat("full", 1000))
	full.Mode, full.Uid, full.Gid = 0o104755, 7, math.MaxUint32-1
	full.ModTime = time.Unix(-2, 500000000)
	full.PAXRecords = map[string]string{"SCHILY.xattr.user.b": "x\x00y",
		"SCHILY.xattr.security.capability": string(treetest.Capability())}
	full.Format = tar.FormatPAX
	dev := item{tar.Header{Name: "/dev/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666}, ""}
	fifo := item{tar.Header{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o600}, ""}
	note := item{tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "c"}}, ""}
	file := onDisk(t, tarOf(t, note, folder("./"), full, hard("other", "full"), reg(long, "deep"), gnu, dev, fifo,
		symlink("link", "../full"), reg("empty", ""),
		reg("full-2", "again"), reg("full-2", "later wins")))
	tr := tree.New()
	if err := tarfile.Apply(tr, file, tarfile.Options{Origin: "package p 1"}); err != nil {
		t.Fatal(err)
	}
	n, err := tr.Lookup("full")
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("%o %d:%d %v %v %q %d", n.Mode, n.UID, n.GID, n.Time, n.Xattrs, n.Origin, n.Links())
	want := fmt.Sprintf("4755 7:4294967294 {-2 500000000} %v %q 2",
		[]tree.Xattr{{Name: "security.capability", Value: treetest.Capability()},
			{Name: "user.b", Value: []byte("x\x00y")}}, "package p 1")
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for p, want := range map[string]string{"full": strings.Repeat("full", 1000), "other": strings.Repeat("full",
		1000), long: "deep", gnu.Name: "g", "empty": "", "full-2": "later wins"} {
		n, err := tr.Lookup(p)
		if err != nil {
			t.Fatal(err)
		}
		if got := treetest.Text(t, n); got != want {
			t.Errorf("%s: %q, want %q", p, got, want)
		}
	}
	if n, _ := tr.Lookup("dev/null"); n.Kind != tree.CharDevice || n.Major != 1 || n.Minor != 3 {
		t.Errorf("%+v", n)
	}
	if n, _ := tr.Lookup("fifo"); n.Kind != tree.FIFO {
		t.Errorf("%+v", n)
	}
	if n, _ := tr.Lookup("link"); n.Target != "../full" || n.Mode != 0o777 {
		t.Errorf("%+v", n)
	}
}

// Each trick ends inside the tree, or in an error that names the entry.
func TestHostileTars(t *testing.T) {
	big := reg("big", "")
	for name, c := range map[string]struct {
		items []item
		cause error  // or
		want  string // what the tree lists, without the root
	}{
		"dot dot": {items: []item{reg("../../etc/passwd", "x")},
			want: "/etc folder\n/etc/passwd file"},
		"absolute": {items: []item{reg("/etc/passwd", "x")},
			want: "/etc folder\n/etc/passwd file"},
		"link to outside, then through": {items: []item{symlink("out", "/.."), reg("out/x", "x")},
			want: "/out symbolic link\n/x file"},
		"link up, then through": {items: []item{symlink("out", "../../.."), reg("out/x", "x")},
			want: "/out symbolic link\n/x file"},
		"a link onto itself, through": {items: []item{symlink("l", "l"), reg("l/x", "x")}, cause: tree.ErrLoop},
		"hard link to nothing":        {items: []item{hard("h", "nothing")}, cause: fs.ErrNotExist},
		"hard link outside":           {items: []item{hard("h", "../../../etc/shadow")}, cause: fs.ErrNotExist},
		"hard link to a folder":       {items: []item{folder("d"), hard("h", "d")}, cause: tree.ErrIsDir},
		"hard link to the root":       {items: []item{hard("h", "/")}, cause: tree.ErrIsDir},
		"hard link to itself":         {items: []item{hard("h", "h")}, cause: fs.ErrNotExist},
		"hard link to its own name":   {items: []item{reg("h", "x"), hard("h", "./h")}, want: "/h file"},
		"hard link to a link": {items: []item{symlink("l", "/etc/shadow"), hard("h", "l")},
			want: "/h symbolic link\n/l symbolic link"},
		"a file where a folder is": {items: []item{reg("d/f", "x"), reg("d", "x")}, cause: tree.ErrIsDir},
		"a folder where a file is": {items: []item{reg("d", "x"), folder("d")}, want: "/d folder"},
		"a file below a file":      {items: []item{reg("f", "x"), reg("f/g", "x")}, cause: tree.ErrNotDir},
		"a file for the root":      {items: []item{reg("a/..", "x")}, cause: tree.ErrIsDir},
		"a link for the root":      {items: []item{symlink("..", "x")}, cause: tree.ErrIsDir},
		"a folder on a link to a folder": {items: []item{folder("usr/lib"), symlink("lib", "usr/lib"),
			folder("lib"), reg(
				"lib/x", "x")}, want: "/lib symbolic link\n/usr folder\n/usr/lib folder\n/usr/lib/x file"},
		"a folder on a link to nothing": {items: []item{symlink("lib", "nothing"), folder("lib"),
			reg("lib/x", "x")}, want: "/lib folder\n/lib/x file"},
		"a huge device": {items: []item{{tar.Header{Name: "d", Typeflag: tar.TypeBlock,
			Devmajor: 1 << 20}, ""}}, cause: errAny},
		"a huge owner": {items: []item{{tar.Header{Name: "d", Typeflag: tar.TypeDir,
			Uid: math.MaxUint32, Format: tar.FormatPAX}, ""}}, cause: errAny},
		"a negative owner": {items: []item{{tar.Header{Name: "d", Typeflag: tar.TypeDir, Uid: -1,
			Format: tar.FormatGNU}, ""}}, cause: errAny},
		"a long component": {items: []item{reg(strings.Repeat("n", 256), "x")}, cause: tree.ErrName},
		"a long path":      {items: []item{reg(strings.Repeat("n/", 2048)+"n", "x")}, cause: errAny},
		"a long link":      {items: []item{symlink("l", strings.Repeat("n/", 2048))}, cause: errAny},
		"an empty link":    {items: []item{symlink("l", "")}, cause: errAny},
		"a long attribute": {items: []item{{tar.Header{Name: "f",
			PAXRecords: map[string]string{"SCHILY.xattr.user.x": strings.Repeat("x", 64<<10+1)}}, ""}}, cause: errAny},
		"an ACL of a name without a number": {items: []item{{tar.Header{Name: "f",
			PAXRecords: map[string]string{"SCHILY.acl.access": "user:lisa:rwx"}}, ""}}, cause: errAny},
	} {
		tr := tree.New()
		err := tarfile.Apply(tr, onDisk(t, tarOf(t, c.items...)), tarfile.Options{})
		var e *tarfile.EntryError
		switch {
		case c.cause == nil && err != nil, c.cause != nil &&
			(!errors.As(err, &e) || e.Name != c.items[len(c.items)-1].Name), c.cause != nil && c.cause != errAny &&
			!errors.Is(err, c.cause):
			t.Errorf("%s: got %v, want %v and the entry's name", name, err, c.cause)
		case c.cause == nil:
			if got := strings.TrimPrefix(list(tr), "/ folder\n"); got != c.want {
				t.Errorf("%s: got\n%s\nwant\n%s", name, got, c.want)
			}
		}
	}
	plain := tarOf(t, reg("a", strings.Repeat("a", 600)), big)
	for n := 1; n < 4*512; n++ {
		if n >= 512+600 && n <= 3*512 { // in the padding, or between entries
			continue
		}
		if err := tarfile.Apply(tree.New(), onDisk(t, plain[:n]), tarfile.Options{}); err == nil {
			t.Errorf("cut after %d of %d bytes, and nothing said", n, len(plain))
		}
	}
}

var errAny = errors.New("any")

func TestLayersReplaceWhatWasThere(t *testing.T) {
	tr := tree.New()
	first := onDisk(t, tarOf(t, reg("d/f", "f"), reg("d/g", "g"), symlink("l", "d"), hard("hard", "d/f")))
	second := onDisk(t, tarOf(t, reg("d", "a file now"), folder("l"), reg("l/x", "x")))
	for _, f := range []string{first, second} {
		if err := tarfile.Apply(tr, f, tarfile.Options{Layering: &tree.Layering{ReplaceLinks: true}}); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := list(tr), "/ folder\n/d file\n/hard file\n/l folder\n/l/x file"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if n, _ := tr.Lookup("hard"); n.Links() != 1 || treetest.Text(t, n) != "f" {
		t.Errorf("hard: %d links, %q", n.Links(), treetest.Text(t, n))
	}
}

func TestWhatIsNotKeptIsNotThereButItsOtherNamesMay(t *testing.T) {
	file := onDisk(t, tarOf(t, folder("doc"), reg("doc/f", "text"), hard("doc/g", "doc/f"), hard("h", "doc/g"),
		hard("i", "h")))
	tr := tree.New()
	var asked []string
	err := tarfile.Apply(tr, file, tarfile.Options{Keep: func(p string, n *tree.Node) (bool, error) {
		asked = append(asked, p)
		n.UID = 9
		return !strings.HasPrefix(p, "/doc"), nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if got := list(tr); got != "/ folder\n/h file\n/i file" || strings.Join(asked, " ") != "/doc /doc/f /doc/g /h /i" {
		t.Errorf("got\n%s\nasked %s", got, asked)
	}
	if n, _ := tr.Lookup("h"); n.Links() != 2 || n.UID != 9 || treetest.Text(t, n) != "text" {
		t.Errorf("h: %+v", n)
	}
	stop := errors.New("stop")
	if err := tarfile.Apply(tr, file, tarfile.Options{Keep: func(string, *tree.Node) (bool, error) {
		return false,
			stop
	}}); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
}

// A folder packed by GNU tar, in each of its formats, is the folder.
func TestGNUTarAgrees(t *testing.T) {
	testenv.Require(t, testenv.Tool("tar"))
	dir := t.TempDir()
	for p, s := range map[string]string{"a/b/c": "c", "a/big": strings.Repeat("big ", 50000),
		"a/" + strings.Repeat("n", 180): "n", "empty": ""} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(p)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, p), []byte(s), 0o640); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(filepath.Join(dir, p), time.Unix(5, 0), time.Unix(1e9, 0)); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{os.Link(filepath.Join(dir, "a/big"), filepath.Join(dir, "z")),
		os.Symlink(strings.Repeat("x/", 90), filepath.Join(dir, "l"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	stamp := tree.Time{Sec: 1} // ustar and gnu have no parts of seconds
	for _, format := range []string{"gnu", "pax", "ustar"} {
		out := filepath.Join(t.TempDir(), "a.tar")
		args := []string{"-C", dir, "--format=" + format, "-cf", out, "."}
		if format == "ustar" {
			args = append([]string{"--exclude=*nnn*", "--exclude=./l"}, args...)
		}
		if b, err := exec.Command("tar", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, b)
		}
		want, err := tree.FromDir(dir, tree.DirOptions{Time: &stamp})
		if err != nil {
			t.Fatal(err)
		}
		if format == "ustar" {
			for _, p := range []string{"l", "a/" + strings.Repeat("n", 180)} {
				if err := want.Remove(p); err != nil {
					t.Fatal(err)
				}
			}
		}
		got := tree.New()
		if err := tarfile.Apply(got, out, tarfile.Options{Keep: func(_ string, n *tree.Node) (bool,
			error) {
			n.Time = stamp
			return true, nil
		}}); err != nil {
			t.Fatal(err)
		}
		if d, err := treetest.Equal(want, got); d != "" || err != nil {
			t.Errorf("%s: %s, %v", format, d, err)
		}
	}
	for _, format := range []string{"gnu", "pax"} {
		out := filepath.Join(t.TempDir(), "a.tar")
		if err := os.Truncate(filepath.Join(dir, "empty"), 1<<20); err != nil {
			t.Fatal(err)
		}
		if b, err := exec.Command("tar", "-C", dir, "--sparse", "--format="+format, "-cf", out,
			"empty").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, b)
		}
		if err := tarfile.Apply(tree.New(), out, tarfile.Options{}); err != nil {
			t.Errorf("sparse %s: %v", format, err)
		}
	}
}

// FuzzApply: whatever a tar holds, the tree stays a tree, its contents can be read, and twice is the same.
func FuzzApply(f *testing.F) {
	f.Add(tarOf(f, folder("./"), reg("a/b", "text"), hard("c", "a/b"), symlink("l", "a"), reg("l/x", "y")), false)
	f.Add(tarOf(f, reg("a/b", "text"), reg("a", "x"), symlink("b", ".."), hard("b/../a", "a")), true)
	f.Add(tarOf(f, item{tar.Header{Name: strings.Repeat("x", 120),
		PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}}, "z"}), true)
	// A GNU long name and a base-256 owner.
	f.Add(tarOf(f, item{tar.Header{Name: strings.Repeat("g", 120), Typeflag: tar.TypeReg, Uid: 1 << 30,
		Format: tar.FormatGNU}, "z"}), false)
	f.Fuzz(func(t *testing.T, data []byte, replace bool) {
		if len(data) > 1<<20 {
			return
		}
		file := onDisk(t, data)
		make1 := func() (*tree.Tree, error) {
			tr := tree.New()
			put(t, tr, "/usr/lib/old", &tree.Node{Kind: tree.File, Mode: 0o600})
			put(t, tr, "/lib", &tree.Node{Kind: tree.Symlink, Mode: 0o777, Target: "usr/lib"})
			var o tarfile.Options
			if replace {
				o.Layering = &tree.Layering{}
			}
			return tr, tarfile.Apply(tr, file, o)
		}
		a, err := make1()
		a.Walk(func(p string, n *tree.Node, first bool) error {
			if strings.Contains(p, "..") && strings.Contains("/"+p+"/", "/../") {
				t.Errorf("%q is in the tree", p)
			}
			if n.Size() < 1<<24 && n.Content != nil { // a hole may have any size
				if _, err := tree.DigestOf(n.Content); err != nil {
					t.Errorf("%q: %v", p, err)
				}
			}
			return nil
		})
		b, err2 := make1()
		if (err == nil) != (err2 == nil) {
			t.Errorf("once %v, then %v", err, err2)
		}
		if d, err := treetest.Equal(a, b); d != "" || err != nil {
			t.Errorf("%s, %v", d, err)
		}
	})
}
