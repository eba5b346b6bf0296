// Package extension is what host and guest agree on about extension images: how one is named, found and mounted, and
// the word of the kernel command line that says what its content must be.
//
// docs/formats/extensions.md owns the words. The names are those of Kata Containers.
package extension

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// SerialPrefix begins the serial of a disk that holds an extension.
const SerialPrefix = "extension-"

// MaxName is the longest name in bytes, because a virtio-blk serial has at most 20. <linux/virtio_blk.h>,
// VIRTIO_BLK_ID_BYTES.
const MaxName = 20 - len(SerialPrefix)

// MountRoot is the folder that extensions are mounted in, each under its name.
const MountRoot = "/run/kata-extensions"

// What stands before and after the name in the word.
const (
	wordPrefix = "kata.extension."
	wordSuffix = ".verity_params"
)

// Sizes of what Params holds.
const (
	digestSize = 32      // SHA-256, bytes
	maxSalt    = 256     // dm-verity's limit, bytes
	blockSize  = 4096    // the only one we make and take, bytes
	maxBlocks  = 1 << 50 // far more than any disk has; it keeps sizes in bytes inside 63 bits
)

// Params is what dm-verity must know of an extension. The line is that of root_hash.txt; docs/formats/verity.md.
type Params struct {
	RootHash      string // 64 hexadecimal digits
	Salt          string // hexadecimal, or "-"
	DataBlocks    int64
	DataBlockSize int64 // bytes
	HashBlockSize int64 // bytes
}

// keys are the fields of the line, in the order in which String writes them.
var keys = [...]string{"root_hash", "salt", "data_blocks", "data_block_size", "hash_block_size"}

// String is the line, without a line break.
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
	if n, ok := hexBytes(p.RootHash); !ok || n != digestSize {
		return Params{}, fmt.Errorf("root_hash %q: want %d lower-case hexadecimal digits", p.RootHash, 2*digestSize)
	}
	if n, ok := hexBytes(p.Salt); p.Salt != "-" && (!ok || n < 1 || n > maxSalt) {
		return Params{}, fmt.Errorf("salt %q: want lower-case hexadecimal digits, or -", p.Salt)
	}
	for i, n := range []*int64{&p.DataBlocks, &p.DataBlockSize, &p.HashBlockSize} {
		v := values[2+i]
		var err error
		if *n, err = strconv.ParseInt(v, 10, 64); err != nil || strconv.FormatInt(*n, 10) != v {
			return Params{}, fmt.Errorf("%s %q: want a decimal number", keys[2+i], v)
		}
	}
	if p.DataBlocks < 1 || p.DataBlocks > maxBlocks {
		return Params{}, fmt.Errorf("%d data blocks", p.DataBlocks)
	}
	if p.DataBlockSize != blockSize || p.HashBlockSize != blockSize {
		return Params{}, fmt.Errorf("blocks of %d and %d bytes: want %d", p.DataBlockSize, p.HashBlockSize, blockSize)
	}
	return p, nil
}

// hexBytes counts the bytes that lower-case digits stand for.
func hexBytes(s string) (n int, ok bool) {
	b, err := hex.DecodeString(s)
	return len(b), err == nil && strings.ToLower(s) == s
}

// CheckName says what is wrong with a name.
func CheckName(name string) error {
	if name == "" || name[0] == '-' || strings.Trim(name,
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		return fmt.Errorf("name of an extension %q: want letters, digits, dashes and underscores, and no dash "+
			"at first", name)
	}
	if len(name) > MaxName {
		return fmt.Errorf("name of an extension %q: %d bytes, want at most %d, as a disk's serial has 20 and begins "+
			"with %q", name, len(name), MaxName, SerialPrefix)
	}
	return nil
}

// Extension is an extension image as host and guest name it.
type Extension struct {
	Name   string
	Params Params
}

// Serial is that of the disk.
func (e Extension) Serial() string { return SerialPrefix + e.Name }

// MountPoint is where the guest has it.
func (e Extension) MountPoint() string { return MountRoot + "/" + e.Name }

// Word is what the kernel command line says of it.
func (e Extension) Word() string { return wordPrefix + e.Name + wordSuffix + "=" + e.Params.String() }

// ParseWord reads a word of the kernel command line. is says whether it is about an extension at all. With an error the
// name is set where there is a right one.
func ParseWord(word string) (e Extension, is bool, err error) {
	rest, is := strings.CutPrefix(word, wordPrefix)
	if !is {
		return e, false, nil
	}
	key, line, assigned := strings.Cut(rest, "=")
	name, ok := strings.CutSuffix(key, wordSuffix)
	if !ok {
		return e, true, fmt.Errorf("kernel command line: %q: want %sNAME%s=...", wordPrefix+key, wordPrefix, wordSuffix)
	}
	if err := CheckName(name); err != nil {
		return e, true, fmt.Errorf("kernel command line: %w", err)
	}
	e.Name = name
	if !assigned {
		return e, true, fmt.Errorf("extension %s: the kernel command line has its parameters without a value", name)
	}
	if e.Params, err = ParseParams(line); err != nil {
		return e, true, fmt.Errorf("extension %s: its parameters on the kernel command line: %w", name, err)
	}
	return e, true, nil
}
