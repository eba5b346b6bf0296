package index

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/releases/refusal"
)

// Program is one of the programs of a release, for one architecture.
type Program struct {
	Name    string `json:"name"` // of its file
	Version string `json:"version"`
	Arch    string `json:"arch"` // a name of internal/arch
	Blob
}

// Label names a program for people.
func (p *Program) Label() string { return p.Name + " " + p.Version + " " + p.Arch }

func comparePrograms(a, b Program) int {
	if c := strings.Compare(a.Arch, b.Arch); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}

func (x *Index) checkPrograms() error {
	if len(x.Programs) > maxPrograms {
		return fmt.Errorf("%d programs: want at most %d", len(x.Programs), maxPrograms)
	}
	for i := range x.Programs {
		p := &x.Programs[i]
		if err := errors.Join(CheckWord("name", p.Name), CheckVersion(p.Version)); err != nil {
			return fmt.Errorf("program %q: %w", p.Name, err)
		}
		if _, err := arch.Parse(p.Arch); err != nil {
			return fmt.Errorf("program %q: %w", p.Name, err)
		}
		if i == 0 {
			continue
		}
		switch c := comparePrograms(x.Programs[i-1], *p); {
		case c == 0:
			return refusal.New(refusal.Twice, "release index", "there are two programs %s for %s", p.Name, p.Arch)
		case c > 0:
			return fmt.Errorf("program %q is not in order", p.Name)
		}
	}
	return nil
}

// machines are the architectures' names in ELF: the machine, and the order of bytes.
var machines = map[string]struct {
	machine elf.Machine
	data    elf.Data
}{
	"x86_64":  {elf.EM_X86_64, elf.ELFDATA2LSB},
	"aarch64": {elf.EM_AARCH64, elf.ELFDATA2LSB},
	"ppc64le": {elf.EM_PPC64, elf.ELFDATA2LSB},
	"s390x":   {elf.EM_S390, elf.ELFDATA2MSB},
	"riscv64": {elf.EM_RISCV, elf.ELFDATA2LSB},
}

// ProgramHeader is how much of a program's beginning CheckProgram looks at, in bytes.
const ProgramHeader = 20

// CheckProgram refuses what is no program for an architecture, by the first bytes of its file. ELF: e_ident and
// e_machine, which all classes have at the same place.
func CheckProgram(what, architecture string, head []byte) error {
	want, ok := machines[architecture]
	if !ok || len(head) < ProgramHeader || !bytes.HasPrefix(head, []byte(elf.ELFMAG)) {
		return refusal.New(refusal.Architecture, what, "it is no program for %s", architecture)
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if elf.Data(head[elf.EI_DATA]) == elf.ELFDATA2MSB {
		order = binary.BigEndian
	}
	if got := elf.Machine(order.Uint16(head[18:])); got != want.machine || elf.Data(head[elf.EI_DATA]) != want.data ||
		elf.Class(head[elf.EI_CLASS]) != elf.ELFCLASS64 {
		return refusal.New(refusal.Architecture, what, "it is a program for %s, want one for %s", got, architecture)
	}
	return nil
}
