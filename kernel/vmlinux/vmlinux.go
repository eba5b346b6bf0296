// Package vmlinux reads the ELF file that a kernel's make leaves: what the kernel calls itself, and a form of it that
// holds its segments and nothing else.
//
// The file comes from foreign programs. It is read within bounds, whatever its headers say.
package vmlinux

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/katabuild/katabuild/internal/elfnote"
	"github.com/katabuild/katabuild/internal/regular"
)

// File is what counts of the ELF file.
type File struct {
	Release string // uname -r
	Version string // uname -v
	BuildID string // GNU build-id, hexadecimal
	Packed  []byte // the file without sections, symbols and padding
}

// maxSize is the largest file that is read, in bytes: with everything built in and all debugging information, that of
// Linux 6.12 has 1.5 GB.
const maxSize = 4 << 30

// Read reads the file. A *regular.SizeError is one that is too large.
func Read(file *os.File) (*File, error) {
	fi, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if fi.Size() > maxSize {
		return nil, &regular.SizeError{Name: "vmlinux", Limit: maxSize}
	}
	packed, err := pack(file, fi.Size())
	if err != nil {
		return nil, err
	}
	f, err := elf.NewFile(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	v := &File{Packed: packed}
	if v.Release, v.Version, err = banner(f); err != nil {
		return nil, err
	}
	// The facts come from the packed file, so that what we leave is what was checked.
	p, err := elf.NewFile(bytes.NewReader(v.Packed))
	if err != nil {
		return nil, fmt.Errorf("packed: %w", err)
	}
	notes := elfnote.Read(p)
	if v.BuildID = notes.BuildID(); v.BuildID == "" {
		return nil, errors.New("no GNU build-id")
	}
	if p.Machine == elf.EM_X86_64 && !notes.PVH() {
		return nil, errors.New("no PVH note, so no VMM could start it; the feature guest has CONFIG_PVH")
	}
	return v, nil
}

// banner reads what the kernel prints first: "Linux version RELEASE (user@host) (compiler) VERSION\n".
func banner(f *elf.File) (release, version string, err error) {
	for _, s := range f.Sections {
		if s.Type != elf.SHT_SYMTAB {
			continue
		}
		if s.Flags&elf.SHF_COMPRESSED != 0 || s.Size > maxSymbols {
			return "", "", fmt.Errorf("the table of symbols is compressed, or has more than %d bytes", maxSymbols)
		}
		if int(s.Link) >= len(f.Sections) || f.Sections[s.Link].Flags&elf.SHF_COMPRESSED != 0 ||
			f.Sections[s.Link].Size > 2*maxSymbols {
			return "", "", fmt.Errorf("the names of the symbols are missing, compressed, or have more than %d bytes",
				2*maxSymbols)
		}
	}
	syms, err := f.Symbols()
	if err != nil {
		return "", "", err
	}
	for _, s := range syms {
		if s.Name != "linux_banner" || int(s.Section) >= len(f.Sections) {
			continue
		}
		sec := f.Sections[s.Section]
		if sec.ReaderAt == nil { // debug/elf does not read compressed sections so
			return "", "", errors.New("linux_banner lies in a compressed section")
		}
		buf := make([]byte, min(s.Size, 4096))
		if _, err := sec.ReadAt(buf, int64(s.Value-sec.Addr)); err != nil {
			return "", "", fmt.Errorf("linux_banner: %w", err)
		}
		text := strings.TrimRight(string(buf), "\x00\n")
		rest, ok := strings.CutPrefix(text, "Linux version ")
		release, rest, ok2 := strings.Cut(rest, " ")
		i := strings.LastIndex(rest, ") #") // the compiler's description ends with the last parenthesis
		if !ok || !ok2 || i < 0 {
			return "", "", fmt.Errorf("linux_banner is %q", text)
		}
		return release, rest[i+2:], nil
	}
	return "", "", errors.New("no symbol linux_banner")
}

// The layout of a 64-bit ELF file.
// System V ABI, chapter 4 and 5; Linux: include/uapi/linux/elf.h.
const (
	ehdrSize = 64
	phdrSize = 56
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

// pack rewrites an ELF executable so that it holds its segments and nothing else: no sections, no symbols, and no more
// padding than keeps offsets and addresses equal modulo a page. Linkers align the kernel's segments in the file to 2
// MiB, which is megabytes of zeros that would be read, digested and copied at every boot. The bytes in memory stay the
// same.
//
// The file comes from foreign programs: what is read and written is at most what the file has, whatever its headers
// say.
func pack(file io.ReaderAt, fileSize int64) ([]byte, error) {
	head := make([]byte, ehdrSize)
	if _, err := file.ReadAt(head, 0); err != nil && err != io.EOF {
		return nil, err
	}
	if string(head[:4]) != elf.ELFMAG {
		return nil, errors.New("not an ELF file: bad magic number")
	}
	var order binary.ByteOrder = binary.LittleEndian
	if head[elf.EI_DATA] == byte(elf.ELFDATA2MSB) { // s390x
		order = binary.BigEndian
	}
	if head[elf.EI_CLASS] != byte(elf.ELFCLASS64) {
		return nil, errors.New("not a 64-bit ELF file")
	}
	phoff, phnum, shnum := order.Uint64(head[32:]), int(order.Uint16(head[56:])), int(order.Uint16(head[60:]))
	size := uint64(fileSize)
	if order.Uint16(head[54:]) != phdrSize || phoff > size || size-phoff < uint64(phnum)*phdrSize {
		return nil, errors.New("malformed program headers")
	}
	if phnum > maxSegments || shnum == 0 || shnum > maxSections {
		return nil, fmt.Errorf("%d segments and %d sections, want at most %d and 1 to %d", phnum, shnum, maxSegments,
			maxSections)
	}
	headers := make([]byte, phnum*phdrSize)
	if _, err := file.ReadAt(headers, int64(phoff)); err != nil && phnum > 0 {
		return nil, fmt.Errorf("program headers: %w", err)
	}
	out := make([]byte, ehdrSize+phnum*phdrSize)
	copy(out, head)
	order.PutUint64(out[32:], ehdrSize) // e_phoff
	order.PutUint64(out[40:], 0)        // e_shoff
	order.PutUint16(out[58:], 0)        // e_shentsize
	order.PutUint16(out[60:], 0)        // e_shnum
	order.PutUint16(out[62:], 0)        // e_shstrndx
	type placed struct{ oldOff, size, newOff uint64 }
	var loads []placed
	left := size // bytes of the file that segments may still name: no two of them have a right to the same
	// Loaded segments first; the others mostly lie inside one of them.
	for pass := range 2 {
		for i := range phnum {
			ph := headers[i*phdrSize:][:phdrSize]
			to := out[ehdrSize+i*phdrSize:][:phdrSize]
			load := elf.ProgType(order.Uint32(ph)) == elf.PT_LOAD
			if load != (pass == 0) {
				continue
			}
			copy(to, ph)
			off, vaddr, n := order.Uint64(ph[8:]), order.Uint64(ph[16:]), order.Uint64(ph[32:])
			if off > size || n > size-off {
				return nil, fmt.Errorf("segment %d lies outside of the file", i)
			}
			if !load {
				inside := false
				for _, l := range loads {
					if off >= l.oldOff && off+n <= l.oldOff+l.size {
						order.PutUint64(to[8:], l.newOff+off-l.oldOff)
						inside = true
						break
					}
				}
				if inside {
					continue
				}
			}
			if n > left {
				return nil, errors.New("its segments name more bytes than the file has")
			}
			left -= n
			at := uint64(len(out))
			if load {
				at += (vaddr - at) % packPage
				order.PutUint64(to[48:], packPage) // p_align
			} else {
				at = (at + 7) &^ 7
			}
			if at+n > maxPacked {
				return nil, fmt.Errorf("its segments have more than %d bytes", maxPacked)
			}
			out = append(out, make([]byte, at-uint64(len(out))+n)...)
			to = out[ehdrSize+i*phdrSize:][:phdrSize] // append may have moved it
			order.PutUint64(to[8:], at)
			if _, err := io.ReadFull(io.NewSectionReader(file, int64(off), int64(n)), out[at:]); err != nil {
				return nil, fmt.Errorf("segment %d: %w", i, err)
			}
			if load {
				loads = append(loads, placed{off, n, at})
			}
		}
	}
	if len(loads) == 0 {
		return nil, errors.New("no segment to load")
	}
	return out, nil
}
