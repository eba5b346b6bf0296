package inspect

import (
	"fmt"
	"io"
	"path"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// Entry is one line of a listing.
type Entry struct {
	Name       string // of the file, or, in a listing with folders, its path
	Mode       string // as ls(1) writes it: "drwxr-xr-x"
	Links      int
	UID, GID   uint32
	Size       string // bytes, or a device's numbers
	Time       tree.Time
	Target     string   // of a link
	Attributes []string // names of extended attributes
}

// List calls f for what lies at a path: what a folder holds, with all below it where recursive is set, or the file
// itself.
func List(t *tree.Tree, at string, recursive bool, f func(Entry)) error {
	top, err := t.Resolve(at)
	if err != nil {
		return err
	}
	if top.Kind != tree.Dir {
		f(entry(path.Base(at), top))
		return nil
	}
	var visit func(prefix string, n *tree.Node)
	visit = func(prefix string, n *tree.Node) {
		for _, name := range n.Names() {
			c := n.Child(name)
			f(entry(prefix+name, c))
			if recursive && c.Kind == tree.Dir {
				visit(prefix+name+"/", c)
			}
		}
	}
	visit("", top)
	return nil
}

func entry(name string, n *tree.Node) Entry {
	e := Entry{Name: name, Mode: modeText(n), Links: n.Links(), UID: n.UID, GID: n.GID, Size: fmt.Sprint(n.Size()),
		Time: n.Time, Target: n.Target}
	if n.Kind == tree.CharDevice || n.Kind == tree.BlockDevice {
		e.Size = fmt.Sprintf("%d,%d", n.Major, n.Minor)
	}
	for _, x := range n.Xattrs {
		e.Attributes = append(e.Attributes, x.Name)
	}
	return e
}

// modeText is type and permissions as POSIX.1-2017 wants ls -l to write them.
func modeText(n *tree.Node) string {
	b := []byte(string("d-lcbps"[n.Kind]) + "rwxrwxrwx")
	for i := range 9 {
		if n.Mode&(1<<(8-i)) == 0 {
			b[1+i] = '-'
		}
	}
	for _, s := range []struct {
		bit       uint16
		at        int
		with, not byte
	}{{0o4000, 3, 's', 'S'}, {0o2000, 6, 's', 'S'}, {0o1000, 9, 't', 'T'}} {
		if n.Mode&s.bit != 0 {
			if b[s.at] == 'x' {
				b[s.at] = s.with
			} else {
				b[s.at] = s.not
			}
		}
	}
	return string(b)
}

// Cat writes a file's content, links followed inside the tree.
func Cat(t *tree.Tree, at string, w io.Writer) error {
	n, err := t.Resolve(at)
	if err != nil {
		return err
	}
	if n.Kind != tree.File {
		return fmt.Errorf("%s is a %v", at, n.Kind)
	}
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
