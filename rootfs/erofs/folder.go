package erofs

import (
	"slices"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// folder is a folder on its way into an image.
type folder struct {
	path         string
	node, parent *tree.Node
	names        []string // with "." and "..", in byte order
	ino          uint32
	starts       []int // index of the first name of each block
	last         int   // bytes in the last block
	inline       bool  // the last block stands behind the inode
	head         []byte
	at           place
	first        uint32 // of its whole blocks
}

// folderNames are a folder's names as the image has them: with "." and "..", in byte order.
func folderNames(n *tree.Node) []string {
	names := append(n.Names(), ".", "..")
	slices.Sort(names)
	return names
}

// measure divides the names into blocks. A block has its entries first, then its names; no name crosses a block's end.
func (f *folder) measure() {
	f.names, f.starts, f.last = folderNames(f.node), []int{0}, 0
	for i, name := range f.names {
		need := direntSize + len(name)
		if f.last+need > blockLength {
			f.starts, f.last = append(f.starts, i), 0
		}
		f.last += need
	}
	f.inline = f.last <= maxTail
}

func (f *folder) size() int64 { return int64(len(f.starts)-1)*blockLength + int64(f.last) }

// wholeBlocks is how many blocks are not behind the inode.
func (f *folder) wholeBlocks() int {
	if f.inline {
		return len(f.starts) - 1
	}
	return len(f.starts)
}

func (f *folder) tail() int {
	if f.inline {
		return f.last
	}
	return 0
}

// block writes the i-th block to b, which is zero.
func (f *folder) block(b []byte, i int, nid func(*tree.Node) uint64) {
	names := f.names[f.starts[i]:]
	if i+1 < len(f.starts) {
		names = names[:f.starts[i+1]-f.starts[i]]
	}
	at := direntSize * len(names)
	for j, name := range names {
		n := f.node.Child(name)
		switch name {
		case ".":
			n = f.node
		case "..":
			n = f.parent
		}
		e := b[direntSize*j:]
		le.PutUint64(e, nid(n))
		le.PutUint16(e[8:], uint16(at))
		e[10] = fileType(n.Kind)
		at += copy(b[at:], name)
	}
}

// fileType is EROFS's and <linux/fs_types.h>'s number of a kind, FT_*.
func fileType(k tree.Kind) uint8 {
	return [...]uint8{tree.File: 1, tree.Dir: 2, tree.CharDevice: 3, tree.BlockDevice: 4, tree.FIFO: 5,
		tree.Socket: 6, tree.Symlink: 7}[k]
}
