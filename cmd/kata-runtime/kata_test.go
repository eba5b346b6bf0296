package main

import (
	"os"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/dmverity"
	"github.com/katabuild/katabuild/internal/documenttest"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/runtime/config"
)

func TestKatasConfigurationNamesTheGuest(t *testing.T) {
	hash := strings.Repeat("ab", 32)
	disk := documenttest.Manifest()
	disk.Initrd, disk.Kernel.Vmlinux.Path = nil, "vmlinux"
	disk.Image = &manifest.Image{File: manifest.File{Path: "image.img"},
		ImageLayout: manifest.ImageLayout{Layout: "gpt", FileSystem: "erofs",
			Verity: &manifest.Verity{Params: dmverity.Params{RootHash: hash, Salt: "-", DataBlocks: 7,
				DataBlockSize: 4096, HashBlockSize: 4096}}}}
	initrd := documenttest.Manifest()
	initrd.Image, initrd.Initrd = nil, &manifest.Initrd{File: manifest.File{Path: "initrd.img"}}
	read := func(m *manifest.Manifest) (config.VM, string) {
		text, err := forKata(`/srv/my "guests"\x`, m)
		if err != nil {
			t.Fatal(err)
		}
		file := t.TempDir() + "/configuration.toml"
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		l, err := config.Load(config.Options{Path: file})
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		return l.Config.VM, text
	}
	q, text := read(disk)
	if q.Kernel != `/srv/my "guests"\x/vmlinux` || q.Image != `/srv/my "guests"\x/image.img` || q.Initrd != "" ||
		q.RootfsType != "erofs" || !strings.Contains(text, "disable_image_nvdimm = true\n") {
		t.Errorf("%+v\n%s", q, text)
	}
	if p, err := dmverity.ParseParams(q.KernelVerityParams); err != nil || p.RootHash != hash || p.DataBlocks != 7 {
		t.Error(p, err)
	}
	disk.Image.Layout, disk.Image.Verity = "mbr-dax", nil
	if q, text := read(disk); q.KernelVerityParams != "" || !strings.Contains(text, "disable_image_nvdimm = false\n") {
		t.Error(text)
	}
	disk.Image.Layout = "bare"
	if _, err := forKata("/x", disk); err == nil || !strings.Contains(err.Error(), "gpt or mbr-dax") {
		t.Errorf("a disk without partitions: %v", err)
	}
	if q, text := read(initrd); q.Initrd != `/srv/my "guests"\x/initrd.img` || q.Image != "" {
		t.Error(text)
	}
}
