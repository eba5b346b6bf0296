package partition

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"unicode/utf16"
)

// Disk is what the tables of an image say.
type Disk struct {
	Kind       Kind
	ID         string // the disk's GUID, or a DOS table's signature in 8 hexadecimal digits; empty on Bare
	Partitions []Partition
}

// Partition is one entry of a table.
type Partition struct {
	Extent
	Number     int    // from 1, as in /dev/vda1
	Type       string // a GUID, or a DOS table's number in 2 hexadecimal digits
	UUID       string // as PARTUUID= takes it
	Name       string // of GPT
	Attributes uint64 // of GPT
}

// ErrTable is the cause where a disk's tables contradict the specification, each other or the disk's size.
var ErrTable = errors.New("damaged partition table")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrTable, fmt.Sprintf(format, args...))
}

// Read reads the tables of an image of size bytes. It is Bare where there is none: whether it then holds a file system
// is for others to say. Extended partitions, hybrid tables and sectors other than 512 bytes are not read. Every
// partition returned lies inside the image, behind the tables, and none overlaps another.
func Read(r io.ReaderAt, size int64) (Disk, error) {
	d, err := read(r, size)
	if err != nil {
		return Disk{}, fmt.Errorf("disk: %w", err)
	}
	return d, nil
}

func read(r io.ReaderAt, size int64) (d Disk, err error) {
	head := make([]byte, min(max(size, 0), pfnOffset+pfnSize))
	if err := readAt(r, head, 0); err != nil {
		return d, err
	}
	if len(head) < sectorSize || head[mbrMark] != 0x55 || head[mbrMark+1] != 0xaa {
		return Disk{Kind: Bare}, nil
	}
	first, err := readMBR(head, 0, size)
	if err != nil {
		return d, err
	}
	if slices.ContainsFunc(first.Partitions, func(p Partition) bool {
		return p.Type == fmt.Sprintf("%02x",
			typeProtective)
	}) {
		if len(first.Partitions) != 1 {
			return d, errors.New("a hybrid table, DOS and GPT at once, is not read")
		}
		return readGPT(r, size)
	}
	if len(head) < pfnOffset+pfnSize || string(head[pfnOffset:pfnOffset+len(pfnMagic)]) != pfnMagic {
		return first, nil
	}
	if !bytes.Equal(head[pfnOffset:], pfnSuperblock()) {
		pfn := head[pfnOffset:]
		if got, want := le.Uint64(pfn[pfnSum:]), fletcher64(pfn[:pfnSum]); got != want {
			return d, damaged("DAX header: checksum %016x, want %016x", got, want)
		}
		return d, errors.New("DAX header is not one of Kata's images: version 0.2, mode 1, data at 2 MiB, no UUIDs")
	}
	inner := make([]byte, sectorSize)
	if err := readAt(r, inner, daxOffset); err != nil {
		return d, err
	}
	second, err := readMBR(inner, daxOffset, size)
	if err != nil {
		return d, fmt.Errorf("behind the DAX header: %w", err)
	}
	// Guests with NVDIMM see the second, others the first. Kata's own tools can write two that differ.
	same := func(a, b Partition) bool { return a.Extent == b.Extent && a.Number == b.Number && a.Type == b.Type }
	if !slices.EqualFunc(first.Partitions, second.Partitions, same) {
		return d, damaged("the tables before and behind the DAX header name other partitions: %v and %v",
			first.Partitions, second.Partitions)
	}
	first.Kind = MBRDAX
	return first, nil
}

func readAt(r io.ReaderAt, b []byte, at int64) error {
	if n, err := r.ReadAt(b, at); n < len(b) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read at %d: %w", at+int64(n), err)
	}
	return nil
}

// readMBR reads the table in a sector that lies at an offset of the disk and counts from there.
func readMBR(b []byte, offset, size int64) (Disk, error) {
	d := Disk{Kind: MBR, ID: fmt.Sprintf("%08x", le.Uint32(b[mbrSignature:]))}
	if b[mbrMark] != 0x55 || b[mbrMark+1] != 0xaa {
		return d, damaged("no DOS table at %d", offset)
	}
	for i := range mbrCount {
		rec := b[mbrRecords+i*mbrRecordSize:][:mbrRecordSize]
		switch kind := rec[4]; {
		case kind == 0:
			continue
		case kind == 0x05 || kind == 0x0f || kind == 0x85:
			return d, fmt.Errorf("partition %d: extended partitions are not read", i+1)
		case rec[0] != 0 && rec[0] != 0x80:
			return d, damaged("partition %d: status %#02x", i+1, rec[0])
		}
		start, count := int64(le.Uint32(rec[8:])), int64(le.Uint32(rec[12:]))
		if rec[4] == typeProtective { // may say that the disk is larger than it is
			count = min(count, size/sectorSize-start)
		}
		d.Partitions = append(d.Partitions, Partition{
			Number: i + 1,
			Extent: Extent{offset + start*sectorSize, count * sectorSize},
			Type:   fmt.Sprintf("%02x", rec[4]),
			UUID:   fmt.Sprintf("%s-%02d", d.ID, i+1),
		})
	}
	return d, checkExtents(d.Partitions, Extent{offset + sectorSize, size - offset - sectorSize})
}

// checkExtents wants every partition inside, and none in another.
func checkExtents(parts []Partition, inside Extent) error {
	sorted := slices.SortedFunc(slices.Values(parts),
		func(a, b Partition) int { return int(min(1, max(-1, a.Offset-b.Offset))) })
	at := inside.Offset
	for _, p := range sorted {
		switch {
		case p.Size <= 0:
			return damaged("partition %d is empty", p.Number)
		case p.Offset < inside.Offset || p.End() > inside.End():
			return damaged("partition %d from %d to %d: want it between %d and %d", p.Number, p.Offset, p.End(),
				inside.Offset, inside.End())
		case p.Offset < at:
			return damaged("partition %d begins at %d, where another lies", p.Number, p.Offset)
		}
		at = p.End()
	}
	return nil
}

// gptTable is one of a disk's two headers, with its entries.
type gptTable struct {
	header  []byte
	entries []byte
}

func (t gptTable) u64(at int) uint64 { return le.Uint64(t.header[at:]) }

func readGPT(r io.ReaderAt, size int64) (d Disk, err error) {
	sectors := uint64(size / sectorSize)
	primary, err := readGPTTable(r, 1, sectors)
	if err != nil {
		return d, err
	}
	backup, err := readGPTTable(r, primary.u64(32), sectors)
	if err != nil {
		return d, fmt.Errorf("backup: %w", err)
	}
	// All that may differ: whose header it is, where the entries lie, and so the header's checksum.
	for _, f := range [][2]int{{0, 16}, {40, 72}, {80, 92}} {
		if !bytes.Equal(primary.header[f[0]:f[1]], backup.header[f[0]:f[1]]) {
			return d, damaged("GPT header and its backup differ between bytes %d and %d", f[0], f[1])
		}
	}
	if backup.u64(32) != 1 || !bytes.Equal(primary.entries, backup.entries) {
		return d, damaged("GPT and its backup differ")
	}
	first, last := primary.u64(40), primary.u64(48)
	arrayEnd := primary.u64(72) + uint64(len(primary.entries)+sectorSize-1)/sectorSize
	if first < arrayEnd || last >= backup.u64(72) || first > last+1 {
		return d, damaged("GPT: usable sectors %d to %d reach into the tables", first, last)
	}
	d = Disk{Kind: GPT, ID: GUID(primary.header[56:72]).swap().String()}
	entrySize := int(le.Uint32(primary.header[84:]))
	for i := 0; len(primary.entries) > 0; i++ {
		e := primary.entries[:entrySize]
		primary.entries = primary.entries[entrySize:]
		if GUID(e[:16]) == (GUID{}) {
			continue
		}
		start, end := le.Uint64(e[32:]), le.Uint64(e[40:])
		if start < first || end > last || end < start {
			return d, damaged("partition %d: sectors %d to %d: want them between %d and %d", i+1, start, end, first,
				last)
		}
		units := make([]uint16, 0, gptNameLength)
		for j := range gptNameLength {
			u := le.Uint16(e[56+2*j:])
			if u == 0 {
				break
			}
			units = append(units, u)
		}
		d.Partitions = append(d.Partitions, Partition{
			Number: i + 1, Extent: Extent{int64(start) * sectorSize, int64(end-start+1) * sectorSize},
			Type: GUID(e[:16]).swap().String(), UUID: GUID(e[16:32]).swap().String(),
			Name: string(utf16.Decode(units)), Attributes: le.Uint64(e[48:]),
		})
	}
	return d, checkExtents(d.Partitions, Extent{int64(first) * sectorSize, int64(last-first+1) * sectorSize})
}

// maxEntries bounds what is read before anything is known to be right. Everybody writes 128.
const maxEntries = 1024

func readGPTTable(r io.ReaderAt, at, sectors uint64) (t gptTable, err error) {
	if at < 1 || at >= sectors {
		return t, damaged("GPT header at sector %d of %d", at, sectors)
	}
	t.header = make([]byte, sectorSize)
	if err := readAt(r, t.header, int64(at)*sectorSize); err != nil {
		return t, err
	}
	h := t.header
	length, count, entrySize := le.Uint32(h[12:]), le.Uint32(h[80:]), le.Uint32(h[84:])
	switch {
	case string(h[:8]) != gptSignature:
		return t, damaged("no GPT header at sector %d", at)
	case le.Uint32(h[8:]) != gptRevision || length != gptHeaderSize:
		return t, damaged("GPT header of revision %#x and %d bytes: want %#x and %d", le.Uint32(h[8:]), length,
			gptRevision, gptHeaderSize)
	case t.u64(24) != at:
		return t, damaged("GPT header at sector %d says it is at %d", at, t.u64(24))
	case entrySize != gptEntrySize || count < 1 || count > maxEntries:
		return t, damaged("GPT of %d entries of %d bytes: want at most %d of %d", count, entrySize, maxEntries,
			gptEntrySize)
	}
	sum := le.Uint32(h[16:])
	le.PutUint32(h[16:], 0)
	if got := crc32.ChecksumIEEE(h[:length]); got != sum {
		return t, damaged("GPT header at sector %d: checksum %08x, want %08x", at, sum, got)
	}
	t.entries = make([]byte, count*entrySize)
	array := t.u64(72)
	if array < 2 || array >= sectors || uint64(len(t.entries)) > (sectors-array)*sectorSize {
		return t, damaged("GPT entries at sector %d of %d", array, sectors)
	}
	if err := readAt(r, t.entries, int64(array)*sectorSize); err != nil {
		return t, err
	}
	if got, want := crc32.ChecksumIEEE(t.entries), le.Uint32(h[88:]); got != want {
		return t, damaged("GPT entries at sector %d: checksum %08x, want %08x", array, want, got)
	}
	return t, nil
}
