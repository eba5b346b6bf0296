package sandbox

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/dmverity"
	"github.com/katabuild/katabuild/internal/extension"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/superblock"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu"
	"github.com/katabuild/katabuild/runtime/vsock"
)

// disk is as much of an extension's image as the host reads.
func disk(label string) []byte {
	b := make([]byte, 8192)
	binary.LittleEndian.PutUint32(b[446+8:], 8) // the first sector of the first partition
	binary.LittleEndian.PutUint32(b[8*512+superblock.At:], superblock.EROFS)
	copy(b[8*512+superblock.At+64:], label)
	return b
}

const hashLine = "root_hash=%s,salt=-,data_blocks=3,data_block_size=4096,hash_block_size=4096\n"

func extensionFolder(t *testing.T, line string, image []byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range map[string][]byte{extension.HashName: []byte(line), extension.ImageName: image} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestAnExtensionIsReadFromItsFolder(t *testing.T) {
	good := fmt.Sprintf(hashLine, strings.Repeat("ab", 32))
	dir := extensionFolder(t, good, disk("tools"))
	e, err := ReadExtension(dir)
	if err != nil || e.Name != "tools" || e.Dir != dir || e.Params.DataBlocks != 3 {
		t.Errorf("%+v, %v", e, err)
	}
	if e, err = ReadExtension("gpu=" + dir); err != nil || e.Name != "gpu" || e.Dir != dir {
		t.Errorf("%+v, %v", e, err)
	}
	for name, c := range map[string]struct{ arg, want string }{
		"no folder": {filepath.Join(dir, "none"), "no such file"},
		"a long label": {extensionFolder(t, good, disk("abcdefghijklmnop")),
			"16 bytes, want at most 10, as a disk's serial has 20 and begins with \"extension-\"; name it with " +
				"NAME=FOLDER"},
		"no label":             {extensionFolder(t, good, disk("")), "name it with NAME=FOLDER"},
		"another file system":  {extensionFolder(t, good, make([]byte, 8192)), "not erofs"},
		"an empty image":       {extensionFolder(t, good, nil), "partition table: EOF"},
		"a name that is wrong": {"g.pu=" + dir, `name of an extension "g.pu"`},
		"a name that is long":  {"abcdefghijk=" + dir, "11 bytes, want at most 10"},
		"a hash cut short": {extensionFolder(t, fmt.Sprintf(hashLine, "ab"), disk("a")),
			"root_hash.txt: root_hash"},
		"no end of a hash": {extensionFolder(t, strings.Repeat("x", maxHashFile+1), disk("a")), "more than 4096 bytes"},
	} {
		if e, err := ReadExtension(c.arg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %+v, %v, want %s", name, e, err, c.want)
		}
	}
}

func TestExtensionsArePlannedBehindTheRoot(t *testing.T) {
	plan := func(cfg Config) (*Plan, error) {
		g, err := described(cfg)
		if err != nil {
			return nil, err
		}
		return newPlan(cfg, g, accel.Choice{Accel: accel.TCG}, vsock.Choice{}, 2600000)
	}
	ext := func(name string) Extension {
		return Extension{Extension: extension.Extension{Name: name,
			Params: dmverity.Params{RootHash: strings.Repeat("ab", 32), Salt: strings.Repeat("cd", 32),
				DataBlocks: 3, DataBlockSize: 4096, HashBlockSize: 4096}}, Dir: "/ext/" + name}
	}
	cfg := plain()
	cfg.Manifest.Initrd, cfg.Manifest.Image = nil, &manifest.Image{File: manifest.File{Path: "image.img", Size: 5}}
	cfg.Extensions, cfg.Words = []Extension{ext("net"), ext("gpu")}, []string{"debug"}
	p, err := plan(cfg)
	if err != nil {
		t.Fatal(err)
	}
	want := []qemu.Disk{{Path: "/out/image.img", Size: 5}, {Path: "/ext/net/image.img", Serial: "extension-net"},
		{Path: "/ext/gpu/image.img", Serial: "extension-gpu"}}
	if len(p.QEMU.Disks) != 3 || p.QEMU.Disks[0] != want[0] || p.QEMU.Disks[1] != want[1] ||
		p.QEMU.Disks[2] != want[2] {
		t.Errorf("disks %+v", p.QEMU.Disks)
	}
	if l := p.CommandLine; l != "quiet tsc_early_khz=2600000 "+ext("net").Word()+" "+ext("gpu").Word()+" debug" {
		t.Errorf("command line %s", l)
	}
	cfg.Extensions = []Extension{ext("net"), ext("net")}
	if _, err := plan(cfg); err == nil || !strings.Contains(err.Error(), "two extensions are called net") {
		t.Error(err)
	}
	cfg.Extensions = nil
	for i := range 10 {
		cfg.Extensions = append(cfg.Extensions, ext(fmt.Sprint("e", i)))
	}
	if _, err := plan(cfg); err == nil || !strings.Contains(err.Error(), "Linux keeps 2047; 10 extensions need") {
		t.Error(err)
	}
}

func TestSealedCopiesAreWhatWasDigested(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	if err := os.WriteFile(path, []byte("abc"), 0o644); err != nil {
		t.Fatal(err)
	}
	f, sum, err := sealed(path, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if sum.Hex() != "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" { // FIPS 180-2, B.1
		t.Error(sum)
	}
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Error("the copy can be changed")
	}
}

func FuzzLabel(f *testing.F) {
	f.Add(disk("tools"))
	f.Add(disk("abcdefghijklmnop")) // no NUL at its end
	f.Add(make([]byte, 600))        // no file system
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := label(bytes.NewReader(b)); err == nil && (len(s) > 16 || strings.ContainsRune(s, 0)) {
			t.Errorf("label %q", s)
		}
	})
}
