package erofs

import (
	"io"
	"math"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// file writes a regular file's data and places its inode.
func (i *image) file(p string, n *tree.Node, in *pipeline) error {
	switch size := n.Size(); {
	case size == 0:
		return i.add(p, n, inode{}, nil, nil)
	case i.chunks(n) > 0:
		return i.chunked(p, n)
	case i.o.Compression != None:
		return i.compressed(p, n, in)
	default:
		return i.plain(p, n)
	}
}

// plain copies the data as it is.
func (i *image) plain(p string, n *tree.Node) error {
	r, err := i.o.Files.Open(n)
	if err != nil {
		return pathError(p, err)
	}
	defer r.Close()
	size := n.Size()
	in := inode{layout: layoutPlain, size: size}
	tail := make([]byte, 0)
	if rest := size % blockLength; i.o.Inline && rest <= maxTail {
		tail = make([]byte, rest)
	}
	if whole := size - int64(len(tail)); whole > 0 {
		in.union = i.out.block()
		if err := i.copy(p, r, whole); err != nil {
			return err
		}
	}
	if len(tail) > 0 {
		in.layout = layoutInline
		if _, err := io.ReadFull(r, tail); err != nil {
			return pathError(p, err)
		}
	}
	return i.add(p, n, in, nil, tail)
}

// copy takes n bytes of a file and fills their last block.
func (i *image) copy(p string, r io.Reader, n int64) error {
	if err := i.out.read(r, n); err != nil {
		if i.out.err != nil {
			return i.out.err
		}
		return pathError(p, err)
	}
	return i.out.pad()
}

// chunks is how many bits the chunks of a file with holes have beyond a block's, plus one; 0 where a list of chunks
// saves nothing. The best size is a balance: small chunks leave out more zeros, and make a longer list.
func (i *image) chunks(n *tree.Node) int {
	size, data := n.Size(), n.Content.Data()
	held := int64(0)
	for _, r := range data {
		held += r.Length
	}
	if blocks(held) == blocks(size) {
		return 0
	}
	best, least := 0, blocks(size)*blockLength
	if i.o.Compression != None {
		// A guess of what compression makes of it: a half of the data, little of the zeros, and the index.
		least = held/2 + (size-held)/256 + size/blockLength*indexEntry
	}
	for bits := range chunkBitsMask + 1 {
		chunk := int64(blockLength) << bits
		cost := (size + chunk - 1) / chunk * 4
		eachChunk(data, size, chunk, func(_, length int64) { cost += roundUp(length, blockLength) })
		if cost < least {
			best, least = bits+1, cost
		}
		if chunk >= size {
			break
		}
	}
	return best
}

// eachChunk calls f for every chunk that holds data, with its number and length.
func eachChunk(data []tree.Range, size, chunk int64, f func(number, length int64)) {
	next := int64(0)
	for _, r := range data {
		for c := max(next, r.Offset/chunk); c*chunk < r.End(); c++ {
			f(c, min(chunk, size-c*chunk))
			next = c + 1
		}
	}
}

// chunked writes only the chunks that hold data, and the list of them behind the inode.
func (i *image) chunked(p string, n *tree.Node) error {
	i.incompat |= incompatChunked
	r, err := i.o.Files.Open(n)
	if err != nil {
		return pathError(p, err)
	}
	defer r.Close()
	bits := i.chunks(n) - 1
	size, chunk := n.Size(), int64(blockLength)<<bits
	list := make([]byte, (size+chunk-1)/chunk*4)
	for j := range list {
		list[j] = nullBlock & 0xff
	}
	eachChunk(n.Content.Data(), size, chunk, func(number, length int64) {
		if err != nil {
			return
		}
		le.PutUint32(list[number*4:], i.out.block())
		err = i.copy(p, io.NewSectionReader(r, number*chunk, math.MaxInt64-number*chunk), length)
	})
	if err != nil {
		return err
	}
	return i.add(p, n, inode{layout: layoutChunks, size: size, union: uint32(bits)}, func(int) []byte { return list },
		nil)
}
