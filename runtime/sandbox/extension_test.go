package sandbox

import (
	"fmt"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/dmverity"
	"github.com/katabuild/katabuild/internal/extension"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/runtime/guest"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu"
	"github.com/katabuild/katabuild/runtime/vsock"
)

func TestExtensionsArePlannedBehindTheRoot(t *testing.T) {
	plan := func(cfg Config) (*Plan, error) {
		return newPlan(cfg, accel.Choice{Accel: accel.TCG}, vsock.Choice{}, 2600000)
	}
	ext := func(name string) guest.Extension {
		return guest.Extension{Extension: extension.Extension{Name: name,
			Params: dmverity.Params{RootHash: strings.Repeat("ab", 32), Salt: strings.Repeat("cd", 32),
				DataBlocks: 3, DataBlockSize: 4096, HashBlockSize: 4096}}, Dir: "/ext/" + name}
	}
	cfg := plain(t)
	m := cfg.Guest.Manifest
	m.Initrd, m.Image = nil, &manifest.Image{File: manifest.File{Path: "image.img", Size: 5}}
	cfg.Guest = described(t, m, "/out", "")
	cfg.Extensions, cfg.Words = []guest.Extension{ext("net"), ext("gpu")}, []string{"debug"}
	p, err := plan(cfg)
	if err != nil {
		t.Fatal(err)
	}
	want := []qemu.Disk{{Path: "/out/image.img", Size: 5}, {Path: "/ext/net/image.img", Serial: "extension-net"},
		{Path: "/ext/gpu/image.img", Serial: "extension-gpu"}}
	if len(argvOf(p).Disks) != 3 || argvOf(p).Disks[0] != want[0] || argvOf(p).Disks[1] != want[1] ||
		argvOf(p).Disks[2] != want[2] {
		t.Errorf("disks %+v", argvOf(p).Disks)
	}
	if l := p.CommandLine; l != "quiet tsc_early_khz=2600000 "+ext("net").Word()+" "+ext("gpu").Word()+" debug" {
		t.Errorf("command line %s", l)
	}
	cfg.Extensions = []guest.Extension{ext("net"), ext("net")}
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
