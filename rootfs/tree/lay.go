package tree

import (
	"errors"
	"io/fs"
)

// Layering is how Lay puts a node where something else is. The zero value is what layers of a recipe mean.
type Layering struct {
	// ReplaceLinks lets a folder take the place of a link to a folder. Without it the link stays, and the folder
	// behind it is the one that is meant.
	ReplaceLinks bool
	// KeepFolders leaves the mode, the owner and the attributes of a folder that is there as they are.
	KeepFolders bool
}

// Lay places a node as a later layer does: whatever was there gives way, a folder with all it holds too, but for two.
// A folder on a folder changes what it is and keeps what it holds. A folder on a link that leads to a folder, or to
// nothing yet, keeps the link, and the folder that it leads to is left as it is or made: so a layer with lib/ on a
// tree whose /lib is a link to usr/lib adds to usr/lib. What stands in the way of a folder that the path needs gives
// way as well.
func (t *Tree) Lay(p string, n *Node, l Layering) error {
	if err := t.clearWay(p); err != nil {
		return err
	}
	there, err := t.Lookup(p)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	switch {
	case there == nil:
	case there.Kind == Symlink && n.Kind == Dir && !l.ReplaceLinks && t.leads(p):
		_, _, err := t.walk(append(split(p), "x"), false, true)
		return err
	case there.Kind == Dir && n.Kind == Dir && l.KeepFolders:
		return nil
	case there.Kind == Dir && n.Kind != Dir && there != t.root:
		if err := t.Remove(p); err != nil {
			return err
		}
	}
	return t.Put(p, n)
}

// LayLink gives a node that is in the tree one more name, as Lay would place it.
func (t *Tree) LayLink(oldPath, newPath string) error {
	n, err := t.Lookup(oldPath)
	if err != nil {
		return &Error{"link", newPath, err}
	}
	if n.Kind == Dir {
		return &Error{"link", newPath, ErrIsDir}
	}
	if there, err := t.Lookup(newPath); err == nil && there == n {
		return nil
	}
	return t.Lay(newPath, n, Layering{})
}

// leads says whether a path leads to a folder, or to nothing that would keep one from being made there.
func (t *Tree) leads(p string) bool {
	_, _, err := t.walk(append(split(p), "x"), false, false)
	return err == nil || errors.Is(err, fs.ErrNotExist)
}

// clearWay takes away what stands where a path needs a folder: anything but folders and links that lead to one or to
// nothing yet.
func (t *Tree) clearWay(p string) error {
	_, _, err := t.walk(split(p), false, false)
	if !errors.Is(err, ErrNotDir) && !errors.Is(err, ErrLoop) {
		return nil
	}
	for _, above := range Parents(Clean(p)) {
		n, err := t.Lookup(above)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if n.Kind == Dir || n.Kind == Symlink && t.leads(above) {
			continue
		}
		return t.Remove(above)
	}
	return nil
}

// Remark notes what people should know of how the tree came to be, such as an attribute that was left out.
func (t *Tree) Remark(what string) {
	if t.remarks == nil {
		t.remarks = map[string]int{}
	}
	// A hostile layer can name any number of attributes.
	if _, ok := t.remarks[what]; ok || len(t.remarks) < maxRemarks {
		t.remarks[what]++
	}
}

// maxRemarks bounds how many different remarks a tree keeps.
const maxRemarks = 64

// TakeRemarks returns each remark with how often it was made, and forgets them.
func (t *Tree) TakeRemarks() map[string]int {
	r := t.remarks
	t.remarks = nil
	return r
}
