package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
)

// vmlinux is what we need of the ELF file that the build leaves.
type vmlinux struct {
	release string // uname -r
	version string // uname -v
	buildID string
	packed  []byte // the file without sections, symbols and padding
}

// Types of the notes we look for.
// Linux: include/uapi/linux/elf.h (NT_GNU_BUILD_ID), include/xen/interface/elfnote.h (XEN_ELFNOTE_PHYS32_ENTRY).
const (
	NoteBuildID = 3
	NotePVH     = 18
)

func readVmlinux(path string) (*vmlinux, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	v := &vmlinux{}
	if v.release, v.version, err = banner(f); err != nil {
		return nil, err
	}
	if v.packed, err = pack(data); err != nil {
		return nil, err
	}
	// The facts come from the packed file, so that what we leave is what was checked.
	p, err := elf.NewFile(bytes.NewReader(v.packed))
	if err != nil {
		return nil, fmt.Errorf("packed: %w", err)
	}
	pvh := false
	for _, n := range Notes(p) {
		switch {
		case n.Name == "GNU" && n.Kind == NoteBuildID:
			v.buildID = hex.EncodeToString(n.Desc)
		case n.Name == "Xen" && n.Kind == NotePVH:
			pvh = true
		}
	}
	if v.buildID == "" {
		return nil, errors.New("no GNU build-id")
	}
	if p.Machine == elf.EM_X86_64 && !pvh {
		return nil, errors.New("no PVH note, so no VMM could start it; the feature guest has CONFIG_PVH")
	}
	return v, nil
}

// banner reads what the kernel prints first: "Linux version RELEASE (user@host) (compiler) VERSION\n".
func banner(f *elf.File) (release, version string, err error) {
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

// Note is one of the notes by which a kernel's file says what it is.
type Note struct {
	Name string
	Kind uint32
	Desc []byte
}

// Notes reads every note segment of a kernel; a malformed rest is ignored. System V ABI, "Note Section".
func Notes(f *elf.File) []Note {
	var all []Note
	for _, p := range f.Progs {
		if p.Type != elf.PT_NOTE || p.Filesz > 1<<20 {
			continue
		}
		b := make([]byte, p.Filesz)
		if _, err := p.ReadAt(b, 0); err != nil {
			continue
		}
		for len(b) >= 12 {
			nameLen, descLen := uint64(f.ByteOrder.Uint32(b)), uint64(f.ByteOrder.Uint32(b[4:]))
			kind := f.ByteOrder.Uint32(b[8:])
			descAt := 12 + (nameLen+3)&^3
			end := descAt + (descLen+3)&^3
			if end > uint64(len(b)) {
				break
			}
			all = append(all, Note{strings.TrimRight(string(b[12:12+nameLen]), "\x00"), kind, b[descAt : descAt+descLen]})
			b = b[end:]
		}
	}
	return all
}

// The layout of a 64-bit ELF file.
// System V ABI, chapter 4 and 5; Linux: include/uapi/linux/elf.h.
const (
	ehdrSize = 64
	phdrSize = 56
	packPage = 4096
)

// pack rewrites an ELF executable so that it holds its segments and nothing else: no sections, no symbols, and no more padding than keeps
// offsets and addresses equal modulo a page. Linkers align the kernel's segments in the file to 2 MiB, which is megabytes of zeros that
// would be read, digested and copied at every boot. The bytes in memory stay the same.
func pack(data []byte) ([]byte, error) {
	if len(data) < ehdrSize || string(data[:4]) != elf.ELFMAG || data[elf.EI_CLASS] != byte(elf.ELFCLASS64) || data[elf.EI_DATA] != byte(elf.ELFDATA2LSB) {
		return nil, errors.New("not a little-endian 64-bit ELF file")
	}
	le := binary.LittleEndian
	phoff, phnum := le.Uint64(data[32:]), int(le.Uint16(data[56:]))
	if le.Uint16(data[54:]) != phdrSize || phoff > uint64(len(data)) || uint64(len(data))-phoff < uint64(phnum)*phdrSize {
		return nil, errors.New("malformed program headers")
	}
	out := make([]byte, ehdrSize+phnum*phdrSize)
	copy(out, data[:ehdrSize])
	le.PutUint64(out[32:], ehdrSize) // e_phoff
	le.PutUint64(out[40:], 0)        // e_shoff
	le.PutUint16(out[58:], 0)        // e_shentsize
	le.PutUint16(out[60:], 0)        // e_shnum
	le.PutUint16(out[62:], 0)        // e_shstrndx
	type placed struct{ oldOff, size, newOff uint64 }
	var loads []placed
	// Loaded segments first; the others mostly lie inside one of them.
	for pass := range 2 {
		for i := range phnum {
			ph := data[phoff+uint64(i)*phdrSize:][:phdrSize]
			to := out[ehdrSize+i*phdrSize:][:phdrSize]
			load := elf.ProgType(le.Uint32(ph)) == elf.PT_LOAD
			if load != (pass == 0) {
				continue
			}
			copy(to, ph)
			off, vaddr, size := le.Uint64(ph[8:]), le.Uint64(ph[16:]), le.Uint64(ph[32:])
			if off > uint64(len(data)) || size > uint64(len(data))-off {
				return nil, fmt.Errorf("segment %d lies outside of the file", i)
			}
			if !load {
				inside := false
				for _, l := range loads {
					if off >= l.oldOff && off+size <= l.oldOff+l.size {
						le.PutUint64(to[8:], l.newOff+off-l.oldOff)
						inside = true
						break
					}
				}
				if inside {
					continue
				}
			}
			at := uint64(len(out))
			if load {
				at += (vaddr - at) % packPage
				le.PutUint64(to[48:], packPage) // p_align
			} else {
				at = (at + 7) &^ 7
			}
			out = append(out, make([]byte, at-uint64(len(out)))...)
			to = out[ehdrSize+i*phdrSize:][:phdrSize] // append may have moved it
			le.PutUint64(to[8:], at)
			out = append(out, data[off:off+size]...)
			if load {
				loads = append(loads, placed{off, size, at})
			}
		}
	}
	if len(loads) == 0 {
		return nil, errors.New("no segment to load")
	}
	return out, nil
}
