package vmlinux

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"testing"
)

// makeGapped is a segment of code, a gap, and data that a section of their own each hold, with some memory behind.
func makeGapped(code, gap, data []byte) []byte {
	const at, base = 0x1000, 0xffffffff81000000
	dataAt := uint64(at + len(code) + len(gap))
	size := uint64(len(code) + len(gap) + len(data))
	shAt := (at + size + 7) &^ 7
	var b bytes.Buffer
	put := func(v any) { binary.Write(&b, binary.LittleEndian, v) } // a Buffer takes everything
	fill := func(to uint64) { b.Write(make([]byte, to-uint64(b.Len()))) }
	put(elf.Header64{Ident: [16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, Type: uint16(elf.ET_EXEC),
		Machine: uint16(elf.EM_X86_64), Version: 1, Phoff: 64, Shoff: shAt, Ehsize: 64, Phentsize: 56, Phnum: 2,
		Shentsize: 64, Shnum: 3})
	put(elf.Prog64{Type: uint32(elf.PT_LOAD), Off: at, Vaddr: base, Paddr: 0x1000000, Filesz: size,
		Memsz: size + 0x3000, Align: 2 << 20})
	put(elf.Prog64{Type: uint32(elf.PT_NOTE), Off: dataAt + 8, Vaddr: base + dataAt - at + 8, Filesz: 16, Align: 4})
	fill(at)
	b.Write(code)
	b.Write(gap)
	b.Write(data)
	fill(shAt)
	put(elf.Section64{})
	put(elf.Section64{Type: uint32(elf.SHT_PROGBITS), Flags: uint64(elf.SHF_ALLOC), Addr: base, Off: at,
		Size: uint64(len(code))})
	put(elf.Section64{Type: uint32(elf.SHT_PROGBITS), Flags: uint64(elf.SHF_ALLOC), Addr: base + dataAt - at,
		Off: dataAt, Size: uint64(len(data))})
	return b.Bytes()
}

// memory is what a loader leaves in memory that was of one byte before, from the lowest address on.
func memory(t *testing.T, f *elf.File, before byte) []byte {
	t.Helper()
	low, high := ^uint64(0), uint64(0)
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD {
			low, high = min(low, p.Paddr), max(high, p.Paddr+p.Memsz)
		}
	}
	m := bytes.Repeat([]byte{before}, int(high-low))
	for _, p := range f.Progs {
		if p.Type != elf.PT_LOAD {
			continue
		}
		if p.Paddr-p.Vaddr != f.Progs[0].Paddr-f.Progs[0].Vaddr || (p.Vaddr-p.Off)%packPage != 0 {
			t.Errorf("%+v: its addresses do not fit", p.ProgHeader)
		}
		to := m[p.Paddr-low:][:p.Memsz]
		clear(to)
		if _, err := p.ReadAt(to[:p.Filesz], 0); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func TestPaddingBetweenSectionsIsLeftOut(t *testing.T) {
	code, data := bytes.Repeat([]byte("code"), 1111), bytes.Repeat([]byte("data"), 2222)
	filled := func(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }
	toPage := 2<<20 - len(code)
	odd := filled(0xcc, toPage)
	odd[len(odd)/2] = 0xcd
	for name, c := range map[string]struct {
		gap   []byte
		loads int
		size  int // the most that the packed file has, in bytes
	}{
		"int3":                  {filled(0xcc, toPage), 2, 32 << 10},
		"zeros":                 {filled(0, toPage), 2, 32 << 10},
		"data not at a page":    {filled(0xcc, toPage+24), 2, 32 << 10},
		"a byte that is no pad": {odd, 1, 3 << 20},
		"too short":             {filled(0xcc, minGap-1), 1, minGap + 32<<10},
		"none":                  {nil, 1, 32 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			file := makeGapped(code, c.gap, data)
			packed, err := pack(bytes.NewReader(file), int64(len(file)))
			if err != nil {
				t.Fatal(err)
			}
			before, err := elf.NewFile(bytes.NewReader(file))
			if err != nil {
				t.Fatal(err)
			}
			after, err := elf.NewFile(bytes.NewReader(packed))
			if err != nil {
				t.Fatal(err)
			}
			if len(after.Progs) != c.loads+1 || len(packed) > c.size {
				t.Errorf("%d segments and %d bytes, want %d and at most %d", len(after.Progs), len(packed), c.loads+1,
					c.size)
			}
			was, is := memory(t, before, 0xee), memory(t, after, 0xee)
			if len(was) != len(is) {
				t.Fatalf("%d bytes of memory became %d", len(was), len(is))
			}
			rest := len(code) + len(c.gap)
			if !bytes.Equal(was[:len(code)], is[:len(code)]) || !bytes.Equal(was[rest:], is[rest:]) {
				t.Error("a section's bytes are not what they were")
			}
			note, old := after.Progs[c.loads], before.Progs[1]
			a, b := make([]byte, old.Filesz), make([]byte, note.Filesz)
			old.ReadAt(a, 0)
			note.ReadAt(b, 0)
			if note.Type != elf.PT_NOTE || !bytes.Equal(a, b) {
				t.Errorf("the note is %q, was %q", b, a)
			}
		})
	}
}

func TestSegmentsThatLieAreRefused(t *testing.T) {
	good := makeGapped(make([]byte, 100), nil, make([]byte, 100))
	le := binary.LittleEndian
	section := int(le.Uint64(good[40:])) + shdrSize // the header of the first
	for name, c := range map[string]struct {
		at    int
		value uint64
		want  string
	}{
		"less memory than bytes":     {64 + 40, 1, "segment 0 has more bytes in the file than in memory"},
		"sections beyond the end":    {40, 1 << 40, "malformed section headers"},
		"a section beyond the end":   {section + 32, 1 << 40, "a section lies outside of the file"},
		"a section from beyond":      {section + 24, 1 << 63, "a section lies outside of the file"},
		"a segment beyond the end":   {64 + 8, 1 << 40, "segment 0 lies outside of the file"},
		"a segment that reaches out": {64 + 32, ^uint64(0), "segment 0 lies outside of the file"},
	} {
		bad := bytes.Clone(good)
		le.PutUint64(bad[c.at:], c.value)
		if _, err := pack(bytes.NewReader(bad), int64(len(bad))); err == nil || err.Error() != c.want {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
}
