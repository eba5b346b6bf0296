package erofs

import (
	"fmt"
	"strings"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// sharedXattrs are entries that stand once in an image, for all the inodes that name them by number.
type sharedXattrs struct {
	count map[string]int    // of inodes, by encoded entry
	ids   map[string]uint32 // of shared ones
	data  []byte
}

// largeXattr is from how many bytes on an entry is shared even if one inode alone has it, so that an inode's own
// attributes stay few bytes.
const largeXattr = 2048

// encodeXattr is an entry: the length of the name, its prefix's number, the length of the value, name, value, zeros up
// to 4 bytes.
func encodeXattr(x tree.Xattr) ([]byte, error) {
	if len(x.Value) > maxXattrValue {
		return nil, fmt.Errorf("attribute %s of %d bytes: EROFS holds at most %d", x.Name, len(x.Value), maxXattrValue)
	}
	for _, p := range xattrPrefixes {
		name, ok := strings.CutPrefix(x.Name, p.prefix)
		if !ok || (p.whole && name != "") || (!p.whole && name == "") {
			continue
		}
		b := le.AppendUint16([]byte{uint8(len(name)), p.index}, uint16(len(x.Value)))
		b = append(append(b, name...), x.Value...)
		return append(b, zeroBlock[:-len(b)&3]...), nil
	}
	return nil, fmt.Errorf("attribute %q: EROFS has no number for such names", x.Name)
}

// countOne notes the attributes of one inode.
func (s *sharedXattrs) countOne(n *tree.Node) error {
	for _, x := range n.Xattrs {
		b, err := encodeXattr(x)
		if err != nil {
			return err
		}
		if s.count == nil {
			s.count = map[string]int{}
		}
		s.count[string(b)]++
	}
	return nil
}

// choose decides for an entry of one inode, in the order of the tree, whether it is shared.
func (s *sharedXattrs) choose(entry []byte) error {
	n := s.count[string(entry)]
	if _, ok := s.ids[string(entry)]; ok || (n*len(entry) <= 4*n+len(entry) && len(entry) < largeXattr) {
		return nil
	}
	if s.ids == nil {
		s.ids = map[string]uint32{}
	}
	id := len(s.data) / 4
	if uint64(id) >= 1<<32 {
		return fmt.Errorf("more than 16 GiB of shared attributes")
	}
	s.ids[string(entry)] = uint32(id)
	s.data = append(s.data, entry...)
	return nil
}

// body is what stands behind the inode: the header, numbers of shared entries, other entries; and what i_xattr_icount
// says of it.
func (s *sharedXattrs) body(n *tree.Node) (body []byte, count uint16, err error) {
	if len(n.Xattrs) == 0 {
		return nil, 0, nil
	}
	// The header is a filter of names, which is all zeros where the superblock does not announce it, the count of
	// shared entries, and 7 bytes.
	var inline []byte
	body = make([]byte, xattrHeaderSize)
	names := 0
	for _, x := range n.Xattrs {
		if names += len(x.Name) + 1; names > maxXattrNames {
			return nil, 0, fmt.Errorf("attribute %s: Linux lists at most %d bytes of names", x.Name, maxXattrNames)
		}
		entry, err := encodeXattr(x)
		if err != nil {
			return nil, 0, err
		}
		if id, ok := s.ids[string(entry)]; ok && body[4] < maxShared {
			body[4]++
			body = le.AppendUint32(body, id)
		} else {
			inline = append(inline, entry...)
		}
		if len(body)+len(inline) > maxXattrBody {
			return nil, 0, fmt.Errorf("attribute %s: EROFS holds at most %d bytes of attributes for one file", x.Name,
				maxXattrBody)
		}
	}
	body = append(body, inline...)
	return body, uint16((len(body)-xattrHeaderSize)/4 + 1), nil
}
