// Package folder keeps a release in a plain folder, which any static web server can serve: index.json, its signatures
// in index.json.dsse, and every file it names in blobs/sha256/, by digest.
//
// What lies there may be somebody else's doing: names cannot lead out of the folder, and bytes are checked as they
// enter and by whoever reads them.
package folder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/atomicfile"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/filelock"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/refusal"
	"github.com/katabuild/katabuild/releases/reproduced"
	"github.com/katabuild/katabuild/releases/roles"
)

// The names in a release's folder, in a bundle and below the address of a web server.
const (
	IndexName      = "index.json"
	EnvelopeName   = "index.json.dsse"
	ReproducedName = "reproduced.json"
	RolesName      = "roles.json"
	blobs          = "blobs/sha256"
	partial        = "blobs/partial" // what is not whole yet
	lockName       = "blobs/.lock"
)

// Head is what is known of a release before any of its files: the index, and what others say of it.
type Head struct {
	Index      []byte // as it is written
	Envelope   []byte // the signatures over it; nil where nobody has signed
	Reproduced []byte // statements that guests of it were reproduced; nil where there are none
	Roles      []byte // metadata of the roles that offer it (package roles); nil where it brings none
}

// MaxEnvelope bounds an envelope of signatures, in bytes: it holds the index once more, in Base64.
const MaxEnvelope = 2 * index.MaxSize

// BlobName is the name of a file by its digest.
func BlobName(d digest.Digest) string { return blobs + "/" + d.Hex() }

// Folder is a release's folder. Close lets go of it; it may be used by several goroutines.
type Folder struct {
	dir  string
	in   *regular.Folder
	lock *os.File // held by whoever writes; nil for readers
}

// Open takes hold of a folder for reading.
func Open(dir string) (*Folder, error) {
	in, err := regular.OpenFolder(dir)
	if err != nil {
		return nil, err
	}
	return &Folder{dir: dir, in: in}, nil
}

// Create makes a folder, if it is not there, and takes hold of it for writing. It waits, until ctx ends, for another
// process that writes there.
func Create(ctx context.Context, dir string) (*Folder, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := Open(dir)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"blobs", blobs, partial} {
		if err := f.in.Root().Mkdir(name, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, errors.Join(err, f.Close())
		}
	}
	f.lock, err = f.in.Root().OpenFile(lockName, os.O_RDWR|os.O_CREATE|unix.O_NONBLOCK, 0o644)
	if err == nil {
		err = filelock.Lock(ctx, f.lock)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock the folder of a release, %s: %w", dir, err), f.Close())
	}
	return f, nil
}

// Close lets go of the folder, and of its lock.
func (f *Folder) Close() error {
	err := f.in.Close()
	if f.lock != nil {
		err = errors.Join(err, f.lock.Close())
	}
	return err
}

// Dir is the folder's own path.
func (f *Folder) Dir() string { return f.dir }

// Index reads what is known of the release before its files.
func (f *Folder) Index(context.Context) (h Head, err error) {
	if h.Index, err = f.in.ReadFile(IndexName, index.MaxSize); err != nil {
		return Head{}, fmt.Errorf("release %s: %w", f.dir, err)
	}
	var err1, err2, err3 error
	h.Envelope, err1 = f.optional(EnvelopeName, MaxEnvelope)
	h.Reproduced, err2 = f.optional(ReproducedName, reproduced.MaxSize)
	h.Roles, err3 = f.optional(RolesName, roles.MaxSet)
	return h, errors.Join(err1, err2, err3)
}

// optional reads a file that may be missing, which is nil.
func (f *Folder) optional(name string, limit int64) ([]byte, error) {
	data, err := f.in.ReadFile(name, limit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("release %s: %w", f.dir, err)
	}
	return data, nil
}

// Open begins to read a file at an offset, in bytes. A file of another size is a *refusal.Error; its digest is not
// checked. The caller closes it.
func (f *Folder) Open(_ context.Context, b index.Blob, offset int64) (io.ReadCloser, error) {
	file, err := f.in.Open(BlobName(b.Digest))
	if err != nil {
		return nil, fmt.Errorf("release %s: %w", f.dir, err)
	}
	fi, err := file.Stat()
	if err == nil && fi.Size() != b.Size {
		err = refusal.New(refusal.Size, filepath.Join(f.dir, BlobName(b.Digest)), "want %d bytes, got %d", b.Size,
			fi.Size())
	}
	if err == nil {
		_, err = file.Seek(offset, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// Has says whether a file of the right size is there. Files enter whole and with the right digest.
func (f *Folder) Has(_ context.Context, b index.Blob) (bool, error) {
	fi, err := f.in.Root().Lstat(BlobName(b.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && fi.Mode().IsRegular() && fi.Size() == b.Size, err
}

// Opener begins to read bytes at an offset.
type Opener func(offset int64) (io.ReadCloser, error)

// Put takes a file in. It goes on where an earlier Put was cut off, and what has another digest or size is a
// *refusal.Error and leaves nothing.
func (f *Folder) Put(_ context.Context, b index.Blob, open Opener) (err error) {
	defer func() {
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			err = &Full{f.dir, err}
		}
	}()
	name := partial + "/" + b.Digest.Hex()
	w, err := f.in.Root().OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	sum := digest.New()
	have, err := io.Copy(sum, w) // what an earlier one left; the file is now at its end
	if err != nil {
		return err
	}
	if have > b.Size {
		return f.drop(name, refusal.New(refusal.Size, string(b.Digest), "%d bytes of %d are here already", have,
			b.Size))
	}
	if have < b.Size {
		if err := fill(w, sum, b, have, open); err != nil {
			return f.judge(name, err)
		}
	}
	if got := sum.Digest(); got != b.Digest {
		return f.drop(name, refusal.New(refusal.Digest, string(b.Digest), "the bytes that came have the digest %s",
			got))
	}
	if err := errors.Join(w.Chmod(0o644), w.Sync()); err != nil {
		return err
	}
	return f.in.Root().Rename(name, BlobName(b.Digest))
}

// Full is that a folder has no more room. What was begun stays, and goes on once there is room.
type Full struct {
	Dir string
	Err error
}

func (e *Full) Error() string { return fmt.Sprintf("release %s: there is no room: %v", e.Dir, e.Err) }

// Unwrap is what the system says.
func (e *Full) Unwrap() error { return e.Err }

// fill appends what is missing, from the byte have on.
func fill(w io.Writer, sum io.Writer, b index.Blob, have int64, open Opener) error {
	r, err := open(have)
	if err != nil {
		return err
	}
	n, err := io.Copy(io.MultiWriter(w, sum), io.LimitReader(r, b.Size-have+1))
	if err = errors.Join(err, r.Close()); err != nil {
		return err
	}
	if have+n != b.Size {
		more := ""
		if have+n > b.Size {
			more = " or more"
		}
		return refusal.New(refusal.Size, string(b.Digest), "want %d bytes, got %d%s", b.Size, have+n, more)
	}
	return nil
}

// judge drops what is refused, and keeps what was only cut off.
func (f *Folder) judge(name string, err error) error {
	if _, refused := errors.AsType[*refusal.Error](err); refused {
		return f.drop(name, err)
	}
	return err
}

func (f *Folder) drop(name string, err error) error {
	return errors.Join(err, f.in.Root().Remove(name))
}

// AddFile copies a file of this host in, whose bytes must be b.
func (f *Folder) AddFile(ctx context.Context, path string, b index.Blob) error {
	return f.Put(ctx, b, func(offset int64) (io.ReadCloser, error) {
		file, err := regular.Open(path)
		if err != nil {
			return nil, err
		}
		if _, err := file.Seek(offset, io.SeekStart); err != nil {
			return nil, errors.Join(err, file.Close())
		}
		return file, nil
	})
}

// Finish writes the index, which makes the folder a release, and before it what others say of it: what is nil takes an
// old one away, but statements that lie here about this very release stay. All files are there before. A reader between
// the two meets signatures that do not fit, never ones that mislead.
func (f *Folder) Finish(_ context.Context, h Head) error {
	old, err := f.optional(ReproducedName, reproduced.MaxSize)
	if err != nil {
		return err
	}
	if old != nil && reproduced.About(old, h.Index) {
		if h.Reproduced, err = reproduced.Merge(old, h.Reproduced); err != nil {
			return err
		}
	}
	for name, data := range map[string][]byte{EnvelopeName: h.Envelope, ReproducedName: h.Reproduced,
		RolesName: h.Roles} {
		path := filepath.Join(f.dir, name)
		if data != nil {
			err = atomicfile.Write(path, data, 0o644)
		} else if err = os.Remove(path); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		if err != nil {
			return err
		}
	}
	return atomicfile.Write(filepath.Join(f.dir, IndexName), h.Index, 0o644)
}

// Begin does nothing: files enter one by one, and others see them once there is an index.
func (f *Folder) Begin(context.Context, Head) error { return nil }

// Parallel says how many files may be put at once.
func (f *Folder) Parallel() int { return 4 }
