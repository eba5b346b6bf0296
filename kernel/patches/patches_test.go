package patches

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/testenv"
)

// tree makes a folder from names and contents.
func tree(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// contents reads a folder back.
func contents(t testing.TB, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(p)
		rel, _ := filepath.Rel(dir, p)
		got[rel] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

const head = "--- a/f\n+++ b/f\n"

func TestPatchesApply(t *testing.T) {
	ten := "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n"
	for name, c := range map[string]struct {
		before map[string]string
		patch  string
		after  map[string]string
		moved  string // "" when every hunk applies where it says
	}{
		"exactly": {map[string]string{"f": "a\nb\nc\n"}, head + "@@ -1,3 +1,3 @@ func\n a\n-b\n+B\n c\n",
			map[string]string{"f": "a\nB\nc\n"}, ""},
		"in a mail": {map[string]string{"f": "a\n"},
			"From: x\nSubject: y\n\ntext\n---\n f | 2 +-\n\ndiff --git a/f b/f\nindex 1..2 100644\n" + head +
				"@@ -1 +1 @@\n-a\n+b\n-- \n2.47.3\n", map[string]string{"f": "b\n"}, ""},
		"moved by earlier lines": {map[string]string{"f": "0\n0\n" + ten}, head + "@@ -5,2 +5,2 @@\n 5\n-6\n+six\n",
			map[string]string{"f": "0\n0\n1\n2\n3\n4\n5\nsix\n7\n8\n9\n10\n"},
			"p: f: hunk 1 applies at line 7 instead of 5"},
		"two hunks, both moved, said once each": {map[string]string{"f": "0\n" + ten},
			head + "@@ -2,1 +2,2 @@\n 2\n+2a\n@@ -9,1 +10,1 @@\n-9\n+nine\n",
			map[string]string{"f": "0\n1\n2\n2a\n3\n4\n5\n6\n7\n8\nnine\n10\n"},
			"p: f: hunk 1 applies at line 3 instead of 2"},
		"a new file": {nil, "--- /dev/null\n+++ b/d/e/new\n@@ -0,0 +1,2 @@\n+x\n+y\n",
			map[string]string{"d/e/new": "x\ny\n"}, ""},
		"a new empty file": {nil, "diff --git a/new b/new\nnew file mode 100644\nindex 0..0\n",
			map[string]string{"new": ""}, ""},
		"a deletion": {map[string]string{"f": "a\nb\n", "g": "g"},
			"--- a/f\n+++ /dev/null\n@@ -1,2 +0,0 @@\n-a\n-b\n", map[string]string{"g": "g"}, ""},
		"a rename": {map[string]string{"f": "a\n"},
			"diff --git a/f b/g\nsimilarity index 100%\nrename from f\nrename to g\n", map[string]string{"g": "a\n"},
			""},
		"a rename with a change": {map[string]string{"f": "a\n"},
			"diff --git a/f b/g\nrename from f\nrename to g\n--- a/f\n+++ b/g\n@@ -1 +1 @@\n-a\n+b\n",
			map[string]string{"g": "b\n"}, ""},
		"a copy": {map[string]string{"f": "a\n"},
			"diff --git a/f b/g\ncopy from f\ncopy to g\n", map[string]string{"f": "a\n", "g": "a\n"}, ""},
		"no newline at the end, kept": {map[string]string{"f": "a\nb"},
			head + "@@ -1,2 +1,2 @@\n-a\n+A\n b\n\\ No newline at end of file\n", map[string]string{"f": "A\nb"}, ""},
		"no newline at the end, removed": {map[string]string{"f": "a\n"},
			head + "@@ -1 +1 @@\n-a\n+a\n\\ No newline at end of file\n", map[string]string{"f": "a"}, ""},
		"no newline at the end, added": {map[string]string{"f": "a"},
			head + "@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+a\n", map[string]string{"f": "a\n"}, ""},
		"CRLF on both sides": {map[string]string{"f": "a\r\nb\r\n"},
			head + "@@ -1,2 +1,2 @@\n a\r\n-b\r\n+c\r\n", map[string]string{"f": "a\r\nc\r\n"}, ""},
		"an empty context line cut short": {map[string]string{"f": "a\n\nb\n"},
			head + "@@ -1,3 +1,3 @@\n a\n\n-b\n+c\n", map[string]string{"f": "a\n\nc\n"}, ""},
		"a removed line that looks like a file name": {map[string]string{"f": "-- x\ny\n"},
			head + "@@ -1,2 +1,2 @@\n--- x\n+++ x\n y\n",
			map[string]string{"f": "++ x\ny\n"}, ""},
		"insertion without context": {map[string]string{"f": "a\nb\n"}, head + "@@ -1,0 +2 @@\n+x\n",
			map[string]string{"f": "a\nx\nb\n"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := tree(t, c.before)
			moved, err := Apply(dir, Patch{Name: "p", Data: []byte(c.patch)})
			if err != nil {
				t.Fatal(err)
			}
			if got := contents(t, dir); fmt.Sprint(got) != fmt.Sprint(c.after) {
				t.Errorf("got  %q\nwant %q", got, c.after)
			}
			var said []string
			for _, m := range moved {
				said = append(said, m.String())
			}
			if got := strings.Join(said, "\n"); got != c.moved {
				t.Errorf("moved: %s\nwant:  %s", got, c.moved)
			}
		})
	}
}

func TestPatchesThatDoNotApplyAreNamed(t *testing.T) {
	for name, c := range map[string]struct {
		file, patch, want string
	}{
		"fuzz": {"a\nX\nc\n", head + "@@ -1,3 +1,3 @@\n a\n b\n-c\n+d\n",
			`patch p:3: f: hunk 1: does not apply: line 2 should be "b", but is "X"`},
		"the second hunk": {"a\nb\nc\n", head + "@@ -1 +1 @@\n-a\n+A\n@@ -3 +3 @@\n-z\n+Z\n",
			`patch p:6: f: hunk 2: does not apply: line 3 should be "z", but is "c"`},
		"too short a file": {"a\n", head + "@@ -1,2 +1,1 @@\n a\n-b\n",
			`line 2 should be "b", but the file has 1 lines`},
		"two places": {"0\na\n0\na\n", head + "@@ -1 +1 @@\n-a\n+b\n",
			"f: hunk 1: applies at 2 places, none of them line 1"},
		"applied already": {"b\n", head + "@@ -1 +1 @@\n-a\n+b\n", "does not apply"},
		"CRLF against LF": {"a\r\n", head + "@@ -1 +1 @@\n-a\n+b\n",
			`should be "a", but is "a\r"`},
		"an end without newline that has one": {"a\n",
			head + "@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+b\n", "does not apply"},
		"new but there": {"a\n", "--- /dev/null\n+++ b/f\n@@ -0,0 +1 @@\n+x\n",
			"is new in the patch but exists"},
		"deleted with a rest": {"a\nb\n", "--- a/f\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n",
			"has more lines than the patch knows"},
		"no such file": {"a\n", "--- a/g\n+++ b/g\n@@ -1 +1 @@\n-a\n+b\n",
			"g: no such file in the tree"},
		"a rename onto a file": {"a\n",
			"diff --git a/f b/f2\nrename from f\nrename to f2\ndiff --git a/f2 b/f2\nnew file mode 100644\n", "exists"},
		"two names without a rename": {"a\n", "--- a/f\n+++ b/g\n@@ -1 +1 @@\n-a\n+b\n",
			"neither renamed nor copied"},
		"nothing":      {"", "", "holds no diff"},
		"a hunk alone": {"", "@@ -1 +1 @@\n-a\n+b\n", "p:1: a hunk without a file"},
		"a hunk that ends early": {"", head + "@@ -1,3 +1,3 @@\n a\n",
			"p:4: f: the hunk ends too early"},
		"a hunk that is longer than its head": {"", head + "@@ -1,1 +1,2 @@\n-a\n-b\n",
			"more lines than its head says"},
		"a hunk with rubbish": {"", head + "@@ -1,2 +1,2 @@\n a\n?b\n",
			`p:5: f: a line of a hunk begins with '?'`},
		"a malformed head": {"", head + "@@ -x +y @@\n", "no hunk after the file names"},
		"a huge number": {"", head + "@@ -99999999999999999999 +1 @@\n",
			"malformed hunk head"},
		"binary": {"", "diff --git a/f b/f\nGIT binary patch\n",
			"binary patches are not supported"},
		"a symbolic link": {"",
			"diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+/etc\n",
			"mode 120000: only plain files"},
		"parent folders": {"", "--- a/../../x\n+++ b/../../x\n@@ -0,0 +1 @@\n+x\n",
			`the name "../../x" leaves the tree`},
		"parent folders in the middle": {"", "--- a/d/../../x\n+++ b/d/../../x\n@@ -0,0 +1 @@\n+x\n",
			"leaves the tree"},
		"an absolute path": {"", "--- /dev/null\n+++ //etc/x\n@@ -0,0 +1 @@\n+x\n",
			"leaves the tree"},
		"the tree itself": {"", "--- /dev/null\n+++ b/.\n@@ -0,0 +1 @@\n+x\n",
			"leaves the tree"},
		"parent folders of git": {"", "diff --git a/../x b/../x\nnew file mode 100644\n",
			"leaves the tree"},
		"names that contradict diff --git": {"", "diff --git a/f b/f\n--- a/g\n+++ b/g\n@@ -1 +1 @@\n-a\n+b\n",
			"contradict the diff --git line"},
		"no leading folder": {"", "--- f\n+++ f\n@@ -1 +1 @@\n-a\n+b\n",
			"without a leading folder"},
		"a quoted name": {"", "--- \"a/\\303\"\n+++ \"b/\\303\"\n@@ -1 +1 @@\n-a\n+b\n",
			"quoted file names are not supported"},
		"neither an old file nor a new one": {"", "--- /dev/null\n+++ /dev/null\n@@ -1 +1 @@\n-a\n+b\n",
			"neither an old nor a new file"},
		"a backslash before any line of a hunk": {"", head + "@@ -1 +1 @@\n\\ No newline at end of file\n",
			"no line that could lack its newline"},
		"an insertion behind the end": {"a\n", head + "@@ -7,0 +8 @@\n+x\n",
			"fewer lines than the patch expects"},
		"a hunk for an empty file that is not": {"a\n", head + "@@ -0,0 +1 @@\n+x\n", "the file is not empty"},
		"a file below a file":                  {"a\n", "--- /dev/null\n+++ b/f/g\n@@ -0,0 +1 @@\n+x\n", "f/g: "},
		"hunks in the wrong order, out of place": {"a\nb\n", head + "@@ -2 +2 @@\n-b\n+B\n@@ -1 +1 @@\n-a\n+A\n",
			"hunk 2: does not apply: earlier hunks have changed these lines"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := tree(t, map[string]string{"f": c.file})
			_, err := Apply(dir, Patch{Name: "p", Data: []byte(c.patch)})
			var e *Error
			if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestSymbolicLinksAreNotFollowed(t *testing.T) {
	outside := tree(t, map[string]string{"secret": "a\n"})
	for name, patch := range map[string]string{
		"a folder that is a link": "--- a/link/secret\n+++ b/link/secret\n@@ -1 +1 @@\n-a\n+b\n",
		"a new file behind one":   "--- /dev/null\n+++ b/link/new\n@@ -0,0 +1 @@\n+b\n",
		"a file that is a link":   "--- a/file\n+++ b/file\n@@ -1 +1 @@\n-a\n+b\n",
		"a deletion behind one":   "--- a/link/secret\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n",
	} {
		dir := t.TempDir()
		for link, to := range map[string]string{"link": outside, "file": filepath.Join(outside, "secret")} {
			if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
				t.Fatal(err)
			}
		}
		_, err := Apply(dir, Patch{Name: "p", Data: []byte(patch)})
		var e *Error
		if got := contents(t, outside); !errors.As(err, &e) || len(got) != 1 || got["secret"] != "a\n" {
			t.Errorf("%s: %v; outside is now %q", name, err, got)
		}
	}
}

func TestModesAndHardLinks(t *testing.T) {
	dir := tree(t, map[string]string{"f": "a\n"})
	if err := os.Link(filepath.Join(dir, "f"), filepath.Join(dir, "twin")); err != nil {
		t.Fatal(err)
	}
	patch := "diff --git a/f b/f\nold mode 100644\nnew mode 100755\n" + head + "@@ -1 +1 @@\n-a\n+b\n"
	if _, err := Apply(dir, Patch{Name: "p", Data: []byte(patch)}); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(filepath.Join(dir, "f"))
	if err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	if got := contents(t, dir); got["f"] != "b\n" || got["twin"] != "a\n" {
		t.Errorf("%q", got)
	}
}

// FuzzParse: a patch that is read applies or says why not, and changes nothing outside of the tree.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		head + "@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n",
		"diff --git a/f b/g\nrename from f\nrename to g\n", "diff --git a/f b/f\nold mode 100644\nnew mode 100755\n",
		"--- /dev/null\n+++ b/d/new\n@@ -0,0 +1 @@\n+x\n\\ No newline at end of file\n",
		"--- a/../x\n+++ b/../x\n@@ -1 +1 @@\n-a\n+b\n", head + "@@ -0,0 +0,0 @@\n",
		head + "@@ -1073741824,0 +1 @@\n+a\n", head + "@@ -0 +0 @@\n-a\n+b\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p := Patch{Name: "p", Data: data}
		err := Parse(p)
		var e *Error
		if err != nil {
			if !errors.As(err, &e) {
				t.Errorf("%T: %v", err, err)
			}
			return
		}
		top := tree(t, map[string]string{"in/f": "a\nb\nc\n", "out": "x"})
		if _, err := Apply(filepath.Join(top, "in"), p); err != nil && !errors.As(err, &e) {
			t.Errorf("%T: %v", err, err)
		}
		if entries, err := os.ReadDir(top); err != nil || len(entries) != 2 {
			t.Errorf("outside is now %v (%v)", entries, err)
		}
	})
}

func TestForeignFormsOfPatchesApply(t *testing.T) {
	const epoch = "\t1970-01-01 01:00:00.000000000 +0100"
	const now = "\t2024-05-01 12:00:00.000000000 +0200"
	text := head + "@@ -1 +1 @@\n-a\n+b\n"
	for name, c := range map[string]struct {
		patch string
		after map[string]string
	}{
		"ends of lines of DOS": {strings.ReplaceAll("diff --git a/f b/f\n"+text, "\n", "\r\n"),
			map[string]string{"f": "b\n", "g": "x\n"}},
		"diff -urN makes a file": {"diff -urN a/n b/n\n--- a/n" + epoch + "\n+++ b/n" + now + "\n@@ -0,0 +1 @@\n+n\n",
			map[string]string{"f": "a\n", "g": "x\n", "n": "n\n"}},
		"diff -urN removes a file": {"--- a/g" + now + "\n+++ b/g" + epoch + "\n@@ -1 +0,0 @@\n-x\n",
			map[string]string{"f": "a\n"}},
		"a file is made without a time": {"--- a/n\n+++ b/n\n@@ -0,0 +1 @@\n+n\n", map[string]string{"f": "a\n",
			"g": "x\n", "n": "n\n"}},
		"a time of another zone is none": {"--- a/g" + now +
			"\n+++ b/g\t1970-01-01 00:00:00.000000000 +0100\n@@ -1 +0,0 @@\n-x\n", map[string]string{"f": "a\n",
			"g": ""}},
		"gzip":  {text, map[string]string{"f": "b\n", "g": "x\n"}},
		"xz":    {text, map[string]string{"f": "b\n", "g": "x\n"}},
		"zstd":  {text, map[string]string{"f": "b\n", "g": "x\n"}},
		"bzip2": {text, map[string]string{"f": "b\n", "g": "x\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			if slices.Contains(compressors, name) {
				c.patch = compressed(t, name, c.patch)
			}
			dir := tree(t, map[string]string{"f": "a\n", "g": "x\n"})
			if _, err := Apply(dir, Patch{"p", []byte(c.patch)}); err != nil {
				t.Fatal(err)
			}
			if got := contents(t, dir); !maps.Equal(got, c.after) {
				t.Errorf("got %q, want %q", got, c.after)
			}
		})
	}
}

// compressors are the programs of compressed patches.
var compressors = []string{"gzip", "xz", "zstd", "bzip2"}

// compressed is text as a program compresses it.
func compressed(t *testing.T, program, text string) string {
	t.Helper()
	testenv.Require(t, testenv.Tool(program))
	cmd := exec.Command(program, "-c")
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", program, err)
	}
	return string(out)
}

func TestACompressedPatchIsBounded(t *testing.T) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	zeros := make([]byte, 1<<20)
	for range maxPlain>>20 + 1 {
		z.Write(zeros)
	}
	z.Close()
	if err := Parse(Patch{"p.gz", b.Bytes()}); err == nil || !strings.Contains(err.Error(), "unpacks to more than") {
		t.Errorf("got %v", err)
	}
	if err := Parse(Patch{"p.gz", b.Bytes()[:100]}); err == nil || !strings.Contains(err.Error(),
		"p.gz: decompress it") {
		t.Errorf("got %v", err)
	}
}
