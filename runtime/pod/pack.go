package pod

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/katabuild/katabuild/runtime/sandbox"
)

// A pack is one disk that has all lower layers of an image, for a guest without a place for each: every partition is a
// layer. The tables of partitions are ours, the partitions are the layers' files, and QEMU is told what follows what.

// Sizes of a table of partitions. UEFI Specification 2.10, 5.3.1 to 5.3.3.
const (
	sectorSize    = 512
	gptHeaderSize = 92
	gptEntries    = 128
	gptEntrySize  = 128
	gptTable      = gptEntries * gptEntrySize // 16 KiB: 32 sectors
	gptRevision   = 0x00010000
	mbrRecord     = 446  // where the only partition is described that is seen by who knows no GPT
	mbrProtective = 0xEE // its type
)

// Where the layers are.
const (
	packBegin = 1 << 20 // of the first, in bytes: as programs that partition disks do
	packAlign = 4096    // layers have a whole number of these: a block of EROFS, and a page of the guest
)

// linuxData is the type of a partition with files, 0FC63DAF-8483-4772-8E79-3D69D8477DE4, as it is on the disk: the
// first three parts are little-endian. Discoverable Partitions Specification; UEFI Specification 2.10, appendix A.
var linuxData = [16]byte{0xAF, 0x3D, 0xC6, 0x0F, 0x83, 0x84, 0x72, 0x47, 0x8E, 0x79, 0x3D, 0x69, 0xD8, 0x47, 0x7D, 0xE4}

// errNoPack says that layers cannot be one disk.
var errNoPack = errors.New("the layers cannot be one disk")

// packTables makes what is before and behind partitions of sizes, which are in bytes.
func packTables(sizes []int64) (head, tail []byte, err error) {
	if len(sizes) == 0 || len(sizes) > gptEntries {
		return nil, nil, fmt.Errorf("%w: there are %d, and places for %d", errNoPack, len(sizes), gptEntries)
	}
	le := binary.LittleEndian
	table := make([]byte, gptTable)
	at := uint64(packBegin / sectorSize)
	for i, size := range sizes {
		if size <= 0 || size%packAlign != 0 {
			return nil, nil, fmt.Errorf("%w: one has %d bytes, want a multiple of %d", errNoPack, size, packAlign)
		}
		e := table[i*gptEntrySize:]
		copy(e, linuxData[:])
		copy(e[16:], packID(uint64(i)+1))
		le.PutUint64(e[32:], at)
		at += uint64(size / sectorSize)
		le.PutUint64(e[40:], at-1)
	}
	const tableSectors = gptTable / sectorSize
	last := at + tableSectors // of the disk
	header := func(own, other, table uint64, sum uint32) []byte {
		h := make([]byte, sectorSize)
		copy(h, "EFI PART")
		le.PutUint32(h[8:], gptRevision)
		le.PutUint32(h[12:], gptHeaderSize)
		le.PutUint64(h[24:], own)
		le.PutUint64(h[32:], other)
		le.PutUint64(h[40:], 2+tableSectors) // the first sector for partitions
		le.PutUint64(h[48:], at-1)           // and the last
		copy(h[56:], packID(0))
		le.PutUint64(h[72:], table)
		le.PutUint32(h[80:], gptEntries)
		le.PutUint32(h[84:], gptEntrySize)
		le.PutUint32(h[88:], sum)
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:gptHeaderSize]))
		return h
	}
	sum := crc32.ChecksumIEEE(table)
	head = make([]byte, 2*sectorSize+gptTable) // the rest up to the first partition is a hole
	r := head[mbrRecord:]
	copy(r[1:4], []byte{0x00, 0x02, 0x00}) // cylinder, head and sector of the first sector
	r[4] = mbrProtective
	copy(r[5:8], []byte{0xFF, 0xFF, 0xFF})
	le.PutUint32(r[8:], 1)
	le.PutUint32(r[12:], uint32(min(last, 0xFFFFFFFF)))
	le.PutUint16(head[510:], 0xAA55)
	copy(head[sectorSize:], header(1, last, 2, sum))
	copy(head[2*sectorSize:], table)
	return head, append(table, header(last, 1, at, sum)...), nil
}

// packID is an identifier within a pack: nobody looks for partitions by it, but it must not be zero, nor be there
// twice. RFC 9562, 5.8: version 8 is for own uses.
func packID(n uint64) []byte {
	b := make([]byte, 16)
	copy(b, "kbpk")
	b[7], b[8] = 0x80, 0x80 // version and variant
	binary.BigEndian.PutUint64(b[8:], 0x80<<56|n+1)
	return b
}

// packFile is the first part of a pack in its folder, and what tells it from other disks.
const packFile = "head"

// pack makes the disk of layers in a new folder dir, and returns the path of its first part; packParts has all. Layers
// are files that are not written to. QEMU can have a disk of several files as open ones, but not one of several
// devices.
func pack(dir string, layers []string) (string, error) {
	var sizes []int64
	for _, l := range layers {
		st, err := os.Stat(l)
		if err != nil {
			return "", err
		}
		if !st.Mode().IsRegular() {
			return "", fmt.Errorf("%w: %s is no file", errNoPack, l)
		}
		sizes = append(sizes, st.Size())
	}
	head, tail, err := packTables(sizes)
	if err != nil {
		return "", err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	errs := []error{
		os.WriteFile(filepath.Join(dir, "head"), head, 0o600), os.Truncate(filepath.Join(dir, "head"), packBegin),
		os.WriteFile(filepath.Join(dir, "tail"), tail, 0o600),
	}
	for i, l := range layers {
		errs = append(errs, os.Symlink(l, filepath.Join(dir, strconv.Itoa(i+1))))
	}
	if err := errors.Join(errs...); err != nil {
		return "", errors.Join(fmt.Errorf("one disk of %d layers: %w", len(layers), err), os.RemoveAll(dir))
	}
	return filepath.Join(dir, packFile), nil
}

// packParts are the parts of the pack whose first one is file.
func packParts(file string) ([]sandbox.Part, error) {
	names := []string{packFile}
	dir := filepath.Dir(file)
	for i := 1; i <= gptEntries; i++ {
		name := strconv.Itoa(i)
		if _, err := os.Lstat(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
			break
		}
		names = append(names, name)
	}
	var out []sandbox.Part
	for _, n := range append(names, "tail") {
		path := filepath.Join(dir, n)
		st, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		out = append(out, sandbox.Part{Path: path, Size: st.Size()})
	}
	return out, nil
}
