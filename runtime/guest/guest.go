// Package guest is the one description of what is booted: a guest with a manifest, or plain files about which nobody
// says what they must be.
//
// In comes a folder, or the names of files; out come a Guest, which says what it needs of a machine, and its files,
// open for a hypervisor, with what was found when they were compared with the manifest. It does not know what the
// machine is. Where there is a manifest, every byte that is handed out has been checked against it, and cannot change
// between the check and its use: kernel and initrd are copies that nobody can write, and a disk behind dm-verity is
// refused by the guest itself, block by block, when it changes.
package guest

import (
	"fmt"
	"path/filepath"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/manifest"
)

// KernelForm is which of the kernel's two files to boot. The zero value is what the architecture's machines take best.
type KernelForm string

// The forms.
const (
	Vmlinux KernelForm = "vmlinux" // uncompressed, by its PVH entry: the fastest where there is one
	Image   KernelForm = "image"   // compressed, by the architecture's boot protocol
)

// ParseKernelForm reads a kernel form. Empty is the zero value.
func ParseKernelForm(s string) (KernelForm, error) {
	switch f := KernelForm(s); f {
	case "", Vmlinux, Image:
		return f, nil
	}
	return "", fmt.Errorf("unknown kernel form %q (known: vmlinux, image)", s)
}

// Guest is what is booted, and what it needs.
type Guest struct {
	Name string
	Arch arch.Arch
	// Boot is what it needs of a machine, and what its kernel is told. Without a manifest it is what Kata Containers'
	// guests want, and Boot.Machine is empty: whatever a hypervisor has for the architecture.
	Boot manifest.Boot

	Kernel, Initrd, Image string // paths; one of Initrd and Image is empty
	ImageSize             int64  // bytes, of a manifest's image

	Manifest *manifest.Manifest // nil for plain files
	Digest   digest.Digest      // of the manifest
	Dir      string             // with the manifest's files

	Form string // of the kernel, for people; of plain files alone
	file *kernelFile
}

// Described says whether there is a manifest to compare the guest with.
func (g *Guest) Described() bool { return g.Manifest != nil }

// ReadFolder reads the guest that katabuild build made in dir. Its manifest must have the digest want, unless that is
// empty. No other file is read yet.
func ReadFolder(dir string, want digest.Digest, form KernelForm) (*Guest, error) {
	m, d, err := manifest.Read(dir, want)
	if err != nil {
		return nil, err
	}
	return FromManifest(m, d, dir, form)
}

// FromManifest is the guest of a manifest with a digest, whose files are in dir.
func FromManifest(m *manifest.Manifest, d digest.Digest, dir string, form KernelForm) (*Guest, error) {
	a, err := arch.Parse(m.Arch)
	if err != nil {
		return nil, err
	}
	g := &Guest{Name: m.Name, Arch: a, Boot: m.Boot, Manifest: m, Digest: d, Dir: dir}
	if form == "" {
		form = KernelForm(a.BootForm)
	}
	switch form {
	case Vmlinux:
		g.Kernel = g.path(m.Kernel.Vmlinux)
	case Image:
		g.Kernel = g.path(m.Kernel.Image)
	default:
		return nil, fmt.Errorf("unknown kernel form %q", form)
	}
	if m.Initrd != nil {
		g.Initrd = g.path(m.Initrd.File)
	}
	if m.Image != nil {
		g.Image, g.ImageSize = g.path(m.Image.File), m.Image.Size
	}
	return g, nil
}

// path is where a file of the manifest lies.
func (g *Guest) path(f manifest.File) string { return filepath.Join(g.Dir, filepath.FromSlash(f.Path)) }
