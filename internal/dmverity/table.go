package dmverity

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// TargetType is the type of a dm-verity target in a device-mapper table.
const TargetType = "verity"

// algorithm is the kernel's name of the hash function of all trees that are made here.
const algorithm = "sha256"

// Table is the device-mapper table of one tree, but for the devices.
type Table struct {
	Params
	HashType  int64  // 1; 0 is that of Chromium OS
	Algorithm string // the kernel's name of the hash function
	HashStart int64  // where on its device the tree begins, in hash blocks
}

// Table opens a tree of SHA-256 that begins at a number of hash blocks on its device.
func (p Params) Table(hashStart int64) Table {
	return Table{Params: p, HashType: 1, Algorithm: algorithm, HashStart: hashStart}
}

// rootHashWord is which of the arguments the root hash is.
const rootHashWord = 8

// Arguments are those of the table's one target, which covers DataSize bytes. data and hash are the devices' names as
// the kernel takes them: a path, or major:minor. verity.rst, "Construction Parameters": version, dev, hash_dev, two
// block sizes, blocks, start, algorithm, digest, salt.
func (t Table) Arguments(data, hash string) string {
	return fmt.Sprintf("%d %s %s %d %d %d %d %s %s %s", t.HashType, data, hash, t.DataBlockSize, t.HashBlockSize,
		t.DataBlocks, t.HashStart, t.Algorithm, t.RootHash, t.Salt)
}

// line is the table as dmsetup takes it: the first sector, how many there are, the type and the arguments.
func (t Table) line(data, hash string) (string, error) {
	for _, name := range []string{data, hash} {
		// Documentation/admin-guide/device-mapper/dm-init.rst: commas part fields, semicolons devices, and spaces
		// arguments.
		if name == "" || strings.ContainsAny(name, " ,;\"\\\t\n") {
			return "", fmt.Errorf("dm-verity: device %q: no name that a table can hold", name)
		}
	}
	return fmt.Sprintf("0 %d %s %s", t.DataSize()/sectorSize, TargetType, t.Arguments(data, hash)), nil
}

// CreateWord is the parameter of the kernel's command line that opens the tree as CreatedDevice before the root is
// mounted, in the words of Kata's runtime. The kernel needs CONFIG_DM_INIT.
func (t Table) CreateWord(data, hash string) (string, error) {
	line, err := t.line(data, hash)
	if err != nil {
		return "", err
	}
	return CreateName + `="dm-verity,,,ro,` + line + `"`, nil
}

// CreateName is the name of the parameter that CreateWord gives a value.
const CreateName = "dm-mod.create"

// CreatedDevice is the first device of the device-mapper, which CreateWord makes.
const CreatedDevice = "/dev/dm-0"

// RootHashOf finds the root hash in the arguments of a target of TargetType.
func RootHashOf(arguments string) (string, error) {
	words := strings.Fields(arguments)
	if len(words) <= rootHashWord {
		return "", fmt.Errorf("verity table %q: want at least %d words", arguments, rootHashWord+1)
	}
	if _, err := hex.DecodeString(words[rootHashWord]); err != nil {
		return "", fmt.Errorf("verity table %q: the root hash is not hexadecimal", arguments)
	}
	return words[rootHashWord], nil
}
