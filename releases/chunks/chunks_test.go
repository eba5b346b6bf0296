package chunks_test

import (
	"bytes"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/golden"
	"github.com/katabuild/katabuild/releases/chunks"
)

// sample is a file that is the same each time.
func sample(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data) // which never fails
	return data
}

func list(t testing.TB, r io.Reader) *chunks.List {
	t.Helper()
	l, err := chunks.Make(r)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func encode(t testing.TB, l *chunks.List) []byte {
	t.Helper()
	data, err := l.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestTheListKeepsItsForm(t *testing.T) {
	if chunks.HeadSize != 64 || chunks.EntrySize != 20 {
		t.Errorf("a head of %d bytes and entries of %d", chunks.HeadSize, chunks.EntrySize)
	}
	data := encode(t, list(t, bytes.NewReader(sample(40_000))))
	golden.Check(t, "list.hex", []byte(hex.Dump(data)))
	for n := range data {
		if _, err := chunks.Decode(data[:n]); err == nil {
			t.Fatalf("the first %d of %d bytes are accepted", n, len(data))
		}
	}
	if _, err := chunks.Decode(append(bytes.Clone(data), 0)); err == nil {
		t.Error("a byte behind the end is accepted")
	}
	for _, c := range []struct {
		at   int
		want string
	}{{0, "begin"}, {8, "version"}, {12, "version"}, {16, "bytes"}, {48 + 8, "groups"}, {60, "groups"},
		{64, "groups"}, {70, "groups"}} {
		bad := bytes.Clone(data)
		bad[c.at]++
		if _, err := chunks.Decode(bad); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("another byte %d: got %v, want %s", c.at, err, c.want)
		}
	}
}

func TestChunksAreWhereTheContentSaysSo(t *testing.T) {
	data := sample(1 << 20)
	want := encode(t, list(t, bytes.NewReader(data)))
	for name, r := range map[string]io.Reader{"byte by byte": iotest.OneByteReader(bytes.NewReader(data)),
		"half by half": iotest.HalfReader(bytes.NewReader(data))} {
		if !bytes.Equal(encode(t, list(t, r)), want) {
			t.Errorf("read %s, the list is another one", name)
		}
	}
	l := list(t, bytes.NewReader(data))
	have := map[chunks.ID]bool{}
	at := 0
	for _, c := range l.Chunks {
		if chunks.Of(data[at:at+c.Size]) != c.ID {
			t.Fatalf("the chunk at %d has another ID", at)
		}
		have[c.ID], at = true, at+c.Size
	}
	if at != len(data) || l.Digest != digest.Of(data) {
		t.Errorf("the chunks have %d bytes, the file %d", at, len(data))
	}
	if mean := len(data) / len(l.Chunks); mean < 1500 || mean > 4000 {
		t.Errorf("a chunk has %d bytes", mean)
	}
	// Some bytes more at the beginning move every other one, and change a few chunks.
	fresh := 0
	for _, c := range list(t, bytes.NewReader(append([]byte("some bytes more"), data...))).Chunks {
		if !have[c.ID] {
			fresh += c.Size
		}
	}
	if fresh > 40_000 {
		t.Errorf("%d bytes are new", fresh)
	}
}

func TestAFileOfOneByteIsSplitToo(t *testing.T) {
	for _, n := range []int{0, 1, 511, 512, 513, 16<<10 - 1, 16 << 10, 16<<10 + 1, 100_000} {
		for _, data := range [][]byte{make([]byte, n), sample(n)} {
			l, err := chunks.Decode(encode(t, list(t, bytes.NewReader(data))))
			if err != nil || l.Size != int64(n) || l.Digest != digest.Of(data) {
				t.Errorf("%d bytes: %+v, %v", n, l, err)
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(f, list(f, bytes.NewReader(sample(20_000)))))
	f.Add(encode(f, list(f, bytes.NewReader(nil)))) // nothing
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := chunks.Decode(data)
		if err == nil && !bytes.Equal(encode(t, l), data) {
			t.Error("accepted bytes that are not written again")
		}
	})
}

func FuzzMake(f *testing.F) {
	f.Add(sample(40_000))
	f.Add(make([]byte, 40_000)) // no cut anywhere
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := chunks.Decode(encode(t, list(t, bytes.NewReader(data)))); err != nil {
			t.Error(err)
		}
	})
}
