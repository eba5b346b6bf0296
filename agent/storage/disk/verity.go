package disk

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/katabuild/katabuild/agent/devmapper"
	"github.com/katabuild/katabuild/internal/dmverity"
)

// VerityOptions is what the options begin with by which a host says of a disk what its hash tree is.
const VerityOptions = "X-kata.dmverity."

// Verity is what a host says of a disk's hash tree, which lies behind its data. A superblock may say where the tree
// begins, and how many blocks of data there are.
type Verity struct {
	table        dmverity.Table
	offset       int64 // of the hash area, in bytes
	noSuperblock bool
}

// ReadVerity reads options, without VerityOptions in front. Root hash and offset are needed.
func ReadVerity(words []string) (Verity, error) {
	v := Verity{table: dmverity.Params{Salt: dmverity.NoSalt, DataBlockSize: dmverity.BlockSize,
		HashBlockSize: dmverity.BlockSize}.Table(0), offset: -1}
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		var err error
		switch key {
		case "roothash":
			v.table.RootHash = strings.ToLower(value)
		case "salt":
			if v.table.Salt = strings.ToLower(value); v.table.Salt == "" {
				v.table.Salt = dmverity.NoSalt
			}
		case "algorithm":
			v.table.Algorithm = value
		case "hashoffset":
			v.offset, err = strconv.ParseInt(value, 10, 64)
		case "blocksize":
			v.table.DataBlockSize, err = strconv.ParseInt(value, 10, 32)
		case "hashsize":
			v.table.HashBlockSize, err = strconv.ParseInt(value, 10, 32)
		case "hashtype":
			v.table.HashType, err = strconv.ParseInt(value, 10, 8)
		case "no-superblock":
			v.noSuperblock = value == "" || value == "true"
		default:
			err = errors.New("this agent does not know it")
		}
		if err != nil {
			return Verity{}, fmt.Errorf("option %s%s: %w", VerityOptions, w, err)
		}
	}
	return v, v.check()
}

// check is wider than that of dmverity.Params: layers are made by others.
func (v Verity) check() error {
	t := v.table
	sizes := map[string]int{"sha256": 32, "sha384": 48, "sha512": 64}
	block := func(n int64) bool { return n >= 512 && n <= 65536 && n&(n-1) == 0 }
	isHex := func(s string) bool { _, err := hex.DecodeString(s); return err == nil }
	switch {
	case sizes[t.Algorithm] == 0:
		return fmt.Errorf("dm-verity: hash algorithm %q: want sha256, sha384 or sha512", t.Algorithm)
	case !isHex(t.RootHash) || len(t.RootHash) != 2*sizes[t.Algorithm]:
		return fmt.Errorf("dm-verity: root hash %q: want %d hexadecimal digits", t.RootHash, 2*sizes[t.Algorithm])
	case t.Salt != dmverity.NoSalt && (!isHex(t.Salt) || len(t.Salt) > 2*dmverity.MaxSalt):
		return fmt.Errorf("dm-verity: salt %q: want at most %d hexadecimal digits", t.Salt, 2*dmverity.MaxSalt)
	case !block(t.DataBlockSize) || !block(t.HashBlockSize):
		return fmt.Errorf("dm-verity: blocks of %d and %d bytes: want powers of 2 from 512 to 65536", t.DataBlockSize,
			t.HashBlockSize)
	case t.HashType != 0 && t.HashType != 1:
		return fmt.Errorf("dm-verity: hash type %d: want 0 or 1", t.HashType)
	case v.offset <= 0 || v.offset%t.HashBlockSize != 0 || v.offset%t.DataBlockSize != 0:
		return fmt.Errorf("dm-verity: hash offset %d: want a multiple of both block sizes", v.offset)
	}
	return nil
}

// target is the table of a disk on one device: data first, hashes from the offset on. s is the superblock there, or
// nil.
func (v Verity) target(d devmapper.Device, s *dmverity.Superblock) (devmapper.Target, error) {
	t := v.table
	t.DataBlocks, t.HashStart = v.offset/v.table.DataBlockSize, v.offset/v.table.HashBlockSize
	if s != nil {
		if s.Algorithm != t.Algorithm || s.DataBlockSize != t.DataBlockSize || s.HashBlockSize != t.HashBlockSize ||
			s.HashType != t.HashType {
			return devmapper.Target{}, fmt.Errorf(
				"its superblock says %s, blocks of %d and %d, type %d; the host said otherwise", s.Algorithm,
				s.DataBlockSize, s.HashBlockSize, s.HashType)
		}
		if t.Salt != dmverity.NoSalt && t.Salt != s.Salt {
			return devmapper.Target{}, errors.New("its superblock has another salt than the host said")
		}
		if s.DataBlocks < 1 || s.DataBlocks > t.DataBlocks {
			return devmapper.Target{}, fmt.Errorf("its superblock says %d blocks of data, but %d are before it",
				s.DataBlocks, t.DataBlocks)
		}
		t.Salt, t.DataBlocks = s.Salt, s.DataBlocks
		t.HashStart++ // the tree begins with the block after the superblock's
	}
	return devmapper.VerityTarget(t, d, d), nil
}

// Guard puts a disk behind dm-verity, as a disk of the device-mapper that is called name. Unguard takes it away; after
// an error there is none.
func (f Finder) Guard(v Verity, d Disk, name string) (_ Disk, err error) {
	var s *dmverity.Superblock
	if !v.noSuperblock {
		b, err := readAt(d.Node, v.offset, dmverity.SuperblockSize)
		if err != nil {
			return Disk{}, err
		}
		there, err := dmverity.ParseSuperblock(b)
		if err != nil {
			return Disk{}, err
		}
		s = &there
	}
	target, err := v.target(d.Number, s)
	if err != nil {
		return Disk{}, err
	}
	control, err := devmapper.Open(f.Root)
	if err != nil {
		return Disk{}, err
	}
	defer control.Close()
	number, err := control.Create(name, target)
	if number != (devmapper.Device{}) {
		defer func() {
			if err != nil {
				err = errors.Join(err, f.Unguard(name))
			}
		}()
	}
	if err != nil {
		return Disk{}, err
	}
	node, err := filepath.EvalSymlinks(filepath.Join(f.Root, "sys/dev/block", number.String()))
	if err != nil {
		return Disk{}, err
	}
	guarded := Disk{Number: number, Node: filepath.Join(f.Root, "dev", filepath.Base(node)), name: filepath.Base(node)}
	return guarded, guarded.MakeNode()
}

// Unguard removes a disk that Guard made, once nobody has it open.
func (f Finder) Unguard(name string) error {
	control, err := devmapper.Open(f.Root)
	if err != nil {
		return err
	}
	return errors.Join(control.Remove(name), control.Close())
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
