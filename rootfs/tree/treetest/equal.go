package treetest

import (
	"bytes"
	"context"
	"fmt"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// Equal says where two trees first differ, or "" when they hold the same: names, kinds, modes, owners, times,
// attributes, targets, devices, hard links and content. Origins do not count.
func Equal(a, b *tree.Tree) (string, error) {
	type entry struct {
		path  string
		node  *tree.Node
		first bool
	}
	list := func(t *tree.Tree) (l []entry) {
		t.Walk(func(p string, n *tree.Node, first bool) error { l = append(l, entry{p, n, first}); return nil })
		return l
	}
	x, y := list(a), list(b)
	names := map[*tree.Node]*tree.Node{}
	for i := range max(len(x), len(y)) {
		switch {
		case i >= len(x) || (i < len(y) && x[i].path > y[i].path):
			return fmt.Sprintf("%q is only in the second", y[i].path), nil
		case i >= len(y) || x[i].path < y[i].path:
			return fmt.Sprintf("%q is only in the first", x[i].path), nil
		}
		p, m, n := x[i].path, x[i].node, y[i].node
		if d := differ(m, n); d != "" {
			return fmt.Sprintf("%q: %s", p, d), nil
		}
		if x[i].first != y[i].first || (!x[i].first && names[m] != n) {
			return fmt.Sprintf("%q: linked to another name", p), nil
		}
		names[m] = n
		if m.Kind == tree.File && x[i].first {
			same, err := tree.SameContent(context.Background(), m, n)
			if err != nil {
				return "", fmt.Errorf("%s: %w", p, err)
			}
			if !same {
				return fmt.Sprintf("%q: other content", p), nil
			}
		}
	}
	return "", nil
}

func differ(m, n *tree.Node) string {
	switch {
	case m.Kind != n.Kind:
		return fmt.Sprintf("%v and %v", m.Kind, n.Kind)
	case m.Mode != n.Mode:
		return fmt.Sprintf("mode %04o and %04o", m.Mode, n.Mode)
	case m.UID != n.UID || m.GID != n.GID:
		return fmt.Sprintf("owner %d:%d and %d:%d", m.UID, m.GID, n.UID, n.GID)
	case m.Time != n.Time:
		return fmt.Sprintf("time %d.%09d and %d.%09d", m.Time.Sec, m.Time.Nsec, n.Time.Sec, n.Time.Nsec)
	case m.Size() != n.Size():
		return fmt.Sprintf("%d and %d bytes", m.Size(), n.Size())
	case m.Target != n.Target:
		return fmt.Sprintf("link to %q and to %q", m.Target, n.Target)
	case m.Major != n.Major || m.Minor != n.Minor:
		return fmt.Sprintf("device %d:%d and %d:%d", m.Major, m.Minor, n.Major, n.Minor)
	case m.Kind != tree.Dir && m.Links() != n.Links():
		return fmt.Sprintf("%d and %d links", m.Links(), n.Links())
	}
	for i := range max(len(m.Xattrs), len(n.Xattrs)) {
		switch {
		case i >= len(m.Xattrs):
			return fmt.Sprintf("attribute %s is only in the second", n.Xattrs[i].Name)
		case i >= len(n.Xattrs):
			return fmt.Sprintf("attribute %s is only in the first", m.Xattrs[i].Name)
		case m.Xattrs[i].Name != n.Xattrs[i].Name || !bytes.Equal(m.Xattrs[i].Value, n.Xattrs[i].Value):
			return fmt.Sprintf("attribute %s=%q and %s=%q", m.Xattrs[i].Name, m.Xattrs[i].Value, n.Xattrs[i].Name,
				n.Xattrs[i].Value)
		}
	}
	return ""
}
