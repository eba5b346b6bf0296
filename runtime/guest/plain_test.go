package guest

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/runtime/guest/guesttest"
)

const pvhNote = "\x04\x00\x00\x00\x04\x00\x00\x00\x12\x00\x00\x00Xen\x00abcd"

func gzipped(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(b)
	w.Close()
	return append(out.Bytes(), "size"...)
}

func zboot(packer string, payload []byte) []byte {
	b := guesttest.At(64, map[int]string{0: "MZ", 4: "zimg", 24: packer})
	binary.LittleEndian.PutUint32(b[8:], 64)
	binary.LittleEndian.PutUint32(b[12:], uint32(len(payload)))
	return append(b, payload...)
}

func zstandard(b []byte) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	return append(w.EncodeAll(b, nil), "size"...)
}

var (
	arm64Kernel = guesttest.At(64, map[int]string{0: "MZ", 56: "ARM\x64"})
	riscvKernel = guesttest.At(64, map[int]string{0: "MZ", 56: "RSC\x05"})
	s390Kernel  = guesttest.At(0x10010, map[int]string{0x10008: "S390EP"})
)

func TestAKernelSaysWhatItIs(t *testing.T) {
	for name, tc := range map[string]struct {
		file       []byte
		arch, form string
		fails      string
	}{
		"a bzImage":                    {guesttest.BzImage(0x20f, 1), "x86_64", "bzImage", ""},
		"a bzImage for 32 bits":        {guesttest.BzImage(0x20f, 0), "", "", "32-bit"},
		"a bzImage of an old protocol": {guesttest.BzImage(0x20a, 1), "", "", "32-bit"},
		"an ELF with a PVH note": {guesttest.ELF(elf.EM_X86_64, binary.LittleEndian, pvhNote), "x86_64",
			"vmlinux with a PVH entry", ""},
		"an ELF with another note before it": {guesttest.ELF(elf.EM_X86_64, binary.LittleEndian,
			"\x04\x00\x00\x00\x01\x00\x00\x00\x03\x00\x00\x00GNU\x00a\x00\x00\x00"+pvhNote), "x86_64",
			"vmlinux with a PVH entry", ""},
		"an ELF without": {guesttest.ELF(elf.EM_X86_64, binary.LittleEndian,
			"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), "", "", "CONFIG_PVH"},
		"an ELF of ppc64le": {guesttest.ELF(elf.EM_PPC64, binary.LittleEndian, ""), "ppc64le", "vmlinux", ""},
		"an ELF of big-endian ppc64": {guesttest.ELF(elf.EM_PPC64, binary.BigEndian, ""), "", "",
			"none of the architectures"},
		"an ELF of s390x":   {guesttest.ELF(elf.EM_S390, binary.BigEndian, ""), "s390x", "vmlinux", ""},
		"an ELF of riscv64": {guesttest.ELF(elf.EM_RISCV, binary.LittleEndian, ""), "riscv64", "vmlinux", ""},
		"an ELF of aarch64": {guesttest.ELF(elf.EM_AARCH64, binary.LittleEndian, ""), "", "",
			"arch/arm64/boot/Image"},
		"an ELF of a vax": {guesttest.ELF(elf.EM_VAX, binary.LittleEndian, ""), "", "",
			"none of the architectures"},
		"an Image of arm64":       {arm64Kernel, "aarch64", "arm64 Image", ""},
		"an Image of riscv":       {riscvKernel, "riscv64", "riscv Image", ""},
		"an image of s390":        {s390Kernel, "s390x", "s390 image", ""},
		"an Image that is packed": {gzipped(arm64Kernel), "aarch64", "arm64 Image, unpacked from gzip", ""},
		"an EFI image with gzip": {zboot("gzip", gzipped(arm64Kernel)), "aarch64",
			"arm64 Image, unpacked from an EFI zboot image", ""},
		"an EFI image with zstd": {zboot("zstd22", zstandard(riscvKernel)), "riscv64",
			"riscv Image, unpacked from an EFI zboot image", ""},
		"an EFI image with lzo":     {zboot("lzo", nil), "", "", `packed by "lzo"`},
		"an EFI image that is cut":  {zboot("gzip", gzipped(arm64Kernel))[:80], "", "", "bytes at 64 of 80"},
		"a packed file that is cut": {gzipped(arm64Kernel)[:20], "", "", "unpack gzip"},
		"packed twice":              {gzipped(gzipped(gzipped(arm64Kernel))), "", "", "not a kernel"},
		"an empty file":             {nil, "", "", "not a kernel"},
		"a text":                    {[]byte("#!/bin/sh\n"), "", "", "not a kernel"},
	} {
		t.Run(name, func(t *testing.T) {
			k, err := parseKernel(bytes.NewReader(tc.file))
			switch {
			case tc.fails != "":
				if err == nil || !strings.Contains(err.Error(), tc.fails) {
					t.Errorf("%+v, %v, want %q", k, err, tc.fails)
				}
			case err != nil:
				t.Error(err)
			case k.Arch.Name != tc.arch || k.Form != tc.form:
				t.Errorf("%s for %s, want %s for %s", k.Form, k.Arch.Name, tc.form, tc.arch)
			}
		})
	}
}

func FuzzParseKernel(f *testing.F) {
	for _, b := range [][]byte{
		guesttest.BzImage(0x20f, 1), guesttest.ELF(elf.EM_X86_64, binary.LittleEndian, pvhNote), arm64Kernel,
		riscvKernel,
		gzipped(arm64Kernel), zboot("zstd", zstandard(riscvKernel)),
		zboot("gzip", gzipped(arm64Kernel)),
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := parseKernel(bytes.NewReader(b)); err == nil &&
			(k.Arch.Name == "" || packed(b) != (k.unpacked != nil)) {
			t.Errorf("%+v", k)
		}
	})
}

// plainFiles writes a kernel, an initrd, and disks with and without a partition table.
func plainFiles(t *testing.T, kernel []byte) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, b := range map[string][]byte{
		"kernel": kernel, "initrd": []byte("initrd"), "bare.img": make([]byte, 4096),
		"parts.img": guesttest.At(4096, map[int]string{510: "\x55\xaa"}), "tiny.img": nil,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestTheFilesOfAPlainGuestAreNoted(t *testing.T) {
	kernel := gzipped(arm64Kernel)
	dir := plainFiles(t, kernel)
	path := func(name string) string { return filepath.Join(dir, name) }
	for name, second := range map[string]Booted{
		"initrd": {path("initrd"), digest.Of([]byte("initrd"))}, "image": {path("bare.img"),
			digest.Of(make([]byte, 4096))},
	} {
		t.Run(name, func(t *testing.T) {
			p := Plain{Kernel: path("kernel"), Initrd: path("initrd")}
			if name == "image" {
				p.Initrd, p.Image = "", second.Path
			}
			g, err := p.Read()
			if err != nil {
				t.Fatal(err)
			}
			b, err := g.Open()
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if want := []Booted{{path("kernel"), digest.Of(kernel)}, second}; !slices.Equal(b.Booted, want) {
				t.Errorf("%v, want %v", b.Booted, want)
			}
			got, err := io.ReadAll(io.NewSectionReader(b.Kernel, 0, 1<<20))
			if err != nil || !bytes.Equal(got, arm64Kernel) {
				t.Errorf("the machine gets %d bytes of kernel, %v; want it unpacked", len(got), err)
			}
			if _, err := b.Kernel.WriteAt([]byte("x"), 0); err == nil {
				t.Error("the kernel that the machine gets can be written")
			}
		})
	}
}
