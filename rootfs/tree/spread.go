package tree

import (
	"errors"
	"fmt"
	"io"
	"sort"
)

// Spread is content whose data lies in one piece in a file of the host, and has holes between its ranges. The file must
// not change while the tree is used.
type Spread struct {
	Path   string
	Offset int64   // of the first range's bytes in the file; the others' follow
	Length int64   // bytes, with holes
	Ranges []Range // as Data
}

// Size implements Content.
func (s *Spread) Size() int64 { return s.Length }

// Data implements Content.
func (s *Spread) Data() []Range { return s.Ranges }

// Open implements Content.
func (s *Spread) Open() (Reader, error) {
	f, err := openHost(s.Path, 0)
	if err != nil {
		return nil, err
	}
	return s.reader(f, f), nil
}

func (s *Spread) openIn(o *Opener) (Reader, error) {
	f, err := o.share(s.Path)
	if err != nil {
		return nil, err
	}
	return s.reader(f, f), nil
}

// reader reads from an open file, which c closes.
func (s *Spread) reader(f io.ReaderAt, c io.Closer) Reader {
	r := &spreadAt{f: f, s: s, starts: make([]int64, len(s.Ranges))}
	at := s.Offset
	for i, d := range s.Ranges {
		r.starts[i] = at
		at += d.Length
	}
	return newSectionReader(r, 0, s.Length, c)
}

type spreadAt struct {
	f      io.ReaderAt
	s      *Spread
	starts []int64 // where in the file each range's bytes begin
}

func (r *spreadAt) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d", off)
	}
	n := int(max(0, min(int64(len(b)), r.s.Length-off)))
	end := off + int64(n)
	clear(b[:n])
	ranges := r.s.Ranges
	for i := sort.Search(len(ranges), func(i int) bool { return ranges[i].End() > off }); i < len(ranges) &&
		ranges[i].Offset < end; i++ {
		from, to := max(off, ranges[i].Offset), min(end, ranges[i].End())
		if got, err := r.f.ReadAt(b[from-off:to-off], r.starts[i]+from-ranges[i].Offset); int64(got) < to-from {
			return int(from-off) + got, errors.Join(io.ErrUnexpectedEOF, err)
		}
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}
