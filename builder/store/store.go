// Package store keeps bytes by their digest, and remembers which inputs made which outputs.
//
// In a store's folder:
//
//	version                 "1\n"
//	blobs/sha256/ab/abcd…   files named by their digest, read-only, verified whenever they are read
//	actions/<key>           what a step with that key made: a document, see Action
//	last/<guest>/<step>     the key the step had last, so that a plan can say what changed
//	locks/<key>             flock(2) files: one process builds a key at a time
//	tmp/<random>/           folders of running steps, each held by a flock on tmp/<random>.lock
//
//	placed/<digest>         what was last put at a path of an output folder, see Placed
//	logs/<guest>-<step>.log what foreign programs said
//
// Everything appears by rename, so a killed process leaves only tmp folders, which the next Open removes once nobody
// holds them. Any number of processes may use a store at once.
//
// Blobs prove themselves by their names. Records cannot, so each carries its writer's signature, and one whose writer
// this user does not trust, or that was changed since, is as good as missing. Open refuses a store that other users
// could write to unless it is told to share it.
package store

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/internal/atomicfile"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/document"
	"github.com/katabuild/katabuild/internal/owned"
	"github.com/katabuild/katabuild/internal/removal"
)

const layout = "1\n"

// Options say whose store it is. The zero value is for a private store in which nobody signs: records without a
// signature are believed.
type Options struct {
	// Key signs what this process records. With a key, only records that are signed by it, or by one of Trusted, are
	// believed.
	Key Key
	// Trusted are further writers whose records are believed.
	Trusted []Writer
	// Shared allows a folder that other users own or may write to. They can then fill it, empty it and hold its locks,
	// but a blob is read only with the right digest, and a record only with a trusted signature; so a shared store
	// wants a Key.
	Shared bool
}

// Store is one folder. Several may be open on one folder: what one holds in memory is only about what it has read
// itself.
type Store struct {
	dir string
	o   Options

	mu   sync.Mutex
	seen map[digest.Digest]string // stamps of blobs that this Store has written or read through
}

// stampOf is what changes when anybody writes to a file: where it lies, its size and its times, of which no program can
// set back the change time.
func stampOf(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "", &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	return fmt.Sprintf("%d:%d %d %d.%09d %d.%09d", st.Dev, st.Ino, st.Size, st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec,
		st.Ctim.Nsec), nil
}

// remember notes that a blob is right as it lies there now, if it still is what the caller saw.
func (s *Store) remember(d digest.Digest, stamp string) {
	if now, err := stampOf(s.blob(d)); err == nil && (stamp == "" || now == stamp) {
		s.mu.Lock()
		s.seen[d] = now
		s.mu.Unlock()
	}
}

// knows says whether this Store has seen the blob with just this stamp.
func (s *Store) knows(d digest.Digest, stamp string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return stamp != "" && s.seen[d] == stamp
}

// ErrMissing says that the store does not hold what was asked for.
var ErrMissing = errors.New("not in the store")

// Open opens the store in dir, making it when it is not there, and removes what killed processes left behind. A store
// that other users could have written to is an *Unsafe error, unless it is shared.
func Open(dir string, o Options) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	// The store itself may be reached through links; what lies in it may not.
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	s := &Store{dir: dir, o: o, seen: map[digest.Digest]string{}}
	check := checkPrivate
	if o.Shared {
		check = checkNoLinks
	}
	if err := check(dir); err != nil {
		return nil, err
	}
	for _, d := range folders {
		if err := os.MkdirAll(filepath.Join(dir, d), s.dirMode()); err != nil {
			return nil, s.wrap("open", err)
		}
	}
	if err := s.makePrivate(); err != nil {
		return nil, err
	}
	v := filepath.Join(dir, "version")
	got, err := readSmall(v)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := atomicfile.Write(v, []byte(layout), 0o644); err != nil {
			return nil, s.wrap("open", err)
		}
	case err != nil:
		return nil, s.wrap("open", err)
	case string(got) != layout:
		return nil, &OtherLayout{Dir: dir, Layout: strings.TrimSpace(string(got))}
	}
	s.sweep()
	return s, nil
}

// dirMode is what the store's folders are made with: the umask of those who share a store decides who else may write to
// it.
func (s *Store) dirMode() fs.FileMode {
	if s.o.Shared {
		return 0o777
	}
	return 0o755
}

// MaxRecord bounds a record, in bytes: one of a disk with thousands of packages has a few hundred kilobytes.
const MaxRecord = 16 << 20

// readSmall reads a record, which is a regular file of bounded size and no link.
func readSmall(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > MaxRecord {
		return nil, fmt.Errorf("%s: want a regular file of at most %d bytes", path, MaxRecord)
	}
	return io.ReadAll(io.LimitReader(f, MaxRecord))
}

// Dir is the store's folder, absolute.
func (s *Store) Dir() string { return s.dir }

// OtherLayout says that a store was made by another version of this package.
type OtherLayout struct{ Dir, Layout string }

func (e *OtherLayout) Error() string {
	return fmt.Sprintf("store %s: layout %q, this katabuild knows %q", e.Dir, e.Layout, strings.TrimSpace(layout))
}

// Full says that the disk below the store is full.
type Full struct {
	Dir string // the store's
	Err error
}

func (e *Full) Error() string {
	return fmt.Sprintf("no room left in the store %s: %v; nothing half-written remains", e.Dir, e.Err)
}

// Unwrap is the kernel's error.
func (e *Full) Unwrap() error { return e.Err }

func (s *Store) wrap(deed string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return &Full{s.dir, err}
	}
	return fmt.Errorf("%s store: %w", deed, err)
}

// blob is where d lives. Digests come from documents: the caller of every method has parsed them.
func (s *Store) blob(d digest.Digest) string {
	h := d.Hex()
	if len(h) != 64 {
		h = strings.Repeat("0", 64)
	}
	return filepath.Join(s.dir, "blobs/sha256", h[:2], h)
}

// Has says, without reading the blob, whether the store holds d.
func (s *Store) Has(d digest.Digest) bool {
	_, err := os.Stat(s.blob(d))
	return err == nil
}

// Get returns the path of the blob d after reading and verifying it, once as long as nobody touches it. The file must
// not be changed. A missing blob is ErrMissing; one that has rotted is set aside as .corrupt and then is ErrMissing
// too, with a *digest.Mismatch beside it.
func (s *Store) Get(d digest.Digest) (string, error) {
	p := s.blob(d)
	stamp, err := stampOf(p)
	if err == nil && s.knows(d, stamp) {
		return p, nil
	}
	if err == nil {
		err = s.checkBlob(p, d)
	}
	var no *owned.Unsafe
	if errors.As(err, &no) {
		err = s.own(p, d)
		stamp = ""
	}
	var wrong *digest.Mismatch
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("%s: %w", d, ErrMissing)
	case errors.Is(err, errNoBlob), errors.As(err, &wrong):
		if err := os.Rename(p, p+".corrupt"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", s.wrap("set aside a corrupt blob in", err)
		}
		return "", fmt.Errorf("%w (set aside as %s.corrupt): %w", ErrMissing, filepath.Base(p), err)
	case err != nil:
		return "", s.wrap("read", err)
	}
	s.remember(d, stamp)
	return p, nil
}

// errNoBlob says that what lies at a blob's place is no regular file.
var errNoBlob = errors.New("no regular file")

// own replaces the blob at p by a copy of this user's own, after the check that checkBlob makes.
func (s *Store) own(p string, d digest.Digest) error {
	f, err := openBlob(p)
	if err != nil {
		return err
	}
	defer f.Close()
	_, _, err = s.Put(p, f, d)
	return err
}

func openBlob(p string) (*os.File, error) {
	f, err := os.OpenFile(p, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		err = errNoBlob
	}
	return f, err
}

// checkBlob reads the blob at p and returns a *digest.Mismatch unless it is d. A right one that another user could
// change afterwards is an *owned.Unsafe.
func (s *Store) checkBlob(p string, d digest.Digest) error {
	f, err := openBlob(p)
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errNoBlob
	}
	got, _, err := digest.Reader(f)
	if err != nil {
		return err
	}
	if got != d {
		return &digest.Mismatch{Name: p, Want: d, Got: got}
	}
	return owned.By(p, st.Uid, st.Mode)
}

// Put adds what r yields. When want is not empty and the bytes have another digest, nothing is added and the error is a
// *digest.Mismatch that calls the bytes name.
func (s *Store) Put(name string, r io.Reader, want digest.Digest) (digest.Digest, int64, error) {
	f, err := os.CreateTemp(filepath.Join(s.dir, "tmp"), "put-*.blob")
	if err != nil {
		return "", 0, s.wrap("write to", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	w := digest.New()
	n, err := io.Copy(io.MultiWriter(f, w), r)
	if err != nil {
		return "", 0, s.wrap("write to", err)
	}
	d := w.Digest()
	if want != "" && d != want {
		return "", 0, &digest.Mismatch{Name: name, Want: want, Got: d}
	}
	return d, n, s.adopt(f, d)
}

// PutFile adds the file at path and verifies it against want as Put does. The file may be moved away or copied: it is
// the caller's no longer.
func (s *Store) PutFile(path string, want digest.Digest) (digest.Digest, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() || !strings.HasPrefix(path,
		filepath.Join(s.dir, "tmp")+string(filepath.Separator)) {
		return s.Put(path, f, want)
	}
	// What lies in the store's own temporary folders need not be copied.
	d, n, err := digest.Reader(f)
	if err != nil {
		return "", 0, s.wrap("read", err)
	}
	if want != "" && d != want {
		return "", 0, &digest.Mismatch{Name: path, Want: want, Got: d}
	}
	return d, n, s.adopt(f, d)
}

// Held says whether path is one of the store's own blobs, and which: such a file need not be Put again.
func (s *Store) Held(path string) (digest.Digest, int64, bool) {
	d := digest.Digest("sha256:" + filepath.Base(path))
	fi, err := os.Stat(path)
	if err != nil || path != s.blob(d) {
		return "", 0, false
	}
	return d, fi.Size(), true
}

// adopt moves a written temporary file to its place.
func (s *Store) adopt(f *os.File, d digest.Digest) error {
	p := s.blob(d)
	if err := os.MkdirAll(filepath.Dir(p), s.dirMode()); err != nil {
		return s.wrap("write to", err)
	}
	if err := f.Chmod(0o444); err != nil {
		return s.wrap("write to", err)
	}
	if err := f.Sync(); err != nil {
		return s.wrap("write to", err)
	}
	if err := os.Rename(f.Name(), p); err != nil {
		return s.wrap("write to", err)
	}
	s.remember(d, "")
	return nil
}

// Action is what one step made from its inputs.
type Action struct {
	Version   int              `json:"version"`
	Key       digest.Digest    `json:"key"`
	Step      string           `json:"step"`
	Inputs    []artifact.Input `json:"inputs"`
	Outputs   []Output         `json:"outputs"`
	ElapsedMS int64            `json:"elapsed_ms"` // wall time it took, for expectations only
	Cost
	Writer Writer `json:"writer,omitempty"` // whose key Seal was made with; filled in by PutAction
	// the writer's Ed25519 signature over the record without it, in hexadecimal digits
	Seal string `json:"seal,omitempty"`
}

// Cost is what making something took, as far as the step counts it. For people and expectations; no key holds it.
type Cost struct {
	CPUMS int64 `json:"cpu_ms,omitempty"` // processor time of the foreign programs it ran
	Units int64 `json:"units,omitempty"`  // of what its progress counts, such as compiled files
	// Cached counts those of the Units that a cache of compiled objects had.
	Cached int64 `json:"cached,omitempty"`
}

// Output is one file of an action, in the store by its digest.
type Output struct {
	Name   string        `json:"name"`
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
}

// Output finds an output by name.
func (a *Action) Output(name string) (Output, error) {
	for _, o := range a.Outputs {
		if o.Name == name {
			return o, nil
		}
	}
	return Output{}, fmt.Errorf("step %s has no output %s", a.Step, name)
}

const actionVersion = 1

func (s *Store) action(key digest.Digest) string { return filepath.Join(s.dir, "actions", key.Hex()) }

// distrusted says that a record is whole, but not one that this user believes.
type distrusted struct {
	Key    digest.Digest
	Writer Writer // the writer that it names; empty for none
	Forged bool   // it does not carry this writer's signature
}

func (e *distrusted) Error() string {
	switch {
	case e.Writer == "":
		return fmt.Sprintf("record %s is not signed", e.Key.Short())
	case e.Forged:
		return fmt.Sprintf("record %s was changed, or not written by %s: its signature is wrong", e.Key.Short(),
			e.Writer.short())
	}
	return fmt.Sprintf("record %s was written by %s, which is not trusted", e.Key.Short(), e.Writer)
}

// lookup returns what the step with this key made, or ErrMissing. A record that cannot be read, or is not to be
// believed (a *distrusted beside ErrMissing), counts as missing: the step runs again. It does not look at the outputs'
// bytes; Complete does.
func (s *Store) lookup(key digest.Digest) (*Action, error) {
	r, err := s.Signed(key)
	if err != nil {
		return nil, err
	}
	return r.Action, nil
}

// check refuses a record that no step writes: outputs are plain files beside each other, each once.
func (a *Action) check() error {
	seen := map[string]bool{}
	for _, o := range a.Outputs {
		if o.Name == "" || o.Name != filepath.Base(o.Name) || o.Name == "." || o.Name == ".." ||
			strings.ContainsRune(o.Name, 0) {
			return fmt.Errorf("step %s: output %q: want the name of a file", a.Step, o.Name)
		}
		if seen[o.Name] || o.Digest == "" || o.Size < 0 {
			return fmt.Errorf("step %s: output %q stands there twice, or without digest or size", a.Step, o.Name)
		}
		seen[o.Name] = true
	}
	return nil
}

// sealedBytes is what a record's signature is over: all of it but the signature.
func (a *Action) sealedBytes() ([]byte, error) {
	b := *a
	b.Seal = ""
	return document.Encode(b)
}

// The kinds of what a store's writers sign.
const (
	recordKind = "record of a step"
	placedKind = "placed file"
)

// trusts says whether what w has signed is believed.
func (s *Store) trusts(w Writer) bool {
	return w == s.o.Key.Writer() || slices.Contains(s.o.Trusted, w)
}

// believe is nil for a record that a trusted writer has signed, or for any where this Store signs nothing itself.
func (s *Store) believe(a *Action) error {
	if s.o.Key.private == nil {
		return nil
	}
	data, err := a.sealedBytes()
	if err != nil {
		return err
	}
	if a.Writer == "" || !a.Writer.sealed(recordKind, data, a.Seal) {
		return &distrusted{Key: a.Key, Writer: a.Writer, Forged: true}
	}
	if !s.trusts(a.Writer) {
		return &distrusted{Key: a.Key, Writer: a.Writer}
	}
	return nil
}

// Complete returns the action with this key if the store holds every output, by presence and size; reading them
// verifies the bytes.
func (s *Store) Complete(key digest.Digest) (*Action, error) {
	a, err := s.lookup(key)
	if err != nil {
		return nil, err
	}
	for _, o := range a.Outputs {
		fi, err := os.Lstat(s.blob(o.Digest))
		if err != nil || !fi.Mode().IsRegular() || fi.Size() != o.Size {
			return nil, fmt.Errorf("action %s: output %s: %w", key, o.Name, ErrMissing)
		}
	}
	return a, nil
}

// PutAction signs and records a. Its outputs must be in the store already.
func (s *Store) PutAction(a *Action) error {
	a.Version, a.Writer, a.Seal = actionVersion, s.o.Key.Writer(), ""
	if err := a.check(); err != nil {
		return err
	}
	data, err := a.sealedBytes()
	if err != nil {
		return err
	}
	a.Seal = s.o.Key.seal(recordKind, data)
	if data, err = document.Encode(a); err != nil {
		return err
	}
	if err := atomicfile.Write(s.action(a.Key), data, 0o644); err != nil {
		return s.wrap("write to", err)
	}
	return nil
}

// Touch marks the action as used now, which keeps it from gc.
func (s *Store) Touch(key digest.Digest, now time.Time) {
	// A read-only store still serves hits; its owner decides what is old.
	_ = os.Chtimes(s.action(key), now, now)
}

// SetLast remembers that guest's step had this key.
func (s *Store) SetLast(guest, step string, key digest.Digest) error {
	p := filepath.Join(s.dir, "last", guest, step)
	if err := os.MkdirAll(filepath.Dir(p), s.dirMode()); err != nil {
		return s.wrap("write to", err)
	}
	if err := atomicfile.Write(p, []byte(key+"\n"), 0o644); err != nil {
		return s.wrap("write to", err)
	}
	return nil
}

// Last is the action guest's step had last, or nil.
func (s *Store) Last(guest, step string) *Action {
	data, err := readSmall(filepath.Join(s.dir, "last", guest, step))
	if err != nil {
		return nil
	}
	key, err := digest.Parse(strings.TrimSpace(string(data)))
	if err != nil {
		return nil
	}
	a, err := s.lookup(key)
	if err != nil {
		return nil
	}
	return a
}

// Lock waits until no other process builds key, then holds it until unlock is called. waiting is called once if there
// is a wait.
func (s *Store) Lock(key digest.Digest, waiting func()) (unlock func(), err error) {
	return lockFile(filepath.Join(s.dir, "locks", key.Hex()), waiting)
}

func lockFile(path string, waiting func()) (func(), error) {
	f, err := openLock(path)
	if err != nil {
		return nil, err
	}
	err = flock(f, syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		if waiting != nil {
			waiting()
		}
		err = flock(f, syscall.LOCK_EX)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	// A sweep may have removed the file between its making and its locking; then the lock holds nothing.
	mine, err1 := f.Stat()
	there, err2 := os.Lstat(path)
	if err1 != nil || err2 != nil || !os.SameFile(mine, there) {
		f.Close()
		return lockFile(path, waiting)
	}
	return func() { f.Close() }, nil
}

// openLock opens a file to lock. Another user's, in a shared store, can only be read, which is enough on all file
// systems but NFS.
func openLock(path string) (*os.File, error) {
	const flags = unix.O_NOFOLLOW | unix.O_NONBLOCK
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|flags, 0o644)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
		f, err = os.OpenFile(path, os.O_RDONLY|flags, 0)
	}
	return f, err
}

func flock(f *os.File, how int) error {
	for {
		err := syscall.Flock(int(f.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// Temp makes an empty folder on the store's file system for a running step. remove deletes it; if the process dies
// first, a later Open does.
func (s *Store) Temp(step string) (dir string, remove func() error, err error) {
	var r [6]byte
	if _, err := rand.Read(r[:]); err != nil {
		return "", nil, err
	}
	name := filepath.Join(s.dir, "tmp", step+"-"+hex.EncodeToString(r[:]))
	unlock, err := lockFile(name+".lock", nil)
	if err != nil {
		return "", nil, s.wrap("write to", err)
	}
	if err := os.Mkdir(name, 0o755); err != nil {
		unlock()
		_ = os.Remove(name + ".lock")
		return "", nil, s.wrap("write to", err)
	}
	return name, func() error {
		err := removal.All(name)
		err = errors.Join(err, os.Remove(name+".lock"))
		unlock()
		return err
	}, nil
}

// tempGrace is how old an unlocked temporary file must be before it counts as left behind: longer than the moment
// between its making and its locking, and than any single Put.
const tempGrace = time.Hour

// sweep removes temporary folders and files that nobody holds, and follows no link. Errors are left for gc and verify
// to show.
func (s *Store) sweep() {
	tmp := filepath.Join(s.dir, "tmp")
	if fi, err := os.Lstat(tmp); err != nil || !fi.IsDir() {
		return
	}
	entries, err := os.ReadDir(tmp)
	if err != nil {
		return
	}
	for _, e := range entries {
		p := filepath.Join(tmp, e.Name())
		base, isLock := strings.CutSuffix(p, ".lock")
		switch {
		case isLock:
			f, err := os.OpenFile(p, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
			if err != nil {
				continue
			}
			if flock(f, syscall.LOCK_EX|syscall.LOCK_NB) == nil {
				if removal.All(base) == nil {
					_ = os.Remove(p)
				}
			}
			f.Close()
		case !e.IsDir():
			if fi, err := e.Info(); err == nil && time.Since(fi.ModTime()) > tempGrace {
				_ = os.Remove(p)
			}
		}
	}
}
