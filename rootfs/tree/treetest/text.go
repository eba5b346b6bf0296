package treetest

import (
	"io"
	"testing"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// Text is the content of a file; empty of a node that has none.
func Text(t testing.TB, n *tree.Node) string {
	t.Helper()
	if n.Content == nil {
		return ""
	}
	r, err := n.Content.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
