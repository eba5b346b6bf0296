package dmverity

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

// The superblock, little-endian: signature, version, hash type, UUID, algorithm, two block sizes, blocks of data, size
// of the salt, 6 bytes of padding, salt. It takes a whole hash block, and the tree lies behind it.
const (
	SuperblockSize = 512

	superMagic       = "verity\x00\x00"
	superVersion     = 1
	offsetVersion    = 8
	offsetHashType   = 12
	offsetUUID       = 16
	offsetAlgorithm  = 32
	algorithmSize    = 32
	offsetDataBlock  = 64
	offsetHashBlock  = 68
	offsetDataBlocks = 72
	offsetSaltSize   = 80
	offsetSalt       = 88
)

// Superblock is what one says. The root hash is not in it: that must come from somewhere trusted.
type Superblock struct {
	HashType, DataBlockSize, HashBlockSize, DataBlocks int64
	UUID                                               [16]byte
	Algorithm                                          string
	Salt                                               string // as Params has it
}

// Superblock is the one that veritysetup puts before the tree of a table.
func (t Table) Superblock(uuid [16]byte) Superblock {
	return Superblock{HashType: t.HashType, DataBlockSize: t.DataBlockSize, HashBlockSize: t.HashBlockSize,
		DataBlocks: t.DataBlocks, UUID: uuid, Algorithm: t.Algorithm, Salt: t.Salt}
}

// Bytes are the SuperblockSize bytes.
func (s Superblock) Bytes() []byte {
	b := make([]byte, SuperblockSize)
	le := binary.LittleEndian
	copy(b, superMagic)
	le.PutUint32(b[offsetVersion:], superVersion)
	le.PutUint32(b[offsetHashType:], uint32(s.HashType))
	copy(b[offsetUUID:], s.UUID[:])
	copy(b[offsetAlgorithm:offsetAlgorithm+algorithmSize-1], s.Algorithm)
	le.PutUint32(b[offsetDataBlock:], uint32(s.DataBlockSize))
	le.PutUint32(b[offsetHashBlock:], uint32(s.HashBlockSize))
	le.PutUint64(b[offsetDataBlocks:], uint64(s.DataBlocks))
	salt := Params{Salt: s.Salt}.SaltBytes()
	le.PutUint16(b[offsetSaltSize:], uint16(len(salt)))
	copy(b[offsetSalt:offsetSalt+MaxSalt], salt)
	return b
}

// ParseSuperblock reads a superblock, of any hash function and block size. What it says is for the caller to compare
// with what is trusted.
func ParseSuperblock(b []byte) (Superblock, error) {
	if len(b) < SuperblockSize || string(b[:offsetVersion]) != superMagic {
		return Superblock{}, errors.New("no verity superblock where the hashes are to be")
	}
	le := binary.LittleEndian
	if v := le.Uint32(b[offsetVersion:]); v != superVersion {
		return Superblock{}, fmt.Errorf("verity superblock of version %d: want %d", v, superVersion)
	}
	name, rest, ended := bytes.Cut(b[offsetAlgorithm:offsetAlgorithm+algorithmSize], []byte{0})
	size := int(le.Uint16(b[offsetSaltSize:]))
	blocks := le.Uint64(b[offsetDataBlocks:])
	switch {
	case !ended || len(bytes.Trim(rest, "\x00")) > 0:
		return Superblock{}, errors.New("verity superblock: the name of its hash algorithm has no end")
	case size > MaxSalt:
		return Superblock{}, fmt.Errorf("verity superblock: a salt of %d bytes: want at most %d", size, MaxSalt)
	case blocks > MaxBlocks:
		return Superblock{}, fmt.Errorf("verity superblock: %d blocks of data", blocks)
	}
	s := Superblock{
		HashType:      int64(le.Uint32(b[offsetHashType:])),
		DataBlockSize: int64(le.Uint32(b[offsetDataBlock:])),
		HashBlockSize: int64(le.Uint32(b[offsetHashBlock:])),
		DataBlocks:    int64(blocks),
		UUID:          [16]byte(b[offsetUUID:]),
		Algorithm:     string(name),
		Salt:          NoSalt,
	}
	if size > 0 {
		s.Salt = hex.EncodeToString(b[offsetSalt : offsetSalt+size])
	}
	return s, nil
}
