package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/agent/devmapper"
	"github.com/katabuild/katabuild/internal/dmverity"
)

func TestAHostSaysWhereAHashTreeIs(t *testing.T) {
	root := strings.Repeat("ab", 32)
	v, err := ReadVerity([]string{"roothash=" + root, "hashoffset=8192", "no-superblock=true", "salt=00ff"})
	if err != nil {
		t.Fatal(err)
	}
	target, err := v.target(devmapper.Device{Major: 254, Minor: 1}, nil)
	if want := "1 254:1 254:1 4096 4096 2 2 sha256 " + root + " 00ff"; err != nil || target.Params != want ||
		target.Size != 8192 || !v.noSuperblock {
		t.Errorf("table %q of %d bytes, %v", target.Params, target.Size, err)
	}
	good := dmverity.Superblock{HashType: 1, DataBlockSize: 4096, HashBlockSize: 4096, DataBlocks: 1,
		Algorithm: "sha256", Salt: "00ff"}
	if target, err = v.target(devmapper.Device{}, &good); err != nil || !strings.Contains(target.Params,
		" 1 3 sha256 ") {
		t.Errorf("with a superblock: %q, %v", target.Params, err)
	}
	for name, change := range map[string]func(*dmverity.Superblock){
		"more data than there is": func(s *dmverity.Superblock) { s.DataBlocks = 3 },
		"no data":                 func(s *dmverity.Superblock) { s.DataBlocks = 0 },
		"another salt":            func(s *dmverity.Superblock) { s.Salt = "00fe" },
		"another algorithm":       func(s *dmverity.Superblock) { s.Algorithm = "sha512" },
		"other blocks of data":    func(s *dmverity.Superblock) { s.DataBlockSize = 1024 },
		"other blocks of hashes":  func(s *dmverity.Superblock) { s.HashBlockSize = 1024 },
		"another type":            func(s *dmverity.Superblock) { s.HashType = 0 },
	} {
		s := good
		change(&s)
		if target, err := v.target(devmapper.Device{}, &s); err == nil {
			t.Errorf("a superblock with %s: %q", name, target.Params)
		}
	}
}

func TestOptionsOfAHashTreeAreChecked(t *testing.T) {
	root := strings.Repeat("ab", 32)
	good := []string{"roothash=" + root, "hashoffset=4096"}
	for name, more := range map[string][]string{
		"nothing else": nil, "a long hash": {"algorithm=sha512", "roothash=" + strings.Repeat("AB", 64)},
		"an empty salt": {"salt="}, "small blocks": {"blocksize=512", "hashsize=1024"}, "an old type": {"hashtype=0"},
		"no superblock": {"no-superblock"},
	} {
		if _, err := ReadVerity(append(good[:2:2], more...)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, more := range map[string][]string{
		"an unknown word": {"ignore_corruption"}, "a short hash": {"roothash=" + root[2:]},
		"a hash that is none": {"roothash=" + strings.Repeat("xy", 32)}, "another hash": {"algorithm=md5"},
		"a hash of another length": {"algorithm=sha384"}, "an offset that is none": {"hashoffset=x"},
		"an offset of 0": {"hashoffset=0"}, "a negative offset": {"hashoffset=-4096"},
		"an offset between blocks": {"hashoffset=4095"}, "blocks of 3 bytes": {"blocksize=3"},
		"blocks of 256 bytes": {"hashsize=256"}, "too big blocks": {"blocksize=131072"},
		"blocks that are none": {"hashsize=x"}, "a type that is none": {"hashtype=2"},
		"a type of words":   {"hashtype=a"},
		"words in the salt": {"salt=00 1 ignore_corruption"}, "a long salt": {"salt=" + strings.Repeat("00", 257)},
	} {
		if v, err := ReadVerity(append(good[:2:2], more...)); err == nil {
			t.Errorf("%s: %+v", name, v)
		}
	}
}

func TestADiskIsNotGuardedByWhatItDoesNotHold(t *testing.T) {
	const offset = 8192
	root := strings.Repeat("ab", 32)
	table := dmverity.Params{DataBlocks: 2, DataBlockSize: 4096, HashBlockSize: 4096, RootHash: root,
		Salt: "00ff"}.Table(3)
	super := table.Superblock([16]byte{1}).Bytes()
	f := Finder{Root: t.TempDir()}
	for name, c := range map[string]struct {
		image []byte
		words []string
		want  string
	}{
		"a short disk":  {make([]byte, offset+100), nil, "read 512 bytes at 8192"},
		"no superblock": {make([]byte, offset+4096), nil, "superblock"},
		"another salt":  {append(make([]byte, offset), super...), []string{"salt=00fe"}, "another salt"},
		"other block size": {append(make([]byte, offset), super...), []string{"blocksize=512"},
			"the host said otherwise"},
	} {
		d := Disk{Node: filepath.Join(t.TempDir(), "disk")}
		if err := os.WriteFile(d.Node, c.image, 0o600); err != nil {
			t.Fatal(err)
		}
		v, err := ReadVerity(append([]string{"roothash=" + root, fmt.Sprintf("hashoffset=%d", offset)}, c.words...))
		if err != nil {
			t.Fatal(err)
		}
		if g, err := f.Guard(v, d, "test"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %+v, %v", name, g, err)
		}
	}
	v, err := ReadVerity([]string{"roothash=" + root, "hashoffset=8192"})
	if err != nil {
		t.Fatal(err)
	}
	if g, err := f.Guard(v, Disk{Node: filepath.Join(t.TempDir(), "none")}, "test"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a disk that is gone: %+v, %v", g, err)
	}
}

// FuzzReadVerity: whatever a host says of a hash tree, the table has the words that dm-verity asks for, and no others.
func FuzzReadVerity(f *testing.F) {
	root := strings.Repeat("ab", 32)
	f.Add("roothash=" + root + "\nhashoffset=8192\nsalt=00ff")
	f.Add("roothash=" + root + "\nhashoffset=8192\nsalt=00 1 ignore_corruption") // words in a value
	f.Add("hashoffset=9223372036854775807\nblocksize=65536\nroothash=" + root)
	f.Fuzz(func(t *testing.T, words string) {
		v, err := ReadVerity(strings.Split(words, "\n"))
		if err != nil {
			return
		}
		target, err := v.target(devmapper.Device{Major: 254, Minor: 1}, nil)
		if fields := strings.Fields(target.Params); err != nil || len(fields) != 10 || target.Size <= 0 {
			t.Fatalf("%q of %d bytes, %v", target.Params, target.Size, err)
		}
	})
}
