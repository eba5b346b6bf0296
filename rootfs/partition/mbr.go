package partition

import (
	"encoding/binary"
)

// The DOS partition table. UEFI 2.10, section 5.2.1, "Legacy Master Boot Record": boot code, then at 440 the disk's
// signature, at 446 four records of 16 bytes, at 510 the mark.
const (
	mbrSignature  = 440
	mbrRecords    = 446
	mbrRecordSize = 16
	mbrMark       = 510
	mbrCount      = 4
	// maxMBR is where the 32 bits of a record's start and length end.
	maxMBR = 1 << 32 * sectorSize
	maxCHS = 1024 * 255 * 63
)

// Types of partitions in a record.
const (
	typeLinux      = 0x83 // any Linux file system: Kata's images say "ext4" to parted for all, which is this number
	typeProtective = 0xee // UEFI 2.10, section 5.2.3: the whole disk belongs to a GPT
)

// mbr is a table of partitions, in a sector that lies at an offset of the disk and counts from there.
func mbr(parts []Extent, offset int64, id Identity) []byte {
	b := make([]byte, sectorSize)
	sig := id.derive("signature")
	sig[0] |= 1 // 0 is no signature, and the kernel then has no PARTUUID
	copy(b[mbrSignature:], sig[:4])
	for i, p := range parts {
		putRecord(b[mbrRecords+i*mbrRecordSize:], typeLinux, (p.Offset-offset)/sectorSize, p.Size/sectorSize)
	}
	b[mbrMark], b[mbrMark+1] = 0x55, 0xaa
	return b
}

func putRecord(b []byte, kind byte, start, sectors int64) {
	copy(b[1:], chs(start))
	b[4] = kind
	copy(b[5:], chs(start+sectors-1))
	le.PutUint32(b[8:], uint32(start))
	le.PutUint32(b[12:], uint32(sectors))
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

// The header that makes a disk's first bytes Linux's NVDIMM "pfn" device, whose bytes from daxOffset on are the disk
// the guest sees. Linux: drivers/nvdimm/pfn.h, struct nd_pfn_sb; it lies at 4 KiB.
const (
	pfnOffset = 4 << 10
	pfnSize   = 4 << 10
	daxOffset = 2 * mib // dataoff
	pfnAlign  = 2 * mib // align: a huge page
	pfnSum    = pfnSize - 8
)

const pfnMagic = "NVDIMM_PFN_INFO\x00"

// pfnSuperblock says: version 0.2, mode 1 (the page structs live in memory), data from daxOffset on. Both UUIDs are
// zero, as are those of a namespace without a label, which QEMU's is; the kernel compares them.
func pfnSuperblock() []byte {
	b := make([]byte, pfnSize)
	copy(b, pfnMagic)
	le.PutUint16(b[54:], 2) // version_minor
	le.PutUint64(b[56:], daxOffset)
	le.PutUint32(b[72:], 1) // mode
	le.PutUint32(b[84:], pfnAlign)
	le.PutUint64(b[pfnSum:], fletcher64(b[:pfnSum]))
	return b
}

// fletcher64 is the kernel's checksum of NVDIMM structures: a sum of 32-bit words, and a sum of those sums. The eight
// bytes of the checksum itself count as two zero words.
func fletcher64(b []byte) uint64 {
	var lo uint32
	var hi uint64
	for ; len(b) > 0; b = b[4:] {
		lo += binary.LittleEndian.Uint32(b)
		hi += uint64(lo)
	}
	hi += 2 * uint64(lo)
	return hi<<32 | uint64(lo)
}
