// Package dmverity is what everybody here who makes, names, hands on or opens a dm-verity hash tree agrees on: its
// parameters, the line that tells them, the device-mapper table that opens it, and the superblock that may lie before
// it.
//
// The tree and the table are Linux's Documentation/admin-guide/device-mapper/verity.rst; the line is Kata Containers';
// the superblock is the cryptsetup project's, from its wiki page DMVerity. docs/formats/verity.md says what of them is
// used.
package dmverity

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Sizes of the format, in bytes.
const (
	// BlockSize is that of data and of hash blocks in all trees that are made here: the default of veritysetup and
	// what Kata expects. Linux takes nothing above its page size.
	BlockSize = 4096
	// DigestSize is that of SHA-256.
	DigestSize = 32
	// MaxSalt is the longest salt that the superblock and Linux take.
	MaxSalt = 256

	sectorSize = 512 // device-mapper counts in these, whatever the disk
)

// NoSalt stands for an empty salt.
const NoSalt = "-"

// MaxBlocks is how many blocks the data may have: more than any disk has, and few enough that sizes in bytes stay
// inside 63 bits with the largest blocks there are, of 64 KiB.
const MaxBlocks = 1 << 46

// Params is what a kernel must know of a tree. The root hash must reach it by a way that is trusted; nothing else need
// be secret or trusted. As JSON it is part of a guest's manifest.
type Params struct {
	RootHash      string `json:"root_hash"` // lower-case hexadecimal digits, two a byte
	Salt          string `json:"salt"`      // likewise, hashed before every block; or NoSalt
	DataBlocks    int64  `json:"data_blocks"`
	DataBlockSize int64  `json:"data_block_size"` // bytes
	HashBlockSize int64  `json:"hash_block_size"` // bytes
}

// keys are the fields of the line, in the order in which String writes them.
var keys = [...]string{"root_hash", "salt", "data_blocks", "data_block_size", "hash_block_size"}

// String is the line that hands the parameters on, without a line break: what Kata Containers keeps in
// root_hash_<variant>.txt and takes as kernel_verity_params.
func (p Params) String() string {
	return fmt.Sprintf("root_hash=%s,salt=%s,data_blocks=%d,data_block_size=%d,hash_block_size=%d", p.RootHash,
		p.Salt, p.DataBlocks, p.DataBlockSize, p.HashBlockSize)
}

// ParseParams reads such a line, with the fields in any order, as Kata Containers' hosts hand on what they are given.
// Each field must be there once.
func ParseParams(line string) (Params, error) {
	fields := strings.Split(line, ",")
	if len(fields) != len(keys) {
		return Params{}, fmt.Errorf("%d fields: want %s", len(fields), strings.Join(keys[:], ", "))
	}
	var values [len(keys)]string
	var seen [len(keys)]bool
	for _, f := range fields {
		key, value, assigned := strings.Cut(f, "=")
		i := slices.Index(keys[:], key)
		switch {
		case i < 0 || !assigned:
			return Params{}, fmt.Errorf("field %q: want %s", f, strings.Join(keys[:], ", "))
		case seen[i]:
			return Params{}, fmt.Errorf("field %s is there twice", key)
		}
		values[i], seen[i] = value, true
	}
	p := Params{RootHash: values[0], Salt: values[1]}
	for i, n := range []*int64{&p.DataBlocks, &p.DataBlockSize, &p.HashBlockSize} {
		v := values[2+i]
		var err error
		if *n, err = strconv.ParseInt(v, 10, 64); err != nil || strconv.FormatInt(*n, 10) != v {
			return Params{}, fmt.Errorf("%s %q: want a decimal number", keys[2+i], v)
		}
	}
	if err := p.Check(); err != nil {
		return Params{}, err
	}
	return p, nil
}

// Check says what is wrong with the parameters of a tree of SHA-256 and blocks of BlockSize.
func (p Params) Check() error {
	if n, ok := hexBytes(p.RootHash); !ok || n != DigestSize {
		return fmt.Errorf("root_hash %q: want %d lower-case hexadecimal digits", p.RootHash, 2*DigestSize)
	}
	if n, ok := hexBytes(p.Salt); p.Salt != NoSalt && (!ok || n < 1 || n > MaxSalt) {
		return fmt.Errorf("salt %q: want lower-case hexadecimal digits, or %s", p.Salt, NoSalt)
	}
	if p.DataBlocks < 1 || p.DataBlocks > MaxBlocks {
		return fmt.Errorf("%d data blocks", p.DataBlocks)
	}
	if p.DataBlockSize != BlockSize || p.HashBlockSize != BlockSize {
		return fmt.Errorf("blocks of %d and %d bytes: want %d", p.DataBlockSize, p.HashBlockSize, BlockSize)
	}
	return nil
}

// hexBytes counts the bytes that lower-case digits stand for.
func hexBytes(s string) (n int, ok bool) {
	b, err := hex.DecodeString(s)
	return len(b), err == nil && strings.ToLower(s) == s
}

// SaltText is a salt as Params has it.
func SaltText(salt []byte) string {
	if len(salt) == 0 {
		return NoSalt
	}
	return hex.EncodeToString(salt)
}

// SaltBytes are those of the salt. It is for parameters that Check accepts; of others the bytes are some or none.
func (p Params) SaltBytes() []byte {
	b, _ := hex.DecodeString(strings.TrimPrefix(p.Salt, NoSalt)) // Check has read them
	return b
}

// DataSize is how many bytes are covered.
func (p Params) DataSize() int64 { return p.DataBlocks * p.DataBlockSize }
