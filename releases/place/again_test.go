package place_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/releases/chunks"
	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/judge"
	"github.com/katabuild/katabuild/releases/place"
	"github.com/katabuild/katabuild/releases/refusal"
	"github.com/katabuild/katabuild/releases/releasetest"
)

// disks are two disks of which the second has other bytes in its middle, and more of them.
func disks() (old, new []byte) {
	r := rand.NewChaCha8([32]byte{7})
	draw := func(n int) []byte {
		b := make([]byte, n)
		_, _ = r.Read(b) // which never fails
		return b
	}
	head, tail := draw(2<<20), draw(2<<20)
	return bytes.Join([][]byte{head, draw(300_000), tail}, nil), bytes.Join([][]byte{head, draw(310_000), tail}, nil)
}

// counting serves a folder, and counts the bytes of answers.
type counting struct {
	in    http.Handler
	bytes atomic.Int64
	// change changes answers with a part of a file; nil leaves them.
	change func([]byte)
	whole  bool // no parts are sent
}

func (c *counting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if c.whole {
		r.Header.Del("Range")
	}
	change := c.change
	if r.Header.Get("Range") == "" {
		change = nil
	}
	c.in.ServeHTTP(&countingWriter{w, &c.bytes, change}, r)
}

type countingWriter struct {
	http.ResponseWriter
	n      *atomic.Int64
	change func([]byte)
}

func (c *countingWriter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	if c.change != nil {
		p = bytes.Clone(p)
		c.change(p)
	}
	return c.ResponseWriter.Write(p)
}

// update is a host with an old release, and a server with a newer one.
type update struct {
	server *counting
	url    string
	dir    string // of the newer release
	host   string // the host's folder
	seed   string // the old disk in it
	disk   index.Blob
}

func newUpdate(t *testing.T) *update {
	t.Helper()
	old, fresh := disks()
	before, _ := releasetest.Release(t, "1.4.0", releasetest.Guest{Disk: true, Image: old})
	u := &update{host: filepath.Join(t.TempDir(), "host")}
	mustCopy(t, before, u.host)
	u.seed = filepath.Join(u.host, folder.BlobName(digest.Of(old)))
	u.dir, _ = releasetest.Release(t, "1.5.0", releasetest.Guest{Disk: true, Image: fresh})
	u.disk = index.Blob{Digest: digest.Of(fresh), Size: int64(len(fresh))}
	u.server = &counting{in: http.FileServer(http.Dir(u.dir))}
	s := httptest.NewServer(u.server)
	t.Cleanup(s.Close)
	u.url = s.URL
	return u
}

func (u *update) pull(t *testing.T) (*place.Result, error) {
	t.Helper()
	u.server.bytes.Store(0)
	return copyTo(t, u.url, u.host, place.Options{Seeds: []string{u.seed}})
}

func TestOnlyWhatIsNewMoves(t *testing.T) {
	u := newUpdate(t)
	r, err := u.pull(t)
	if err != nil {
		t.Fatal(err)
	}
	same(t, u.dir, u.host)
	// 310,000 bytes are new; the rest are the edges of chunks, groups, and the small files.
	if n := u.server.bytes.Load(); n > 340_000 || r.Bytes > n || r.Bytes < 310_000 {
		t.Errorf("the server has sent %d bytes, %d are told", n, r.Bytes)
	}
}

func TestAChangedSeedIsNoSeed(t *testing.T) {
	u := newUpdate(t)
	data, err := os.ReadFile(u.seed)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(data); i += 100_000 {
		data[i] ^= 1
	}
	if err := os.WriteFile(u.seed, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := u.pull(t); err != nil {
		t.Fatal(err)
	}
	same(t, u.dir, u.host)
	if n := u.server.bytes.Load(); n > 1<<20 || n < 340_000 {
		t.Errorf("the server has sent %d bytes", n)
	}
}

// TestASeedThatChangesMeanwhileIsNoSeed changes the seed once it has been looked through.
func TestASeedThatChangesMeanwhileIsNoSeed(t *testing.T) {
	u := newUpdate(t)
	var once atomic.Bool
	u.server.change = func([]byte) { // the first part that is asked for is of the list
		if once.CompareAndSwap(false, true) {
			if err := os.WriteFile(u.seed, bytes.Repeat([]byte("x"), int(u.disk.Size)), 0o644); err != nil {
				t.Error(err)
			}
		}
	}
	if _, err := u.pull(t); err != nil {
		t.Fatal(err)
	}
	same(t, u.dir, u.host)
	if !once.Load() {
		t.Error("nothing was changed")
	}
}

func TestAServerWithoutPartsSendsTheWhole(t *testing.T) {
	u := newUpdate(t)
	u.server.whole = true
	if _, err := u.pull(t); err != nil {
		t.Fatal(err)
	}
	same(t, u.dir, u.host)
	if n := u.server.bytes.Load(); n < u.disk.Size {
		t.Errorf("the server has sent %d bytes", n)
	}
}

func TestAServerThatLiesAboutPartsIsRefused(t *testing.T) {
	u := newUpdate(t)
	asked := 0
	u.server.change = func(p []byte) {
		if asked++; len(p) > 10_000 { // what is smaller is of the list
			p[len(p)/2] ^= 1
		}
	}
	_, err := u.pull(t)
	refused(t, err, refusal.Digest)
	u.server.change = nil
	if _, err := u.pull(t); err != nil {
		t.Fatal(err)
	}
	same(t, u.dir, u.host)
}

// TestAChunkListThatMakesOtherBytesIsRefused forges the lists of a release.
func TestAChunkListThatMakesOtherBytesIsRefused(t *testing.T) {
	for name, forge := range map[string]func(t *testing.T, l *chunks.List) []byte{
		"of another order": func(t *testing.T, l *chunks.List) []byte {
			l.Chunks[1], l.Chunks[2] = l.Chunks[2], l.Chunks[1]
			return encodeList(t, l)
		},
		"of the old disk, said to be of the new one": func(t *testing.T, l *chunks.List) []byte {
			old, _ := disks()
			o, err := chunks.Make(bytes.NewReader(old))
			if err != nil {
				t.Fatal(err)
			}
			o.Digest = l.Digest
			data := encodeList(t, o)
			return data
		},
		"of another file": func(t *testing.T, _ *chunks.List) []byte {
			o, err := chunks.Make(strings.NewReader("another file"))
			if err != nil {
				t.Fatal(err)
			}
			return encodeList(t, o)
		},
		"with a group that is another": func(t *testing.T, l *chunks.List) []byte {
			data := encodeList(t, l)
			data[len(data)-1] ^= 1 // the last chunk's
			return data
		},
		"that is none": func(*testing.T, *chunks.List) []byte { return []byte("no list of chunks") },
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpdate(t)
			x := u.forge(t, forge)
			_, err := u.pull(t)
			refused(t, err, refusal.Chunks)
			if has, _ := os.ReadDir(filepath.Join(u.host, "blobs/partial")); len(has) > 0 {
				t.Errorf("%v is left", has)
			}
			if head, err := os.ReadFile(filepath.Join(u.host, folder.IndexName)); err != nil ||
				bytes.Contains(head, []byte("1.5.0")) {
				t.Errorf("others see the newer release: %v", err)
			}
			// Who publishes it is told so, too.
			f, err := folder.Open(u.dir)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			refused(t, judge.Contents(t.Context(), x, f, releasetest.Claims), refusal.Chunks)
		})
	}
}

func encodeList(t *testing.T, l *chunks.List) []byte {
	t.Helper()
	data, err := l.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// forge puts another chunk list of the disk into the newer release.
func (u *update) forge(t *testing.T, how func(*testing.T, *chunks.List) []byte) *index.Index {
	t.Helper()
	f, err := folder.Create(t.Context(), u.dir)
	if err != nil {
		t.Fatal(err)
	}
	head, err := f.Index(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	x, err := index.Decode(head.Index)
	if err != nil {
		t.Fatal(err)
	}
	for i := range x.Guests[0].Artefacts {
		a := &x.Guests[0].Artefacts[i]
		if a.Chunks == nil {
			continue
		}
		r, err := f.Open(t.Context(), *a.Chunks, 0)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil {
			t.Fatal(err)
		}
		l, err := chunks.Decode(data)
		if err != nil {
			t.Fatal(err)
		}
		data = how(t, l)
		a.Chunks = &index.Blob{Digest: digest.Of(data), Size: int64(len(data))}
		if err := f.Put(t.Context(), *a.Chunks, func(int64) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(data)), nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	head.Index, err = x.Encode()
	if err == nil {
		err = f.Finish(t.Context(), head)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return x
}
