package disks

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/testenv"
)

// assemble puts the parts of a pack together.
func assemble(t *testing.T, file string) []byte {
	t.Helper()
	parts, err := packParts(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for _, p := range parts {
		b, err := os.ReadFile(p.Path)
		if err != nil {
			t.Fatal(err)
		}
		if int64(len(b)) != p.Size {
			t.Errorf("%s has %d bytes, and is said to have %d", p.Path, len(b), p.Size)
		}
		out = append(out, b...)
	}
	return out
}

func TestAPackIsADiskWithAPartitionForEachLayer(t *testing.T) {
	dir := t.TempDir()
	layers := []string{filepath.Join(dir, `a "quoted" one`), filepath.Join(dir, "b")}
	for i, l := range layers {
		if err := os.WriteFile(l, bytes.Repeat([]byte{byte('a' + i)}, 4096*(i+1)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file, err := pack(filepath.Join(dir, "pack"), layers)
	if err != nil {
		t.Fatal(err)
	}
	disk := assemble(t, file)
	// UEFI Specification 2.10, 5.2.3 and 5.3: where what is.
	le := binary.LittleEndian
	if len(disk) != 1<<20+3*4096+33*512 {
		t.Fatalf("the disk has %d bytes", len(disk))
	}
	last := uint64(len(disk)/512 - 1)
	if string(disk[512:520]) != "EFI PART" || le.Uint64(disk[512+24:]) != 1 || le.Uint64(disk[512+32:]) != last ||
		le.Uint16(disk[510:]) != 0xAA55 {
		t.Error("no table at the begin")
	}
	if tail := disk[len(disk)-512:]; string(tail[:8]) != "EFI PART" || le.Uint64(tail[24:]) != last ||
		le.Uint64(tail[32:]) != 1 {
		t.Error("no table at the end")
	}
	for i := range layers {
		e := disk[1024+128*i:]
		first, last := le.Uint64(e[32:]), le.Uint64(e[40:])
		if got := disk[first*512 : (last+1)*512]; !bytes.Equal(got, bytes.Repeat([]byte{byte('a' + i)},
			4096*(i+1))) || first%8 != 0 {
			t.Errorf("partition %d is from sector %d to %d", i+1, first, last)
		}
	}
	again, err := pack(filepath.Join(dir, "again"), layers)
	if err != nil || !bytes.Equal(assemble(t, again), disk) {
		t.Errorf("the same layers are another disk: %v", err)
	}
	for what, sizes := range map[string][]int64{"none": nil, "too many": make([]int64, 129),
		"an empty one": {4096, 0}, "a crooked one": {4096, 512}} {
		if _, _, err := packTables(sizes); !errors.Is(err, ErrNoPack) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := pack(filepath.Join(dir, "device"), []string{"/dev/null"}); !errors.Is(err, ErrNoPack) {
		t.Errorf("a device: %v", err)
	}
	if _, err := pack(filepath.Join(dir, "none"), []string{dir + "/nothing"}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}

	// Another program finds nothing wrong with it, and the same partitions.
	testenv.Require(t, testenv.Tool("sgdisk"))
	whole := filepath.Join(dir, "whole")
	if err := os.WriteFile(whole, disk, 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sgdisk", "--verify", "--print", whole).CombinedOutput()
	words := strings.Join(strings.Fields(string(out)), " ")
	for _, w := range []string{"No problems found", " 1 2048 2055 ", " 2 2056 2071 "} {
		if err != nil || !strings.Contains(words, w) {
			t.Errorf("sgdisk does not say %q: %v: %s", w, err, out)
		}
	}
}
