package guestcopy

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"
)

// Limits bound what a guest may send. The zero value is the default of each.
type Limits struct {
	Bytes   int64 // in all files; DefaultBytes
	Entries int   // files, folders and links; DefaultEntries
}

// The defaults of Limits.
const (
	DefaultBytes   = 4 << 30
	DefaultEntries = 1 << 20
)

// maxPath bounds a name in a stream, and a link's target, in bytes. <linux/limits.h>, PATH_MAX, with its NUL.
const maxPath = 4095

// Refusal names what of a stream is not taken.
type Refusal struct {
	Name   string // of the entry
	Reason string
}

func (e *Refusal) Error() string { return fmt.Sprintf("%q of the guest: %s", e.Name, e.Reason) }

// Unpack makes what a stream holds, whose top is called top, as name in the folder dir. What stands there already
// under a name is replaced, unless one of both is a folder. Modes without the bits for rights of owners, and times, are
// kept; everything belongs to this process's user. On an error what was made so far stays. progress is told of bytes.
func Unpack(r io.Reader, dir, top, name string, l Limits, progress func(int64)) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	u := &unpacking{root: root, top: top, name: name, left: l.Bytes, entries: l.Entries, progress: progress}
	if u.left == 0 {
		u.left = DefaultBytes
	}
	if u.entries == 0 {
		u.entries = DefaultEntries
	}
	t := tar.NewReader(r)
	n := 0
	for ; ; n++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("what the guest sent is no tar: %w", err)
		}
		if err := u.take(h, t); err != nil {
			return err
		}
	}
	if n == 0 {
		return fmt.Errorf("the guest sent nothing of %s", top)
	}
	return u.finish()
}

// unpacking is a stream that is being unpacked.
type unpacking struct {
	root      *os.Root
	top, name string
	left      int64
	entries   int
	progress  func(int64)
	folders   []folder // in the order they came
}

// folder is one that gets mode and time when everything is in it.
type folder struct {
	path string
	mode fs.FileMode
	time time.Time
}

// local is where an entry goes, relative to the root.
func (u *unpacking) local(name string) (string, error) {
	clean := path.Clean(strings.TrimPrefix(name, "./"))
	switch {
	case len(name) > maxPath:
		return "", &Refusal{name[:100] + "...", "the name is too long"}
	case path.IsAbs(name):
		return "", &Refusal{name, "an absolute path"}
	case hasParent(name):
		return "", &Refusal{name, ".. is in it"}
	case clean == u.top:
		return u.name, nil
	}
	rest, below := strings.CutPrefix(clean, u.top+"/")
	if !below {
		return "", &Refusal{name, "it is not below " + u.top}
	}
	return path.Join(u.name, rest), nil
}

func (u *unpacking) take(h *tar.Header, r io.Reader) error {
	if u.entries--; u.entries < 0 {
		return &Refusal{h.Name, "there are more files than are allowed"}
	}
	at, err := u.local(h.Name)
	if err != nil {
		return err
	}
	mode := fs.FileMode(h.Mode) & fs.ModePerm
	switch h.Typeflag {
	case tar.TypeDir:
		u.folders = append(u.folders, folder{at, mode, h.ModTime})
		err := u.root.Mkdir(at, 0o700)
		if errors.Is(err, fs.ErrExist) {
			if st, e := u.root.Lstat(at); e == nil && st.IsDir() {
				return nil
			}
		}
		return u.told(h, err)
	case tar.TypeReg:
		return u.told(h, u.file(at, h, mode, r))
	case tar.TypeSymlink:
		if len(h.Linkname) > maxPath {
			return &Refusal{h.Name, "the link's target is too long"}
		}
		return u.told(h, errors.Join(u.clear(at), u.root.Symlink(h.Linkname, at)))
	case tar.TypeLink:
		to, err := u.local(h.Linkname)
		if err != nil {
			return &Refusal{h.Name, "a hard link to " + err.Error()}
		}
		return u.told(h, errors.Join(u.clear(at), u.root.Link(to, at)))
	case tar.TypeChar, tar.TypeBlock:
		return &Refusal{h.Name, "a device"}
	case tar.TypeFifo:
		return &Refusal{h.Name, "a pipe"}
	}
	return &Refusal{h.Name, fmt.Sprintf("an entry of type %q", h.Typeflag)}
}

// told is an error with the entry's name: a link of the stream that leads out of the folder is one.
func (u *unpacking) told(h *tar.Header, err error) error {
	if err == nil {
		return nil
	}
	if _, is := errors.AsType[*Refusal](err); is {
		return err
	}
	return fmt.Errorf("%q of the guest: %w", h.Name, err)
}

// clear takes away what is in the place of a file or link.
func (u *unpacking) clear(at string) error {
	st, err := u.root.Lstat(at)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.IsDir() {
		return errors.New("there is a folder in its place")
	}
	return u.root.Remove(at)
}

func (u *unpacking) file(at string, h *tar.Header, mode fs.FileMode, r io.Reader) error {
	if h.Size > u.left {
		return &Refusal{h.Name, fmt.Sprintf("%d bytes are more than are allowed", h.Size)}
	}
	u.left -= h.Size
	if err := u.clear(at); err != nil {
		return err
	}
	f, err := u.root.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.MultiWriter(f, counter(u.progress)), r)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return u.root.Chtimes(at, h.ModTime, h.ModTime)
}

// counter tells of bytes.
type counter func(int64)

// Write implements io.Writer.
func (c counter) Write(b []byte) (int, error) {
	if c != nil {
		c(int64(len(b)))
	}
	return len(b), nil
}

// finish gives folders their modes and times, the innermost first.
func (u *unpacking) finish() error {
	for i := len(u.folders) - 1; i >= 0; i-- {
		f := u.folders[i]
		if st, err := u.root.Lstat(f.path); err != nil || !st.IsDir() {
			return &Refusal{f.path, "a folder became something else"}
		}
		if err := errors.Join(u.root.Chtimes(f.path, f.time, f.time), u.root.Chmod(f.path, f.mode)); err != nil {
			return err
		}
	}
	return nil
}
