package firecracker

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/runtime/child"
)

// jailID is the machine's name for the jailer, which makes a folder of it. There is one machine in each folder of ours.
const jailID = "vm"

// jail is where the program sees the files that it is told of: in its jailer's jail, in the machine's folder behind the
// runtime's walls, or where they are on the host.
type jail struct {
	root   string // of the files that it is told of; empty is the host's
	user   int    // the program's; below 0 is as it is started
	shown  []string
	lonely bool // it sees no other files of the host
}

// jailerArgv is the jailer's command line, and root the root of the jail that it makes. Firecracker: docs/jailer.md.
func jailerArgv(jailer, program, base string, user int) (argv []string, root string) {
	u := strconv.Itoa(user)
	return []string{jailer, "--id", jailID, "--exec-file", program, "--uid", u, "--gid", u,
			"--chroot-base-dir", base, "--cgroup-version", "2", "--"},
		filepath.Join(base, filepath.Base(program), jailID, "root")
}

// path is by which name the program knows a file of the jail.
func (j *jail) path(file string) string {
	if j.root == "" {
		return file
	}
	return "/" + filepath.Base(file)
}

// own makes a file the program's user's.
func (j *jail) own(path string) error {
	if j.user < 0 {
		return nil
	}
	return os.Chown(path, j.user, j.user)
}

// copyIn writes an open file's bytes into the jail, and returns the program's name for it: what the program inherits
// does not pass its jailer.
func (j *jail) copyIn(f *os.File, name string) (_ string, err error) {
	to, err := os.OpenFile(filepath.Join(j.root, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	if _, err := io.Copy(to, io.NewSectionReader(f, 0, st.Size())); err != nil {
		return "", fmt.Errorf("copy %s into the jail: %w", f.Name(), err)
	}
	return j.path(to.Name()), j.own(to.Name())
}

// show lets the program see a file or block device of the host under a name in dir, and returns the program's name for
// it.
func (j *jail) show(dir, name, path string) (string, error) {
	if !j.lonely {
		return path, nil
	}
	to := filepath.Join(dir, name)
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if j.root != "" && st.Mode&unix.S_IFMT == unix.S_IFBLK {
		// A node of its own, which its user may open.
		if err := unix.Mknod(to, unix.S_IFBLK|0o600, int(st.Rdev)); err != nil {
			return "", &os.PathError{Op: "mknod", Path: to, Err: err}
		}
		j.shown = append(j.shown, to)
		return j.path(to), j.own(to)
	}
	if j.user > 0 {
		return "", fmt.Errorf("%s is a file of the host, which another user's Firecracker cannot open; give "+
			"containers block devices (devmapper), or leave jailer_path empty", path)
	}
	if err := os.WriteFile(to, nil, 0o600); err != nil {
		return "", err
	}
	if err := unix.Mount(path, to, "", unix.MS_BIND, ""); err != nil {
		return "", errors.Join(&os.PathError{Op: "mount", Path: path, Err: err}, os.Remove(to))
	}
	j.shown = append(j.shown, to)
	return j.path(to), nil
}

// hide takes back what show did by a name in dir. What was not shown is no error.
func (j *jail) hide(dir, name string) error {
	to := filepath.Join(dir, name)
	for i, s := range j.shown {
		if s != to {
			continue
		}
		j.shown = append(j.shown[:i], j.shown[i+1:]...)
		if err := unix.Unmount(to, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) { // a node is no mount
			return &os.PathError{Op: "unmount", Path: to, Err: err}
		}
		return os.Remove(to)
	}
	return nil
}

// jailUser is the user of a jailed program: as of those behind the runtime's walls, nobody else's.
func jailUser() int { return child.FirstUser + os.Getpid() }
