package tarfile_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/rootfs/tree"
	"github.com/katabuild/katabuild/rootfs/tree/tarfile"
)

// GNU tar writes sparse files in four ways, and each is the same file.
func TestSparseFilesOfGNUTarStaySparse(t *testing.T) {
	testenv.Require(t, testenv.Tool("tar"))
	dir := t.TempDir()
	const size = 3 << 20
	want := map[string][]byte{"all-hole": make([]byte, size), "few": make([]byte, size+7),
		"many": make([]byte, 40*16384)}
	copy(want["few"], "begin")
	copy(want["few"][size:], "at end")
	for i := range 40 { // more pieces than a header has room for
		if i%2 == 1 {
			copy(want["many"][i*16384:], bytes.Repeat([]byte{byte(i)}, 16384))
		}
	}
	for name, data := range want {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for at := 0; at < len(data); at += 4096 {
			if piece := data[at:min(at+4096, len(data))]; len(bytes.Trim(piece, "\x00")) > 0 {
				if _, err := f.WriteAt(piece, int64(at)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := f.Truncate(int64(len(data))); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "z-behind"), []byte("behind"), 0o644); err != nil {
		t.Fatal(err)
	}
	want["z-behind"] = []byte("behind")
	for _, format := range [][]string{{"--format=gnu"}, {"--format=pax", "--sparse-version=0.0"},
		{"--format=pax", "--sparse-version=0.1"}, {"--format=pax", "--sparse-version=1.0"}} {
		file := filepath.Join(t.TempDir(), "sparse.tar")
		args := append([]string{"-C", dir, "--sparse", "-cf", file}, format...)
		if out, err := exec.CommandContext(t.Context(), "tar", append(args, ".")...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		tr := tree.New()
		if err := tarfile.Apply(tr, file, tarfile.Options{}); err != nil {
			t.Errorf("%q: %v", format, err)
			continue
		}
		for name, data := range want {
			n, err := tr.Lookup("/" + name)
			if err != nil {
				t.Errorf("%q: %v", format, err)
				continue
			}
			got, err := tree.ReadAll(n)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%q, %s: %d bytes, other content, %v", format, name, len(got), err)
			}
			held := int64(0)
			for _, r := range n.Content.Data() {
				held += r.Length
			}
			if name == "few" && held > 64<<10 || name == "all-hole" && held != 0 {
				t.Errorf("%q, %s: %d bytes are no hole", format, name, held)
			}
			same, err := tree.SameContent(context.Background(), n, &tree.Node{Kind: tree.File,
				Content: tree.Bytes(data)})
			if err != nil || !same {
				t.Errorf("%q, %s: not the same as in memory: %v", format, name, err)
			}
		}
	}
}
