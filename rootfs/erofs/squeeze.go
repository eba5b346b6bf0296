package erofs

import "bytes"

// segmentSize is how much of a file is compressed by one goroutine at a time, and so what extents never cross.
const segmentSize = 1 << 20

// extent is a piece of a file and where it is stored.
type extent struct {
	length int // bytes of the file
	blocks int // of the image
	plain  bool
}

// squeezed is a segment on its way into an image.
type squeezed struct {
	extents []extent
	length  int    // bytes of the file in extents
	data    []byte // the extents' blocks, one after the other
	// rest is what follows the last extent at a file's end: fewer bytes, compressed, than a block. It is stored with
	// the inode or in the packed inode.
	rest   []byte
	packed []byte // rest compressed alone, where that is smaller; only without fragments
}

// squeezer compresses segments. It is one goroutine's.
type squeezer struct {
	encode    encoder
	cluster   int
	fragments bool
	buf       [3][]byte
	zeros     *squeezed // of a whole segment, made once: large holes have many
}

func newSqueezer(o Options) (*squeezer, error) {
	e := encoders[o.Compression]
	encode, err := e.make(o.Level)
	if err != nil {
		return nil, err
	}
	s := &squeezer{encode: encode, cluster: o.ClusterSize, fragments: e.fragments}
	for i := range s.buf {
		// Beyond any result of LZ4 for a segment, which needs the most: LZ4's Documentation, LZ4_compressBound.
		s.buf[i] = make([]byte, 0, segmentSize+segmentSize/255+4096)
	}
	return s, nil
}

// Where packing more closely is not worth compressing once more, in bytes.
const (
	enoughFilled = 256 // of a block that stay free
	maxGrowth    = 4   // times that an extent grows
	// maxInlined is how large a compressed rest behind an inode may be: a larger one leaves gaps that cost more than a
	// block.
	maxInlined = 3584
)

// squeeze divides a segment into extents. An extent takes cluster bytes, and then more of them as long as they fit into
// the same blocks: what compresses to half a block more than three would waste the other half. final says that the file
// ends with the segment.
func (s *squeezer) squeeze(data []byte, final bool) squeezed {
	var out squeezed
	for out.length < len(data) {
		next := data[out.length:]
		n := min(s.cluster, len(next))
		if left := len(next) - n; left < s.cluster/4 && !final {
			n = len(next) // rather one large extent than a last one of a few bytes in a block of its own
		}
		if final && n == len(next) {
			s.end(&out, next)
			break
		}
		packed, n := s.grow(next, n)
		if packed == nil {
			if n < len(next) {
				n -= (out.length + n) % blockLength
			}
			out.addPlain(next[:n])
		} else {
			out.add(n, packed)
		}
	}
	return out
}

// grow compresses the first n bytes of data, or more. Nil says that the first n bytes should stay as they are.
func (s *squeezer) grow(data []byte, n int) ([]byte, int) {
	packed := s.encode(s.buf[0], data[:n])
	if packed == nil || blocks(len(packed)) >= blocks(n) {
		return nil, n
	}
	full := blocks(len(packed)) * blockLength
	for try := 1; try <= maxGrowth; try++ {
		free := full - len(packed)
		if free < enoughFilled {
			break
		}
		// What follows compresses about as well as what came before; an eighth less is a guess that seldom misses.
		more := min(n, len(data)-n, int(int64(free)*int64(n)/int64(len(packed))*7/8))
		if left := len(data) - n - more; more < 64 || left > 0 && left < s.cluster/4 {
			break
		}
		larger := s.encode(s.buf[try%2], data[:n+more])
		if larger == nil || len(larger) > full {
			break
		}
		packed, n = larger, n+more
	}
	return packed, n
}

// end compresses a file's last bytes, at most a cluster: into blocks that are full, and a rest of less than a block.
func (s *squeezer) end(out *squeezed, data []byte) {
	var packed []byte
	if len(data) > blockLength {
		packed = s.encode(s.buf[0], data)
	}
	if packed == nil || blocks(len(packed)) >= blocks(len(data)) {
		whole := max(0, len(data)-(out.length+len(data))%blockLength)
		out.addPlain(data[:whole])
		if !s.keepRest(out, data[whole:], out.length) {
			out.addPlain(data[whole:])
		}
		return
	}
	if len(packed) < blockLength && s.keepRest(out, data, out.length) {
		return
	}
	if n, front := s.shrink(data, packed); front != nil && s.keepRest(out, data[n:], out.length+n) {
		out.add(n, front)
		return
	}
	out.add(len(data), packed)
}

// shrink finds how much of data fills one block less than packed, which is all of it.
func (s *squeezer) shrink(data, packed []byte) (int, []byte) {
	full := len(packed) / blockLength * blockLength
	if full == 0 || roundUp(len(packed), blockLength)-len(packed) < 2*enoughFilled {
		return 0, nil
	}
	n := int(int64(len(data)) * int64(full) / int64(len(packed)) * 63 / 64)
	for range 2 {
		if n <= full {
			break
		}
		if front := s.encode(s.buf[1], data[:n]); front != nil && len(front) <= full {
			return n, front
		}
		n = n * 31 / 32
	}
	return 0, nil
}

// keepRest takes the last bytes of a file out of its blocks, where they are small enough; they start at an offset in
// the segment.
func (s *squeezer) keepRest(out *squeezed, rest []byte, at int) bool {
	if len(rest) == 0 || s.fragments {
		out.rest = rest
		return true
	}
	packed := s.encode(s.buf[2], rest)
	switch {
	case packed != nil && len(packed) <= maxInlined:
		out.packed = bytes.Clone(packed)
	case len(rest) > maxInlined || at%blockLength+len(rest) > blockLength:
		return false // a plain extent stays in one logical cluster, as in addPlain
	}
	out.rest = rest
	return true
}

// add appends an extent. Its blocks start with zeros and end with the compressed bytes.
func (q *squeezed) add(length int, packed []byte) {
	n := blocks(len(packed))
	q.extents = append(q.extents, extent{length: length, blocks: n})
	q.length += length
	q.data = append(q.data, zeroBlock[:n*blockLength-len(packed)]...)
	q.data = append(q.data, packed...)
}

// addPlain appends bytes as they are, an extent for every logical cluster. None crosses into the next: a kernel takes a
// file's last extent to end where its last cluster does, and refuses a plain one that is then longer than its block.
func (q *squeezed) addPlain(data []byte) {
	for len(data) > 0 {
		n := min(blockLength-q.length%blockLength, len(data))
		q.extents = append(q.extents, extent{length: n, blocks: 1, plain: true})
		q.length += n
		q.data = append(q.data, data[:n]...)
		q.data = append(q.data, zeroBlock[:blockLength-n]...)
		data = data[n:]
	}
}
