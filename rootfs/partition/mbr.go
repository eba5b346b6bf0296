package partition

import (
	"encoding/binary"

	"github.com/katabuild/katabuild/internal/gpt"
)

// mbrSignature is where a DOS table has the disk's signature. UEFI 2.10, section 5.2.1.
const mbrSignature = 440

// maxMBR is where the 32 bits of a record's start and length end.
const maxMBR = 1 << 32 * sectorSize

// typeLinux is any Linux file system: Kata's images say "ext4" to parted for all, which is this number.
const typeLinux = 0x83

// mbr is a table of partitions, in a sector that lies at an offset of the disk and counts from there.
func mbr(parts []Extent, offset int64, id Identity) []byte {
	b := make([]byte, sectorSize)
	sig := id.derive("signature")
	sig[0] |= 1 // 0 is no signature, and the kernel then has no PARTUUID
	copy(b[mbrSignature:], sig[:4])
	for i, p := range parts {
		gpt.PutRecord(b[gpt.RecordsAt+i*gpt.RecordSize:], typeLinux, (p.Offset-offset)/sectorSize, p.Size/sectorSize)
	}
	gpt.PutMark(b)
	return b
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
