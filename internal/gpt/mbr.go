package gpt

import ()

// The DOS partition table. Section 5.2.1, "Legacy Master Boot Record": at 446 four records of 16 bytes, at 510 the
// mark. Both tables have the mark.
const (
	RecordsAt  = 446
	RecordSize = 16
	Records    = 4

	markAt = 510
	maxCHS = 1024 * 255 * 63
)

// Fields of a record, by their offsets in it. Table 5-2.
const (
	recordStart = 1 // in cylinders, heads and sectors
	recordType  = 4
	recordEnd   = 5
	recordFirst = 8 // the first sector
	recordCount = 12
)

// TypeProtective is the type of the record that says that the whole disk belongs to a GPT. Section 5.2.3.
const TypeProtective = 0xee

// mark is what both tables have at markAt.
const mark = "\x55\xaa"

// Marked says whether a disk whose first sector is b has a partition table.
func Marked(b []byte) bool {
	return len(b) >= SectorSize && string(b[markAt:markAt+len(mark)]) == mark
}

// PutMark makes b, a disk's first sector, that of a partition table.
func PutMark(b []byte) { copy(b[markAt:], mark) }

// FirstSector is where the first partition of the DOS table in b begins.
func FirstSector(b []byte) int64 { return int64(le.Uint32(b[RecordsAt+recordFirst:])) }

// PutRecord writes a record of the DOS table: a partition's type, first sector and number of sectors.
func PutRecord(b []byte, kind byte, first, count int64) {
	copy(b[recordStart:], chs(first))
	b[recordType] = kind
	copy(b[recordEnd:], chs(first+count-1))
	le.PutUint32(b[recordFirst:], uint32(first))
	le.PutUint32(b[recordCount:], uint32(count))
}

// chs is a sector's address in cylinders, heads and sectors, for 255 heads and 63 sectors as everybody assumes, or the
// largest there is.
func chs(sector int64) []byte {
	if sector >= maxCHS {
		return []byte{0xfe, 0xff, 0xff}
	}
	c, h, s := sector/(255*63), sector/63%255, sector%63+1
	return []byte{byte(h), byte(s) | byte(c>>8<<6), byte(c)}
}
