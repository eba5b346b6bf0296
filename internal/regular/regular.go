// Package regular opens plain files that somebody else may have made: beside a recipe, in a kernel tree, in a folder
// where foreign programs ran.
//
// An ordinary open waits for ever on a FIFO, has effects on a device, and follows links to wherever they lead; an
// ordinary read of /dev/zero never ends. Here a file is opened only once its kind is known, reading takes at most the
// bytes the caller names, and what lies in a Folder cannot lead out of it.
package regular

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// KindError says that a name does not lead to a plain file.
type KindError struct {
	Name string
	Kind string // what it is instead, with its article: "a folder", "a FIFO"
}

func (e *KindError) Error() string { return fmt.Sprintf("%s is %s, not a file", e.Name, e.Kind) }

// SizeError says that a file is larger than whoever reads it takes.
type SizeError struct {
	Name  string
	Limit int64 // bytes
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("%s has more than %d bytes, which is the most that is read of it", e.Name, e.Limit)
}

// Open opens the plain file at path for reading. It follows links, never waits, and opens nothing but a plain file:
// otherwise it returns a *KindError. A file that the running kernel makes up as it is read (below /proc or /sys) is
// none, as it may have no end.
func Open(path string) (*os.File, error) {
	// A descriptor of the kind O_PATH holds on to the file without opening it, so that what is checked is what is
	// opened.
	held, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(held)
	var st unix.Stat_t
	if err := unix.Fstat(held, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if kind := kindOf(st.Mode); kind != "" {
		return nil, &KindError{path, kind}
	}
	var on unix.Statfs_t
	if err := unix.Fstatfs(held, &on); err != nil {
		return nil, &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	switch int64(on.Type) {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC:
		return nil, &KindError{path, "made up by the running kernel"}
	}
	// O_NONBLOCK: whoever holds a lease on the file could keep an open waiting.
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(held), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// ReadFile reads the plain file at path, which Open opens. A *SizeError says that it has more than limit bytes.
func ReadFile(path string, limit int64) ([]byte, error) {
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	return readAll(f, path, limit)
}

// readAll reads all of f and closes it.
func readAll(f *os.File, name string, limit int64) ([]byte, error) {
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if fi.Size() > limit {
		return nil, &SizeError{name, limit}
	}
	data := make([]byte, 0, fi.Size()+1)
	for { // the file may grow meanwhile
		n, err := f.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		switch {
		case int64(len(data)) > limit:
			return nil, &SizeError{name, limit}
		case err == io.EOF:
			return data, nil
		case err != nil:
			return nil, err
		case len(data) == cap(data):
			data = append(data, 0)[:len(data)]
		}
	}
}

// kindOf names the kind in a mode of stat(2); "" is a plain file.
func kindOf(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return ""
	case unix.S_IFDIR:
		return "a folder"
	case unix.S_IFIFO:
		return "a FIFO"
	case unix.S_IFSOCK:
		return "a socket"
	case unix.S_IFLNK:
		return "a symbolic link"
	}
	return "a device"
}

// Folder is a folder whose content others made, and may still be making. No name given to it leads out of it, whatever
// links it holds. Close lets go of it; it may be used by several goroutines.
type Folder struct {
	root *os.Root
	name string
}

// OpenFolder takes hold of the folder at path. The folder's own path is the caller's word: links in it are followed.
func OpenFolder(path string) (*Folder, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	return &Folder{root, path}, nil
}

// Close lets go of the folder.
func (d *Folder) Close() error { return d.root.Close() }

// Open opens a plain file below the folder for reading. The name is relative, with slashes. It never waits; what is no
// plain file is a *KindError.
func (d *Folder) Open(name string) (*os.File, error) {
	// A folder of a plain user's jail holds no device, and opening a FIFO so does not wait.
	f, err := d.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		if fi, statErr := d.root.Stat(name); statErr == nil && fi.Mode()&fs.ModeSocket != 0 {
			return nil, &KindError{name, "a socket"}
		}
		return nil, d.blameLink(name, err)
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if kind := kindOf(modeOf(fi.Mode())); kind != "" {
		return nil, errors.Join(&KindError{name, kind}, f.Close())
	}
	return f, nil
}

// blameLink says of an error which link on the way to a name leads out of the folder or to nothing.
func (d *Folder) blameLink(name string, err error) error {
	for i := 1; i <= len(name); i++ {
		if i < len(name) && name[i] != '/' {
			continue
		}
		if target, linkErr := d.root.Readlink(name[:i]); linkErr == nil {
			return fmt.Errorf("%s is a link to %q, which leads out of its folder or to nothing: %w", name[:i], target,
				err)
		}
	}
	return err
}

// ReadFile reads a plain file below the folder, which Open opens. A *SizeError says that it has more than limit bytes.
func (d *Folder) ReadFile(name string, limit int64) ([]byte, error) {
	f, err := d.Open(name)
	if err != nil {
		return nil, err
	}
	return readAll(f, name, limit)
}

// WriteFile makes a new file below the folder. Whatever else has its name goes first, but for a folder, which is an
// error: a link's target, or another name of an old file, keeps its bytes.
func (d *Folder) WriteFile(name string, data []byte, perm os.FileMode) error {
	if err := d.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// Root is the folder itself, for what only needs names and kinds, such as Lstat.
func (d *Folder) Root() *os.Root { return d.root }

// FS is the folder as a file system whose files are plain ones of at most limit bytes each.
func (d *Folder) FS(limit int64) fs.FS { return folderFS{d, limit} }

type folderFS struct {
	d     *Folder
	limit int64
}

func (f folderFS) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	return f.d.Open(name)
}

// ReadFile is what fs.ReadFile calls.
func (f folderFS) ReadFile(name string) ([]byte, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	return f.d.ReadFile(name, f.limit)
}

// modeOf is the kind of a file as stat(2) has it.
func modeOf(m fs.FileMode) uint32 {
	switch m.Type() {
	case 0:
		return unix.S_IFREG
	case fs.ModeDir:
		return unix.S_IFDIR
	case fs.ModeNamedPipe:
		return unix.S_IFIFO
	case fs.ModeSocket:
		return unix.S_IFSOCK
	case fs.ModeSymlink:
		return unix.S_IFLNK
	}
	return unix.S_IFCHR
}
