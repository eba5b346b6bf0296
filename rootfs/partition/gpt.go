package partition

import (
	"fmt"
	"hash/crc32"
	"slices"
	"unicode/utf16"
)

// The GUID partition table. UEFI 2.10, section 5.3.
const (
	gptSignature  = "EFI PART"
	gptRevision   = 0x00010000
	gptHeaderSize = 92
	gptEntrySize  = 128
	gptEntries    = 128
	gptArraySize  = gptEntries * gptEntrySize // 16 KiB, the least that UEFI allows
	gptNameLength = 36                        // UTF-16 units
	gptFirst      = 2 + gptArraySize/sectorSize
	// gptBackup is what the table at the disk's end takes: the entries, then the header.
	gptBackup = gptArraySize + sectorSize
	// gptReadOnly is bit 60 of a partition's attributes. Discoverable Partitions Specification, "Partition Flags".
	gptReadOnly = 1 << 60
)

// rootType is how the Discoverable Partitions Specification marks the root partition of one architecture. Its table
// "Defined Partition Type UUIDs" has them; names are those systemd-repart gives such partitions.
type rootType struct {
	arch         string // as in uname -m
	name         string
	root, verity GUID
}

func rootTypes(arch string) (rootType, error) {
	table := []rootType{
		{"aarch64", "root-arm64", mustGUID("b921b045-1df0-41c3-af44-4c6f280d3fae"),
			mustGUID("df3300ce-d69f-4c92-978c-9bfb0f38d820")},
		{"ppc64le", "root-ppc64-le", mustGUID("c31c45e6-3f39-412e-80fb-4809c4980599"),
			mustGUID("906bd944-4589-4aae-a4e4-dd983917446a")},
		{"riscv64", "root-riscv64", mustGUID("72ec70a6-cf74-40e6-bd49-4bda08e8f224"),
			mustGUID("b6ed5582-440b-4209-b8da-5ff7c419ea3d")},
		{"s390x", "root-s390x", mustGUID("5eead9a9-fe09-4a1e-a1d7-520d00531306"),
			mustGUID("b325bfbe-c7be-4ab8-8357-139e652d2f6b")},
		{"x86_64", "root-x86-64", mustGUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"),
			mustGUID("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5")},
	}
	i := slices.IndexFunc(table, func(r rootType) bool { return r.arch == arch })
	if i < 0 {
		return rootType{}, fmt.Errorf("architecture %q has no partition type", arch)
	}
	return table[i], nil
}

// gpt is the protective MBR, the table at the start and its backup at the end.
func (l Layout) gpt(id Identity) []piece {
	sectors := l.Size / sectorSize
	types, err := rootTypes(l.Arch)
	if err != nil {
		panic(err) // Plan has asked
	}
	entries := make([]byte, gptArraySize)
	for i, p := range l.partitions() {
		e := entries[i*gptEntrySize:]
		// "the root partition's UUID is the first 128 bits of the root hash and the verity partition's the last": what
		// finds the one finds the other. Without a hash tree an identity is as good.
		kind, uuid, name := types.root, GUID(id[:16]), types.name
		if i == 1 {
			kind, uuid, name = types.verity, GUID(id[16:]), types.name+"-verity"
		}
		kind, uuid = kind.swap(), uuid.swap()
		copy(e, kind[:])
		copy(e[16:], uuid[:])
		le.PutUint64(e[32:], uint64(p.Offset/sectorSize))
		le.PutUint64(e[40:], uint64(p.End()/sectorSize-1)) // the last sector, not the one behind it
		le.PutUint64(e[48:], gptReadOnly)
		for j, u := range utf16.Encode([]rune(name)) {
			le.PutUint16(e[56+2*j:], u)
		}
	}
	disk := GUID(id.derive("guid"))
	disk[6] = disk[6]&0x0f | 8<<4 // RFC 9562: version 8, made by rules of one's own
	disk[8] = disk[8]&0x3f | 0x80
	header := func(here, other, array int64) []byte {
		h := make([]byte, sectorSize)
		copy(h, gptSignature)
		le.PutUint32(h[8:], gptRevision)
		le.PutUint32(h[12:], gptHeaderSize)
		le.PutUint64(h[24:], uint64(here))
		le.PutUint64(h[32:], uint64(other))
		le.PutUint64(h[40:], gptFirst)
		le.PutUint64(h[48:], uint64(sectors-gptFirst)) // last usable: one before the backup's entries
		g := disk.swap()
		copy(h[56:], g[:])
		le.PutUint64(h[72:], uint64(array))
		le.PutUint32(h[80:], gptEntries)
		le.PutUint32(h[84:], gptEntrySize)
		le.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:gptHeaderSize]))
		return h
	}
	protective := make([]byte, sectorSize)
	putRecord(protective[mbrRecords:], typeProtective, 1, min(sectors-1, 1<<32-1))
	if sectors > maxCHS {
		copy(protective[mbrRecords+5:], "\xff\xff\xff") // UEFI 2.10, table 5-4: what cannot be said is all ones here
	}
	protective[mbrMark], protective[mbrMark+1] = 0x55, 0xaa
	start := slices.Concat(protective, header(1, sectors-1, 2), entries)
	end := slices.Concat(entries, header(sectors-1, 1, sectors-gptFirst+1))
	return []piece{{0, start}, {l.Size - int64(len(end)), end}}
}
