// Package vmlinux reads the ELF file that a kernel's make leaves: what the kernel calls itself, and a form of it that
// holds its segments and nothing else.
//
// The file comes from foreign programs. It is read within bounds, whatever its headers say.
package vmlinux

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
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
