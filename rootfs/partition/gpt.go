package partition

import (
	"fmt"
	"slices"

	"github.com/katabuild/katabuild/internal/gpt"
)

// gptReadOnly is bit 60 of a partition's attributes. Discoverable Partitions Specification, "Partition Flags".
const gptReadOnly = 1 << 60

// rootType is how the Discoverable Partitions Specification marks the root partition of one architecture. Its table
// "Defined Partition Type UUIDs" has them; names are those systemd-repart gives such partitions.
type rootType struct {
	arch         string // as in uname -m
	name         string
	root, verity gpt.GUID
}

func rootTypes(arch string) (rootType, error) {
	table := []rootType{
		{"aarch64", "root-arm64", gpt.MustGUID("b921b045-1df0-41c3-af44-4c6f280d3fae"),
			gpt.MustGUID("df3300ce-d69f-4c92-978c-9bfb0f38d820")},
		{"ppc64le", "root-ppc64-le", gpt.MustGUID("c31c45e6-3f39-412e-80fb-4809c4980599"),
			gpt.MustGUID("906bd944-4589-4aae-a4e4-dd983917446a")},
		{"riscv64", "root-riscv64", gpt.MustGUID("72ec70a6-cf74-40e6-bd49-4bda08e8f224"),
			gpt.MustGUID("b6ed5582-440b-4209-b8da-5ff7c419ea3d")},
		{"s390x", "root-s390x", gpt.MustGUID("5eead9a9-fe09-4a1e-a1d7-520d00531306"),
			gpt.MustGUID("b325bfbe-c7be-4ab8-8357-139e652d2f6b")},
		{"x86_64", "root-x86-64", gpt.MustGUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"),
			gpt.MustGUID("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5")},
	}
	i := slices.IndexFunc(table, func(r rootType) bool { return r.arch == arch })
	if i < 0 {
		return rootType{}, fmt.Errorf("architecture %q has no partition type", arch)
	}
	return table[i], nil
}

// gpt is the protective MBR, the table at the start and its backup at the end.
func (l Layout) gpt(id Identity) []piece {
	types, err := rootTypes(l.Arch)
	if err != nil {
		panic(err) // Plan has asked
	}
	disk := gpt.GUID(id.derive("guid"))
	disk[6] = disk[6]&0x0f | 8<<4 // RFC 9562: version 8, made by rules of one's own
	disk[8] = disk[8]&0x3f | 0x80
	t := gpt.Table{Disk: disk, Sectors: l.Size / sectorSize}
	for i, p := range l.partitions() {
		// "the root partition's UUID is the first 128 bits of the root hash and the verity partition's the last": what
		// finds the one finds the other. Without a hash tree an identity is as good.
		e := gpt.Entry{Type: types.root, ID: gpt.GUID(id[:16]), Name: types.name}
		if i == 1 {
			e = gpt.Entry{Type: types.verity, ID: gpt.GUID(id[16:]), Name: types.name + "-verity"}
		}
		e.First, e.Last, e.Attributes = p.Offset/sectorSize, p.end()/sectorSize-1, gptReadOnly
		t.Entries = append(t.Entries, e)
	}
	start, end := t.Bytes()
	return []piece{{0, start}, {l.Size - int64(len(end)), end}}
}
