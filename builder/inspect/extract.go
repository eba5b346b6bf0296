package inspect

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// Extract writes what lies at a path of a tree, and below, into a new folder or file of the host. Nothing is written outside it, whatever links
// the tree holds. Devices and sockets are left out unless the caller is root, and so are owners. What was left out is returned.
func Extract(t *tree.Tree, from, to string) (leftOut []string, err error) {
	from = tree.Clean(from)
	top, err := t.Lookup(from)
	if err != nil {
		return nil, err
	}
	if top.Kind != tree.Dir {
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
	isRoot := os.Geteuid() == 0
	names := map[*tree.Node]string{}
	var folders []string
	err = t.Walk(func(p string, n *tree.Node, first bool) error {
		if p != from && from != "/" && !strings.HasPrefix(p, from+"/") {
			return nil
		}
		rel := strings.TrimPrefix(strings.TrimPrefix(p, from), "/")
		if rel == "" {
			return nil
		}
		if !first && names[n] != "" {
			return root.Link(names[n], rel)
		}
		names[n] = rel
		switch n.Kind {
		case tree.Dir:
			folders = append(folders, p)
			return root.Mkdir(rel, 0o700)
		case tree.Symlink:
			return root.Symlink(n.Target, rel)
		case tree.File:
			f, err := root.OpenFile(rel, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return err
			}
			return errors.Join(copyContent(f, n), f.Close(), finish(root, rel, n, isRoot))
		case tree.FIFO, tree.CharDevice, tree.BlockDevice, tree.Socket:
			if n.Kind != tree.FIFO && !isRoot {
				leftOut = append(leftOut, p)
				return nil
			}
			return makeSpecial(root, rel, n, isRoot)
		}
		return fmt.Errorf("%s: %v", p, n.Kind)
	})
	// Folders last, from the leaves up: writing into them changes their times, and one without w could not be written into.
	for i := len(folders) - 1; i >= 0 && err == nil; i-- {
		n, lerr := t.Lookup(folders[i])
		if lerr != nil {
			return leftOut, lerr
		}
		err = finish(root, strings.TrimPrefix(strings.TrimPrefix(folders[i], from), "/"), n, isRoot)
	}
	return leftOut, err
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
