// Package tarfile reads tars into trees and writes trees as tars: POSIX pax, ustar, GNU and v7 headers, attributes in
// the ways that programs write them down, sparse files that stay sparse. A tar is hostile; rootfs/tree says what a path
// in it may reach.
package tarfile

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"strings"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// Options says what of a tar counts, and what it may do to what is there. The zero value takes all, and gives way to
// nothing.
type Options struct {
	// Origin of every node.
	Origin string
	// Keep, when not nil, is asked before each entry, with its absolute, clean path and what will be put there; of a
	// hard link, the node that gets one more name. It may change what is not yet in the tree, such as an owner, and
	// says whether the entry counts. A folder that does not count says nothing about what it holds. An error ends the
	// whole.
	Keep func(p string, n *tree.Node) (bool, error)
	// Skip, when not nil, says which hard links are left out before it is known what they lead to.
	Skip func(p string) bool
	// Layering, when not nil, is how entries are put on what is there; see Tree.Lay. Without it the tar is a package,
	// as dpkg unpacks one: a folder where a link to a folder is means the folder behind the link, which stays as it
	// was, and a file never takes the place of a folder that holds something.
	Layering *tree.Layering
}

// EntryError is what is wrong with one entry of a tar.
type EntryError struct {
	Tar  string // the file
	Name string // of the entry, as the tar has it
	Err  error
}

func (e *EntryError) Error() string { return fmt.Sprintf("%s: entry %q: %v", e.Tar, e.Name, e.Err) }

func (e *EntryError) Unwrap() error { return e.Err }

// maxEntryPath is the longest name of an entry, in bytes: PATH_MAX of Linux without its NUL.
const maxEntryPath = 4095

// Apply puts what an uncompressed tar holds into a tree, in the tar's order, whatever was in the tree before.
// Contents stay in the file, which must not change while the tree is used. POSIX pax, ustar, GNU and v7 headers are
// read; sparse files stay sparse. Attributes are kept, but for those that no Linux guest reads: of them the tree gets a
// remark. Anything else that would be lost without a word is an error. After an error the tree holds what came before
// it.
//
// POSIX.1-2017, pax, "pax Interchange Format"; GNU tar manual, "Basic Tar Format".
func Apply(t *tree.Tree, file string, o Options) error {
	u := untar{t: t, o: o, leftOut: map[string]*tree.Node{}}
	return eachEntry(file, func(h *tar.Header, c tree.Content) error { return u.entry(h, c) })
}

// Names calls f for each entry of an uncompressed tar in order, with its absolute, clean path. Links and devices are
// what they are in the tar; nothing is looked up.
func Names(file string, f func(p string, k tree.Kind) error) error {
	return eachEntry(file, func(h *tar.Header, _ tree.Content) error {
		k, err := kindOf(h)
		if err != nil {
			return err
		}
		return f(tree.Clean(h.Name), k)
	})
}

// eachEntry calls f for each entry with its content, nil where it has none.
func eachEntry(file string, f func(h *tar.Header, c tree.Content) error) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	fi, err := in.Stat()
	if err != nil {
		return err
	}
	pos := &position{f: in, size: fi.Size(), buf: make([]byte, 0, 16<<10)}
	tr := tar.NewReader(pos)
	sparse := int64(0) // bytes of all sparse files
	for last := ""; ; {
		pos.marks = pos.marks[:0]
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		// tar.ErrInsecurePath comes with a good header: a tree has no outside.
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return &EntryError{file, last, fmt.Errorf("what follows it, at byte %d: %w", pos.at, err)}
		}
		last = h.Name
		if h.Typeflag == tar.TypeXGlobalHeader || h.Typeflag == typeVolume {
			continue // a note about the archive, such as the commit that git archive writes
		}
		err = nil
		var c tree.Content
		switch {
		case h.Name == "" || len(h.Name) > maxEntryPath:
			err = fmt.Errorf("a name of %d bytes: want 1 to %d", len(h.Name), maxEntryPath)
		case isSparse(h):
			var ranges []tree.Range
			if h.Size > maxSparse || sparse+h.Size > maxSparse {
				err = fmt.Errorf("sparse files of more than %d bytes in one tar", int64(maxSparse))
			} else if ranges, err = sparseMap(pos, pos.marks, h); err == nil {
				c = &tree.Spread{Path: file, Offset: pos.at, Length: h.Size, Ranges: ranges}
				h.Typeflag = tar.TypeReg
				sparse += h.Size
			}
		case h.Typeflag == tar.TypeReg && h.Size > pos.size-pos.at:
			err = fmt.Errorf("%d bytes, %d are there: %w", h.Size, pos.size-pos.at, io.ErrUnexpectedEOF)
		}
		if c == nil && h.Size > 0 && err == nil {
			c = &tree.Section{Path: file, Offset: pos.at, Length: h.Size, Shared: true}
		}
		if err == nil {
			err = f(h, c)
		}
		if err != nil {
			return &EntryError{file, h.Name, err}
		}
	}
}

// isSparse knows both the old GNU type and the records of GNU's pax formats 0.0, 0.1 and 1.0.
func isSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// position reads a file through a small buffer and knows where in the file it is. archive/tar never reads ahead and
// skips contents by Seek, so after Next the position is where the entry's content begins, and contents are not read at
// all.
type position struct {
	f        io.ReaderAt
	at, size int64
	buf      []byte // bytes of the file from bufAt on
	bufAt    int64
	marks    []int64 // where reads of a whole block began, since it was last emptied
}

func (p *position) Read(b []byte) (int, error) {
	if len(b) == blockSize {
		p.marks = append(p.marks, p.at)
	}
	if i := p.at - p.bufAt; i < 0 || i >= int64(len(p.buf)) {
		n, err := p.f.ReadAt(p.buf[:cap(p.buf)], p.at)
		if n == 0 && err != nil {
			return 0, err
		}
		p.buf, p.bufAt = p.buf[:n], p.at
	}
	n := copy(b, p.buf[p.at-p.bufAt:])
	p.at += int64(n)
	return n, nil
}

func (p *position) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += p.at
	case io.SeekEnd:
		off += p.size
	}
	if off < 0 {
		return 0, fmt.Errorf("seek to %d", off)
	}
	p.at = off
	return off, nil
}

type untar struct {
	t       *tree.Tree
	o       Options
	leftOut map[string]*tree.Node // files that did not count, by path: a link to one of them may
}

func (u *untar) entry(h *tar.Header, c tree.Content) error {
	p := tree.Clean(h.Name)
	if h.Typeflag == tar.TypeLink {
		return u.link(p, h.Linkname)
	}
	n, err := nodeOf(h, u.t.Remark)
	if err != nil {
		return err
	}
	n.Origin = u.o.Origin
	if n.Kind == tree.File {
		n.Content = c
	}
	if counts, err := u.keep(p, n); !counts {
		if n.Kind != tree.Dir {
			u.leftOut[p] = n
		}
		return err
	}
	return u.put(p, n)
}

func (u *untar) keep(p string, n *tree.Node) (bool, error) {
	if u.o.Keep == nil {
		return true, nil
	}
	return u.o.Keep(p, n)
}

func (u *untar) put(p string, n *tree.Node) error {
	if u.o.Layering != nil {
		return u.t.Lay(p, n, *u.o.Layering)
	}
	there, err := u.t.Lookup(p)
	if errors.Is(err, fs.ErrNotExist) {
		return u.t.Put(p, n)
	}
	if err != nil {
		return err
	}
	if there.Kind == tree.Symlink && n.Kind == tree.Dir {
		if behind, err := u.t.Resolve(p); err == nil && behind.Kind == tree.Dir {
			return nil
		}
	}
	return u.t.Put(p, n)
}

func (u *untar) link(p, to string) error {
	n, err := u.t.Lookup(to)
	if left := u.leftOut[tree.Clean(to)]; left != nil {
		n, err = left, nil
	}
	if err == nil && n.Kind == tree.Dir {
		err = tree.ErrIsDir
	}
	if u.o.Skip != nil && u.o.Skip(p) {
		if err == nil {
			u.leftOut[p] = n
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", to, err)
	}
	if there, err := u.t.Lookup(p); err == nil && there == n {
		return nil
	}
	if counts, err := u.keep(p, n); !counts {
		u.leftOut[p] = n
		return err
	}
	return u.put(p, n)
}

func kindOf(h *tar.Header) (tree.Kind, error) {
	switch h.Typeflag {
	case tar.TypeDir, typeDumpdir:
		return tree.Dir, nil
	case tar.TypeReg, tar.TypeCont, tar.TypeLink:
		return tree.File, nil
	case tar.TypeSymlink:
		return tree.Symlink, nil
	case tar.TypeChar:
		return tree.CharDevice, nil
	case tar.TypeBlock:
		return tree.BlockDevice, nil
	case tar.TypeFifo:
		return tree.FIFO, nil
	}
	return 0, fmt.Errorf("type %q is unknown", h.Typeflag)
}

// Types of entries that only GNU tar writes. GNU tar manual, "Basic Tar Format" and "Dumpdir".
const (
	typeVolume  = 'V' // the name of the volume, which is no file
	typeDumpdir = 'D' // a folder of an incremental archive; its content lists what it held
)

// nodeOf is an entry's node without its content. remark is told of attributes that are left out.
func nodeOf(h *tar.Header, remark func(string)) (*tree.Node, error) {
	kind, err := kindOf(h)
	if err != nil {
		return nil, err
	}
	n := &tree.Node{Kind: kind, Mode: uint16(h.Mode & tree.PermMask)}
	if n.UID, err = id32(h.Uid); err != nil {
		return nil, fmt.Errorf("user %w", err)
	}
	if n.GID, err = id32(h.Gid); err != nil {
		return nil, fmt.Errorf("group %w", err)
	}
	if !h.ModTime.IsZero() { // which is no time in the header at all
		n.Time = tree.Time{Sec: h.ModTime.Unix(), Nsec: uint32(h.ModTime.Nanosecond())}
	}
	switch kind {
	case tree.Symlink:
		n.Target = h.Linkname
		n.Mode = 0o777 // Linux gives links no other mode
	case tree.CharDevice, tree.BlockDevice:
		if h.Devmajor < 0 || h.Devmajor > math.MaxUint32 || h.Devminor < 0 || h.Devminor > math.MaxUint32 {
			return nil, fmt.Errorf("device %d:%d", h.Devmajor, h.Devminor)
		}
		n.Major, n.Minor = uint32(h.Devmajor), uint32(h.Devminor)
	}
	return n, setRecords(n, h.PAXRecords, remark)
}

// id32 is a user or group number: Linux has 32 bits, of which the largest means "no change".
func id32(id int) (uint32, error) {
	if id < 0 || int64(id) >= math.MaxUint32 {
		return 0, fmt.Errorf("%d: want 0 to %d", id, uint32(math.MaxUint32-1))
	}
	return uint32(id), nil
}
