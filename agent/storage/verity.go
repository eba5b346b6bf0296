package storage

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A superblock of a dm-verity hash device. docs/formats/verity.md.
const (
	superblockSize      = 512
	superblockMagic     = "verity\x00\x00"
	superblockVersion   = 1
	offsetVersion       = 8
	offsetHashType      = 12
	offsetAlgorithm     = 32
	algorithmSize       = 32
	offsetDataBlock     = 64
	offsetHashBlock     = 68
	offsetDataBlocks    = 72
	offsetSaltSize      = 80
	offsetSalt          = 88
	maxSalt             = 256
	maxVerityDataBlocks = 1 << 40 // beyond any disk, and far from overflow with any block size
)

// superblock is what it says.
type superblock struct {
	hashType, dataBlock, hashBlock, dataBlocks int64
	algorithm, salt                            string
}

func parseSuperblock(b []byte) (*superblock, error) {
	if len(b) < superblockSize || string(b[:offsetVersion]) != superblockMagic {
		return nil, errors.New("no verity superblock where the hashes are to be")
	}
	if v := binary.LittleEndian.Uint32(b[offsetVersion:]); v != superblockVersion {
		return nil, fmt.Errorf("verity superblock of version %d: want %d", v, superblockVersion)
	}
	name, rest, ended := bytes.Cut(b[offsetAlgorithm:offsetAlgorithm+algorithmSize], []byte{0})
	size := int(binary.LittleEndian.Uint16(b[offsetSaltSize:]))
	blocks := binary.LittleEndian.Uint64(b[offsetDataBlocks:])
	switch {
	case !ended || len(bytes.Trim(rest, "\x00")) > 0:
		return nil, errors.New("verity superblock: the name of its hash algorithm has no end")
	case size > maxSalt:
		return nil, fmt.Errorf("verity superblock: a salt of %d bytes: want at most %d", size, maxSalt)
	case blocks > maxVerityDataBlocks:
		return nil, fmt.Errorf("verity superblock: %d blocks of data", blocks)
	}
	s := &superblock{
		hashType:   int64(binary.LittleEndian.Uint32(b[offsetHashType:])),
		dataBlock:  int64(binary.LittleEndian.Uint32(b[offsetDataBlock:])),
		hashBlock:  int64(binary.LittleEndian.Uint32(b[offsetHashBlock:])),
		dataBlocks: int64(blocks),
		algorithm:  string(name),
		salt:       "-",
	}
	if size > 0 {
		s.salt = hex.EncodeToString(b[offsetSalt : offsetSalt+size])
	}
	return s, nil
}

func readAt(path string, offset int64, n int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err := f.ReadAt(b, offset); err != nil {
		return nil, fmt.Errorf("read %d bytes at %d of %s: %w", n, offset, path, err)
	}
	return b, nil
}

// A request to the device-mapper to remove a device by name. <linux/dm-ioctl.h>, version 4: struct dm_ioctl of 312
// bytes.
const (
	dmRemove     = 0xc138fd04 // DM_DEV_REMOVE
	dmSize       = 312
	dmMajor      = 4
	dmOffsetSize = 12 // of data_size
	dmOffsetFrom = 16 // of data_start
	dmOffsetFlag = 28 // of flags
	dmOffsetName = 48
	dmNameSize   = 128
	dmDeferred   = 1 << 17 // DM_DEFERRED_REMOVE: with its last user, where it has any
)

// dmControls is where the control device may be: devtmpfs's place, and that of agent/devmapper where there is none.
var dmControls = []string{"/dev/mapper/control", "/dev/katabuild-dm-control"}

func removeRequest(name string) ([]byte, error) {
	if name == "" || len(name) >= dmNameSize {
		return nil, fmt.Errorf("name of a device %q: want 1 to %d bytes", name, dmNameSize-1)
	}
	b := make([]byte, dmSize)
	binary.NativeEndian.PutUint32(b, dmMajor)
	binary.NativeEndian.PutUint32(b[dmOffsetSize:], dmSize)
	binary.NativeEndian.PutUint32(b[dmOffsetFrom:], dmSize)
	binary.NativeEndian.PutUint32(b[dmOffsetFlag:], dmDeferred)
	copy(b[dmOffsetName:], name)
	return b, nil
}

// removeMapped removes a device of the device-mapper, once nobody has it open.
func removeMapped(name string) error {
	b, err := removeRequest(name)
	if err != nil {
		return err
	}
	var f *os.File
	for _, c := range dmControls {
		if f, err = os.OpenFile(c, os.O_RDWR, 0); err == nil {
			break
		}
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), dmRemove, uintptr(unsafe.Pointer(&b[0]))); e != 0 {
		return fmt.Errorf("remove the device %s: %w", name, e)
	}
	return nil
}
