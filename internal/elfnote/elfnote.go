// Package elfnote reads the notes by which a kernel's file, or a running kernel, says what it is.
//
// System V ABI, "Note Section": three words - the sizes of the name and of the description, and the kind - then both,
// each padded to four bytes. All words are in the byte order of the machine.
package elfnote

import (
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
)

const headerSize = 3 * 4

// maxSegment bounds the notes of a file that are read, in bytes; a kernel has some hundred.
const maxSegment = 1 << 20

// The notes that are looked for, by name and kind. <elf.h>, NT_GNU_BUILD_ID; Linux:
// include/xen/interface/elfnote.h, XEN_ELFNOTE_PHYS32_ENTRY, the entry for virtual machines.
const (
	gnu     = "GNU"
	buildID = 3
	xen     = "Xen"
	pvh     = 18
)

// Note is one note.
type Note struct {
	Name string // without the NUL that ends it
	Kind uint32
	Desc []byte
}

// Notes are those of one file or kernel, in their order.
type Notes []Note

// BuildID is the GNU build-id in hexadecimal digits, and empty where there is none.
func (n Notes) BuildID() string {
	for _, n := range n {
		if n.Name == gnu && n.Kind == buildID && len(n.Desc) > 0 {
			return hex.EncodeToString(n.Desc)
		}
	}
	return ""
}

// PVH says whether the kernel has the entry by which a VMM starts an ELF.
func (n Notes) PVH() bool {
	for _, n := range n {
		if n.Name == xen && n.Kind == pvh {
			return true
		}
	}
	return false
}

// Parse reads a run of notes. With an error come those before the one that is wrong. Descriptions lie in b.
func Parse(b []byte, order binary.ByteOrder) (Notes, error) {
	var all Notes
	for at := 0; at < len(b); {
		rest := b[at:]
		if len(rest) < headerSize {
			return all, fmt.Errorf("ELF note at %d: %d bytes, less than its header", at, len(rest))
		}
		// The sizes are 32 bits wide and padding them up must not overflow, whatever int is.
		nameSize, descSize := uint64(order.Uint32(rest)), uint64(order.Uint32(rest[4:]))
		desc := headerSize + pad(nameSize)
		if end := desc + descSize; end > uint64(len(rest)) {
			return all, fmt.Errorf("ELF note at %d: ends %d bytes behind the last", at, end-uint64(len(rest)))
		}
		all = append(all, Note{Name: strings.TrimRight(string(rest[headerSize:headerSize+nameSize]), "\x00"),
			Kind: order.Uint32(rest[8:]), Desc: rest[desc : desc+descSize]})
		at += int(min(desc+pad(descSize), uint64(len(rest)))) // the last note may lack its padding
	}
	return all, nil
}

func pad(n uint64) uint64 { return (n + 3) &^ 3 }

// Read reads every note segment of a file. A segment that is too long to be a kernel's, or damaged, has no notes behind
// the damage.
func Read(f *elf.File) Notes {
	var all Notes
	for _, p := range f.Progs {
		if p.Type != elf.PT_NOTE || p.Filesz > maxSegment {
			continue
		}
		b, err := io.ReadAll(p.Open())
		if err != nil {
			continue
		}
		some, _ := Parse(b, f.ByteOrder)
		all = append(all, some...)
	}
	return all
}
