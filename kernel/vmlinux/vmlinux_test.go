package vmlinux

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const testBanner = "Linux version 6.12.117-kb-0123 (katabuild@katabuild) (gcc (Debian) 14, GNU ld) #1 Tue Nov 14 " +
	"22:13:20 UTC 2023\n\x00"

func elfNote(name string, kind uint32, desc []byte) []byte {
	return elfNoteIn(binary.LittleEndian, name, kind, desc)
}

func elfNoteIn(order binary.AppendByteOrder, name string, kind uint32, desc []byte) []byte {
	pad := func(b []byte) []byte { return append(b, make([]byte, -len(b)&3)...) }
	b := order.AppendUint32(nil, uint32(len(name)+1))
	b = order.AppendUint32(b, uint32(len(desc)))
	b = order.AppendUint32(b, kind)
	return pad(append(pad(append(b, name+"\x00"...)), desc...))
}

// makeVmlinux is an ELF file like a kernel: one loaded segment with the banner and the notes, a symbol for the banner,
// much padding.
func makeVmlinux(banner string, notes ...[]byte) []byte {
	return makeVmlinuxAt(0x20000, banner, notes...)
}

// makeVmlinuxAt puts the segment at an offset of the file.
func makeVmlinuxAt(at int, banner string, notes ...[]byte) []byte {
	return makeVmlinuxFor(elf.EM_X86_64, binary.LittleEndian, at, banner, notes...)
}

// makeVmlinuxFor is one of another machine, in its byte order.
func makeVmlinuxFor(m elf.Machine, order binary.ByteOrder, at int, banner string, notes ...[]byte) []byte {
	data := byte(elf.ELFDATA2LSB)
	if order == binary.ByteOrder(binary.BigEndian) {
		data = byte(elf.ELFDATA2MSB)
	}
	const base = 0xffffffff81000000
	body := append([]byte(banner), make([]byte, -len(banner)&7)...)
	noteAt := len(body)
	body = append(body, bytes.Join(notes, nil)...)
	names, secs := []byte("\x00linux_banner\x00"), []byte("\x00.text\x00.symtab\x00.strtab\x00.shstrtab\x00")
	var b bytes.Buffer
	put := func(v any) { binary.Write(&b, order, v) } // a Buffer takes everything
	symAt := uint64(at + len(body))
	symAt = (symAt + 7) &^ 7
	strAt := symAt + 48
	shstrAt := strAt + uint64(len(names))
	shAt := (shstrAt + uint64(len(secs)) + 7) &^ 7
	put(elf.Header64{Ident: [16]byte{0x7f, 'E', 'L', 'F', 2, data, 1}, Type: uint16(elf.ET_EXEC),
		Machine: uint16(m), Version: 1, Phoff: 64,
		Shoff: shAt, Ehsize: 64, Phentsize: 56, Phnum: 2, Shentsize: 64, Shnum: 5, Shstrndx: 4})
	put(elf.Prog64{Type: uint32(elf.PT_LOAD), Off: uint64(at), Vaddr: base, Paddr: 0x1000000,
		Filesz: uint64(len(body)), Memsz: uint64(len(body)) + 4096, Align: 2 << 20})
	put(elf.Prog64{Type: uint32(elf.PT_NOTE), Off: uint64(at + noteAt), Vaddr: base + uint64(noteAt),
		Filesz: uint64(len(body) - noteAt), Align: 4})
	fill := func(to uint64) { b.Write(make([]byte, to-uint64(b.Len()))) }
	fill(uint64(at))
	b.Write(body)
	fill(symAt)
	put(elf.Sym64{})
	put(elf.Sym64{Name: 1, Shndx: 1, Value: base, Size: uint64(len(banner))})
	b.Write(names)
	b.Write(secs)
	fill(shAt)
	put(elf.Section64{})
	put(elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Addr: base, Off: uint64(at), Size: uint64(len(body))})
	put(elf.Section64{Name: 7, Type: uint32(elf.SHT_SYMTAB), Off: symAt, Size: 48, Link: 3, Entsize: 24})
	put(elf.Section64{Name: 15, Type: uint32(elf.SHT_STRTAB), Off: strAt, Size: uint64(len(names))})
	put(elf.Section64{Name: 23, Type: uint32(elf.SHT_STRTAB), Off: shstrAt, Size: uint64(len(secs))})
	return b.Bytes()
}

// Linux: include/uapi/linux/elf.h (NT_GNU_BUILD_ID), include/xen/interface/elfnote.h (XEN_ELFNOTE_PHYS32_ENTRY).
const (
	noteBuildID = 3
	notePVH     = 18
)

var (
	buildID = elfNote("GNU", noteBuildID, []byte{0xde, 0xad, 0xbe, 0xef})
	pvh     = elfNote("Xen", notePVH, make([]byte, 8))
)

// readBytes reads a vmlinux of these bytes.
func readBytes(t *testing.T, data []byte) (*File, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vmlinux")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return Read(f)
}

func TestVmlinuxIsReadAndPacked(t *testing.T) {
	data := makeVmlinux(testBanner, elfNote("Linux", 1, []byte("odd")), pvh, buildID)
	v, err := readBytes(t, data)
	if err != nil {
		t.Fatal(err)
	}
	if v.Release != "6.12.117-kb-0123" || v.Version != "#1 Tue Nov 14 22:13:20 UTC 2023" || v.BuildID != "deadbeef" {
		t.Errorf("%q %q %q", v.Release, v.Version, v.BuildID)
	}
	if len(v.Packed) >= len(data)/2 {
		t.Errorf("%d of %d bytes are left", len(v.Packed), len(data))
	}
	checkPacked(t, data, v.Packed)
}

// s390x is big-endian, and its kernels have no PVH entry, as nobody boots them by one.
func TestABigEndianVmlinuxIsReadAndPacked(t *testing.T) {
	data := makeVmlinuxFor(elf.EM_S390, binary.BigEndian, 0x20000, testBanner,
		elfNoteIn(binary.BigEndian, "GNU", noteBuildID, []byte{0xde, 0xad, 0xbe, 0xef}))
	v, err := readBytes(t, data)
	if err != nil {
		t.Fatal(err)
	}
	if v.Release != "6.12.117-kb-0123" || v.BuildID != "deadbeef" || len(v.Packed) >= len(data)/2 {
		t.Errorf("%q %q, %d of %d bytes", v.Release, v.BuildID, len(v.Packed), len(data))
	}
	checkPacked(t, data, v.Packed)
}

// checkPacked compares what a loader would see.
func checkPacked(t *testing.T, data, packed []byte) {
	t.Helper()
	before, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return
	}
	after, err := elf.NewFile(bytes.NewReader(packed))
	if err != nil {
		t.Fatalf("packed: %v", err)
	}
	if len(after.Progs) != len(before.Progs) || len(after.Sections) != 0 || after.Entry != before.Entry {
		t.Fatalf("%d segments, %d sections", len(after.Progs), len(after.Sections))
	}
	for i, p := range before.Progs {
		q := after.Progs[i]
		a, b := make([]byte, p.Filesz), make([]byte, q.Filesz)
		p.ReadAt(a, 0)
		q.ReadAt(b, 0)
		if p.Type != q.Type || p.Vaddr != q.Vaddr || p.Paddr != q.Paddr || p.Memsz != q.Memsz || !bytes.Equal(a, b) {
			t.Errorf("segment %d: %+v became %+v", i, p.ProgHeader, q.ProgHeader)
		}
		if q.Type == elf.PT_LOAD && (q.Off-q.Vaddr)%packPage != 0 {
			t.Errorf("segment %d: offset %#x and address %#x differ within a page", i, q.Off, q.Vaddr)
		}
	}
}

func TestOddVmlinuxIsRefused(t *testing.T) {
	good := makeVmlinux(testBanner, pvh, buildID)
	compressed := bytes.Clone(good)
	binary.LittleEndian.PutUint64(compressed[binary.LittleEndian.Uint64(good[40:])+64+8:], uint64(elf.SHF_COMPRESSED))
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"no PVH note":           {makeVmlinux(testBanner, buildID), "CONFIG_PVH"},
		"PVH by another vendor": {makeVmlinux(testBanner, elfNote("GNU", notePVH, nil), buildID), "CONFIG_PVH"},
		"no build-id":           {makeVmlinux(testBanner, pvh), "no GNU build-id"},
		"an empty build-id": {makeVmlinux(testBanner, pvh, elfNote("GNU", noteBuildID, nil)),
			"no GNU build-id"},
		"a note that overflows": {makeVmlinux(testBanner, pvh,
			[]byte("\xff\xff\xff\xff\xff\xff\xff\xff\x03\x00\x00\x00GNU\x00")), "no GNU build-id"},
		"no banner":                 {makeVmlinux("", pvh, buildID), "linux_banner is"},
		"another banner":            {makeVmlinux("BSD version 5 (x) #1\n", pvh, buildID), "linux_banner is"},
		"a compressed section":      {compressed, "compressed section"}, // once a nil pointer
		"nothing":                   {nil, "bad magic"},
		"segments that overlap":     {manySegments(good, 60), "more bytes than the file has"},
		"60,000 segments":           {manySegments(good, 60_000), "60000 segments"},
		"a FIFO's worth of symbols": {hugeSymbols(good), "table of symbols"},
		"text":                      {bytes.Repeat([]byte("text"), 100), "bad magic"},
		"cut":                       {good[:len(good)/2], ""},
		"only a header":             {good[:64], ""},
	} {
		if _, err := readBytes(t, c.data); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
}

// manySegments adds program headers that all name the whole file.
func manySegments(data []byte, n int) []byte {
	data = append(bytes.Clone(data), make([]byte, -len(data)&7)...)
	le, at := binary.LittleEndian, uint64(len(data))
	binary.LittleEndian.PutUint64(data[32:], at)
	le.PutUint16(data[56:], uint16(n))
	var b bytes.Buffer
	for range n {
		binary.Write(&b, le, elf.Prog64{Type: uint32(elf.PT_LOAD), Vaddr: 0x400000, Filesz: at, Memsz: at, Align: 4096})
	}
	return append(data, b.Bytes()...)
}

// hugeSymbols claims a table of symbols of 1 GiB.
func hugeSymbols(data []byte) []byte {
	data = bytes.Clone(data)
	le := binary.LittleEndian
	le.PutUint64(data[le.Uint64(data[40:])+2*64+32:], 1<<30)
	return data
}

// FuzzVmlinux: a hostile ELF file is refused, or packed into one that loads the same.
func FuzzVmlinux(f *testing.F) {
	f.Add(makeVmlinuxAt(0x200, testBanner, pvh, buildID)[:0x100])
	good := makeVmlinuxAt(0x200, testBanner, pvh, buildID)
	f.Add(good)
	// once a nil pointer
	binary.LittleEndian.PutUint64(good[binary.LittleEndian.Uint64(good[40:])+64+8:], uint64(elf.SHF_COMPRESSED))
	f.Add(good)
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := readBytes(t, data)
		if err == nil && len(v.Packed) > 2*len(data)+(1<<16)*packPage {
			t.Errorf("%d bytes became %d", len(data), len(v.Packed))
		}
	})
}
