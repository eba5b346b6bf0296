package treetest

import (
	"fmt"
	"io"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// Sparse is content made of pieces in memory with holes between them.
type Sparse struct {
	Length int64
	Pieces []Piece // in order, not touching
}

// Piece is bytes at an offset.
type Piece struct {
	Offset int64
	Bytes  []byte
}

// Size implements tree.Content.
func (s *Sparse) Size() int64 { return s.Length }

// Data implements tree.Content.
func (s *Sparse) Data() (out []tree.Range) {
	for _, p := range s.Pieces {
		if len(p.Bytes) > 0 {
			out = append(out, tree.Range{Offset: p.Offset, Length: int64(len(p.Bytes))})
		}
	}
	return out
}

// Open implements tree.Content.
func (s *Sparse) Open() (tree.Reader, error) {
	return struct {
		*io.SectionReader
		io.Closer
	}{io.NewSectionReader(sparseAt{s}, 0, s.Length), io.NopCloser(nil)}, nil
}

type sparseAt struct{ *Sparse }

func (s sparseAt) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d", off)
	}
	n := int(max(0, min(int64(len(b)), s.Length-off)))
	clear(b[:n])
	for _, p := range s.Pieces {
		if at := p.Offset - off; at < int64(n) && at+int64(len(p.Bytes)) > 0 {
			copy(b[max(0, at):n], p.Bytes[max(0, -at):])
		}
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}
