package disks

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/katabuild/katabuild/internal/gpt"
	"github.com/katabuild/katabuild/runtime/machine"
)

// A pack is one disk that has all lower layers of an image, for a guest without a place for each: every partition is a
// layer. The tables of partitions are ours, the partitions are the layers' files, and QEMU is told what follows what.

// Where the layers are.
const (
	packBegin = 1 << 20 // of the first, in bytes: as programs that partition disks do
	packAlign = 4096    // layers have a whole number of these: a block of EROFS, and a page of the guest
)

// linuxData is the type of a partition with files. Discoverable Partitions Specification.
const linuxData = "0fc63daf-8483-4772-8e79-3d69d8477de4"

// ErrNoPack says that layers cannot be one disk.
var ErrNoPack = errors.New("the layers cannot be one disk")

// Pack is a disk that has each of these layers as a partition, in a folder below dir. Containers of one image have one:
// it is made anew where the machine does not have it. Any error is ErrNoPack.
func (p *Pool) Pack(dir string, layers []string) (machine.Disk, error) {
	sum := sha256.New()
	for _, l := range layers {
		fmt.Fprintf(sum, "%q\n", l)
	}
	dir = filepath.Join(dir, fmt.Sprintf("pack-%.16x", sum.Sum(nil)))
	d := machine.Disk{Path: filepath.Join(dir, packFile), ReadOnly: true}
	var err error
	if !p.has(d.Path) {
		if err = os.RemoveAll(dir); err == nil { // of a container that is gone
			_, err = pack(dir, layers)
		}
	}
	if err == nil {
		d.Parts, err = packParts(d.Path)
	}
	if err != nil && !errors.Is(err, ErrNoPack) {
		err = fmt.Errorf("%w: %w", ErrNoPack, err)
	}
	return d, err
}

// packTables makes what is before and behind partitions of sizes, which are in bytes.
func packTables(sizes []int64) (head, tail []byte, err error) {
	if len(sizes) == 0 || len(sizes) > gpt.Entries {
		return nil, nil, fmt.Errorf("%w: there are %d, and places for %d", ErrNoPack, len(sizes), gpt.Entries)
	}
	t := gpt.Table{Disk: packID(0)}
	at := int64(packBegin / gpt.SectorSize)
	for i, size := range sizes {
		if size <= 0 || size%packAlign != 0 {
			return nil, nil, fmt.Errorf("%w: one has %d bytes, want a multiple of %d", ErrNoPack, size, packAlign)
		}
		end := at + size/gpt.SectorSize
		t.Entries = append(t.Entries, gpt.Entry{Type: gpt.MustGUID(linuxData), ID: packID(uint64(i) + 1), First: at,
			Last: end - 1})
		at = end
	}
	t.Sectors = at + gpt.EndSize/gpt.SectorSize
	head, tail = t.Bytes() // between the head and the first partition is a hole
	return head, tail, nil
}

// packID is an identifier within a pack: nobody looks for partitions by it, but it must not be zero, nor be there
// twice. RFC 9562, 5.8: version 8 is for own uses.
func packID(n uint64) gpt.GUID {
	var b [16]byte
	copy(b[:], "kbpk")
	b[7] = 0x80                                     // version
	binary.BigEndian.PutUint64(b[8:], 0x80<<56|n+1) // variant
	return gpt.GUID(b).OnDisk()
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
			return "", fmt.Errorf("%w: %s is no file", ErrNoPack, l)
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
func packParts(file string) ([]machine.Part, error) {
	names := []string{packFile}
	dir := filepath.Dir(file)
	for i := 1; i <= gpt.Entries; i++ {
		name := strconv.Itoa(i)
		if _, err := os.Lstat(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
			break
		}
		names = append(names, name)
	}
	var out []machine.Part
	for _, n := range append(names, "tail") {
		path := filepath.Join(dir, n)
		st, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		out = append(out, machine.Part{Path: path, Size: st.Size()})
	}
	return out, nil
}
