package partition

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/katabuild/katabuild/internal/gpt"
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
	if err := gpt.ReadAt(r, head, 0); err != nil {
		return d, err
	}
	if !gpt.Marked(head) {
		return Disk{Kind: Bare}, nil
	}
	first, err := readMBR(head, 0, size)
	if err != nil {
		return d, err
	}
	if slices.ContainsFunc(first.Partitions, func(p Partition) bool {
		return p.Type == fmt.Sprintf("%02x", gpt.TypeProtective)
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
			return d, gpt.Damaged("DAX header: checksum %016x, want %016x", got, want)
		}
		return d, errors.New("DAX header is not one of Kata's images: version 0.2, mode 1, data at 2 MiB, no UUIDs")
	}
	inner := make([]byte, sectorSize)
	if err := gpt.ReadAt(r, inner, daxOffset); err != nil {
		return d, err
	}
	second, err := readMBR(inner, daxOffset, size)
	if err != nil {
		return d, fmt.Errorf("behind the DAX header: %w", err)
	}
	// Guests with NVDIMM see the second, others the first. Kata's own tools can write two that differ.
	same := func(a, b Partition) bool { return a.Extent == b.Extent && a.Number == b.Number && a.Type == b.Type }
	if !slices.EqualFunc(first.Partitions, second.Partitions, same) {
		return d, gpt.Damaged("the tables before and behind the DAX header name other partitions: %v and %v",
			first.Partitions, second.Partitions)
	}
	first.Kind = MBRDAX
	return first, nil
}

// readMBR reads the table in a sector that lies at an offset of the disk and counts from there.
func readMBR(b []byte, offset, size int64) (Disk, error) {
	d := Disk{Kind: MBR, ID: fmt.Sprintf("%08x", le.Uint32(b[mbrSignature:]))}
	if !gpt.Marked(b) {
		return d, gpt.Damaged("no DOS table at %d", offset)
	}
	for i := range gpt.Records {
		rec := b[gpt.RecordsAt+i*gpt.RecordSize:][:gpt.RecordSize]
		switch kind := rec[4]; {
		case kind == 0:
			continue
		case kind == 0x05 || kind == 0x0f || kind == 0x85:
			return d, fmt.Errorf("partition %d: extended partitions are not read", i+1)
		case rec[0] != 0 && rec[0] != 0x80:
			return d, gpt.Damaged("partition %d: status %#02x", i+1, rec[0])
		}
		start, count := int64(le.Uint32(rec[8:])), int64(le.Uint32(rec[12:]))
		if rec[4] == gpt.TypeProtective { // may say that the disk is larger than it is
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
			return gpt.Damaged("partition %d is empty", p.Number)
		case p.Offset < inside.Offset || p.end() > inside.end():
			return gpt.Damaged("partition %d from %d to %d: want it between %d and %d", p.Number, p.Offset, p.end(),
				inside.Offset, inside.end())
		case p.Offset < at:
			return gpt.Damaged("partition %d begins at %d, where another lies", p.Number, p.Offset)
		}
		at = p.end()
	}
	return nil
}

func readGPT(r io.ReaderAt, size int64) (Disk, error) {
	t, err := gpt.Read(r, size)
	if err != nil {
		return Disk{}, err
	}
	d := Disk{Kind: GPT, ID: t.Disk.String()}
	for i, e := range t.Entries {
		if e.Free() {
			continue
		}
		d.Partitions = append(d.Partitions, Partition{
			Number: i + 1, Extent: Extent{e.First * sectorSize, (e.Last - e.First + 1) * sectorSize},
			Type: e.Type.String(), UUID: e.ID.String(), Name: e.Name, Attributes: e.Attributes,
		})
	}
	return d, checkExtents(d.Partitions, Extent{t.First * sectorSize, (t.Last - t.First + 1) * sectorSize})
}
