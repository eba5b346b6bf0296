package ext4

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// maxPath is PATH_MAX: below it nobody can name a file.
const maxPath = 4096

// Tree reads all files' properties. Contents stay in the image and are read from there, by any number of goroutines,
// while the tree is used. Checksums are checked where there are any, loops and blocks used twice are refused, and
// nothing depends on the hashes of folders.
func (im *Image) Tree() (*tree.Tree, error) {
	w := &walker{Image: im, claimed: make([]uint64, im.blocks/64+1), xattrs: map[uint64][]tree.Xattr{},
		window: make([]byte, 0, max(windowSize, im.BlockSize))}
	t, err := w.tree()
	if err != nil {
		return nil, fmt.Errorf("ext4: %w", err)
	}
	return t, nil
}

// pending is a folder that was seen and not yet read.
type pending struct {
	path   string
	inode  *rawInode
	parent uint32
}

func (w *walker) tree() (*tree.Tree, error) {
	t := tree.New()
	root, err := w.inode(rootInode)
	if err != nil {
		return nil, err
	}
	n, err := w.node(root)
	if err != nil {
		return nil, err
	}
	if err := t.Put("/", n); err != nil {
		return nil, err
	}
	first := map[uint32]string{rootInode: "/"} // the first name of each inode
	todo := []pending{{"/", root, rootInode}}
	for len(todo) > 0 {
		dir := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		entries, err := w.readFolder(dir)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dir.path, err)
		}
		for _, e := range entries {
			p := path.Join(dir.path, e.name)
			more, err := w.put(t, p, e, first)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", p, err)
			}
			if more != nil {
				todo = append(todo, pending{p, more, dir.inode.num})
			}
		}
	}
	return t, nil
}

// put places what an entry leads to, and returns its inode when it is a folder.
func (w *walker) put(t *tree.Tree, p string, e dirEntry, first map[uint32]string) (*rawInode, error) {
	if len(p) >= maxPath {
		return nil, damaged("a path of %d bytes", len(p))
	}
	if e.inode < firstInode {
		return nil, damaged("leads to inode %d, which is the file system's", e.inode)
	}
	if old, ok := first[e.inode]; ok {
		return nil, t.Link(old, p) // refuses folders
	}
	i, err := w.inode(e.inode)
	if err != nil {
		return nil, err
	}
	n, err := w.node(i)
	if err != nil {
		return nil, err
	}
	if e.kind != 0 && e.kind != fileType(n.Kind) {
		return nil, damaged("inode %d is a %v, and its folder says type %d", e.inode, n.Kind, e.kind)
	}
	if i.flags&flagEAInode != 0 {
		return nil, damaged("leads to inode %d, which is an attribute's value", e.inode)
	}
	if err := t.Put(p, n); err != nil {
		return nil, err
	}
	first[e.inode] = p
	if n.Kind != tree.Dir {
		return nil, nil
	}
	return i, nil
}

// dirEntry is a name in a folder.
type dirEntry struct {
	name  string
	inode uint32
	kind  byte // 0 where the folder does not say
}

// readFolder reads all blocks of a folder as the list they are, hashed or not: an index hides in entries of inode 0.
// Names come sorted.
func (w *walker) readFolder(dir pending) (out []dirEntry, err error) {
	i := dir.inode
	maps, err := w.mappings(i)
	if err != nil {
		return nil, err
	}
	bs := int64(w.BlockSize)
	left := i.size / bs
	if i.size%bs != 0 {
		return nil, damaged("a folder of %d bytes", i.size)
	}
	next := uint64(0)
	for _, m := range maps {
		for k := uint64(0); k < m.count && left > 0; k++ {
			if m.logical+k != next {
				return nil, damaged("a folder with a hole at block %d", next)
			}
			if err := w.claim(m.block + k); err != nil {
				return nil, err
			}
			b, err := w.bytes(int64(m.block+k)*bs, w.BlockSize)
			if err != nil {
				return nil, err
			}
			if w.Checksums {
				if err := checkFolderBlock(b, i, next); err != nil {
					return nil, fmt.Errorf("block %d: %w", next, err)
				}
			}
			if out, err = w.parseFolder(b, out, dir); err != nil {
				return nil, fmt.Errorf("block %d: %w", next, err)
			}
			next++
			left--
		}
	}
	if left > 0 {
		return nil, damaged("a folder with a hole at block %d", next)
	}
	slices.SortFunc(out, func(a, b dirEntry) int { return strings.Compare(a.name, b.name) })
	for k := 1; k < len(out); k++ {
		if out[k-1].name == out[k].name {
			return nil, damaged("%q is there twice", out[k].name)
		}
	}
	return out, nil
}

func (w *walker) parseFolder(b []byte, out []dirEntry, dir pending) ([]dirEntry, error) {
	for at := 0; at < len(b); {
		e := b[at:]
		if len(e) < entryHeader {
			return nil, damaged("an entry at %d", at)
		}
		inode, length, nameLength := le.Uint32(e), int(le.Uint16(e[4:])), int(e[6])
		if length < entryHeader || length%dirAlign != 0 || length > len(e) || inode != 0 &&
			(nameLength == 0 || entryHeader+nameLength > length) {
			return nil, damaged("an entry at %d of %d bytes with a name of %d", at, length, nameLength)
		}
		at += length
		if inode == 0 {
			continue
		}
		d := dirEntry{name: string(e[entryHeader:][:nameLength]), inode: inode}
		if w.haveKinds {
			d.kind = e[7]
		}
		switch {
		case d.name == "." && inode == dir.inode.num, d.name == ".." && inode == dir.parent:
			continue
		case d.name == "." || d.name == "..":
			return nil, damaged("%q leads to inode %d", d.name, inode)
		case strings.ContainsAny(d.name, "/\x00"):
			return nil, damaged("name %q", d.name)
		}
		out = append(out, d)
	}
	return out, nil
}

// checkFolderBlock checks the checksum of a block: at its end in a block of names, behind the index in one of those.
func checkFolderBlock(b []byte, i *rawInode, number uint64) error {
	at := 0
	if i.flags&flagIndex != 0 {
		switch {
		case number == 0:
			at = indexHeader
		case le.Uint32(b) == 0 && int(le.Uint16(b[4:])) == len(b):
			at = nodeHeader
		}
	}
	if at > 0 {
		limit, count := int(le.Uint16(b[at:])), int(le.Uint16(b[at+2:]))
		if count > limit || at+(limit+1)*indexEntry > len(b) {
			return damaged("an index of %d of %d entries", count, limit)
		}
		tail := b[at+limit*indexEntry:]
		if got, want := le.Uint32(tail[4:]), indexChecksum(i.seed, b, at, count, tail); got != want {
			return damaged("index: checksum %08x, want %08x", got, want)
		}
		return nil
	}
	tail := b[len(b)-dirTail:]
	if le.Uint32(tail) != 0 || le.Uint32(tail[4:]) != 0xde<<24|dirTail {
		return damaged("no checksum")
	}
	if got, want := le.Uint32(tail[8:]), crc(i.seed, b[:len(b)-dirTail]); got != want {
		return damaged("checksum %08x, want %08x", got, want)
	}
	return nil
}
