package place

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/refusal"
	"github.com/katabuild/katabuild/releases/reproduced"
	"github.com/katabuild/katabuild/releases/roles"
)

// bundle is a release in one file: a tar of the index, the signatures and the files, in this order, the files by
// digest. docs/formats/release.md owns the bytes.
type bundle struct {
	path string
	file *os.File
	head folder.Head
	at   map[digest.Digest]int64 // where files begin, in bytes
}

// openBundle reads the headers of a bundle, all of which must be those that its index asks for.
func openBundle(path string) (*bundle, error) {
	f, err := regular.Open(path)
	if err != nil {
		return nil, err
	}
	b := &bundle{path: path, file: f, at: map[digest.Digest]int64{}}
	if err := b.scan(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return b, nil
}

// said is a file of a bundle that may be missing.
type said struct {
	name  string
	limit int64 // bytes
	to    *[]byte
}

// scan reads the headers.
func (b *bundle) scan() error {
	t := tar.NewReader(b.file)
	var err error
	if b.head.Index, err = b.entry(t, folder.IndexName, index.MaxSize); err != nil {
		return err
	}
	x, err := index.Decode(b.head.Index)
	if err != nil {
		return err
	}
	want := x.Blobs()
	// What others say of the release comes before its files, in this order.
	says := []said{{folder.EnvelopeName, folder.MaxEnvelope, &b.head.Envelope},
		{folder.ReproducedName, reproduced.MaxSize, &b.head.Reproduced},
		{folder.RolesName, roles.MaxSet, &b.head.Roles}}
	for {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return refusal.New(refusal.Document, b.path, "%v", err)
		}
		if i := slices.IndexFunc(says, func(s said) bool { return s.name == h.Name }); i >= 0 {
			if *says[i].to, err = b.small(t, h, says[i].limit); err != nil {
				return err
			}
			says = says[i+1:]
			continue
		}
		says = nil
		if len(want) == 0 || h.Name != folder.BlobName(want[0].Digest) {
			return b.unexpected(h.Name, want, x)
		}
		if err := b.plain(h, want[0].Size); err != nil {
			return err
		}
		// The reader stands right behind the header: it reads whole blocks and nothing ahead.
		if b.at[want[0].Digest], err = b.file.Seek(0, io.SeekCurrent); err != nil {
			return err
		}
		want = want[1:]
	}
	if len(want) > 0 {
		return refusal.New(refusal.Size, b.path, "it ends before %s: it was cut off", folder.BlobName(want[0].Digest))
	}
	return b.end()
}

// unexpected says what is wrong with an entry that is not the next one.
func (b *bundle) unexpected(name string, want []index.Blob, x *index.Index) error {
	known := func(v index.Blob) bool { return folder.BlobName(v.Digest) == name }
	switch {
	case slices.ContainsFunc(want, known):
		return refusal.New(refusal.Document, b.path, "%s is not in order", name)
	case slices.ContainsFunc(x.Blobs(), known), name == folder.IndexName, name == folder.EnvelopeName,
		name == folder.ReproducedName, name == folder.RolesName:
		return refusal.New(refusal.Twice, b.path, "%s is there twice, or not in order", name)
	}
	return refusal.New(refusal.Path, b.path, "%q is none of the names that a bundle of this release has", name)
}

// entry reads the next entry, which must have a name.
func (b *bundle) entry(t *tar.Reader, name string, limit int64) ([]byte, error) {
	h, err := t.Next()
	if err != nil {
		return nil, refusal.New(refusal.Document, b.path, "it is no bundle: %v", err)
	}
	if h.Name != name {
		return nil, refusal.New(refusal.Path, b.path, "it begins with %q, want %s", h.Name, name)
	}
	return b.small(t, h, limit)
}

func (b *bundle) small(t *tar.Reader, h *tar.Header, limit int64) ([]byte, error) {
	if h.Size > limit {
		return nil, refusal.New(refusal.Size, b.path, "%s has %d bytes, at most %d are allowed", h.Name, h.Size, limit)
	}
	if err := b.plain(h, h.Size); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(t)
	if err != nil {
		return nil, refusal.New(refusal.Size, b.path, "%s: %v", h.Name, err)
	}
	return data, nil
}

// plain refuses an entry that the writer would not write.
func (b *bundle) plain(h *tar.Header, size int64) error {
	want := header(h.Name, size)
	switch {
	case h.Size != size:
		return refusal.New(refusal.Size, b.path, "%s has %d bytes, want %d", h.Name, h.Size, size)
	case h.Typeflag != want.Typeflag || h.Mode != want.Mode || h.Uid != 0 || h.Gid != 0 || h.Uname != "" ||
		h.Gname != "" || h.Linkname != "" || !h.ModTime.Equal(want.ModTime) || len(h.PAXRecords) > 0 && size < maxUSTAR:
		return refusal.New(refusal.Document, b.path, "%s is not a plain file of mode 0644 without an owner and a time",
			h.Name)
	}
	return nil
}

// end refuses what stands behind the archive.
func (b *bundle) end() error {
	at, err := b.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	fi, err := b.file.Stat()
	if err != nil {
		return err
	}
	if fi.Size() != at {
		return refusal.New(refusal.Size, b.path, "there are %d bytes behind its end", fi.Size()-at)
	}
	return nil
}

func (b *bundle) Index(context.Context) (folder.Head, error) { return b.head, nil }

func (b *bundle) Open(_ context.Context, v index.Blob, offset int64) (io.ReadCloser, error) {
	at, ok := b.at[v.Digest]
	if !ok {
		return nil, fmt.Errorf("%s: there is no %s", b.path, v.Digest)
	}
	return io.NopCloser(io.NewSectionReader(b.file, at+offset, v.Size-offset)), nil
}

func (b *bundle) Close() error { return b.file.Close() }

// epoch is the time of every file in a bundle.
var epoch = time.Unix(0, 0)

// maxUSTAR is the first size that a header without extensions has no room for: eleven octal digits.
const maxUSTAR = 8 << 30

// header is that of a file in a bundle: nothing of the host and no time of day.
func header(name string, size int64) *tar.Header {
	return &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: size, ModTime: epoch}
}

// bundleWriter writes a bundle under another name, until it is whole.
type bundleWriter struct {
	path string
	file *os.File
	tar  *tar.Writer

	sum  *digest.Writer // of the file that is being written; nil between two
	have int64          // bytes of it that are written
}

// writing remembers whether it was the writing that failed.
type writing struct {
	w      io.Writer
	failed bool
}

func (w *writing) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	w.failed = w.failed || err != nil
	return n, err
}

func createBundle(path string) (*bundleWriter, error) {
	if path == "" {
		return nil, errors.New("bundle: want bundle:FILE")
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.tmp")
	if err != nil {
		return nil, err
	}
	return &bundleWriter{path: path, file: f, tar: tar.NewWriter(f)}, nil
}

// Begin writes the index and what others say of it.
func (w *bundleWriter) Begin(_ context.Context, h folder.Head) error {
	for i, f := range []struct {
		name string
		data []byte
	}{{folder.IndexName, h.Index}, {folder.EnvelopeName, h.Envelope}, {folder.ReproducedName, h.Reproduced},
		{folder.RolesName, h.Roles}} {
		if i > 0 && f.data == nil {
			continue
		}
		if err := w.add(f.name, int64(len(f.data)), bytes.NewReader(f.data)); err != nil {
			return err
		}
	}
	return nil
}

func (w *bundleWriter) add(name string, size int64, r io.Reader) error {
	if err := w.tar.WriteHeader(header(name, size)); err != nil {
		return err
	}
	_, err := io.Copy(w.tar, r)
	return err
}

func (w *bundleWriter) Has(context.Context, index.Blob) (bool, error) { return false, nil }

// Put writes the next file. One whose source breaks off goes on when Put is called once more for it.
func (w *bundleWriter) Put(_ context.Context, b index.Blob, open folder.Opener) error {
	if w.sum == nil {
		if err := w.tar.WriteHeader(header(folder.BlobName(b.Digest), b.Size)); err != nil {
			return &final{err}
		}
		w.sum, w.have = digest.New(), 0
	}
	r, err := open(w.have)
	if err != nil {
		return err
	}
	to := &writing{w: io.MultiWriter(w.tar, w.sum)}
	n, err := io.Copy(to, io.LimitReader(r, b.Size-w.have))
	w.have += n
	if err = errors.Join(err, r.Close()); to.failed {
		return &final{err}
	}
	if err != nil {
		return err
	}
	sum := w.sum
	w.sum = nil
	if w.have < b.Size {
		return refusal.New(refusal.Size, string(b.Digest), "want %d bytes, got %d", b.Size, w.have)
	}
	if got := sum.Digest(); got != b.Digest {
		return refusal.New(refusal.Digest, string(b.Digest), "the bytes that came have the digest %s", got)
	}
	return nil
}

// Finish ends the bundle and gives it its name.
func (w *bundleWriter) Finish(context.Context, folder.Head) error {
	if err := errors.Join(w.tar.Close(), w.file.Chmod(0o644), w.file.Sync(), w.file.Close()); err != nil {
		return err
	}
	return os.Rename(w.file.Name(), w.path)
}

// Close takes away what was not finished.
func (w *bundleWriter) Close() error {
	err := os.Remove(w.file.Name())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return errors.Join(err, w.file.Close())
}

func (w *bundleWriter) Parallel() int { return 1 }
