package inspect

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// defaultMax is how many bytes Extract writes unless it is told otherwise.
const defaultMax = 16 << 30

// ExtractOptions is what of an image may reach the host. The zero value is for images of anybody.
type ExtractOptions struct {
	// Special keeps set-id bits, and makes device nodes where the caller is root. An image of somebody else's with
	// either gives the host's users more than they should have.
	Special bool
	// Max bounds the bytes that are written, holes not counted; zero stands for defaultMax.
	Max int64
}

// LeftOut is what of a tree did not reach the host.
type LeftOut struct {
	Path string // in the tree, below what was extracted
	What string // "set-id bits", or the kind of file
}

// Extract writes what a path of a tree leads to, and all below it, into a new folder, mode 0700, or file of the host.
// Nothing is written outside it, whatever links the tree holds. Holes stay holes. Extended attributes are not copied;
// owners only where the caller is root. What was left out is returned.
func Extract(ctx context.Context, t *tree.Tree, from, to string, o ExtractOptions) ([]LeftOut, error) {
	top, err := t.Resolve(from)
	if err != nil {
		return nil, err
	}
	if top.Kind != tree.Dir && top.Kind != tree.File {
		return nil, fmt.Errorf("%s is a %v", from, top.Kind)
	}
	if size, most := written(top), cmp.Or(o.Max, defaultMax); size > most {
		return nil, fmt.Errorf("%s holds %d bytes, more than the %d that may be written: raise --max", from, size, most)
	}
	x := &extraction{ctx: ctx, o: o, isRoot: os.Geteuid() == 0, names: map[*tree.Node]name{},
		buf: make([]byte, copySize)}
	if top.Kind == tree.File {
		f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, os.FileMode(top.Mode&0o777))
		if err != nil {
			return nil, err
		}
		return nil, errors.Join(x.content(f, top), f.Close())
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return nil, err
	}
	dir, err := openDir(unix.AT_FDCWD, to)
	if err != nil {
		return nil, err
	}
	x.top = dir
	return x.leftOut, errors.Join(x.folder(dir, "", top), unix.Close(dir))
}

// written is how many bytes of content a node and all below it have, each file counted once and holes not.
func written(n *tree.Node) int64 {
	seen := map[*tree.Node]bool{}
	total := int64(0)
	var add func(*tree.Node)
	add = func(n *tree.Node) {
		if seen[n] {
			return
		}
		seen[n] = true
		if n.Content != nil {
			for _, r := range n.Content.Data() {
				total += r.Length
			}
		}
		for _, c := range n.Names() {
			add(n.Child(c))
		}
	}
	add(n)
	return total
}

// extraction is an Extract at work. Every file is made in its folder, which is held open, by one name that is no path:
// so nothing that lies in the folder meanwhile is followed.
type extraction struct {
	ctx     context.Context // the extraction is one call of Extract
	o       ExtractOptions
	isRoot  bool
	top     int                 // the folder that is written, as a descriptor
	names   map[*tree.Node]name // of what has been written and has further names
	leftOut []LeftOut
	buf     []byte
}

// name is where a node has been written: below top.
type name string

func openDir(at int, path string) (int, error) {
	fd, err := unix.Openat(at, path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

// maxDepth bounds how deep folders may lie in each other: each is held open meanwhile.
const maxDepth = 500

func (x *extraction) folder(dir int, prefix string, n *tree.Node) error {
	for _, child := range n.Names() {
		if err := x.ctx.Err(); err != nil {
			return err
		}
		if err := x.node(dir, prefix, child, n.Child(child)); err != nil {
			return err
		}
	}
	return nil
}

func (x *extraction) node(dir int, prefix, base string, n *tree.Node) error {
	rel := prefix + base
	fail := func(op string, err error) error {
		if err == nil {
			return nil
		}
		return &os.PathError{Op: op, Path: rel, Err: err}
	}
	if first := x.names[n]; first != "" {
		return fail("link", x.link(string(first), dir, base))
	}
	if n.Kind != tree.Dir && n.Links() > 1 {
		x.names[n] = name(rel)
	}
	switch n.Kind {
	case tree.Dir:
		if len(rel) > maxDepth*2 && depth(rel) > maxDepth {
			return fmt.Errorf("%.100s...: more than %d folders in each other", rel, maxDepth)
		}
		if err := unix.Mkdirat(dir, base, 0o700); err != nil {
			return fail("mkdir", err)
		}
		fd, err := openDir(dir, base)
		if err != nil {
			return err
		}
		// Mode and time come last: a folder without w could not be written into, and writing changes its time.
		return errors.Join(x.folder(fd, rel+"/", n), fail("set the mode of", x.finish(fd, rel, n)), unix.Close(fd))
	case tree.Symlink:
		if err := unix.Symlinkat(n.Target, dir, base); err != nil {
			return fail("symlink", err)
		}
		if x.isRoot {
			return fail("lchown", unix.Fchownat(dir, base, int(n.UID), int(n.GID), unix.AT_SYMLINK_NOFOLLOW))
		}
		return nil
	case tree.File:
		fd, err := unix.Openat(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return fail("open", err)
		}
		f := os.NewFile(uintptr(fd), rel)
		return errors.Join(x.content(f, n), fail("set the mode of", x.finish(fd, rel, n)), f.Close())
	}
	device := n.Kind == tree.CharDevice || n.Kind == tree.BlockDevice
	if device && (!x.o.Special || !x.isRoot) {
		delete(x.names, n)
		x.leftOut = append(x.leftOut, LeftOut{rel, n.Kind.String()})
		return nil
	}
	if err := unix.Mknodat(dir, base, n.Kind.Type()|0o600, int(unix.Mkdev(n.Major, n.Minor))); err != nil {
		return fail("mknod", err)
	}
	// It is a new file in a folder of ours; still no link is followed.
	fd, err := unix.Openat(dir, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail("open", err)
	}
	return errors.Join(fail("set the mode of", x.finish(fd, rel, n)), unix.Close(fd))
}

func depth(rel string) (n int) {
	for _, c := range rel {
		if c == '/' {
			n++
		}
	}
	return n
}

// link makes a further name of a file. The first name's folders are opened one by one, so that none is a link.
func (x *extraction) link(first string, dir int, base string) error {
	at := x.top
	for rest := first; ; {
		part, more, deeper := cut(rest)
		if !deeper {
			err := unix.Linkat(at, part, dir, base, 0)
			if at != x.top {
				err = errors.Join(err, unix.Close(at))
			}
			return err
		}
		next, err := openDir(at, part)
		if at != x.top {
			err = errors.Join(err, unix.Close(at))
		}
		if err != nil {
			return err
		}
		at, rest = next, more
	}
}

func cut(p string) (first, rest string, more bool) {
	for i := range len(p) {
		if p[i] == '/' {
			return p[:i], p[i+1:], true
		}
	}
	return p, "", false
}

// copySize is how many bytes are copied at once; as many zeros are left as a hole.
const copySize = 64 << 10

// content writes a file's data and leaves its holes.
func (x *extraction) content(f *os.File, n *tree.Node) error {
	if n.Size() == 0 {
		return nil
	}
	r, err := n.Content.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	for _, d := range n.Content.Data() {
		for at := d.Offset; at < d.End(); {
			if err := x.ctx.Err(); err != nil {
				return err
			}
			b := x.buf[:min(int64(len(x.buf)), d.End()-at)]
			got, err := r.ReadAt(b, at)
			if err != nil && (err != io.EOF || got < len(b)) {
				return fmt.Errorf("read %s: %w", path.Base(f.Name()), err)
			}
			if !zeros(b) {
				if _, err := f.WriteAt(b, at); err != nil {
					return err
				}
			}
			at += int64(len(b))
		}
	}
	return f.Truncate(n.Size())
}

func zeros(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// finish sets owner, mode and time, in the order in which they do not undo each other.
func (x *extraction) finish(fd int, rel string, n *tree.Node) error {
	if x.isRoot && (n.UID != 0 || n.GID != 0) { // which it has
		if err := unix.Fchownat(fd, "", int(n.UID), int(n.GID),
			unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	mode := n.Mode
	if mode&0o6000 != 0 && !x.o.Special {
		mode &^= 0o6000
		x.leftOut = append(x.leftOut, LeftOut{rel, "set-id bits"})
	}
	// By way of /proc it also works for what cannot be opened. proc_pid_fd(5).
	self := fmt.Sprintf("/proc/self/fd/%d", fd)
	chmod := unix.Fchmod(fd, uint32(mode))
	if errors.Is(chmod, unix.EBADF) {
		chmod = unix.Chmod(self, uint32(mode))
	}
	if chmod != nil {
		return chmod
	}
	when := unix.Timespec{Sec: n.Time.Sec, Nsec: int64(n.Time.Nsec)}
	return unix.UtimesNanoAt(unix.AT_FDCWD, self, []unix.Timespec{when, when}, 0)
}
