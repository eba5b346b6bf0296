package inspect

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

const netConfig = "CONFIG_NET=y\n"

// bzipped is netConfig as bzip2 compresses it.
const bzipped = "QlpoOTFBWSZTWQPfS+EAAAFOgAAQAAILoYQAgCAgADEDQNAoyYaeoYy4rBYGi7kinChIAe+l8IA="

// pack compresses as the kernel's make does.
func pack(t testing.TB, way string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch way {
	case "gzip":
		w = gzip.NewWriter(&b)
	case "zstd":
		w, err = zstd.NewWriter(&b)
	case "xz":
		w, err = xz.NewWriter(&b)
	case "lzma":
		w, err = lzma.NewWriter(&b)
	case "lz4":
		z := lz4.NewWriter(&b)
		err = z.Apply(lz4.LegacyOption(true))
		w = z
	default:
		t.Fatal(way)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// kernelWith is bytes with a configuration between the marks of CONFIG_IKCONFIG.
func kernelWith(t testing.TB, config string) []byte {
	return slices.Concat([]byte("\x7fELF\x00\x01\x02 code IKCFG_ST"), pack(t, "gzip", []byte(config)),
		[]byte("IKCFG_ED more"))
}

// bzImageOf puts a payload where the boot protocol wants it, with the size that is appended to all but gzip.
func bzImageOf(payload []byte) []byte {
	b := make([]byte, 2*bzSector)
	b[bzSetupSects] = 1
	copy(b[bzMagic:], "HdrS")
	binary.LittleEndian.PutUint16(b[bzProtocol:], 0x020f)
	if !bytes.HasPrefix(payload, []byte{0x1f, 0x8b}) {
		payload = append(bytes.Clone(payload), 1, 2, 3, 4)
	}
	binary.LittleEndian.PutUint32(b[bzPayloadLength:], uint32(len(payload)))
	return append(b, payload...)
}

func TestAKernelsConfigurationIsFound(t *testing.T) {
	kernel := kernelWith(t, netConfig)
	bz, err := base64.StdEncoding.DecodeString(bzipped)
	if err != nil {
		t.Fatal(err)
	}
	zboot := make([]byte, 64)
	copy(zboot, "MZ\x00\x00zimg")
	gz := pack(t, "gzip", kernel)
	binary.LittleEndian.PutUint32(zboot[zbootPayload:], 64)
	binary.LittleEndian.PutUint32(zboot[zbootLength:], uint32(len(gz)))
	files := map[string][]byte{
		"a text": []byte(netConfig), "vmlinux": kernel, "config.gz": pack(t, "gzip", []byte(netConfig)),
		"config.bz2":   bz,
		"an EFI image": append(zboot, gz...), "a compressed bzImage": pack(t, "xz", bzImageOf(pack(t, "zstd", kernel))),
	}
	for _, way := range []string{"gzip", "zstd", "xz", "lzma", "lz4"} {
		files["bzImage by "+way] = bzImageOf(pack(t, way, kernel))
		files["vmlinux by "+way] = pack(t, way, kernel)
	}
	for name, data := range files {
		got, err := KernelConfig(data)
		if err != nil || string(got) != netConfig {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestWhereThereIsNoConfigurationTheErrorSaysSo(t *testing.T) {
	packed := []byte("nothing\x00")
	for range maxLayers + 1 {
		packed = pack(t, "gzip", packed)
	}
	for name, data := range map[string][]byte{"a kernel without": []byte("\x7fELF\x00 code"), "many layers": packed} {
		if _, err := KernelConfig(data); !errors.Is(err, errNoConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]struct{ data, want string }{
		"no end":        {"\x00IKCFG_ST\x1f\x8b\x08", "has no end"},
		"broken inside": {"\x00IKCFG_ST\x1f\x8b\x08IKCFG_ED", "configuration inside"},
		"broken gzip":   {"\x1f\x8b\x08\x00\x00", "unpack the payload"},
		"far payload": {"MZ\x00\x00zimg\xff\xff\xff\xff\xff\xff\xff\xff",
			"a payload of 4294967295 bytes at 4294967295"},
	} {
		if _, err := KernelConfig([]byte(c.data)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzKernelConfig(f *testing.F) {
	kernel := kernelWith(f, netConfig)
	f.Add(kernel)
	for _, way := range []string{"gzip", "zstd", "xz", "lzma", "lz4"} {
		f.Add(bzImageOf(pack(f, way, kernel)))
	}
	f.Add([]byte("MZ\x00\x00zimg\x10\x00\x00\x00\x04\x00\x00\x00BZh9"))
	f.Fuzz(func(_ *testing.T, b []byte) { KernelConfig(b) })
}
