package compression_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/rootfs/compression"
	"github.com/katabuild/katabuild/rootfs/tree/treetest"
)

func TestDecompress(t *testing.T) {
	data := bytes.Repeat([]byte("hello tar "), 100000)
	for _, how := range []string{"", "gz", "xz", "zst"} {
		in := treetest.Squeeze(t, how, data)
		p := filepath.Join(t.TempDir(), "plain")
		d, n, err := compression.Decompress(bytes.NewReader(in), p, int64(len(data)))
		got, rerr := os.ReadFile(p)
		if err != nil || rerr != nil || n != int64(len(data)) || d != digest.Of(data) || !bytes.Equal(got, data) {
			t.Errorf("%q: %v, %d bytes, %v, %v", how, d, n, err, rerr)
		}
		if _, _, err := compression.Decompress(bytes.NewReader(in), p, 1<<30); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%q: onto a file: %v", how, err)
		}
		os.Remove(p)
		if _, _, err := compression.Decompress(bytes.NewReader(in), p, int64(len(data)-1)); !errors.Is(err,
			compression.ErrTooLong) {
			t.Errorf("%q: a byte too many: %v", how, err)
		}
		if how != "" {
			if _, _, err := compression.Decompress(bytes.NewReader(in[:len(in)-5]), p, 1<<30); err == nil {
				t.Errorf("%q: cut, and nothing said", how)
			}
			bad := bytes.Clone(in)
			bad[len(bad)/2] ^= 0xff
			if _, _, err := compression.Decompress(bytes.NewReader(bad), p, 1<<30); err == nil {
				t.Errorf("%q: a flipped byte, and nothing said", how)
			}
		}
		if _, err := os.Stat(p); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: half a file stays: %v", how, err)
		}
	}
}

// FuzzPlain: whatever comes in, no more than the limit comes out, there is a file only where there is no error, and
// twice is the same.
func FuzzPlain(f *testing.F) {
	for _, how := range []string{"", "gz", "xz", "zst"} {
		f.Add(treetest.Squeeze(f, how, bytes.Repeat([]byte("hello tar "), 100)))
	}
	f.Add(append(treetest.Squeeze(f, "gz", []byte("padded")), make([]byte, 512)...)) // as a tape is
	f.Fuzz(func(t *testing.T, data []byte) {
		const limit = 1 << 20
		p := filepath.Join(t.TempDir(), "plain")
		d, n, err := compression.Decompress(bytes.NewReader(data), p, limit)
		got, rerr := os.ReadFile(p)
		if err != nil {
			if !errors.Is(rerr, fs.ErrNotExist) {
				t.Errorf("half a file stays: %v", rerr)
			}
			return
		}
		if rerr != nil || n > limit || int64(len(got)) != n || digest.Of(got) != d {
			t.Fatalf("%d bytes, digest %s; the file has %d, %v", n, d, len(got), rerr)
		}
		if d2, _, err := compression.Decompress(bytes.NewReader(data), p+"2", limit); err != nil || d2 != d {
			t.Errorf("once %s, then %s, %v", d, d2, err)
		}
	})
}
