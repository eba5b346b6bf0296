package tarfile

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// Bounds of a tar's sparse files: a few bytes can say any size, and an image of it has to be written and digested.
const (
	maxSparse    = 64 << 30 // bytes of all of them together, with holes
	maxSparseMap = 16 << 20 // bytes of one file's map
)

const blockSize = 512 // of a tar. POSIX.1-2017, pax

// sparseMap finds out which parts of a sparse file its content is. archive/tar has read the map and does not tell it,
// so it is read again: marks are where the blocks began that it read last, and p is where the content begins. GNU tar
// manual, "Storing Sparse Files", and "Basic Tar Format" for the old header.
func sparseMap(p *position, marks []int64, h *tar.Header) ([]tree.Range, error) {
	header := -1
	for i, at := range slices.Backward(marks) {
		if b := p.block(at); b != nil && isHeader(b) && b[148] != 0 {
			header = i
			break
		}
	}
	if header < 0 {
		return nil, errors.New("a sparse file without a header")
	}
	var numbers []int64
	var err error
	text, old := h.PAXRecords["GNU.sparse.map"], h.Typeflag == tar.TypeGNUSparse
	switch {
	case old:
		numbers, err = oldMap(p, marks[header])
	case h.PAXRecords["GNU.sparse.major"] == "1":
		size := p.at - marks[header] - blockSize
		if size <= 0 || size > maxSparseMap {
			return nil, fmt.Errorf("a map of %d bytes", size)
		}
		data := make([]byte, size)
		if _, err := p.f.ReadAt(data, marks[header]+blockSize); err != nil {
			return nil, err
		}
		lines := strings.Split(string(data), "\n")
		numbers, err = decimals(lines[:len(lines)-1])
		if err == nil && (len(numbers) == 0 || numbers[0] < 0 || numbers[0] > int64(len(numbers)-1)/2) {
			return nil, errors.New("a map with another number of entries than it says")
		}
		if err == nil {
			numbers = numbers[1 : 1+2*numbers[0]]
		}
	case text == "": // a file that is one hole
	case len(text) > maxSparseMap:
		return nil, fmt.Errorf("a map of %d bytes", len(text))
	default:
		numbers, err = decimals(strings.Split(text, ","))
	}
	if err != nil {
		return nil, err
	}
	if len(numbers)%2 != 0 {
		return nil, errors.New("a map that ends within an entry")
	}
	out := []tree.Range{}
	last, total := int64(0), int64(0)
	for i := 0; i < len(numbers); i += 2 {
		r := tree.Range{Offset: numbers[i], Length: numbers[i+1]}
		if r.Offset < last || r.Length < 0 || r.Offset > h.Size || r.Length > h.Size-r.Offset {
			return nil, fmt.Errorf("data of %d bytes at %d in a file of %d", r.Length, r.Offset, h.Size)
		}
		last, total = r.End(), total+r.Length
		switch {
		case r.Length == 0:
		case len(out) > 0 && out[len(out)-1].End() == r.Offset:
			out[len(out)-1].Length += r.Length
		default:
			out = append(out, r)
		}
	}
	if total > p.size-p.at {
		return nil, fmt.Errorf("%d bytes, %d are there: %w", total, p.size-p.at, io.ErrUnexpectedEOF)
	}
	return out, nil
}

func decimals(words []string) ([]int64, error) {
	out := make([]int64, len(words))
	for i, w := range words {
		var err error
		if out[i], err = strconv.ParseInt(w, 10, 64); err != nil {
			return nil, fmt.Errorf("a map with the number %q", w)
		}
	}
	return out, nil
}

// oldMap reads the map in a header of the old kind and the blocks behind it: pairs of numbers of 12 bytes, 4 pairs
// from byte 386 of the header and 21 from the beginning of each block; a byte behind them says whether a block
// follows.
func oldMap(p *position, at int64) (out []int64, err error) {
	pairs := func(b []byte, n int) error {
		for i := range 2 * n {
			field := b[i*12 : i*12+12]
			if field[0] == 0 {
				return nil // no more in this block
			}
			v, err := numeric(field)
			if err != nil {
				return err
			}
			out = append(out, v)
		}
		return nil
	}
	b := p.block(at)
	if err := pairs(b[386:], 4); err != nil {
		return nil, err
	}
	for more := b[482]; more != 0; more = b[504] {
		if at += blockSize; at >= p.at || len(out)*12 > maxSparseMap {
			return nil, errors.New("a map that does not end")
		}
		if b = p.block(at); b == nil {
			return nil, io.ErrUnexpectedEOF
		}
		if err := pairs(b, 21); err != nil {
			return nil, err
		}
	}
	if at+blockSize != p.at {
		return nil, errors.New("a map that does not end where the content begins")
	}
	return out, nil
}

// numeric is a number of a header: octal digits, or in base 256 with the first bit set. GNU tar manual, "Extensions to
// the ustar format".
func numeric(b []byte) (int64, error) {
	if b[0]&0x80 != 0 {
		v := int64(b[0] & 0x3f)
		for _, c := range b[1:] {
			if v >= 1<<55 || b[0]&0x40 != 0 {
				return 0, errors.New("a map with a number beyond 63 bits")
			}
			v = v<<8 | int64(c)
		}
		return v, nil
	}
	return strconv.ParseInt(strings.Trim(string(b), " \x00"), 8, 64)
}

// block is the block that begins at an offset of the file; nil where it has none.
func (p *position) block(at int64) []byte {
	b := make([]byte, blockSize)
	if _, err := p.f.ReadAt(b, at); err != nil {
		return nil
	}
	return b
}
