package vmlinux

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// The layout of a 64-bit ELF file.
// System V ABI, chapter 4 and 5; Linux: include/uapi/linux/elf.h.
const (
	ehdrSize = 64
	phdrSize = 56
	shdrSize = 64
	packPage = 4096
)

// What a kernel's ELF file may have. Linux 6.12 for x86_64 has 5 segments and some 80 sections; with everything built
// in, 100 MB are loaded, and a million symbols have 24 bytes each.
const (
	maxSegments = 64
	maxSections = 4096
	maxPacked   = 1 << 30
	maxSymbols  = 64 << 20
)

// minGap is the least padding inside of a segment that is left out, in bytes. Less is not worth a program header.
const minGap = 64 << 10

// pack rewrites an ELF executable so that it holds its segments and nothing else: no sections, no symbols, and no more
// padding than keeps offsets and addresses equal modulo a page. Linkers align the kernel's segments in the file to 2
// MiB, and x86_64's linker script aligns what comes behind the code inside of a segment so: megabytes that would be
// read, digested and copied at every boot.
//
// The bytes of all sections are in memory what they were. A gap between two sections is not loaded; x86_64's code is
// followed by one of the byte 0xcc, which the kernel gives to its allocator as it starts (Linux:
// arch/x86/mm/init_64.c, mark_rodata_ro, "unused kernel image").
//
// The file comes from foreign programs: what is read and written is at most what the file has, whatever its headers
// say.
func pack(file io.ReaderAt, fileSize int64) ([]byte, error) {
	p := packer{file: file, size: uint64(fileSize), left: uint64(fileSize)}
	if err := p.readHead(); err != nil {
		return nil, err
	}
	if err := p.readSegments(); err != nil {
		return nil, err
	}
	return p.write()
}

// packer has what is known of the file.
type packer struct {
	file     io.ReaderAt
	size     uint64
	left     uint64 // bytes of the file that segments may still name: no two of them have a right to the same
	head     []byte
	order    binary.ByteOrder
	segments []segment
}

// segment is a program header, and what of it is kept.
type segment struct {
	header []byte
	load   bool
	pieces []piece
}

// piece is a range of the file, with the place that it gets.
type piece struct{ off, size, newOff uint64 }

func (p *packer) readHead() error {
	p.head = make([]byte, ehdrSize)
	if _, err := p.file.ReadAt(p.head, 0); err != nil && err != io.EOF {
		return err
	}
	if string(p.head[:4]) != elf.ELFMAG {
		return errors.New("not an ELF file: bad magic number")
	}
	p.order = binary.LittleEndian
	if p.head[elf.EI_DATA] == byte(elf.ELFDATA2MSB) { // s390x
		p.order = binary.BigEndian
	}
	if p.head[elf.EI_CLASS] != byte(elf.ELFCLASS64) {
		return errors.New("not a 64-bit ELF file")
	}
	return nil
}

// readSegments reads the program headers, and decides which ranges of the file are kept.
func (p *packer) readSegments() error {
	phoff, phnum := p.order.Uint64(p.head[32:]), int(p.order.Uint16(p.head[56:]))
	if p.order.Uint16(p.head[54:]) != phdrSize || phoff > p.size || p.size-phoff < uint64(phnum)*phdrSize {
		return errors.New("malformed program headers")
	}
	if shnum := int(p.order.Uint16(p.head[60:])); phnum > maxSegments || shnum == 0 || shnum > maxSections {
		return fmt.Errorf("%d segments and %d sections, want at most %d and 1 to %d", phnum, shnum, maxSegments,
			maxSections)
	}
	headers := make([]byte, phnum*phdrSize)
	if _, err := p.file.ReadAt(headers, int64(phoff)); err != nil && phnum > 0 {
		return fmt.Errorf("program headers: %w", err)
	}
	sections, err := p.sections()
	if err != nil {
		return err
	}
	for i := range phnum {
		h := headers[i*phdrSize:][:phdrSize]
		off, n, memory := p.order.Uint64(h[8:]), p.order.Uint64(h[32:]), p.order.Uint64(h[40:])
		if off > p.size || n > p.size-off {
			return fmt.Errorf("segment %d lies outside of the file", i)
		}
		s := segment{header: h, load: elf.ProgType(p.order.Uint32(h)) == elf.PT_LOAD,
			pieces: []piece{{off: off, size: n}}}
		if s.load {
			if n > memory {
				return fmt.Errorf("segment %d has more bytes in the file than in memory", i)
			}
			if s.pieces, err = p.withoutGaps(s.pieces[0], p.order.Uint64(h[16:])-off, sections); err != nil {
				return fmt.Errorf("segment %d: %w", i, err)
			}
		}
		p.segments = append(p.segments, s)
	}
	return nil
}

// sections are the ranges of the file that sections with bytes in memory have, in order.
func (p *packer) sections() ([]piece, error) {
	shoff, shnum := p.order.Uint64(p.head[40:]), uint64(p.order.Uint16(p.head[60:]))
	if p.order.Uint16(p.head[58:]) != shdrSize || shoff > p.size || p.size-shoff < shnum*shdrSize {
		return nil, errors.New("malformed section headers")
	}
	table := make([]byte, shnum*shdrSize)
	if _, err := p.file.ReadAt(table, int64(shoff)); err != nil && err != io.EOF {
		return nil, fmt.Errorf("section headers: %w", err)
	}
	var out []piece
	for h := range slices.Chunk(table, shdrSize) {
		kind, flags := elf.SectionType(p.order.Uint32(h[4:])), elf.SectionFlag(p.order.Uint64(h[8:]))
		off, n := p.order.Uint64(h[24:]), p.order.Uint64(h[32:])
		if flags&elf.SHF_ALLOC == 0 || kind == elf.SHT_NOBITS {
			continue
		}
		if off > p.size || n > p.size-off {
			return nil, errors.New("a section lies outside of the file")
		}
		out = append(out, piece{off: off, size: n})
	}
	slices.SortFunc(out, func(a, b piece) int { return cmp.Compare(a.off, b.off) })
	return out, nil
}

// withoutGaps cuts a segment where no section has a byte for long, and all bytes are the same. Delta is what is added
// to an offset to make an address.
func (p *packer) withoutGaps(all piece, delta uint64, sections []piece) ([]piece, error) {
	end := all.off + all.size
	start, covered := all.off, all.off // of the piece at hand; covered is how far sections reach
	var out []piece
	for _, s := range sections {
		if s.off >= end || s.off+s.size <= covered {
			continue
		}
		// The piece behind the gap begins at a page.
		next := s.off - (s.off+delta)%packPage
		if covered > start && s.off > covered && next > covered && next-covered >= minGap {
			same, err := p.allTheSame(covered, next)
			if err != nil {
				return nil, err
			}
			if same {
				out = append(out, piece{off: start, size: covered - start})
				start = next
			}
		}
		covered = min(s.off+s.size, end)
	}
	return append(out, piece{off: start, size: end - start}), nil
}

// allTheSame says whether a range of the file has one byte over and over.
func (p *packer) allTheSame(from, to uint64) (bool, error) {
	buf := make([]byte, minGap)
	var want []byte
	for from < to {
		b := buf[:min(uint64(len(buf)), to-from)]
		if _, err := p.file.ReadAt(b, int64(from)); err != nil {
			return false, err
		}
		if want == nil {
			want = bytes.Repeat(b[:1], len(buf))
		}
		if !bytes.Equal(b, want[:len(b)]) {
			return false, nil
		}
		from += uint64(len(b))
	}
	return true, nil
}

// write puts the pieces into a new file. Loaded segments come first; the others mostly lie inside one of them.
func (p *packer) write() ([]byte, error) {
	n := 0
	for _, s := range p.segments {
		n += len(s.pieces)
	}
	out := make([]byte, ehdrSize+n*phdrSize)
	copy(out, p.head)
	p.order.PutUint64(out[32:], ehdrSize) // e_phoff
	p.order.PutUint64(out[40:], 0)        // e_shoff
	p.order.PutUint16(out[56:], uint16(n))
	p.order.PutUint16(out[58:], 0) // e_shentsize
	p.order.PutUint16(out[60:], 0) // e_shnum
	p.order.PutUint16(out[62:], 0) // e_shstrndx
	var loaded []piece
	for _, load := range []bool{true, false} {
		for i := range p.segments {
			s := &p.segments[i]
			if s.load != load {
				continue
			}
			var err error
			if out, err = p.place(out, s, loaded); err != nil {
				return nil, fmt.Errorf("segment %d: %w", i, err)
			}
			if load {
				loaded = append(loaded, s.pieces...)
			}
		}
	}
	if len(loaded) == 0 {
		return nil, errors.New("no segment to load")
	}
	headers := out[ehdrSize:ehdrSize:len(out)]
	for _, s := range p.segments {
		headers = s.headers(headers, p.order)
	}
	return out, nil
}

// place appends a segment's pieces, unless they lie in what is loaded.
func (p *packer) place(out []byte, s *segment, loaded []piece) ([]byte, error) {
	for i := range s.pieces {
		c := &s.pieces[i]
		if j := slices.IndexFunc(loaded, func(l piece) bool {
			return !s.load && c.off >= l.off && c.off+c.size <= l.off+l.size
		}); j >= 0 {
			c.newOff = loaded[j].newOff + c.off - loaded[j].off
			continue
		}
		if c.size > p.left {
			return nil, errors.New("its segments name more bytes than the file has")
		}
		p.left -= c.size
		at := uint64(len(out))
		if s.load {
			address := p.order.Uint64(s.header[16:]) + c.off - s.pieces[0].off
			at += (address - at) % packPage
		} else {
			at = (at + 7) &^ 7
		}
		if at+c.size > maxPacked {
			return nil, fmt.Errorf("its segments have more than %d bytes", maxPacked)
		}
		out = append(out, make([]byte, at-uint64(len(out))+c.size)...)
		c.newOff = at
		if _, err := io.ReadFull(io.NewSectionReader(p.file, int64(c.off), int64(c.size)), out[at:]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// headers appends the program headers of a segment's pieces. What has no bytes in the file follows the last one.
func (s *segment) headers(b []byte, order binary.ByteOrder) []byte {
	memory := order.Uint64(s.header[40:])
	for i, c := range s.pieces {
		h := bytes.Clone(s.header)
		skip := c.off - s.pieces[0].off
		order.PutUint64(h[8:], c.newOff)
		if s.load {
			order.PutUint64(h[16:], order.Uint64(h[16:])+skip) // p_vaddr
			order.PutUint64(h[24:], order.Uint64(h[24:])+skip) // p_paddr
			order.PutUint64(h[32:], c.size)
			order.PutUint64(h[40:], c.size)
			if i == len(s.pieces)-1 {
				order.PutUint64(h[40:], memory-skip)
			}
			order.PutUint64(h[48:], packPage) // p_align
		}
		b = append(b, h...)
	}
	return b
}
