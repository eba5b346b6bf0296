package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/extension"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu"
)

// Plain is a guest of files that somebody names, as Kata Containers is configured: without a manifest, so nobody says
// what they must be. Its kernel command line is the one that Kata's guests want.
type Plain struct {
	Kernel string // path; see ReadKernel
	Initrd string // path; one of Initrd and Image
	Image  string // path of a disk, whose root is the first partition, or all of it where it has no partition table
	// FileSystem of the image's root: ext4, erofs or xfs. Empty is ext4.
	FileSystem string
	// Verity is how dm-verity checks the image's root, as Kata's kernel_verity_params; the hash tree is in the second
	// partition. Nil: it is not checked.
	Verity *extension.Params
}

// fileSystems are what a Plain's root may be.
var fileSystems = []string{"ext4", "erofs", "xfs"}

// What a plain guest has when nobody says more, as with Kata Containers.
const (
	plainCPUs      = 1
	plainMemoryMiB = 2048
)

// BootedFile is a file that a plain guest was booted from.
type BootedFile struct {
	Path string `json:"path"`
	// of the file that QEMU got, unpacked where it could not do that; of an image, as it was when the guest was started
	Digest digest.Digest `json:"digest"`
}

func (p *Plain) check() error {
	switch {
	case p.Kernel == "":
		return errors.New("a guest without a kernel")
	case (p.Initrd == "") == (p.Image == ""):
		return fmt.Errorf("a guest wants one of initrd and image: initrd is %q, image is %q", p.Initrd, p.Image)
	case p.FileSystem != "" && !slices.Contains(fileSystems, p.FileSystem):
		return fmt.Errorf("a root file system %q (known: %s)", p.FileSystem, strings.Join(fileSystems, ", "))
	case p.Image == "" && p.Verity != nil:
		return errors.New("an initrd is not checked by dm-verity; leave the parameters out")
	}
	return nil
}

// name is what the guest is called in the list of processes.
func (p *Plain) name() string {
	name := filepath.Base(p.Image)
	if p.Image == "" {
		name = filepath.Base(p.Initrd)
	}
	return unnamable.ReplaceAllString(name, "_")
}

// unnamable are the bytes that QEMU's -name would take for something else.
var unnamable = regexp.MustCompile(`[^A-Za-z0-9._-]`)

// read looks at the files and makes of them what a manifest would have said.
func (p *Plain) read() (*guest, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	k, err := lookAtKernel(p.Kernel)
	if err != nil {
		return nil, err
	}
	g := &guest{
		name: p.name(), arch: k.Arch, kernel: p.Kernel, initrd: p.Initrd, image: p.Image, plain: k,
		boot: manifest.Boot{CPUs: plainCPUs, MemoryMiB: plainMemoryMiB, TCGCommandLine: plainTCG(k.Arch)},
	}
	if machines := qemu.Machines(k.Arch.Name); len(machines) > 0 {
		g.boot.Machine = string(machines[0])
	}
	for _, path := range []string{p.Initrd, p.Image} {
		if path == "" {
			continue
		}
		switch i, err := os.Stat(path); {
		case err != nil:
			return nil, err
		case !i.Mode().IsRegular():
			return nil, &fs.PathError{Op: "boot from", Path: path, Err: errors.New("not a regular file")}
		}
	}
	partitions := false
	if p.Image != "" {
		g.boot.Disk = manifest.VirtioBlk
		if partitions, err = partitioned(p.Image); err != nil {
			return nil, err
		}
		if p.Verity != nil && !partitions {
			return nil, fmt.Errorf(
				"%s has no partition table, so the hash tree for dm-verity cannot be in its second partition", p.Image)
		}
	}
	g.boot.CommandLine = p.commandLine(k.Arch, partitions)
	return g, nil
}

// partitioned says whether a disk begins with a partition table. UEFI Specification 2.10, 5.2.1: both MBR and GPT have
// 55 aa at 510.
func partitioned(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	var b [2]byte
	if _, err := f.ReadAt(b[:], 510); err != nil {
		return false, fmt.Errorf("first sector of %s: %w", path, err)
	}
	return b == [2]byte{0x55, 0xaa}, nil
}

// plainTCG is what Linux is told where TCG emulates its processor; see kernel.CommandLine, which says it of the kernels
// that are built here.
func plainTCG(a arch.Arch) string {
	if a.Name != "x86_64" {
		return ""
	}
	return "tsc_early_khz=" + clockWord + " tsc=reliable no_timer_check"
}

// commandLine is the kernel's, without what TCG wants. The words of an image are those that Kata Containers' images
// want: an agent that systemd starts, and nobody else who sets up the network.
func (p *Plain) commandLine(a arch.Arch, partitions bool) string {
	words := []string{"console=" + a.Console, "quiet", "panic=-1"}
	switch a.Name {
	case "x86_64":
		words = append(words, "reboot=t")
	case "riscv64":
		words = append(words, "numa=off") // as Kata's: QEMU describes no nodes
	}
	words = append(words, "net.ifnames=0", "cgroup_no_v1=all")
	if p.Image == "" {
		return strings.Join(words, " ")
	}
	root, hashes := "/dev/vda", ""
	if partitions {
		root, hashes = "/dev/vda1", "/dev/vda2"
	}
	if v := p.Verity; v != nil {
		// Linux, Documentation/admin-guide/device-mapper/dm-init.rst and verity.rst: the length is in sectors of 512
		// bytes.
		words = append(words, fmt.Sprintf(`dm-mod.create="dm-verity,,,ro,0 %d verity 1 %s %s %d %d %d 0 sha256 %s %s"`,
			v.DataBlocks*v.DataBlockSize/sectorSize, root, hashes, v.DataBlockSize, v.HashBlockSize, v.DataBlocks,
			v.RootHash, v.Salt))
		root = "/dev/dm-0"
	}
	words = append(words, "root="+root)
	switch p.FileSystem {
	case "", "ext4":
		words = append(words, "rootflags=data=ordered,errors=remount-ro", "ro", "rootfstype=ext4")
	default:
		words = append(words, "ro", "rootfstype="+p.FileSystem)
	}
	words = append(words, "systemd.show_status=false", "systemd.unit=kata-containers.target",
		"systemd.mask=systemd-networkd.service",
		"systemd.mask=systemd-networkd.socket", "systemd.unified_cgroup_hierarchy=1")
	return strings.Join(words, " ")
}
