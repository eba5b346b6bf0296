package main

import (
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/papertest"
	"github.com/pelletier/go-toml/v2"
)

func TestKatasConfigurationNamesTheGuest(t *testing.T) {
	verity := &manifest.Verity{RootHash: strings.Repeat("ab", 32), Salt: "cd", DataBlocks: 5, DataBlockSize: 4096, HashBlockSize: 4096}
	for _, c := range []struct {
		name  string
		image *manifest.ImageLayout
		want  map[string]any
		err   string
	}{
		{"an initrd", nil, map[string]any{"kernel": "/g/vmlinux", "initrd": "/g/initrd.img", "image": ""}, ""},
		{"a disk with a hash tree", &manifest.ImageLayout{Layout: "gpt", FileSystem: "erofs", Verity: verity}, map[string]any{
			"kernel": "/g/vmlinux", "image": "/g/image.img", "initrd": "", "rootfs_type": "erofs", "disable_image_nvdimm": true,
			"kernel_verity_params": "root_hash=" + strings.Repeat("ab", 32) + ",salt=cd,data_blocks=5,data_block_size=4096,hash_block_size=4096"}, ""},
		{"a disk to be mapped", &manifest.ImageLayout{Layout: "mbr-dax", FileSystem: "ext4"}, map[string]any{
			"kernel": "/g/vmlinux", "image": "/g/image.img", "initrd": "", "rootfs_type": "ext4", "disable_image_nvdimm": false, "kernel_verity_params": ""}, ""},
		{"a disk without partitions", &manifest.ImageLayout{Layout: "bare", FileSystem: "ext4"}, nil, "build it with image.layout gpt or mbr-dax"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := papertest.Manifest()
			m.Kernel.Vmlinux.Path = "vmlinux"
			m.Initrd, m.Image = &manifest.Initrd{File: manifest.File{Path: "initrd.img"}}, nil
			if c.image != nil {
				m.Initrd, m.Image = nil, &manifest.Image{File: manifest.File{Path: "image.img"}, ImageLayout: *c.image}
			}
			text, err := kataConfig(m, "/g")
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got struct {
				Hypervisor struct {
					QEMU map[string]any `toml:"qemu"`
				} `toml:"hypervisor"`
			}
			if err := toml.Unmarshal([]byte(text), &got); err != nil {
				t.Fatal(err)
			}
			for k, v := range c.want {
				if got.Hypervisor.QEMU[k] != v {
					t.Errorf("%s is %v, want %v", k, got.Hypervisor.QEMU[k], v)
				}
			}
			if len(got.Hypervisor.QEMU) != len(c.want) {
				t.Errorf("got\n%s", text)
			}
		})
	}
}
