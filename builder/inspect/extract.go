package inspect

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// Extract writes what a path of a tree leads to, and all below it, into a new folder or file of the host. Nothing is written outside it, whatever
// links the tree holds. Extended attributes are not copied; owners and devices only where the caller is root. What was left out is returned.
func Extract(t *tree.Tree, from, to string) (leftOut []string, err error) {
	top, err := t.Resolve(from)
	if err != nil {
		return nil, err
	}
	if top.Kind != tree.Dir {
		if top.Kind != tree.File {
			return nil, fmt.Errorf("%s is a %v", from, top.Kind)
		}
		f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, os.FileMode(top.Mode&0o777))
		if err != nil {
			return nil, err
		}
		return nil, errors.Join(copyContent(f, top), f.Close())
	}
	if err := os.Mkdir(to, 0o755); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(to)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	x := &extraction{root: root, isRoot: os.Geteuid() == 0, names: map[*tree.Node]string{}}
	err = errors.Join(x.folder("", top), finish(root, ".", top, x.isRoot))
	return x.leftOut, err
}

// extraction is an Extract at work.
type extraction struct {
	root    *os.Root
	isRoot  bool
	names   map[*tree.Node]string // of what has been written, for its further names
	leftOut []string
}

func (x *extraction) folder(prefix string, n *tree.Node) error {
	for _, name := range n.Names() {
		if err := x.node(prefix+name, n.Child(name)); err != nil {
			return err
		}
	}
	return nil
}

func (x *extraction) node(rel string, n *tree.Node) error {
	if first := x.names[n]; first != "" {
		return x.root.Link(first, rel)
	}
	switch n.Kind {
	case tree.Dir:
		// Mode and time come last: a folder without w could not be written into, and writing changes its time.
		return errors.Join(x.root.Mkdir(rel, 0o700), x.folder(rel+"/", n), finish(x.root, rel, n, x.isRoot))
	case tree.Symlink:
		x.names[n] = rel
		return x.root.Symlink(n.Target, rel)
	case tree.File:
		x.names[n] = rel
		f, err := x.root.OpenFile(rel, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		return errors.Join(copyContent(f, n), f.Close(), finish(x.root, rel, n, x.isRoot))
	}
	if n.Kind != tree.FIFO && !x.isRoot {
		x.leftOut = append(x.leftOut, rel)
		return nil
	}
	x.names[n] = rel
	return makeSpecial(x.root, rel, n, x.isRoot)
}

func copyContent(w io.Writer, n *tree.Node) error {
	if n.Content == nil {
		return nil
	}
	r, err := n.Content.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.CopyN(w, r, n.Size())
	return err
}

// finish sets owner, mode and time, in the order in which they do not undo each other.
func finish(root *os.Root, rel string, n *tree.Node, isRoot bool) error {
	if isRoot {
		if err := root.Chown(rel, int(n.UID), int(n.GID)); err != nil {
			return err
		}
	}
	mode := os.FileMode(n.Mode & 0o777)
	for bit, m := range map[uint16]os.FileMode{0o4000: os.ModeSetuid, 0o2000: os.ModeSetgid, 0o1000: os.ModeSticky} {
		if n.Mode&bit != 0 {
			mode |= m
		}
	}
	when := time.Unix(n.Time.Sec, int64(n.Time.Nsec))
	return errors.Join(root.Chmod(rel, mode), root.Chtimes(rel, when, when))
}

func makeSpecial(root *os.Root, rel string, n *tree.Node, isRoot bool) error {
	dir, err := root.Open(path.Dir(rel))
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Mknodat(int(dir.Fd()), path.Base(rel), n.Kind.Type()|0o600, int(unix.Mkdev(n.Major, n.Minor))); err != nil {
		return &os.PathError{Op: "mknod", Path: rel, Err: err}
	}
	return finish(root, rel, n, isRoot)
}
