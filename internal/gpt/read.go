package gpt

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"
)

// half is one of a disk's two headers, with its entries.
type half struct{ header, entries []byte }

func (t half) u64(at int) uint64 { return le.Uint64(t.header[at:]) }

// Read reads the table of a disk of size bytes, whose protective DOS table is not looked at, and its backup, which must
// say the same. Every partition lies within the usable sectors; some may overlap.
func Read(r io.ReaderAt, size int64) (Table, error) {
	sectors := uint64(size / SectorSize)
	primary, err := readHalf(r, 1, sectors)
	if err != nil {
		return Table{}, err
	}
	backup, err := readHalf(r, primary.u64(headerOther), sectors)
	if err != nil {
		return Table{}, fmt.Errorf("backup: %w", err)
	}
	// All that may differ: whose header it is, where the entries lie, and so the header's checksum.
	for _, f := range [][2]int{{0, headerSum}, {headerFirst, headerArray}, {headerEntries, headerSize}} {
		if !bytes.Equal(primary.header[f[0]:f[1]], backup.header[f[0]:f[1]]) {
			return Table{}, Damaged("GPT header and its backup differ between bytes %d and %d", f[0], f[1])
		}
	}
	if backup.u64(headerOther) != 1 || !bytes.Equal(primary.entries, backup.entries) {
		return Table{}, Damaged("GPT and its backup differ")
	}
	first, last := primary.u64(headerFirst), primary.u64(headerLast)
	arrayEnd := primary.u64(headerArray) + uint64(len(primary.entries)+SectorSize-1)/SectorSize
	if first < arrayEnd || last >= backup.u64(headerArray) || first > last+1 {
		return Table{}, Damaged("GPT: usable sectors %d to %d reach into the tables", first, last)
	}
	t := Table{Disk: GUID(primary.header[headerDisk : headerDisk+16]).OnDisk(), Sectors: int64(sectors),
		First: int64(first), Last: int64(last)}
	for i := 0; i < len(primary.entries); i += entrySize {
		e := primary.entries[i : i+entrySize]
		if GUID(e[:16]) == (GUID{}) {
			t.Entries = append(t.Entries, Entry{})
			continue
		}
		start, end := le.Uint64(e[entryFirst:]), le.Uint64(e[entryLast:])
		if start < first || end > last || end < start {
			return Table{}, Damaged("partition %d: sectors %d to %d: want them between %d and %d", i/entrySize+1,
				start, end, first, last)
		}
		t.Entries = append(t.Entries, Entry{Type: GUID(e[:16]).OnDisk(), ID: GUID(e[entryID : entryID+16]).OnDisk(),
			First: int64(start), Last: int64(end), Attributes: le.Uint64(e[entryAttributes:]), Name: name(e)})
	}
	return t, nil
}

// name is that of an entry.
func name(e []byte) string {
	units := make([]uint16, 0, nameLength)
	for j := range nameLength {
		u := le.Uint16(e[entryName+2*j:])
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}

func readHalf(r io.ReaderAt, at, sectors uint64) (t half, err error) {
	if at < 1 || at >= sectors {
		return t, Damaged("GPT header at sector %d of %d", at, sectors)
	}
	t.header = make([]byte, SectorSize)
	if err := ReadAt(r, t.header, int64(at)*SectorSize); err != nil {
		return t, err
	}
	h := t.header
	length, count, each := le.Uint32(h[headerLength:]), le.Uint32(h[headerEntries:]), le.Uint32(h[headerEntrySize:])
	switch {
	case string(h[:len(signature)]) != signature:
		return t, Damaged("no GPT header at sector %d", at)
	case le.Uint32(h[headerRevision:]) != revision || length != headerSize:
		return t, Damaged("GPT header of revision %#x and %d bytes: want %#x and %d", le.Uint32(h[headerRevision:]),
			length, revision, headerSize)
	case t.u64(headerHere) != at:
		return t, Damaged("GPT header at sector %d says it is at %d", at, t.u64(headerHere))
	case each != entrySize || count < 1 || count > maxEntries:
		return t, Damaged("GPT of %d entries of %d bytes: want at most %d of %d", count, each, maxEntries, entrySize)
	}
	sum := le.Uint32(h[headerSum:])
	le.PutUint32(h[headerSum:], 0)
	if got := crc32.ChecksumIEEE(h[:length]); got != sum {
		return t, Damaged("GPT header at sector %d: checksum %08x, want %08x", at, sum, got)
	}
	t.entries = make([]byte, count*each)
	array := t.u64(headerArray)
	if array < 2 || array >= sectors || uint64(len(t.entries)) > (sectors-array)*SectorSize {
		return t, Damaged("GPT entries at sector %d of %d", array, sectors)
	}
	if err := ReadAt(r, t.entries, int64(array)*SectorSize); err != nil {
		return t, err
	}
	if got, want := crc32.ChecksumIEEE(t.entries), le.Uint32(h[headerEntriesSum:]); got != want {
		return t, Damaged("GPT entries at sector %d: checksum %08x, want %08x", array, want, got)
	}
	return t, nil
}

// ReadAt fills b from an offset of a disk. A disk that ends within it is an io.ErrUnexpectedEOF.
func ReadAt(r io.ReaderAt, b []byte, at int64) error {
	if n, err := r.ReadAt(b, at); n < len(b) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read at %d: %w", at+int64(n), err)
	}
	return nil
}
