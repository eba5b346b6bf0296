package erofs

// place is where an inode is: a region's number in the upper 32 bits, an offset in it in the lower. Which bytes of the
// image that is shows only when the region is written, so that data can be written while inodes still gather.
type place uint64

// regionSize is how many bytes of inodes gather before they are written.
const regionSize = 1 << 20

// maxTail is how long the bytes behind an inode may be that must not cross a block's end: an inode cannot be placed
// more exactly than by slots.
const maxTail = blockLength - slotSize

// metadata gathers inodes.
type metadata struct {
	buf   []byte  // the region under way, a multiple of slotSize
	gaps  []gap   // in it
	bases []int64 // where the regions before it are in the image
}

// gap is a piece of a region that was left free so that a tail starts in the next block.
type gap struct{ at, size int }

const maxGaps = 32 // older ones are given up, so that placing stays quick

// full says that the region should be written.
func (m *metadata) full() bool { return len(m.buf) >= regionSize }

// reserve finds a place for an inode of head bytes and tail bytes behind it; the tail stays within one block.
func (m *metadata) reserve(head, tail int) (place, []byte) {
	at := m.find(head, tail)
	return place(len(m.bases))<<32 | place(at), m.buf[at : at+head+tail]
}

func (m *metadata) find(head, tail int) int {
	size := roundUp(head+tail, slotSize)
	for i, g := range m.gaps {
		if size > g.size || crosses(g.at+head, tail) {
			continue
		}
		m.gaps[i] = gap{g.at + size, g.size - size}
		if m.gaps[i].size == 0 {
			m.gaps = append(m.gaps[:i], m.gaps[i+1:]...)
		}
		return g.at
	}
	at := len(m.buf)
	if crosses(at+head, tail) {
		next := roundUp(roundUp(at+head, blockLength)-head, slotSize)
		if len(m.gaps) == maxGaps {
			m.gaps = append(m.gaps[:0], m.gaps[1:]...)
		}
		if next > at {
			m.gaps = append(m.gaps, gap{at, next - at})
		}
		at = next
	}
	m.buf = append(m.buf, make([]byte, at+size-len(m.buf))...)
	return at
}

// crosses says that size bytes at an offset are in more than one block.
func crosses(at, size int) bool { return size > 0 && at%blockLength+size > blockLength }

// add places an inode and fills it.
func (m *metadata) add(head, tail []byte) place {
	p, b := m.reserve(len(head), len(tail))
	copy(b[copy(b, head):], tail)
	return p
}

// write ends the region.
func (m *metadata) write(out *sink) error {
	m.bases = append(m.bases, int64(out.block())*blockLength)
	if err := out.write(m.buf); err != nil {
		return err
	}
	m.buf, m.gaps = m.buf[:0], m.gaps[:0]
	return out.pad()
}

// nid is the number of the inode at a place, whose region is written.
func (m *metadata) nid(p place) uint64 {
	return uint64(m.bases[p>>32]+int64(p&(1<<32-1))) / slotSize
}
