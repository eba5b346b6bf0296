package guest

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/elfnote"
)

// maxKernel bounds a kernel file, packed and unpacked, in bytes. Distributions' have up to 70 MB.
const maxKernel = 512 << 20

// kernelFile is what a file says that nobody else describes.
type kernelFile struct {
	Arch   arch.Arch
	Form   string        // for people
	Digest digest.Digest // of the file as it is on disk

	packed bool
	// unpacked is what a hypervisor gets instead of a packed file; nil otherwise, and once it has it.
	unpacked []byte
}

// KernelError says that a file is no kernel that can be booted.
type KernelError struct {
	Path  string
	Cause error
}

func (e *KernelError) Error() string {
	if _, named := errors.AsType[*fs.PathError](e.Cause); named {
		return fmt.Sprintf("kernel: %v", e.Cause)
	}
	return fmt.Sprintf("kernel %s: %v", e.Path, e.Cause)
}

func (e *KernelError) Unwrap() error { return e.Cause }

// readKernel reads a kernel of any of the architectures: an ELF, or an image by its architecture's boot protocol, which
// may be packed. It has a digest only where all of the file was read.
func readKernel(path string) (*kernelFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &KernelError{path, err}
	}
	defer f.Close()
	k, err := parseKernel(f)
	if err != nil {
		return nil, &KernelError{path, err}
	}
	return k, nil
}

// Magic words and where they are.
const (
	// x86: Linux, Documentation/arch/x86/boot.rst.
	x86BootFlagAt = 0x1fe // 0xaa55
	x86HeaderAt   = 0x202 // "HdrS"
	x86VersionAt  = 0x206
	x86LoadFlags  = 0x236 // xloadflags, since version 2.12
	x86Kernel64   = 1     // XLF_KERNEL_64
	x86Version    = 0x20c

	// arm64: Linux, Documentation/arch/arm64/booting.rst.
	arm64MagicAt = 56
	arm64Magic   = "ARM\x64"

	// riscv: Linux, Documentation/arch/riscv/boot-image-header.rst.
	riscvMagicAt = 56
	riscvMagic   = "RSC\x05"

	// s390: Linux, arch/s390/include/asm/setup.h, EP_OFFSET and EP_STRING.
	s390MagicAt = 0x10008
	s390Magic   = "S390EP"

	// EFI's self-unpacking image: Linux, drivers/firmware/efi/libstub/zboot-header.S and include/linux/pe.h.
	zbootMagicAt = 4 // "zimg", behind "MZ" and two zeros
	zbootMagic   = "zimg"
	zbootPayload = 8
	zbootSize    = 12
	zbootPacker  = 24
	zbootHeader  = 56
)

// elfArch is the architecture of an ELF machine that is little-endian, or on s390x big-endian.
var elfArch = map[elf.Machine]string{elf.EM_X86_64: "x86_64", elf.EM_PPC64: "ppc64le", elf.EM_S390: "s390x",
	elf.EM_RISCV: "riscv64", elf.EM_AARCH64: "aarch64"}

// headSize is how much of a kernel is looked at, but for an ELF's notes.
const headSize = s390MagicAt + len(s390Magic)

// parseKernel tells what a kernel is. What r holds may be anything. There is a digest only where all was read.
func parseKernel(r io.ReaderAt) (*kernelFile, error) {
	b := make([]byte, headSize)
	n, err := r.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	b = b[:n]
	if !packed(b) {
		return parseUnpacked(b, r)
	}
	all, err := io.ReadAll(io.NewSectionReader(r, 0, maxKernel+1))
	switch {
	case err != nil:
		return nil, err
	case len(all) > maxKernel:
		return nil, fmt.Errorf("more than %d bytes", int64(maxKernel))
	}
	sum, by := digest.Of(all), ""
	for range 2 { // an EFI image may hold a packed one; what is packed more often is no kernel
		if !packed(all) {
			break
		}
		if all, by, err = unpack(all); err != nil {
			return nil, err
		}
	}
	k, err := parseUnpacked(all, bytes.NewReader(all))
	if err != nil {
		return nil, err
	}
	k.Form, k.Digest, k.packed, k.unpacked = k.Form+", unpacked from "+by, sum, true, all
	return k, nil
}

// parseUnpacked tells what a kernel is that begins with b.
func parseUnpacked(b []byte, r io.ReaderAt) (*kernelFile, error) {
	name, form := "", ""
	switch {
	case has(b, 0, elf.ELFMAG):
		var err error
		if name, form, err = parseELF(r); err != nil {
			return nil, err
		}
	case has(b, x86HeaderAt, "HdrS") && has(b, x86BootFlagAt, "\x55\xaa"):
		name, form = "x86_64", "bzImage"
		if len(b) < x86LoadFlags+2 || binary.LittleEndian.Uint16(b[x86VersionAt:]) < x86Version ||
			b[x86LoadFlags]&x86Kernel64 == 0 {
			return nil, errors.New("a bzImage without a 64-bit entry: kernels for 32-bit processors are not supported")
		}
	case has(b, arm64MagicAt, arm64Magic):
		name, form = "aarch64", "arm64 Image"
	case has(b, riscvMagicAt, riscvMagic):
		name, form = "riscv64", "riscv Image"
	case has(b, s390MagicAt, s390Magic):
		name, form = "s390x", "s390 image"
	default:
		return nil, errors.New(
			"not a kernel: want an ELF, a bzImage, or an Image of arm64, riscv or s390, plain or packed")
	}
	a, err := arch.Parse(name)
	if err != nil {
		return nil, err
	}
	return &kernelFile{Arch: a, Form: form}, nil
}

func has(b []byte, at int, magic string) bool {
	return len(b) >= at+len(magic) && string(b[at:at+len(magic)]) == magic
}

func packed(b []byte) bool { return has(b, 0, gzipMagic) || zbooted(b) }

// gzipMagic begins a gzip file: RFC 1952, 2.3.1.
const gzipMagic = "\x1f\x8b"

func zbooted(b []byte) bool {
	return has(b, 0, "MZ") && has(b, zbootMagicAt, zbootMagic) && len(b) >= zbootHeader
}

// unpack takes off gzip or EFI's wrapper.
func unpack(b []byte) (inner []byte, by string, err error) {
	if !zbooted(b) {
		inner, err = inflate("gzip", b)
		return inner, "gzip", err
	}
	from, size := uint64(binary.LittleEndian.Uint32(b[zbootPayload:])),
		uint64(binary.LittleEndian.Uint32(b[zbootSize:]))
	packer, _, _ := bytes.Cut(b[zbootPacker:zbootHeader], []byte{0})
	if from+size > uint64(len(b)) {
		return nil, "", fmt.Errorf("an EFI zboot image whose payload is %d bytes at %d of %d", size, from, len(b))
	}
	inner, err = inflate(string(packer), b[from:from+size])
	return inner, "an EFI zboot image", err
}

func inflate(packer string, b []byte) ([]byte, error) {
	var r io.Reader
	switch packer {
	case "gzip":
		g, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			return nil, fmt.Errorf("unpack gzip: %w", err)
		}
		g.Multistream(false) // the size of the unpacked kernel may stand behind it
		r = g
	case "zstd", "zstd22":
		z, err := zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderMaxMemory(maxKernel))
		if err != nil {
			return nil, fmt.Errorf("unpack zstd: %w", err)
		}
		defer z.Close()
		r = z
	default:
		return nil, fmt.Errorf("packed by %q (known: gzip, zstd)", packer)
	}
	out, err := io.ReadAll(io.LimitReader(r, maxKernel+1))
	// The size of the unpacked kernel stands in four bytes behind the frame in an EFI zboot image, which is no frame.
	if errors.Is(err, zstd.ErrMagicMismatch) && len(out) > 0 {
		err = nil
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("unpack %s: %w", packer, err)
	case len(out) > maxKernel:
		return nil, fmt.Errorf("unpack %s: more than %d bytes", packer, int64(maxKernel))
	}
	return out, nil
}

func parseELF(r io.ReaderAt) (name, form string, err error) {
	f, err := elf.NewFile(r)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	name = elfArch[f.Machine]
	switch {
	case name == "" || f.Class != elf.ELFCLASS64 || (f.Data == elf.ELFDATA2MSB) != (name == "s390x"):
		return "", "", fmt.Errorf("an ELF for %s, %s, %s, which is none of the architectures %s", f.Machine, f.Class,
			f.Data, strings.Join(arch.Names(arch.All()), ", "))
	case name == "aarch64":
		return "", "", errors.New(
			"an ELF for aarch64, which QEMU does not boot as Linux; give it arch/arm64/boot/Image")
	case name == "x86_64" && !elfnote.Read(f).PVH():
		return "", "", errors.New(
			"an ELF without the note for PVH, so QEMU cannot boot it; build it with CONFIG_PVH or give the bzImage")
	case name == "x86_64":
		return name, "vmlinux with a PVH entry", nil
	}
	return name, "vmlinux", nil
}
