// Package manifest is the document that says what a guest is, how to boot it, and what it must report once it runs.
//
// The builder writes it; the runtime, releases and verify read it. docs/formats/manifest.md owns the bytes.
package manifest

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/atomicfile"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/dmverity"
	"github.com/katabuild/katabuild/internal/document"
	"github.com/katabuild/katabuild/internal/regular"
)

// Version is the only version this package reads and writes.
const Version = 1

// Name is the manifest's file name in an output folder; SumName holds its digest in the form sha256sum reads.
const (
	Name    = "manifest.json"
	SumName = "manifest.json.sha256"
)

// Manifest is one guest.
type Manifest struct {
	Version int           `json:"version"`
	Name    string        `json:"name"` // the recipe's name
	Arch    string        `json:"arch"` // a name of internal/arch
	Time    int64         `json:"time"` // the lock's time, seconds since 1970, stamped into every output
	Recipe  digest.Digest `json:"recipe"`
	Lock    digest.Digest `json:"lock"`
	Kernel  Kernel        `json:"kernel"`
	Initrd  *Initrd       `json:"initrd,omitempty"` // one of initrd and image
	Image   *Image        `json:"image,omitempty"`
	SBOM    []SBOM        `json:"sbom,omitempty"` // software bills of materials of the image
	Agent   Agent         `json:"agent"`
	Root    Root          `json:"root"`
	Boot    Boot          `json:"boot"`
}

// File is a file beside the manifest.
type File struct {
	Path   string        `json:"path"` // relative to the manifest, slashes, never upwards
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"` // bytes
}

// Kernel is the kernel's files and what it must say of itself.
type Kernel struct {
	Release string `json:"release"`  // uname -r
	Version string `json:"version"`  // uname -v
	BuildID string `json:"build_id"` // GNU build-id of vmlinux, hexadecimal
	Source  Source `json:"source"`
	// ToolchainKind is what kind of tool-chain it was built with: debian, llvm or host. Empty, in manifests from before
	// there was a choice, is host.
	ToolchainKind string `json:"toolchain_kind,omitempty"`
	Toolchain     []Tool `json:"toolchain"` // sorted by name; of debian and llvm, their packages
	Image         File   `json:"image"`     // the compressed kernel, bzImage on x86
	Vmlinux       File   `json:"vmlinux"`   // uncompressed ELF with a PVH note, stripped
	Config        File   `json:"config"`    // the final .config; its digest is also that of /proc/config.gz, unpacked
	SystemMap     File   `json:"system_map"`
	Modules       *File  `json:"modules,omitempty"` // a tar of /lib/modules/<release>, when asked for
	// ModuleKey is the certificate of the key that has signed the modules, in PEM form; the kernel takes no others.
	ModuleKey *File `json:"module_key,omitempty"`
	// Headers is a tar of what modules outside of the kernel are built against, when asked for.
	Headers *File `json:"headers,omitempty"`
	// Probes are what the running kernel can be asked to prove, sorted by name; none in manifests from before there
	// were any.
	Probes []string `json:"probes,omitempty"`
}

// Source is where the kernel came from.
type Source struct {
	Kind    string        `json:"kind"`    // debian, tarball or tree
	Name    string        `json:"name"`    // package, file or folder name
	Version string        `json:"version"` // Debian's version, or the kernel's own
	Digest  digest.Digest `json:"digest"`
}

// Tool is one program of the tool-chain.
type Tool struct {
	Name    string        `json:"name"`
	Version string        `json:"version"` // first line of --version, or the version of the package
	Digest  digest.Digest `json:"digest"`  // of the executable, or of the .deb
}

// Initrd is the initial RAM disk.
type Initrd struct {
	File
	Compression string `json:"compression"` // none or zstd
}

// Image is a disk that the guest boots from.
type Image struct {
	File
	ImageLayout
}

// ImageLayout is what lies where in an image.
type ImageLayout struct {
	Layout     string  `json:"layout"`      // bare, gpt, mbr or mbr-dax
	FileSystem string  `json:"file_system"` // of the root: erofs or ext4
	UUID       string  `json:"uuid"`        // of the root file system
	Offset     int64   `json:"offset"`      // of the root file system in the image, bytes
	Length     int64   `json:"length"`      // of the root file system, bytes
	Verity     *Verity `json:"verity,omitempty"`
}

// Verity is the dm-verity hash tree over the root file system. Its version is 1, its hash sha256.
type Verity struct {
	dmverity.Params
	Offset int64 `json:"offset"` // of the tree in the image, bytes
	Length int64 `json:"length"` // of the tree, bytes
}

// SBOM is a software bill of materials beside the image.
type SBOM struct {
	File
	Format string `json:"format"` // spdx-2.3 or cyclonedx-1.6
}

// Agent is the agent binary inside the guest.
type Agent struct {
	Path   string        `json:"path"` // in the guest
	Digest digest.Digest `json:"digest"`
	Go     string        `json:"go"`   // version of the Go tool-chain that built it, read from the binary
	Init   string        `json:"init"` // what is PID 1: "agent" or "systemd"
}

// Root is the root file system the running guest must have.
type Root struct {
	Kind       string `json:"kind"`                  // initrd or disk
	FileSystem string `json:"file_system,omitempty"` // of a disk
	// VerityRootHash is the root hash in the device-mapper table below the root; empty where it lies on the disk
	// itself.
	VerityRootHash string `json:"verity_root_hash,omitempty"`
}

// The kinds of roots.
const (
	RootInitrd = "initrd"
	RootDisk   = "disk"
)

// Boot is how to start the guest.
type Boot struct {
	Machine   string `json:"machine"` // QEMU machine: microvm or q35
	CPUs      int    `json:"cpus"`
	MemoryMiB int    `json:"memory_mib"`
	Disk      string `json:"disk,omitempty"` // how the guest is given the image: virtio-blk or nvdimm
	// the whole kernel command line where hardware virtualisation runs the guest
	CommandLine string `json:"command_line"`
	// TCGCommandLine is appended, after one space, where QEMU's TCG emulates the processor.
	// The word {tsc_khz} in it stands for the host's clock rate in kHz, an integer.
	TCGCommandLine string `json:"tcg_command_line"`
}

// Files lists every file of the guest, in a fixed order.
func (m *Manifest) Files() []File {
	f := []File{m.Kernel.Image, m.Kernel.Vmlinux, m.Kernel.Config, m.Kernel.SystemMap}
	for _, more := range []*File{m.Kernel.Modules, m.Kernel.ModuleKey, m.Kernel.Headers} {
		if more == nil {
			continue
		}
		f = append(f, *more)
	}
	if m.Initrd != nil {
		f = append(f, m.Initrd.File)
	}
	if m.Image != nil {
		f = append(f, m.Image.File)
	}
	for _, s := range m.SBOM {
		f = append(f, s.File)
	}
	return f
}

// Encode is the canonical form.
func (m *Manifest) Encode() ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return document.Encode(m)
}

// Decode reads the canonical form and nothing else.
func Decode(data []byte) (*Manifest, error) {
	var m Manifest
	if err := document.Decode("manifest", data, &m); err != nil {
		return nil, err
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return &m, nil
}

func (m *Manifest) check() error {
	if m.Version != Version {
		return fmt.Errorf("version %d, this katabuild reads version %d", m.Version, Version)
	}
	if _, err := arch.Parse(m.Arch); err != nil {
		return err
	}
	if m.Name == "" {
		return errors.New("no name")
	}
	for _, f := range m.Files() {
		if f.Path == "" || path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path ||
			slices.Contains(strings.Split(f.Path, "/"), "..") {
			return fmt.Errorf("file path %q: want a clean relative path that stays beside the manifest", f.Path)
		}
		if f.Digest == "" || f.Size < 0 {
			return fmt.Errorf("file %s: no digest or a negative size", f.Path)
		}
	}
	if (m.Initrd == nil) == (m.Image == nil) {
		return errors.New("want one of initrd and image")
	}
	if err := m.checkImage(); err != nil {
		return fmt.Errorf("image: %w", err)
	}
	for i, p := range m.Kernel.Probes {
		if p == "" || i > 0 && m.Kernel.Probes[i-1] >= p {
			return fmt.Errorf("probe %q has no name, is not in order, or stands twice", p)
		}
	}
	if m.Agent.Digest == "" {
		return errors.New("no agent digest")
	}
	if m.Boot.CPUs < 1 || m.Boot.MemoryMiB < 16 {
		return fmt.Errorf("boot: %d CPUs and %d MiB of memory: want at least 1 and 16", m.Boot.CPUs, m.Boot.MemoryMiB)
	}
	if strings.ContainsAny(m.Boot.CommandLine+m.Boot.TCGCommandLine, "\n\x00") {
		return errors.New("boot: the command line holds a line break or a NUL")
	}
	return nil
}

func (m *Manifest) checkImage() error {
	i := m.Image
	if i == nil {
		if m.Boot.Disk != "" || m.Root.Kind != RootInitrd || len(m.SBOM) > 0 {
			return fmt.Errorf("there is none, but a disk %q, a root of kind %q or a bill of materials", m.Boot.Disk,
				m.Root.Kind)
		}
		return nil
	}
	switch {
	case !slices.Contains(Disks(), m.Boot.Disk):
		return fmt.Errorf("disk %q: want %s or %s", m.Boot.Disk, VirtioBlk, NVDIMM)
	case m.Root.Kind != RootDisk || m.Root.FileSystem != i.FileSystem:
		return fmt.Errorf("the root is a %s of %q, the image holds %q", m.Root.Kind, m.Root.FileSystem, i.FileSystem)
	case i.Offset < 0 || i.Length <= 0 || i.Length > i.Size || i.Offset > i.Size-i.Length:
		return fmt.Errorf("root file system of %d bytes at %d in %d bytes", i.Length, i.Offset, i.Size)
	}
	v := i.Verity
	switch {
	case v == nil && m.Root.VerityRootHash == "":
		return nil
	case v == nil || v.RootHash != m.Root.VerityRootHash:
		return errors.New("the root's hash is not that of its tree")
	case v.Offset < 0 || v.Length <= 0 || v.Length > i.Size || v.Offset > i.Size-v.Length:
		return fmt.Errorf("hash tree of %d bytes at %d in %d bytes", v.Length, v.Offset, i.Size)
	case v.DataBlockSize < 512 || v.HashBlockSize < 512 || v.DataBlocks < 1 || v.DataBlocks > i.Length/v.DataBlockSize:
		return fmt.Errorf("hash tree over %d blocks of %d bytes, with blocks of %d", v.DataBlocks, v.DataBlockSize,
			v.HashBlockSize)
	}
	return nil
}

// Write puts an encoded manifest and the file with its digest into dir, which then is a guest. The digest goes first: a
// reader that meets the old manifest between the two is told that they do not fit, never that all is well.
func Write(dir string, data []byte) error {
	sum := digest.Of(data).Hex() + "  " + Name + "\n"
	if err := atomicfile.Write(filepath.Join(dir, SumName), []byte(sum), 0o644); err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, Name), data, 0o644)
}

// Bounds of what Read reads, in bytes: a manifest has a few thousand, the line beside it about 80.
const (
	maxSize = 16 << 20
	maxSum  = 4096
)

// Read reads the manifest in dir and checks it against the digest beside it, and against want when that is not empty.
// An altered manifest is a *digest.Mismatch.
func Read(dir string, want digest.Digest) (*Manifest, digest.Digest, error) {
	file := filepath.Join(dir, Name)
	data, err := regular.ReadFile(file, maxSize)
	if err != nil {
		return nil, "", err
	}
	sum, err := regular.ReadFile(filepath.Join(dir, SumName), maxSum)
	if err != nil {
		return nil, "", err
	}
	h, rest, ok := strings.Cut(string(sum), "  ")
	beside, derr := digest.Parse("sha256:" + h)
	if !ok || derr != nil || rest != Name+"\n" {
		return nil, "", fmt.Errorf("%s: want one line as sha256sum writes it for %s", filepath.Join(dir, SumName), Name)
	}
	got := digest.Of(data)
	if want == "" {
		want = beside
	}
	for _, w := range []digest.Digest{want, beside} {
		if got != w {
			return nil, "", &digest.Mismatch{Name: file, Want: w, Got: got}
		}
	}
	m, err := Decode(data)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", file, err)
	}
	return m, got, nil
}
