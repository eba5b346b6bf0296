// Package releasetest makes small guests and releases for tests. They boot nowhere.
package releasetest

import (
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/documenttest"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/recipetar"
	"github.com/katabuild/katabuild/internal/report"
	"github.com/katabuild/katabuild/internal/verdict"
	"github.com/katabuild/katabuild/releases/assemble"
	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/keys"
	"github.com/katabuild/katabuild/releases/provenance"
	"github.com/katabuild/katabuild/releases/reproduced"
)

// Guest says what a guest is like. The zero value is documenttest's.
type Guest struct {
	Name, Arch string
	Lock       []byte // of which the manifest has the digest
	Mark       string // is in every file, so that two guests differ
	Disk       bool   // it boots from a disk, which has a bill of materials
	Image      []byte // the disk; empty is a small one
	Recipe     []byte // of which the manifest has the digest; it lies beside the guest
}

// Manifest is the guest's manifest.
func (g Guest) Manifest() *manifest.Manifest {
	m := documenttest.Manifest()
	if g.Name != "" {
		m.Name = g.Name
	}
	if g.Arch != "" {
		m.Arch = g.Arch
	}
	m.Lock = digest.Of(g.lock())
	if g.Recipe != nil {
		m.Recipe = digest.Of(g.Recipe)
	}
	k := &m.Kernel
	for _, f := range []*manifest.File{&k.Image, &k.Vmlinux, &k.Config, &k.SystemMap, &m.Initrd.File} {
		*f = g.file(f.Path)
	}
	if g.Disk {
		m.Initrd = nil
		m.Image = &manifest.Image{File: g.file("image.img"),
			ImageLayout: manifest.ImageLayout{Layout: manifest.LayoutBare, FileSystem: "erofs", Length: 1}}
		m.Root = manifest.Root{Kind: manifest.RootDisk, FileSystem: "erofs"}
		m.Boot.Disk = manifest.VirtioBlk
		m.SBOM = []manifest.SBOM{{File: g.file("sbom.spdx.json"), Format: "spdx-2.3"}}
	}
	return m
}

// lock is that of the guest, of which documenttest's manifest has the digest where there is none.
func (g Guest) lock() []byte {
	if g.Lock == nil {
		return []byte("lock")
	}
	return g.Lock
}

func (g Guest) content(path string) []byte {
	if path == "image.img" && g.Image != nil {
		return g.Image
	}
	return []byte(path + g.Mark)
}

func (g Guest) file(path string) manifest.File {
	c := g.content(path)
	return manifest.File{Path: path, Digest: digest.Of(c), Size: int64(len(c))}
}

// Report is what the guest says of itself.
func (g Guest) Report() *report.Report {
	m, r := g.Manifest(), documenttest.Report()
	r.Kernel.Machine, r.Kernel.Config = m.Arch, m.Kernel.Config.Digest
	if g.Disk {
		r.Root = report.Root{Kind: manifest.RootDisk, FileSystem: "erofs", Source: "/dev/vda"}
	}
	return r
}

// Write makes dir the guest's folder, with report and verdict of its boot, and its lock as guest.lock.json.
func (g Guest) Write(dir string) error {
	m := g.Manifest()
	data, err := m.Encode()
	if err != nil {
		return err
	}
	said, err := g.Report().Encode()
	if err != nil {
		return err
	}
	v := &verdict.Verdict{Guest: m.Name, Manifest: digest.Of(data), Report: digest.Of(said)}
	errs := []error{os.MkdirAll(dir, 0o755)}
	for _, f := range m.Files() {
		errs = append(errs, os.WriteFile(filepath.Join(dir, f.Path), g.content(f.Path), 0o644))
		d := string(f.Digest)
		v.Claims = append(v.Claims, verdict.Claim{Name: "file " + f.Path, Want: d, Got: d, Met: true})
	}
	v.Claims = append(v.Claims, Claims(m, g.Report())...)
	v.Judge(true)
	if g.Recipe != nil {
		packed, err := recipetar.Pack(context.Background(), g.Recipe, dir, nil)
		errs = append(errs, err, os.WriteFile(filepath.Join(dir, recipetar.FileName), packed, 0o644))
	}
	found, err := v.Encode()
	return errors.Join(append(errs, err, manifest.Write(dir, data),
		os.WriteFile(filepath.Join(dir, assemble.ReportName), said, 0o644),
		os.WriteFile(filepath.Join(dir, assemble.VerdictName), found, 0o644),
		os.WriteFile(filepath.Join(dir, "guest.lock.json"), g.lock(), 0o644))...)
}

// Claims compares little of a report with a manifest: enough to tell guests apart.
func Claims(m *manifest.Manifest, r *report.Report) []verdict.Claim {
	claim := func(name, want, got string) verdict.Claim {
		return verdict.Claim{Name: name, Want: want, Got: got, Met: want == got}
	}
	return []verdict.Claim{claim("kernel.machine", m.Arch, r.Kernel.Machine),
		claim("kernel.config", string(m.Kernel.Config.Digest), string(r.Kernel.Config))}
}

// Origin is how the guests were made.
func Origin(g assemble.Guest, _ *manifest.Manifest) (assemble.Origin, error) {
	pinned, err := os.ReadFile(filepath.Join(g.Dir, "guest.lock.json"))
	return assemble.Origin{Lock: pinned, Options: Options()}, err
}

// Options are how the guests were made, without their locks.
func Options() provenance.Options {
	return provenance.Options{Builder: "urn:katabuild:host:ed25519:00", Katabuild: "1.0.0", Commit: "c0ffee",
		Inputs: []provenance.Dependency{{Name: "kernel source", URI: "pkg:deb/debian/linux-source-6.12@6.12.117-1",
			Digest:      provenance.SHA256(digest.Of([]byte("source"))),
			Annotations: map[string]string{"kind": "debian", "size": "6", "version": "6.12.117-1"}}}}
}

// Release makes a release of guests in a folder below t's, and returns it with the index. It has a version and the
// channel stable.
func Release(t testing.TB, version string, guests ...Guest) (dir string, data []byte) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "release")
	cfg := assemble.Config{Version: version, Channel: "stable", Origin: Origin, Claims: Claims}
	for _, g := range guests {
		d := t.TempDir()
		if err := g.Write(d); err != nil {
			t.Fatal(err)
		}
		cfg.Guests = append(cfg.Guests, assemble.Guest{Dir: d})
	}
	to, err := folder.Create(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	data, err = assemble.Release(t.Context(), cfg, to)
	if err := errors.Join(err, to.Close()); err != nil {
		t.Fatal(err)
	}
	return dir, data
}

// Two are a guest with an initrd and one with a disk, of two architectures.
func Two() []Guest {
	return []Guest{{}, {Name: "disk", Arch: "aarch64", Mark: " of disk", Disk: true}}
}

// Reproduced adds the statement that a key has reproduced all guests of a release to a list, which may be nil.
func Reproduced(data, list []byte, by keys.Signer) ([]byte, error) {
	x, err := index.Decode(data)
	if err != nil {
		return nil, err
	}
	var guests []reproduced.Guest
	for i := range x.Guests {
		guests = append(guests, reproduced.Of(&x.Guests[i]))
	}
	who := reproduced.Builder{Version: "1.0.0", Commit: "c0ffee"}
	e, err := reproduced.Sign(context.Background(), data, guests, who, by)
	if err != nil {
		return nil, err
	}
	var one reproduced.List
	if err := one.Add(e); err != nil {
		return nil, err
	}
	more, err := one.Encode()
	if err != nil {
		return nil, err
	}
	return reproduced.Merge(list, more)
}

// machines are how programs say what they are for: e_machine, and their byte order.
var machines = map[string]struct {
	machine elf.Machine
	order   binary.ByteOrder
	data    elf.Data
}{
	"x86_64":  {elf.EM_X86_64, binary.LittleEndian, elf.ELFDATA2LSB},
	"aarch64": {elf.EM_AARCH64, binary.LittleEndian, elf.ELFDATA2LSB},
	"ppc64le": {elf.EM_PPC64, binary.LittleEndian, elf.ELFDATA2LSB},
	"riscv64": {elf.EM_RISCV, binary.LittleEndian, elf.ELFDATA2LSB},
	"s390x":   {elf.EM_S390, binary.BigEndian, elf.ELFDATA2MSB},
}

// Program is a static program for an architecture that runs nowhere: the header of an ELF, and its name.
func Program(architecture, name string) ([]byte, error) {
	m, ok := machines[architecture]
	if !ok {
		return nil, errors.New("no architecture " + architecture)
	}
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(m.machine), Version: uint32(elf.EV_CURRENT),
		Ehsize: 64, Phentsize: 56}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA] = byte(elf.ELFCLASS64), byte(m.data)
	h.Ident[elf.EI_VERSION] = byte(elf.EV_CURRENT)
	data, err := binary.Append(nil, m.order, h)
	return append(data, name...), err
}
