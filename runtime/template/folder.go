package template

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/filelock"
	"github.com/katabuild/katabuild/internal/owned"
	"github.com/katabuild/katabuild/runtime/sealed"
)

// Folder is where a host's templates lie: its path, absolute. It is this user's own or root's, and nobody else's.
type Folder string

// makingPrefix begins the name of a template that is not whole yet. What is left of one goes with the next Put, Sweep
// or Destroy.
const makingPrefix = "making-"

// lockName is the file that whoever changes the folder has locked.
const lockName = ".lock"

// errNone says that a folder has no template for a key.
var errNone = errors.New("there is no template")

// Template is a whole one.
type Template struct {
	Document
	Digest digest.Digest // of the document
	dir    string
}

// Find is the template for a key. The error is an errNone that says why where there is none.
func (f Folder) Find(key Key) (*Template, error) {
	name, err := key.name()
	if err != nil {
		return nil, err
	}
	if err := f.safe(); err != nil {
		return nil, err
	}
	t, err := f.read(name)
	if !errors.Is(err, fs.ErrNotExist) {
		if err == nil && t.Key != key {
			err = fmt.Errorf("template %s: its document is about another one", t.dir)
		}
		return t, err
	}
	others, err := f.List()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, o := range others {
		if o.Key.Manifest == key.Manifest {
			return nil, fmt.Errorf("%w: that of %s was made with another %s", errNone, o.dir,
				strings.Join(o.Key.differs(key), ", another "))
		}
	}
	return nil, fmt.Errorf("%w in %s for this guest", errNone, string(f))
}

// safe refuses a folder that others could write to.
func (f Folder) safe() error {
	if !filepath.IsAbs(string(f)) {
		return fmt.Errorf("folder of templates %q: want an absolute path", string(f))
	}
	if err := errors.Join(owned.Above(string(f)), owned.Folder(string(f))); err != nil {
		return fmt.Errorf("folder of templates: %w", err)
	}
	return nil
}

// maxDocument bounds what is read of a document, in bytes.
const maxDocument = 64 << 10

// read reads a template's document.
func (f Folder) read(name string) (*Template, error) {
	t := &Template{dir: filepath.Join(string(f), name)}
	if err := owned.Folder(t.dir); err != nil {
		return nil, fmt.Errorf("template: %w", err)
	}
	doc, err := t.open(documentName)
	if err != nil {
		return nil, err
	}
	defer doc.Close()
	b, err := io.ReadAll(io.LimitReader(doc, maxDocument+1))
	if err != nil {
		return nil, err
	}
	d, err := decode(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doc.Name(), err)
	}
	t.Document, t.Digest = *d, digest.Of(b)
	return t, nil
}

// open opens a file of the template, which must be this user's or root's, and nobody's to write.
func (t *Template) open(name string) (*os.File, error) {
	path := filepath.Join(t.dir, name)
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	err = unix.Fstat(int(file.Fd()), &st)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = fmt.Errorf("%s is no regular file", path)
	}
	if err == nil {
		err = owned.By(path, st.Uid, st.Mode)
	}
	if err == nil && st.Mode&0o222 != 0 {
		err = fmt.Errorf("%s has mode %04o: a template's files are never written to", path, st.Mode&0o7777)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// Copies are the memory and the state of one more guest. They are the caller's.
type Copies struct{ Memory, State *os.File }

// Close closes both.
func (c *Copies) Close() error {
	var errs []error
	for _, f := range []*os.File{c.Memory, c.State} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// Copy copies memory and state for one more guest. What is not what the document says is a *digest.Mismatch that names
// the file.
func (t *Template) Copy() (_ *Copies, err error) {
	memory, err := t.sized(memoryName, t.Memory.Size)
	if err != nil {
		return nil, err
	}
	defer memory.Close()
	state, err := t.sized(stateName, t.State.Size)
	if err != nil {
		return nil, err
	}
	defer state.Close()
	c := &Copies{}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	var got digest.Digest
	if c.State, got, err = sealed.From(stateName, io.LimitReader(state, t.State.Size+1)); err != nil {
		return nil, err
	}
	if got != t.State.Digest {
		return nil, &digest.Mismatch{Name: state.Name(), Want: t.State.Digest, Got: got}
	}
	if c.Memory, err = NewMemory(t.Memory.Size); err != nil {
		return nil, err
	}
	if got, err = copyMemory(c.Memory, memory, t.Memory.Size); err != nil {
		return nil, err
	}
	if got != t.Memory.Digest {
		return nil, &digest.Mismatch{Name: memory.Name(), Want: t.Memory.Digest, Got: got}
	}
	return c, nil
}

// sized opens a file that has that many bytes.
func (t *Template) sized(name string, want int64) (*os.File, error) {
	file, err := t.open(name)
	if err != nil {
		return nil, err
	}
	st, err := file.Stat()
	if err == nil && st.Size() != want {
		err = fmt.Errorf("%s has %d bytes, and its document says %d", file.Name(), st.Size(), want)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// lock makes the folder, where it is not there, locks it, and removes what is left of templates that were not finished.
func (f Folder) lock(ctx context.Context) (*os.File, error) {
	if err := f.safe(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(string(f), 0o700); err != nil {
		return nil, err
	}
	lock, err := filelock.Exclusive(ctx, filepath.Join(string(f), lockName))
	if err != nil {
		return nil, err
	}
	left, err := filepath.Glob(filepath.Join(string(f), makingPrefix+"*"))
	for _, l := range left {
		err = errors.Join(err, os.RemoveAll(l))
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// Put keeps a template. It sets Version, Memory and State of the document. With an error nothing is left.
func (f Folder) Put(ctx context.Context, d Document, from Copies) (_ *Template, err error) {
	lock, err := f.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Close() //nolint:errcheck // nothing was written to it
	name, err := d.Key.name()
	if err != nil {
		return nil, err
	}
	making, err := os.MkdirTemp(string(f), makingPrefix)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("keep the template of %s: %w", d.Guest, err), os.RemoveAll(making))
		}
	}()
	d.Version = version
	if d.Memory, err = keep(filepath.Join(making, memoryName), from.Memory, copyMemory); err != nil {
		return nil, err
	}
	if d.State, err = keep(filepath.Join(making, stateName), from.State, copyAll); err != nil {
		return nil, err
	}
	b, err := d.encode()
	if err != nil {
		return nil, err
	}
	text, _, err := sealed.From(documentName, strings.NewReader(string(b)))
	if err != nil {
		return nil, err
	}
	defer text.Close() //nolint:errcheck // only read from
	if _, err = keep(filepath.Join(making, documentName), text, copyAll); err != nil {
		return nil, err
	}
	whole := filepath.Join(string(f), name)
	if err := os.RemoveAll(whole); err != nil {
		return nil, err
	}
	if err := os.Rename(making, whole); err != nil {
		return nil, err
	}
	return f.read(name)
}

// keep writes a file that nobody writes to again.
func keep(path string, from *os.File, copies func(io.WriterAt, *os.File, int64) (digest.Digest, error)) (kept File,
	err error) {
	st, err := from.Stat()
	if err != nil {
		return File{}, err
	}
	to, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return File{}, err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	kept.Size = st.Size()
	if err := to.Truncate(kept.Size); err != nil {
		return File{}, err
	}
	if kept.Digest, err = copies(to, from, kept.Size); err != nil {
		return File{}, fmt.Errorf("%s: %w", path, err)
	}
	if err := errors.Join(to.Chmod(0o400), to.Sync()); err != nil {
		return File{}, err
	}
	return kept, nil
}

// copyAll copies and digests all bytes.
func copyAll(to io.WriterAt, from *os.File, size int64) (digest.Digest, error) {
	sum := digest.New()
	_, err := io.Copy(io.MultiWriter(io.NewOffsetWriter(to, 0), sum), io.NewSectionReader(from, 0, size))
	return sum.Digest(), err
}

// List are all templates, in the order of their names. One that cannot be read is an error beside the others.
func (f Folder) List() ([]*Template, error) {
	if err := f.safe(); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(string(f))
	if err != nil {
		return nil, err
	}
	var out []*Template
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || strings.HasPrefix(e.Name(), makingPrefix) {
			continue
		}
		t, err := f.read(e.Name())
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, t)
	}
	return out, errors.Join(errs...)
}

// Destroy removes all templates, and says how many there were. Guests that were restored from them stay.
func (f Folder) Destroy(ctx context.Context) (int, error) {
	if _, err := os.Lstat(string(f)); errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	lock, err := f.lock(ctx)
	if err != nil {
		return 0, err
	}
	defer lock.Close() //nolint:errcheck // nothing was written to it
	entries, err := os.ReadDir(string(f))
	if err != nil {
		return 0, err
	}
	n := 0
	for _, e := range entries {
		if e.Name() == lockName || strings.HasPrefix(e.Name(), claimPrefix) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(string(f), e.Name())); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// Dir is the template's folder.
func (t *Template) Dir() string { return t.dir }
