// Package gpt writes and reads the tables by which disks name their partitions: the GUID partition table, and of the
// DOS table what both have in common.
//
// Tables are values; bytes come from them and give them back. What lies in the partitions is not known here. The source
// of all numbers is the UEFI Specification 2.10, chapter 5.
package gpt

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"unicode/utf16"
)

// SectorSize is that of all disks here, in bytes.
const SectorSize = 512

// The GUID partition table. Section 5.3.
const (
	// Entries is how many partitions a table has room for that is written here: the least that UEFI allows.
	Entries = 128
	// FirstUsable is the first sector that a partition may have: behind the protective DOS table, the header and the
	// entries.
	FirstUsable = 2 + arraySize/SectorSize
	// StartSize and EndSize are what the tables take at the disk's start and at its end, in bytes.
	StartSize = FirstUsable * SectorSize
	EndSize   = arraySize + SectorSize

	signature  = "EFI PART"
	revision   = 0x00010000
	headerSize = 92
	entrySize  = 128
	arraySize  = Entries * entrySize // 16 KiB
	nameLength = 36                  // UTF-16 units
	maxEntries = 1024                // bounds what is read before anything is known to be right
)

// Fields of a header, by their offsets in it. Table 5-5.
const (
	headerRevision   = 8
	headerLength     = 12
	headerSum        = 16 // of the header, with this field as zero
	headerHere       = 24 // the sector of this header
	headerOther      = 32 // and of the other one
	headerFirst      = 40 // usable sectors: the first
	headerLast       = 48 // and the last
	headerDisk       = 56
	headerArray      = 72 // the sector where the entries begin
	headerEntries    = 80
	headerEntrySize  = 84
	headerEntriesSum = 88
)

// Fields of an entry, by their offsets in it. Table 5-6.
const (
	entryID         = 16
	entryFirst      = 32
	entryLast       = 40 // the last sector, not the one behind it
	entryAttributes = 48
	entryName       = 56
)

var le = binary.LittleEndian

// GUID is a GUID in the order of its text, which is not that of its bytes on a disk.
type GUID [16]byte

func (g GUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", g[:4], g[4:6], g[6:8], g[8:10], g[10:])
}

// OnDisk goes from one order to the other, either way. Appendix A: on a disk the first three fields are little-endian.
func (g GUID) OnDisk() GUID {
	slices.Reverse(g[:4])
	slices.Reverse(g[4:6])
	slices.Reverse(g[6:8])
	return g
}

// MustGUID reads a GUID that stands in the code.
func MustGUID(s string) GUID {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != 16 {
		panic("gpt: GUID " + s)
	}
	return GUID(b)
}

// Entry is one partition.
type Entry struct {
	Type, ID    GUID
	First, Last int64 // sectors
	Attributes  uint64
	Name        string // at most 36 units of UTF-16
}

// Free says whether the entry is none.
func (e Entry) Free() bool { return e.Type == GUID{} }

// Table is what a disk's table says.
type Table struct {
	Disk    GUID
	Sectors int64   // of the disk
	Entries []Entry // the i-th is partition i+1, unless it is free; at most Entries are written
	// First and Last are the usable sectors, as they were read; what is written has all that the tables leave.
	First, Last int64
}

// Bytes are what the table takes at the start of the disk, StartSize bytes, and at its end, EndSize bytes. The caller
// knows that the partitions lie between them.
func (t Table) Bytes() (start, end []byte) {
	array := make([]byte, arraySize)
	for i, p := range t.Entries {
		if p.Free() {
			continue
		}
		e := array[i*entrySize:]
		kind, id := p.Type.OnDisk(), p.ID.OnDisk()
		copy(e, kind[:])
		copy(e[entryID:], id[:])
		le.PutUint64(e[entryFirst:], uint64(p.First))
		le.PutUint64(e[entryLast:], uint64(p.Last))
		le.PutUint64(e[entryAttributes:], p.Attributes)
		for j, u := range utf16.Encode([]rune(p.Name)) {
			le.PutUint16(e[entryName+2*j:], u)
		}
	}
	header := func(here, other, at int64) []byte {
		h := make([]byte, SectorSize)
		copy(h, signature)
		le.PutUint32(h[headerRevision:], revision)
		le.PutUint32(h[headerLength:], headerSize)
		le.PutUint64(h[headerHere:], uint64(here))
		le.PutUint64(h[headerOther:], uint64(other))
		le.PutUint64(h[headerFirst:], FirstUsable)
		le.PutUint64(h[headerLast:], uint64(t.Sectors-FirstUsable)) // one before the backup's entries
		g := t.Disk.OnDisk()
		copy(h[headerDisk:], g[:])
		le.PutUint64(h[headerArray:], uint64(at))
		le.PutUint32(h[headerEntries:], Entries)
		le.PutUint32(h[headerEntrySize:], entrySize)
		le.PutUint32(h[headerEntriesSum:], crc32.ChecksumIEEE(array))
		le.PutUint32(h[headerSum:], crc32.ChecksumIEEE(h[:headerSize]))
		return h
	}
	start = slices.Concat(protective(t.Sectors), header(1, t.Sectors-1, 2), array)
	return start, slices.Concat(array, header(t.Sectors-1, 1, t.Sectors-FirstUsable+1))
}

// protective is the DOS table that keeps programs off which know no GPT. Section 5.2.3.
func protective(sectors int64) []byte {
	b := make([]byte, SectorSize)
	r := b[RecordsAt:]
	PutRecord(r, TypeProtective, 1, min(sectors-1, 1<<32-1))
	if sectors > maxCHS {
		copy(r[5:], "\xff\xff\xff") // table 5-4: what cannot be said is all ones here
	}
	PutMark(b)
	return b
}

// ErrTable is the cause where a disk's tables contradict the specification, each other or the disk's size.
var ErrTable = errors.New("damaged partition table")

// Damaged is an ErrTable that says more.
func Damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrTable, fmt.Sprintf(format, args...))
}
