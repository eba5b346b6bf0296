package devmapper

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// VerityType is the type of a dm-verity target.
const VerityType = "verity"

// verityRootHash is which word of a verity table the root hash is. Documentation/admin-guide/device-mapper/verity.rst:
// version, dev, hash_dev, two block sizes, blocks, start, algorithm, digest, salt.
const verityRootHash = 8

// Verity is a dm-verity target of version 1 with SHA-256, whose hash tree begins at the first byte of its device.
type Verity struct {
	Data, Hash                               Device
	DataBlocks, DataBlockSize, HashBlockSize int64
	RootHash                                 string // hexadecimal
	Salt                                     string // hexadecimal, or "-"
}

// Target is the table's one target.
func (v Verity) Target() Target {
	return Target{Type: VerityType, Size: v.DataBlocks * v.DataBlockSize,
		Params: fmt.Sprintf("1 %s %s %d %d %d 0 sha256 %s %s",
			v.Data, v.Hash, v.DataBlockSize, v.HashBlockSize, v.DataBlocks, v.RootHash, v.Salt)}
}

// RootHash is that of the running table of a device, and empty where the device is not guarded by dm-verity alone.
func (c *Control) RootHash(d Device) (string, error) {
	t, err := c.Table(d)
	if err != nil {
		return "", err
	}
	return rootHash(t)
}

// rootHash finds it in a table. verity covers a whole device, so it is the only target.
func rootHash(t *Target) (string, error) {
	if t == nil || t.Type != VerityType {
		return "", nil
	}
	words := strings.Fields(t.Params)
	if len(words) <= verityRootHash {
		return "", fmt.Errorf("verity table %q: want at least %d words", t.Params, verityRootHash+1)
	}
	if _, err := hex.DecodeString(words[verityRootHash]); err != nil {
		return "", fmt.Errorf("verity table %q: the root hash is not hexadecimal", t.Params)
	}
	return words[verityRootHash], nil
}
