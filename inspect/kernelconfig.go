package inspect

import (
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	tukaani "github.com/therootcompany/xz"
	"github.com/ulikunitz/xz/lzma"
)

// errNoConfig says that a file holds no configuration of a kernel that we can find.
var errNoConfig = errors.New("no kernel configuration inside")

// maxLayers bounds how often a kernel is packed: an image in a compressed file has two layers.
const maxLayers = 3

// KernelConfig finds the .config in the bytes of a kernel that was built with CONFIG_IKCONFIG (vmlinux, bzImage, Image,
// an EFI image of another architecture), in a file like /proc/config.gz, or in one of these compressed. A text that is
// a .config itself is returned as it is.
func KernelConfig(b []byte) ([]byte, error) { return kernelConfig(b, maxLayers) }

func kernelConfig(b []byte, layers int) ([]byte, error) {
	if looksLikeConfig(b) {
		return b, nil
	}
	if layers == 0 {
		return nil, fmt.Errorf("%w: packed more than %d times", errNoConfig, maxLayers)
	}
	var inner []byte
	var err error
	switch {
	case isBzImage(b):
		inner, err = payload(b)
	case isZboot(b):
		inner, err = zboot(b)
	case unpackerOf(b) != nil:
		inner, err = unpack(b)
	default:
		config, err := ikconfig(b)
		if err == nil && config == nil {
			err = fmt.Errorf("%w: it was built without CONFIG_IKCONFIG, or is compressed in a way that we do "+
				"not read; "+
				"name its .config, or the vmlinux beside it", errNoConfig)
		}
		return config, err
	}
	if err != nil {
		return nil, err
	}
	return kernelConfig(inner, layers-1)
}

// looksLikeConfig tells a text with options from a kernel.
func looksLikeConfig(b []byte) bool {
	head := b[:min(len(b), 64<<10)]
	return bytes.IndexByte(head, 0) < 0 && (bytes.Contains(head, []byte("CONFIG_")) || len(b) == 0)
}

func isBzImage(b []byte) bool { return len(b) >= bzHeaderEnd && string(b[bzMagic:bzMagic+4]) == "HdrS" }

// Offsets in a compressed EFI image. Linux: drivers/firmware/efi/libstub/zboot-header.S.
const (
	zbootMagic   = 4 // "zimg", behind "MZ" and two zeros
	zbootPayload = 8
	zbootLength  = 12
	zbootEnd     = 16
)

func isZboot(b []byte) bool {
	return len(b) >= zbootEnd && string(b[:2]) == "MZ" && string(b[zbootMagic:zbootMagic+4]) == "zimg"
}

func zboot(b []byte) ([]byte, error) {
	from := int64(binary.LittleEndian.Uint32(b[zbootPayload:]))
	length := int64(binary.LittleEndian.Uint32(b[zbootLength:]))
	if from > int64(len(b))-length {
		return nil, fmt.Errorf("a payload of %d bytes at %d in %d bytes", length, from, len(b))
	}
	return unpack(b[from : from+length])
}

// unpacker reads one way of compression that kernels have. Linux: scripts/Makefile.lib.
type unpacker struct {
	magic string
	open  func(r io.Reader) (io.Reader, error)
}

// unpackers are told by their first bytes; LZO is not among them.
func unpackers() []unpacker {
	return []unpacker{
		{"\x28\xb5\x2f\xfd", func(r io.Reader) (io.Reader, error) { // RFC 8878
			z, err := zstd.NewReader(r, zstd.WithDecoderMaxMemory(maxKernel), zstd.WithDecoderConcurrency(1))
			if err != nil {
				return nil, err
			}
			return z.IOReadCloser(), nil
		}},
		{"\x1f\x8b", func(r io.Reader) (io.Reader, error) { // RFC 1952
			z, err := gzip.NewReader(r)
			if err == nil {
				z.Multistream(false)
			}
			return z, err
		}},
		{"\xfd7zXZ\x00", func(r io.Reader) (io.Reader, error) { // The .xz File Format, 2.1.1.1
			return tukaani.NewReader(r, 64<<20)
		}},
		{"BZh", func(r io.Reader) (io.Reader, error) { return bzip2.NewReader(r), nil }},
		// lz4_Frame_format.md, "Legacy frame"
		{"\x02\x21\x4c\x18", func(r io.Reader) (io.Reader, error) { return lz4.NewReader(r), nil }},
		// LZMA_Alone: properties 5d, a dictionary of whole 64 KiB
		{"\x5d\x00\x00", func(r io.Reader) (io.Reader, error) {
			return lzma.ReaderConfig{DictCap: 64 << 20}.NewReader(r)
		}},
	}
}

func unpackerOf(b []byte) *unpacker {
	for _, u := range unpackers() {
		if bytes.HasPrefix(b, []byte(u.magic)) {
			return &u
		}
	}
	return nil
}

// unpack decompresses up to maxKernel bytes. What lies behind the compressed bytes is not looked at: the kernel's make
// puts a size there.
func unpack(b []byte) ([]byte, error) {
	u := unpackerOf(b)
	if u == nil {
		return nil, fmt.Errorf(
			"the payload is compressed in a way we do not read (it begins with % x); give the vmlinux beside it",
			b[:min(len(b), 4)])
	}
	r, err := u.open(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("unpack the payload: %w", err)
	}
	if c, ok := r.(io.Closer); ok {
		defer c.Close()
	}
	out, err := io.ReadAll(io.LimitReader(r, maxKernel+1))
	if len(out) > maxKernel {
		return nil, fmt.Errorf("the payload unpacks to more than %d bytes", maxKernel)
	}
	if err != nil {
		return nil, fmt.Errorf("unpack the payload: %w", err)
	}
	return out, nil
}
