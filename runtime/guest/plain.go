package guest

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/bootwords"
	"github.com/katabuild/katabuild/internal/dmverity"
	"github.com/katabuild/katabuild/internal/gpt"
	"github.com/katabuild/katabuild/internal/manifest"
	"golang.org/x/sys/unix"
)

// Plain is a guest of files that somebody names, as Kata Containers is configured: without a manifest, so nobody says
// what they must be. Its kernel command line is the one that Kata's guests want.
type Plain struct {
	Kernel string // path; an ELF, or an image by its architecture's boot protocol, which may be packed
	Initrd string // path; one of Initrd and Image
	Image  string // path of a disk, whose root is the first partition, or all of it where it has no partition table
	// FileSystem of the image's root: ext4, erofs or xfs. Empty is ext4.
	FileSystem string
	// Verity is how dm-verity checks the image's root, as Kata's kernel_verity_params; the hash tree is in the second
	// partition. Nil: it is not checked.
	Verity *dmverity.Params
}

// FileSystems are what a Plain's root may be, the default first.
func FileSystems() []string { return []string{manifest.Ext4, manifest.EROFS, "xfs"} }

// What a plain guest has when nobody says more, as with Kata Containers.
const (
	PlainCPUs      = 1
	PlainMemoryMiB = 2048
)

func (p *Plain) check() error {
	switch {
	case p.Kernel == "":
		return errors.New("a guest without a kernel")
	case (p.Initrd == "") == (p.Image == ""):
		return fmt.Errorf("a guest wants one of initrd and image: initrd is %q, image is %q", p.Initrd, p.Image)
	case p.FileSystem != "" && !slices.Contains(FileSystems(), p.FileSystem):
		return fmt.Errorf("a root file system %q (known: %s)", p.FileSystem, strings.Join(FileSystems(), ", "))
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

// unnamable are the bytes that a hypervisor may take for something else in a name.
var unnamable = regexp.MustCompile(`[^A-Za-z0-9._-]`)

// Read looks at the files and makes of them what a manifest would have said.
func (p *Plain) Read() (*Guest, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	k, err := readKernel(p.Kernel)
	if err != nil {
		return nil, err
	}
	g := &Guest{
		Name: p.name(), Arch: k.Arch, Kernel: p.Kernel, Initrd: p.Initrd, Image: p.Image, Form: k.Form, file: k,
		Boot: manifest.Boot{CPUs: PlainCPUs, MemoryMiB: PlainMemoryMiB},
	}
	for _, path := range []string{p.Initrd, p.Image} {
		if path == "" {
			continue
		}
		if err := regularFile(path); err != nil {
			return nil, err
		}
	}
	partitions := false
	if p.Image != "" {
		g.Boot.Disk = manifest.VirtioBlk
		if partitions, err = partitioned(p.Image); err != nil {
			return nil, err
		}
		if p.Verity != nil && !partitions {
			return nil, fmt.Errorf(
				"%s has no partition table, so the hash tree for dm-verity cannot be in its second partition", p.Image)
		}
	}
	root, err := p.root(partitions)
	if err != nil {
		return nil, err
	}
	g.Boot.CommandLine, g.Boot.TCGCommandLine = bootwords.Plain(k.Arch, root)
	return g, nil
}

// regularFile says why a path is no file that can be read.
func regularFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if i, err := f.Stat(); err != nil || !i.Mode().IsRegular() {
		return &fs.PathError{Op: "boot from", Path: path, Err: errors.Join(errors.New("not a regular file"), err)}
	}
	return nil
}

// partitioned says whether a disk begins with a partition table.
func partitioned(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	b := make([]byte, gpt.SectorSize)
	if _, err := f.ReadAt(b, 0); err != nil {
		return false, fmt.Errorf("first sector of %s: %w", path, err)
	}
	return gpt.Marked(b), nil
}

// root is the disk that the kernel is told of.
func (p *Plain) root(partitions bool) (bootwords.PlainRoot, error) {
	if p.Image == "" {
		return bootwords.PlainRoot{}, nil
	}
	r := bootwords.PlainRoot{Mount: "/dev/vda", FileSystem: cmp.Or(p.FileSystem, FileSystems()[0])}
	hashes := ""
	if partitions {
		r.Mount, hashes = "/dev/vda1", "/dev/vda2"
	}
	if p.Verity != nil {
		var err error
		if r.Create, err = p.Verity.Table(0).CreateWord(r.Mount, hashes); err != nil {
			return r, err
		}
		r.Mount = dmverity.CreatedDevice
	}
	return r, nil
}
