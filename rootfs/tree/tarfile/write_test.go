package tarfile_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/katabuild/katabuild/rootfs/tree"
	"github.com/katabuild/katabuild/rootfs/tree/tarfile"
	"github.com/katabuild/katabuild/rootfs/tree/treetest"
)

func TestATarOfATreeIsReadBackAsTheSameTree(t *testing.T) {
	want := treetest.Small(t)
	path := filepath.Join(t.TempDir(), "tree.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	leftOut, err := tarfile.Write(f, want, &tree.Opener{})
	if err != nil || !slices.Equal(leftOut, []string{"/run/socket"}) {
		t.Fatal(leftOut, err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := want.Remove("/run/socket"); err != nil {
		t.Fatal(err)
	}
	got := tree.New()
	if err := tarfile.Apply(got, path, tarfile.Options{}); err != nil {
		t.Fatal(err)
	}
	if d, err := treetest.Equal(want, got); d != "" || err != nil {
		t.Error(d, err)
	}
}
