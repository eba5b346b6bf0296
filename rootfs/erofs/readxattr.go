package erofs

import (
	"errors"
	"fmt"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// xattrs reads the attributes of an inode: size bytes behind it.
func (r *reader) xattrs(n *tree.Node, off int64, size int) error {
	if err := r.spend(int64(size)); err != nil {
		return err
	}
	b, err := r.at(off, size)
	if err != nil {
		return err
	}
	shared := int(b[4])
	if xattrHeaderSize+4*shared > size {
		return fmt.Errorf("%d shared attributes in %d bytes", shared, size)
	}
	names := 0
	put := func(x tree.Xattr) error {
		if names += len(x.Name) + 1; names > maxXattrNames {
			return fmt.Errorf("more than %d bytes of names of attributes", maxXattrNames)
		}
		if _, ok := n.Xattr(x.Name); ok {
			return fmt.Errorf("attribute %s twice", x.Name)
		}
		n.SetXattr(x.Name, x.Value)
		return nil
	}
	for i := range shared {
		x, err := r.sharedXattr(le.Uint32(b[xattrHeaderSize+4*i:]))
		if err != nil {
			return err
		}
		if err := put(x); err != nil {
			return err
		}
	}
	for b = b[xattrHeaderSize+4*shared:]; len(b) > 0; {
		if le.Uint32(b[:xattrEntrySize]) == 0 {
			b = b[xattrEntrySize:] // a gap; its name would be empty
			continue
		}
		x, length, err := decodeXattr(b)
		if err != nil {
			return err
		}
		if err := put(x); err != nil {
			return err
		}
		b = b[min(len(b), roundUp(length, 4)):]
	}
	return nil
}

// sharedXattr reads an attribute that inodes have in common.
func (r *reader) sharedXattr(id uint32) (tree.Xattr, error) {
	if x, ok := r.sharedXattrs[id]; ok {
		return x, nil
	}
	off := int64(r.sb.XattrBlock)<<r.blockBits + 4*int64(id)
	h, err := r.at(off, xattrEntrySize)
	if err != nil {
		return tree.Xattr{}, fmt.Errorf("shared attribute %d: %w", id, err)
	}
	size := xattrEntrySize + int(h[0]) + int(le.Uint16(h[2:]))
	if err := r.spend(int64(size)); err != nil {
		return tree.Xattr{}, err
	}
	b, err := r.at(off, size)
	if err != nil {
		return tree.Xattr{}, fmt.Errorf("shared attribute %d: %w", id, err)
	}
	x, _, err := decodeXattr(b)
	if err == nil {
		r.sharedXattrs[id] = x
	}
	return x, err
}

// decodeXattr reads an entry and how long it is.
func decodeXattr(b []byte) (tree.Xattr, int, error) {
	if len(b) < xattrEntrySize {
		return tree.Xattr{}, 0, fmt.Errorf("attribute in %d bytes", len(b))
	}
	name, value := int(b[0]), int(le.Uint16(b[2:]))
	end := xattrEntrySize + name + value
	if end > len(b) {
		return tree.Xattr{}, 0, fmt.Errorf("attribute of %d bytes in %d", end, len(b))
	}
	for _, p := range xattrPrefixes {
		if p.index == b[1] {
			if p.whole != (name == 0) {
				return tree.Xattr{}, 0, fmt.Errorf("attribute %s with a name of %d bytes", p.prefix, name)
			}
			return tree.Xattr{Name: p.prefix + string(b[xattrEntrySize:xattrEntrySize+name]),
				Value: b[xattrEntrySize+name : end : end]}, end, nil
		}
	}
	return tree.Xattr{}, 0, fmt.Errorf("attribute with prefix %d: %w", b[1], errors.ErrUnsupported)
}
