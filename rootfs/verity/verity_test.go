package verity

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/dmverity"
	"github.com/katabuild/katabuild/internal/testenv"
)

// buffer is a file in memory.
type buffer []byte

func (b *buffer) WriteAt(p []byte, off int64) (int, error) {
	if need := int(off) + len(p); need > len(*b) {
		*b = append(*b, make([]byte, need-len(*b))...)
	}
	return copy((*b)[off:], p), nil
}

func (b *buffer) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(*b).ReadAt(p, off) }

// random is data with a run of zeros in its middle.
func random(blocks int) []byte {
	b := make([]byte, blocks*BlockSize)
	rand.NewChaCha8([32]byte{byte(blocks)}).Read(b)
	clear(b[blocks/2*BlockSize : (blocks/2+blocks/8)*BlockSize])
	return b
}

var (
	salt, _ = hex.DecodeString("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f")
	uuid    = [16]byte{0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0x4d, 0xef, 0x80, 1, 2, 3, 4, 5, 6, 7}
	edges   = []int{1, 2, 127, 128, 129, 128*128 + 1}
)

func format(t testing.TB, data []byte, o Options) (Tree, []byte) {
	t.Helper()
	var out buffer
	p, err := Format(context.Background(), bytes.NewReader(data), int64(len(data)), &out, 0, o)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(out)) != p.HashSize {
		t.Errorf("wrote %d bytes, promised %d", len(out), p.HashSize)
	}
	return p, out
}

func TestSizes(t *testing.T) {
	for _, c := range []struct{ blocks, hashBlocks int64 }{
		{1, 0}, {2, 1}, {128, 1}, {129, 3}, {128 * 128, 129}, {128*128 + 1, 129 + 1 + 2}, {64000, 500 + 4 + 1},
	} {
		for _, super := range []int64{0, 1} {
			got, err := HashSize(c.blocks*BlockSize, super == 1)
			if want := (c.hashBlocks + super) * 4096; got != want || err != nil {
				t.Errorf("%d data blocks: %d bytes, want %d (%v)", c.blocks, got, want, err)
			}
		}
	}
	// cryptsetup's wiki, page DMVerity: offsets in the superblock.
	b := dmverity.Params{Salt: hex.EncodeToString(salt), DataBlocks: 0x1122334455, DataBlockSize: BlockSize,
		HashBlockSize: BlockSize}.Table(0).Superblock(uuid).Bytes()
	for at, want := range map[int]string{
		0: "verity\x00\x00", 8: "\x01\x00\x00\x00", 12: "\x01\x00\x00\x00", 16: string(uuid[:]), 32: "sha256\x00",
		64: "\x00\x10\x00\x00", 68: "\x00\x10\x00\x00", 72: "\x55\x44\x33\x22\x11\x00\x00\x00", 80: "\x20\x00",
		82: "\x00\x00\x00\x00\x00\x00", 88: string(salt),
	} {
		if !strings.HasPrefix(string(b[at:]), want) {
			t.Errorf("at %d: % x, want % x", at, b[at:at+len(want)], want)
		}
	}
	if len(b) != 512 {
		t.Errorf("superblock of %d bytes", len(b))
	}
}

func TestOneBlockNeedsNoTree(t *testing.T) {
	data := random(1)
	p, out := format(t, data, Options{Salt: salt})
	if want := sha256.Sum256(append(bytes.Clone(salt), data...)); p.Root != want || len(out) != 0 {
		t.Errorf("root %x, %d bytes", p.Root, len(out))
	}
}

func TestTheTreeDependsOnNothingButDataAndSalt(t *testing.T) {
	data := random(300)
	p, want := format(t, data, Options{Salt: salt, Superblock: true, UUID: uuid, Jobs: 1})
	for _, jobs := range []int{0, 2, 7} {
		if q, got := format(t, data, Options{Salt: salt, Superblock: true, UUID: uuid,
			Jobs: jobs}); !reflect.DeepEqual(p, q) || !bytes.Equal(got, want) {
			t.Errorf("%d jobs: another tree", jobs)
		}
	}
	if q, _ := format(t, data, Options{}); q.RootHash == p.RootHash {
		t.Error("the salt does not count")
	}
}

func veritysetup(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := exec.Command("veritysetup", args...).CombinedOutput()
	return string(out), err
}

// veritysetup, given the same salt and UUID, writes the same bytes, finds the same root hash, and accepts ours.
func TestVeritysetupAgrees(t *testing.T) {
	testenv.Require(t, testenv.Tool("veritysetup"))
	for _, n := range edges {
		for _, super := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d blocks, superblock %v", n, super), func(t *testing.T) {
				dir := t.TempDir()
				data, theirs, ours := filepath.Join(dir, "data"), filepath.Join(dir, "theirs"),
					filepath.Join(dir, "ours")
				b := random(n)
				p, tree := format(t, b, Options{Salt: salt, Superblock: super, UUID: uuid})
				for name, b := range map[string][]byte{data: b, theirs: nil, ours: tree} {
					if err := os.WriteFile(name, b, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				args := []string{"--salt=" + hex.EncodeToString(salt)}
				if super {
					args = append(args, "--uuid=12345678-9abc-4def-8001-020304050607")
				} else {
					args = append(args, "--no-superblock")
				}
				out, err := veritysetup(t, append([]string{"format", data, theirs}, args...)...)
				root := p.RootHash
				if err != nil || !strings.Contains(out, root) {
					t.Fatalf("we say %s, veritysetup: %v\n%s", root, err, out)
				}
				if got, _ := os.ReadFile(theirs); !bytes.Equal(got, tree) {
					t.Errorf("%d bytes of ours differ from %d of veritysetup's", len(tree), len(got))
				}
				if !super {
					args = append(args, fmt.Sprintf("--data-blocks=%d", n))
				} else {
					args = nil
				}
				if len(tree) > 0 { // veritysetup refuses an empty hash file
					if out, err := veritysetup(t, append([]string{"verify", data, ours, root},
						args...)...); err != nil {
						t.Errorf("veritysetup verify: %v\n%s", err, out)
					}
				}
			})
		}
	}
}

func TestOneFlippedBitIsFound(t *testing.T) {
	const n = 128*128 + 1
	data := random(n)
	p, tree := format(t, data, Options{Salt: salt})
	verify := func() error {
		return verifyTree(context.Background(), bytes.NewReader(data), int64(len(data)), area{bytes.NewReader(tree), 0,
			int64(len(tree))}, p, 0)
	}
	if err := verify(); err != nil {
		t.Fatal(err)
	}
	// The root block, the two of level 1, then 129 of level 0.
	for _, c := range []struct {
		b    []byte
		at   int64
		want corrupt
	}{
		{tree, 5, corrupt{2, 0, 0}},
		{tree, 4096, corrupt{1, 0, 4096}},
		{tree, 3*4096 - 1, corrupt{1, 1, 2 * 4096}}, // behind the digests: the rest of a block counts too
		{tree, 3*4096 + 100*4096 + 7, corrupt{0, 100, 103 * 4096}},
		{data, 0, corrupt{dataLevel, 0, 0}},
		{data, 12345*4096 + 99, corrupt{dataLevel, 12345, 12345 * 4096}},
		{data, n*4096 - 1, corrupt{dataLevel, n - 1, (n - 1) * 4096}},
	} {
		c.b[c.at] ^= 0x10
		var got *corrupt
		if err := verify(); !errors.As(err, &got) || *got != c.want {
			t.Errorf("a bit at %d: %v, want %v", c.at, err, &c.want)
		}
		c.b[c.at] ^= 0x10
	}
	data[9000*4096] ^= 1
	data[3*4096] ^= 1
	var got *corrupt
	if err := verify(); !errors.As(err, &got) || got.Block != 3 {
		t.Errorf("two bad blocks: %v, want the first", err)
	}
}

func TestVeritysetupFindsTheFlippedBitToo(t *testing.T) {
	testenv.Require(t, testenv.Tool("veritysetup"))
	dir := t.TempDir()
	data := random(200)
	p, tree := format(t, data, Options{Salt: salt, Superblock: true, UUID: uuid})
	data[77*4096] ^= 1
	d, h := filepath.Join(dir, "d"), filepath.Join(dir, "h")
	os.WriteFile(d, data, 0o600)
	os.WriteFile(h, tree, 0o600)
	if out, err := veritysetup(t, "verify", d, h, p.RootHash); err == nil ||
		!strings.Contains(out, fmt.Sprint(77*4096)) {
		t.Errorf("veritysetup says %v: %s", err, out)
	}
	var c *corrupt
	err := verifyTree(context.Background(), bytes.NewReader(data), int64(len(data)), area{bytes.NewReader(tree), 0,
		int64(len(tree))}, p, 1)
	if !errors.As(err, &c) || c.Offset != 77*4096 {
		t.Error(err)
	}
}

func TestWhatDerivesFromADigestIsFixed(t *testing.T) {
	s, u := Derive(digest.Of([]byte("image")))
	s2, u2 := Derive(digest.Of([]byte("image")))
	other, _ := Derive(digest.Of([]byte("other")))
	if !bytes.Equal(s, s2) || u != u2 || bytes.Equal(s, other) || len(s) != 32 || u[6]>>4 != 8 || u[8]>>6 != 2 {
		t.Errorf("%x %x", s, u)
	}
}

type shortWriter struct{ left int }

func (w *shortWriter) WriteAt(b []byte, off int64) (int, error) {
	if w.left -= len(b); w.left < 0 {
		return 0, errors.New("no space")
	}
	return len(b), nil
}

func TestFailuresAreNamed(t *testing.T) {
	ctx := context.Background()
	data := random(300)
	for name, f := range map[string]func() error{
		"size 1: want a multiple": func() error { _, err := Format(ctx, nil, 1, nil, 0, Options{}); return err },
		"no data":                 func() error { _, err := Format(ctx, nil, 0, nil, 0, Options{}); return err },
		"a salt of 257 bytes": func() error {
			_, err := Format(ctx, nil, 4096, nil, 0, Options{Salt: make([]byte, 257)})
			return err
		},
		"data shorter than said": func() error {
			_, err := Format(ctx, bytes.NewReader(data), int64(len(data))+4096, &buffer{}, 0, Options{})
			if !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), fmt.Sprint(len(data))) {
				t.Errorf("short data: %v", err)
			}
			return err
		},
		"an offset within a block": func() error {
			_, err := Format(ctx, bytes.NewReader(data), int64(len(data)), &buffer{}, 512, Options{})
			return err
		},
		"a writer that ends": func() error {
			_, err := Format(ctx, bytes.NewReader(data), int64(len(data)), &shortWriter{8192}, 0, Options{})
			return err
		},
		"a context that ended": func() error {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			_, err := Format(ctx, bytes.NewReader(data), int64(len(data)), &buffer{}, 0, Options{})
			return err
		},
	} {
		if f() == nil {
			t.Errorf("%s: no error", name)
		}
	}
	p, tree := format(t, data, Options{})
	for name, a := range map[string]area{
		"hash area too small":     {bytes.NewReader(tree), 0, int64(len(tree)) - 1},
		"hash area that ends":     {bytes.NewReader(tree[:4096]), 0, int64(len(tree))},
		"hash area elsewhere too": {bytes.NewReader(tree), 4096, int64(len(tree))},
	} {
		if verifyTree(ctx, bytes.NewReader(data), int64(len(data)), a, p, 0) == nil {
			t.Errorf("%s: no error", name)
		}
	}
	whole := area{bytes.NewReader(tree), 0, p.HashSize}
	if verifyTree(ctx, bytes.NewReader(data), int64(len(data))-1, whole, p, 0) == nil {
		t.Error("data too small: no error")
	}
}

func BenchmarkFormat(b *testing.B) {
	data := make([]byte, 64<<20)
	rand.NewChaCha8([32]byte{}).Read(data)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		var out buffer
		if _, err := Format(context.Background(), bytes.NewReader(data), int64(len(data)), &out, 0,
			Options{Salt: salt, Jobs: 1}); err != nil {
			b.Fatal(err)
		}
	}
}
