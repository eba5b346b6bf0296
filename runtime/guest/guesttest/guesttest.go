// Package guesttest makes kernels' files for tests: just the bytes that tell what they are, and none that run.
package guesttest

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

// At is a file of n bytes with words at offsets.
func At(n int, words map[int]string) []byte {
	b := make([]byte, n)
	for i, w := range words {
		copy(b[i:], w)
	}
	return b
}

// BzImage has what the boot protocol says of a 64-bit kernel.
func BzImage(version uint16, flags byte) []byte {
	b := At(1024, map[int]string{0x1fe: "\x55\xaa", 0x202: "HdrS"})
	binary.LittleEndian.PutUint16(b[0x206:], version)
	b[0x236] = flags
	return b
}

// ELF is an ELF of a machine, with one segment of notes.
func ELF(m elf.Machine, order binary.ByteOrder, notes string) []byte {
	var b bytes.Buffer
	data := byte(elf.ELFDATA2LSB)
	if order == binary.ByteOrder(binary.BigEndian) {
		data = byte(elf.ELFDATA2MSB)
	}
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(m), Version: 1, Phoff: 64, Ehsize: 64, Phentsize: 56,
		Phnum: 1, Shentsize: 64}
	copy(h.Ident[:], "\x7fELF\x02"+string(data)+"\x01")
	p := elf.Prog64{Type: uint32(elf.PT_NOTE), Off: 64 + 56, Filesz: uint64(len(notes)), Memsz: uint64(len(notes))}
	for _, v := range []any{h, p} {
		if err := binary.Write(&b, order, v); err != nil {
			panic(err)
		}
	}
	b.WriteString(notes)
	return b.Bytes()
}
