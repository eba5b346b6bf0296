// Package tree holds a root file system as data: owners, modes, device nodes, extended attributes, hard links and
// holes, without being root and without touching the host's file system.
//
// Paths come in from packages and image layers, and are hostile. A tree has no outside: "..", absolute links and links
// to links are looked up below its own root, and a device node is two numbers. What a writer then makes of it is the
// writer's business.
package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"
)

// Kind is a type of file.
type Kind uint8

// The kinds there are.
const (
	Dir Kind = iota
	File
	Symlink
	CharDevice
	BlockDevice
	FIFO
	Socket
)

var kindNames = [...]string{"folder", "file", "symbolic link", "character device", "block device", "FIFO", "socket"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Type is the upper bits of st_mode for the kind, as stat(2) has them.
func (k Kind) Type() uint32 {
	return [...]uint32{syscall.S_IFDIR, syscall.S_IFREG, syscall.S_IFLNK, syscall.S_IFCHR, syscall.S_IFBLK,
		syscall.S_IFIFO, syscall.S_IFSOCK}[k]
}

// Limits of Linux, which every tree keeps. <linux/limits.h>, <linux/xattr.h>.
const (
	MaxName       = 255      // bytes of one component, NAME_MAX
	MaxTarget     = 4095     // bytes of a symbolic link's target, PATH_MAX without its NUL
	MaxXattrName  = 255      // bytes, XATTR_NAME_MAX
	MaxXattrValue = 64 << 10 // bytes, XATTR_SIZE_MAX
	PermMask      = 0o7777   // what Node.Mode may hold
	maxFollow     = 40       // links followed in one lookup, as the kernel does (MAXSYMLINKS)
)

// Time is a moment, or no moment at all before the first or after the last that a file system can write; those clamp it
// and say so.
type Time struct {
	Sec  int64  // since 1970, may be negative
	Nsec uint32 // 0 to 999,999,999, counted upwards from Sec also before 1970
}

// Xattr is one extended attribute. POSIX ACLs are system.posix_acl_access and system.posix_acl_default in the form
// getxattr(2) returns (version 2, 8 bytes an entry); file capabilities are security.capability.
type Xattr struct {
	Name  string // with its prefix: "user.", "trusted.", "security." or "system.posix_acl_"
	Value []byte
}

// Node is one inode. A node reached by several names is a hard link. The zero value is a folder of root's that nobody
// may enter.
type Node struct {
	Kind   Kind
	Mode   uint16 // permissions, set-uid, set-gid and sticky bits: PermMask
	UID    uint32
	GID    uint32
	Time   Time    // of the last change of the content
	Xattrs []Xattr // sorted by name, no name twice; SetXattr keeps that

	Content Content // of a File; nil is an empty one
	Target  string  // of a Symlink
	Major   uint32  // of a device, at most 4095
	Minor   uint32  // of a device, at most 1048575

	// Origin says, for people, what put the node there: "package bash 5.2.37-2+b5", "recipe.yaml:12". It reaches no
	// image.
	Origin string

	children map[string]*Node // of a Dir
	links    int              // names that lead here
	known    *knownSum        // of a File; its Opener guards it
}

// Links is st_nlink: for a folder 2 and its subfolders, else the number of names.
func (n *Node) Links() int {
	if n.Kind != Dir {
		return n.links
	}
	l := 2
	for _, c := range n.children {
		if c.Kind == Dir {
			l++
		}
	}
	return l
}

// Size is st_size for a File and a Symlink, else 0.
func (n *Node) Size() int64 {
	switch {
	case n.Kind == Symlink:
		return int64(len(n.Target))
	case n.Kind == File && n.Content != nil:
		return n.Content.Size()
	}
	return 0
}

// Names are a folder's names in byte order.
func (n *Node) Names() []string {
	names := make([]string, 0, len(n.children))
	for name := range n.children {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Child is what a folder holds under a name, or nil.
func (n *Node) Child(name string) *Node { return n.children[name] }

// Len is how many names a folder holds.
func (n *Node) Len() int { return len(n.children) }

// SetXattr sets an attribute, in place of one of the same name.
func (n *Node) SetXattr(name string, value []byte) {
	i, found := slices.BinarySearchFunc(n.Xattrs, name,
		func(x Xattr, name string) int { return strings.Compare(x.Name, name) })
	if found {
		n.Xattrs[i].Value = value
		return
	}
	n.Xattrs = slices.Insert(n.Xattrs, i, Xattr{name, value})
}

// RemoveXattr takes an attribute away, if there is one.
func (n *Node) RemoveXattr(name string) {
	n.Xattrs = slices.DeleteFunc(n.Xattrs, func(x Xattr) bool { return x.Name == name })
}

// Xattr is an attribute's value and whether there is one.
func (n *Node) Xattr(name string) ([]byte, bool) {
	for _, x := range n.Xattrs {
		if x.Name == name {
			return x.Value, true
		}
	}
	return nil, false
}

func (n *Node) check() error {
	switch {
	case int(n.Kind) >= len(kindNames):
		return fmt.Errorf("%v: there is no such kind", n.Kind)
	case n.Mode&^PermMask != 0:
		return fmt.Errorf("mode %o: bits beyond %o", n.Mode, PermMask)
	case n.Time.Nsec >= 1e9:
		return fmt.Errorf("%d nanoseconds in a second", n.Time.Nsec)
	case n.Kind == Symlink && (n.Target == "" || len(n.Target) > MaxTarget || strings.Contains(n.Target, "\x00")):
		return fmt.Errorf("symbolic link to %d bytes: want 1 to %d without NUL", len(n.Target), MaxTarget)
	case n.Kind != Symlink && n.Target != "":
		return fmt.Errorf("%v with a link's target", n.Kind)
	case n.Kind != File && n.Content != nil:
		return fmt.Errorf("%v with content", n.Kind)
	case n.Content != nil && n.Content.Size() < 0:
		return fmt.Errorf("size %d", n.Content.Size())
	}
	device := n.Kind == CharDevice || n.Kind == BlockDevice
	// <linux/kdev_t.h>, new_encode_dev: 12 bits of major and 20 of minor number.
	if device && (n.Major >= 1<<12 || n.Minor >= 1<<20) {
		return fmt.Errorf("device %d:%d: want at most 4095:1048575", n.Major, n.Minor)
	}
	if !device && (n.Major != 0 || n.Minor != 0) {
		return fmt.Errorf("%v with device numbers", n.Kind)
	}
	for i, x := range n.Xattrs {
		switch {
		case x.Name == "" || len(x.Name) > MaxXattrName || strings.Contains(x.Name, "\x00"):
			return fmt.Errorf("attribute %q: want a name of 1 to %d bytes without NUL", x.Name, MaxXattrName)
		case len(x.Value) > MaxXattrValue:
			return fmt.Errorf("attribute %q of %d bytes: want at most %d", x.Name, len(x.Value), MaxXattrValue)
		case i > 0 && n.Xattrs[i-1].Name >= x.Name:
			return fmt.Errorf("attributes %q and %q: want them sorted and once", n.Xattrs[i-1].Name, x.Name)
		}
	}
	return nil
}

// Tree is a root file system. Not safe for concurrent changes.
type Tree struct {
	root    *Node
	remarks map[string]int
	// Implied is what folders are that a path needs and nobody described; their Kind is Dir whatever it says.
	Implied Node
}

// New is a tree with an empty root folder of mode 0755.
func New() *Tree {
	return &Tree{root: &Node{Mode: 0o755, children: map[string]*Node{}, links: 1}, Implied: Node{Mode: 0o755}}
}

// Root is the root folder.
func (t *Tree) Root() *Node { return t.root }

// An Error is what cannot be done to a path.
type Error struct {
	Op   string // "put", "link", "remove", "look up"
	Path string
	Err  error
}

func (e *Error) Error() string { return fmt.Sprintf("%s %q: %v", e.Op, e.Path, e.Err) }

func (e *Error) Unwrap() error { return e.Err }

// Causes that callers tell apart.
var (
	ErrNotDir = errors.New("not a folder")
	ErrIsDir  = errors.New("is a folder")
	ErrLoop   = errors.New("too many symbolic links")
	ErrName   = errors.New("no name that Linux allows")
)

// split makes components of a path, whatever it looks like: leading slashes, "." and empty ones go, ".." stays.
func split(p string) []string {
	parts := strings.Split(p, "/")
	return slices.DeleteFunc(parts, func(s string) bool { return s == "" || s == "." })
}

// Clean is the path as this package prints it: absolute, without "." and "..", which never leads above the root.
func Clean(p string) string { return path.Clean("/" + p) }

// Parents are the folders on the way to an absolute, clean path, the root left out, outermost first.
func Parents(p string) (out []string) {
	for p = path.Dir(p); p != "/" && p != "."; p = path.Dir(p) {
		out = append(out, p)
	}
	slices.Reverse(out)
	return out
}

// walk follows parts from the root, symbolic links among them too; the last is followed where follow says so. Missing
// folders are made where make says so. It returns the folder that holds the last part and the last part's name, "" for
// the root itself.
func (t *Tree) walk(parts []string, follow, make bool) (parent *Node, name string, err error) {
	chain := []*Node{t.root} // the folders from the root to here: ".." goes back in it
	names := []string{""}
	for followed := 0; len(parts) > 0; {
		part := parts[0]
		parts = parts[1:]
		if part == ".." {
			if len(chain) > 1 {
				chain, names = chain[:len(chain)-1], names[:len(names)-1]
			}
			continue
		}
		if len(part) > MaxName || strings.Contains(part, "\x00") {
			return nil, "", ErrName
		}
		here := chain[len(chain)-1]
		c := here.children[part]
		last := len(parts) == 0
		switch {
		case c != nil && c.Kind == Symlink && (!last || follow):
			if followed++; followed > maxFollow {
				return nil, "", ErrLoop
			}
			if strings.HasPrefix(c.Target, "/") {
				chain, names = chain[:1], names[:1]
			}
			parts = append(split(c.Target), parts...)
			continue
		case last:
			return here, part, nil
		case c == nil && !make:
			return nil, "", fs.ErrNotExist
		case c == nil:
			n := t.Implied
			n.Kind, n.Xattrs, n.links, n.children = Dir, slices.Clone(n.Xattrs), 1, map[string]*Node{}
			c = &n
			here.children[part] = c
		case c.Kind != Dir:
			return nil, "", ErrNotDir
		}
		chain, names = append(chain, c), append(names, part)
	}
	if len(chain) == 1 {
		return nil, "", nil
	}
	return chain[len(chain)-2], names[len(names)-1], nil
}

// Lookup returns what a path leads to, links in its folders followed and a link at its end not. fs.ErrNotExist is the
// cause where there is nothing.
func (t *Tree) Lookup(p string) (*Node, error) { return t.lookup(p, false) }

// Resolve is Lookup with a link at the end followed too.
func (t *Tree) Resolve(p string) (*Node, error) { return t.lookup(p, true) }

func (t *Tree) lookup(p string, follow bool) (*Node, error) {
	parent, name, err := t.walk(split(p), follow, false)
	if err == nil && parent == nil {
		return t.root, nil
	}
	if err == nil && parent.children[name] == nil {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, &Error{"look up", p, err}
	}
	return parent.children[name], nil
}

// Put places a node, which the tree then owns, at a path. A folder comes empty and once. A folder put on a folder
// changes what it is and keeps what it holds; anything else takes the place of what was there, except that a folder
// which holds something never gives way to a file: that is an ErrIsDir, and Remove comes first where it is meant.
// Folders on the way are made like Implied.
func (t *Tree) Put(p string, n *Node) error {
	if err := n.check(); err != nil {
		return &Error{"put", p, err}
	}
	parent, name, err := t.walk(split(p), false, true)
	if err != nil {
		return &Error{"put", p, err}
	}
	if parent == nil && n.Kind != Dir {
		return &Error{"put", p, ErrIsDir}
	}
	old := t.root
	if parent != nil {
		old = parent.children[name]
	}
	if n.Kind == Dir {
		if n.links > 0 || len(n.children) > 0 {
			return &Error{"put", p, errors.New("a folder that is in a tree, or holds something")}
		}
		n.children = map[string]*Node{}
	}
	if old != nil && old.Kind == Dir {
		if n.Kind != Dir {
			if len(old.children) > 0 {
				return &Error{"put", p, ErrIsDir}
			}
		} else {
			children, links := old.children, old.links
			*old = *n
			old.children, old.links = children, links
			return nil
		}
	}
	if old != nil {
		t.drop(old)
	}
	n.links++
	parent.children[name] = n
	return nil
}

// Link gives the node at oldPath, which may not be a folder, one more name.
func (t *Tree) Link(oldPath, newPath string) error {
	n, err := t.Lookup(oldPath)
	if err != nil {
		return &Error{"link", newPath, err}
	}
	if n.Kind == Dir {
		return &Error{"link", newPath, fmt.Errorf("to %q: %w", oldPath, ErrIsDir)}
	}
	if old, err := t.Lookup(newPath); err == nil && old == n {
		return nil
	}
	return t.Put(newPath, n)
}

// Remove takes a name away, and all below it. fs.ErrNotExist is the cause where there is none; the root stays.
func (t *Tree) Remove(p string) error {
	parent, name, err := t.walk(split(p), false, false)
	switch {
	case err == nil && parent == nil:
		err = errors.New("the root cannot go")
	case err == nil && parent.children[name] == nil:
		err = fs.ErrNotExist
	}
	if err != nil {
		return &Error{"remove", p, err}
	}
	t.drop(parent.children[name])
	delete(parent.children, name)
	return nil
}

// drop takes one name off a node and off all below it.
func (t *Tree) drop(n *Node) {
	n.links--
	for _, c := range n.children {
		t.drop(c)
	}
}

// Walk calls f for every name in the tree, a folder before what it holds, names in byte order: an order that depends on
// nothing but the tree. Paths are absolute; the root's is "/". first is false when another name of the same node came
// before. fs.SkipDir from f leaves a folder out.
func (t *Tree) Walk(f func(p string, n *Node, first bool) error) error {
	seen := map[*Node]bool{}
	var visit func(p string, n *Node) error
	visit = func(p string, n *Node) error {
		first := true
		if n.Kind != Dir && n.links > 1 {
			first = !seen[n]
			seen[n] = true
		}
		if err := f(p, n, first); err != nil {
			if errors.Is(err, fs.SkipDir) && n.Kind == Dir {
				return nil
			}
			return err
		}
		if n.Kind != Dir {
			return nil
		}
		if p != "/" {
			p += "/"
		}
		for _, name := range n.Names() {
			if err := visit(p+name, n.children[name]); err != nil {
				return err
			}
		}
		return nil
	}
	return visit("/", t.root)
}

// Copy is a node like n that is in no tree and, of a folder, holds nothing.
func (n *Node) Copy() *Node {
	c := *n
	c.Xattrs = slices.Clone(n.Xattrs)
	c.children, c.links, c.known = nil, 0, nil
	return &c
}
