// Package share is the folder of the host that a guest sees, and the program that serves it.
//
// In come mounts and files of the host, out go names by which the guest finds them below the folder. The folder is the
// one of Kata Containers: ROOT/ID/mounts is where things are mounted, ROOT/ID/shared is the same, read-only at its top,
// and is what the guest gets. It does not know what a container is: callers choose names.
//
// Mounts live in the mount namespace of the process that makes them. A shim has one of its own, so that nothing of them
// outlives it.
package share

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Tag is what the guest calls the folder by, as with Kata Containers.
const Tag = "kataShared"

// GuestDir is where the guest mounts it, as with Kata Containers.
const GuestDir = "/run/kata-containers/shared/containers"

// Share is one guest's folder. Its methods may be called from several goroutines.
type Share struct {
	dir string // of the sandbox: has mounts and shared

	mu      sync.Mutex
	mounted []mounted // in the order in which they were made; guarded by mu
}

type mounted struct{ owner, path string }

// New makes the folder of the sandbox id below root. What an earlier one of that name left is an error.
func New(root, id string) (*Share, error) {
	s := &Share{dir: filepath.Join(root, id)}
	if err := os.MkdirAll(root, 0o711); err != nil {
		return nil, fmt.Errorf("shared folder: %w", err)
	}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("shared folder: %w", err)
	}
	err := s.prepare()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("shared folder: %w", err), s.Close())
	}
	return s, nil
}

func (s *Share) prepare() error {
	for _, d := range []string{s.mounts(), s.Dir()} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	// What is mounted below mounts later has to appear below shared: the one is shared, the other its slave.
	if err := s.mount("", s.mounts(), s.mounts(), "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if err := propagation(s.mounts(), unix.MS_SHARED|unix.MS_REC); err != nil {
		return err
	}
	// virtiofsd makes a mount namespace of its own and lets it receive what is mounted here.
	return s.bind("", s.mounts(), s.Dir(), unix.MOUNT_ATTR_RDONLY, false, Owners{})
}

func propagation(path string, flags uintptr) error {
	if err := unix.Mount("", path, "", flags, ""); err != nil {
		return &os.PathError{Op: "set the propagation of", Path: path, Err: err}
	}
	return nil
}

func (s *Share) mounts() string { return filepath.Join(s.dir, "mounts") }

// Dir is the folder that is served to the guest.
func (s *Share) Dir() string { return filepath.Join(s.dir, "shared") }

// mount mounts and remembers it for owner.
func (s *Share) mount(owner, source, target, fstype string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return fmt.Errorf("mount %s at %s: %w", source, target, err)
	}
	s.remember(owner, target)
	return nil
}

func (s *Share) remember(owner, target string) {
	s.mu.Lock()
	s.mounted = append(s.mounted, mounted{owner, target})
	s.mu.Unlock()
}

// place is where name lies on the host. Names are made by us; one that leaves the folder is our bug.
func (s *Share) place(name string) string {
	if !filepath.IsLocal(name) {
		panic("name in the shared folder: " + name)
	}
	return filepath.Join(s.mounts(), name)
}

// GuestPath is where the guest finds name.
func GuestPath(name string) string { return GuestDir + "/" + name }

// Mount mounts what a snapshotter gave as name, for owner: mounts over each other, or a chain of them, of which the
// last is what is seen. Types and options are those of containerd's snapshotters.
func (s *Share) Mount(owner, name string, list []Mount) error {
	target := s.place(name)
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if IsChain(list) {
		return s.mountChain(owner, target, list)
	}
	for _, m := range list {
		if err := s.add(owner, target, m); err != nil {
			return err
		}
	}
	return nil
}

// add mounts m at target, and remembers it for owner.
func (s *Share) add(owner, target string, m Mount) error {
	m, done, err := s.mapped(m)
	if err != nil {
		return err
	}
	if err := errors.Join(m.at(target), done()); err != nil {
		return err
	}
	s.remember(owner, target)
	return nil
}

func (s *Share) bind(owner, source, target string, set uint64, below bool, owners Owners) error {
	if err := bind(source, target, set, below, owners); err != nil {
		return err
	}
	s.remember(owner, target)
	return nil
}

// Bind makes the file or folder source of the host appear as name, with everything mounted below it, for owner. owners
// are those of the files as the guest sees them.
func (s *Share) Bind(owner, name, source string, access Access, owners Owners) error {
	target := s.place(name)
	st, err := os.Stat(source)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	if st.IsDir() {
		err = os.MkdirAll(target, 0o755)
	} else {
		var f *os.File
		if f, err = os.OpenFile(target, os.O_CREATE|os.O_WRONLY, 0o644); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		return err
	}
	var set uint64
	if access != Writable {
		set = unix.MOUNT_ATTR_RDONLY
	}
	return s.bind(owner, source, target, set, access == ReadOnlyAll, owners)
}

// Release takes away everything of owner. Calling it again is a no-op. What is busy disappears when it no longer is.
func (s *Share) Release(owner string) error {
	s.mu.Lock()
	var gone, kept []mounted
	for _, m := range s.mounted {
		if m.owner == owner {
			gone = append(gone, m)
		} else {
			kept = append(kept, m)
		}
	}
	s.mounted = kept
	s.mu.Unlock()
	var errs []error
	for i := len(gone) - 1; i >= 0; i-- {
		path := gone[i].path
		if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, &os.PathError{Op: "unmount", Path: path, Err: err})
			continue
		}
		// Only what is empty: were it still mounted, this would be somebody's data.
		if rel, err := filepath.Rel(s.mounts(), path); err == nil && filepath.IsLocal(rel) && rel != "." {
			for p := path; p != s.mounts(); p = filepath.Dir(p) {
				if os.Remove(p) != nil {
					break
				}
			}
		}
	}
	return errors.Join(errs...)
}

// Close takes away everything, and the folder.
func (s *Share) Close() error {
	s.mu.Lock()
	owners := map[string]bool{}
	for _, m := range s.mounted {
		owners[m.owner] = true
	}
	s.mu.Unlock()
	delete(owners, "")
	var errs []error
	for o := range owners {
		errs = append(errs, s.Release(o))
	}
	errs = append(errs, s.Release(""))
	return errors.Join(append(errs, Clean(filepath.Split(s.dir)))...)
}

// Clean removes what is left of the folder of the sandbox id below root, after its mounts have gone: empty folders and
// files. Calling it again is a no-op. It never goes below something that is still mounted.
func Clean(root, id string) error {
	dir := filepath.Join(root, id)
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return &os.PathError{Op: "lstat", Path: dir, Err: err}
	}
	for _, sub := range []string{"shared", "mounts"} {
		// In the caller's namespace nothing is mounted unless it made the mounts, or a shim without a namespace was
		// killed.
		for unix.Unmount(filepath.Join(dir, sub), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
		}
	}
	var errs []error
	if err := removeEmpty(dir, st.Dev); err != nil {
		errs = append(errs, fmt.Errorf("remove the shared folder: %w", err))
	}
	return errors.Join(errs...)
}

// removeEmpty removes dir with what is in it: folders on the device dev, and empty files, which are places where files
// were bound.
func removeEmpty(dir string, dev uint64) error {
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		p := filepath.Join(dir, e.Name())
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return &os.PathError{Op: "lstat", Path: p, Err: err}
		}
		switch {
		case st.Dev != dev:
			return fmt.Errorf("%s is still mounted", p)
		case e.IsDir():
			err = removeEmpty(p, dev)
		case st.Size == 0 && st.Mode&unix.S_IFMT == unix.S_IFREG:
			err = os.Remove(p)
		default:
			err = fmt.Errorf("%s has content that nobody should have put there", p)
		}
		if err != nil {
			return err
		}
	}
	return os.Remove(dir)
}

// Mount is a mount as containerd asks for it.
type Mount struct {
	Type    string
	Source  string
	Options []string
}

// loopOption asks for a file to be mounted as if it were a disk. mount(8).
const loopOption = "loop"

// at mounts m at target.
func (m Mount) at(target string) error {
	for _, o := range m.Options {
		switch {
		case strings.HasPrefix(o, VerityOption):
			// Refused rather than mounted without: somebody wanted it checked.
			return fmt.Errorf("mount %s: the guest checks hash trees of layers, the host does not", m.Source)
		}
	}
	flags, data := m.flags()
	switch {
	case flags&unix.MS_BIND != 0:
		set, err := attributesOf(flags)
		if err != nil {
			return fmt.Errorf("mount %s at %s: %q: %w", m.Source, target, m.Options, err)
		}
		return bind(m.Source, target, set, true, Owners{})
	case m.Type == "overlay" && len(data) >= maxData:
		if err := mountLong(m.Source, target, m.Type, flags, data); err != nil {
			return fmt.Errorf("mount an overlay at %s: %w", target, err)
		}
		return nil
	}
	source, err := m.Source, error(unix.ENOTBLK)
	loop := slices.Contains(m.Options, loopOption)
	if !loop || m.Type == "erofs" { // which Linux mounts from a file by itself since 6.12, if it is built so
		err = unix.Mount(source, target, m.Type, flags, data)
	}
	if loop && errors.Is(err, unix.ENOTBLK) {
		var device *os.File
		if device, err = attachLoop(source, flags&unix.MS_RDONLY != 0); err != nil {
			return err
		}
		defer device.Close()
		err = unix.Mount(device.Name(), target, m.Type, flags, data)
	}
	if err != nil {
		return fmt.Errorf("mount %s at %s: %w", m.Source, target, err)
	}
	return nil
}

// mountFlags are the words of mount(8) that are flags. The second is whether the word takes the flag away.
var mountFlags = map[string]struct {
	flag  uintptr
	clear bool
}{
	"bind": {unix.MS_BIND, false}, "rbind": {unix.MS_BIND | unix.MS_REC, false},
	"ro": {unix.MS_RDONLY, false}, "rw": {unix.MS_RDONLY, true},
	"nosuid": {unix.MS_NOSUID, false}, "suid": {unix.MS_NOSUID, true},
	"nodev": {unix.MS_NODEV, false}, "dev": {unix.MS_NODEV, true},
	"noexec": {unix.MS_NOEXEC, false}, "exec": {unix.MS_NOEXEC, true},
	"noatime": {unix.MS_NOATIME, false}, "atime": {unix.MS_NOATIME, true},
	"nodiratime": {unix.MS_NODIRATIME, false}, "relatime": {unix.MS_RELATIME, false}, "norelatime": {unix.MS_RELATIME,
		true},
	"strictatime": {unix.MS_STRICTATIME, false}, "sync": {unix.MS_SYNCHRONOUS, false}, "dirsync": {unix.MS_DIRSYNC,
		false},
	"defaults": {0, false},
}

// flags splits the options into flags and data of mount(2). Options of programs (X-..., x-...) are for programs.
func (m Mount) flags() (flags uintptr, data string) {
	var rest []string
	for _, o := range m.Options {
		if f, ok := mountFlags[o]; ok {
			if f.clear {
				flags &^= f.flag
			} else {
				flags |= f.flag
			}
		} else if o != loopOption && !strings.HasPrefix(strings.ToLower(o), "x-") {
			rest = append(rest, o)
		}
	}
	if m.Type == "bind" || m.Type == "rbind" {
		flags |= unix.MS_BIND
	}
	return flags, strings.Join(rest, ",")
}

// maxData is what mount(2) takes as data, in bytes with the NUL: a page.
const maxData = 4096
