package child

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Isolation is what stands between a program and the host where it is started by root. It then has a user of its own,
// no capabilities, none that an exec could give it, and sees no files but those that are named here, no other
// processes, and no System V memory of others.
//
// A barrier that this host does not let us build is left out and told by Process.Missing.
type Isolation struct {
	// Capabilities are those that the program cannot do without, as CAP_CHOWN of package unix. With any, the program
	// stays root, who then can no more than they say, since they are of no use to other users' programs.
	Capabilities []uintptr
	// Why says for people why there are Capabilities.
	Why string
	// Folder is one that the program reads and writes, with all that is mounted in it now and later; empty is none.
	Folder string
	// Devices are files that it opens by path, beside /dev/null and the like, or folders of such. The program gets the
	// group of each.
	Devices []string
	// ReadOnly are other folders whose files it reads by path.
	ReadOnly []string
}

// FirstUser is the first of the users and groups that isolated programs have: the number is FirstUser and the number of
// the thread that waits for the program. No other living process has that, at most 4,194,304 (proc(5), pid_max), so no
// two programs at a time have one user, and nothing has to be kept or cleaned up. No distribution gives users of this
// range: it is the one from 1,879,048,192 to 2,147,483,647 that systemd's table of users (docs/UIDS-GIDS.md) has as
// unused.
const FirstUser = 0x70000000

// system are the folders of programs and libraries; of those that are links only the link is made.
var system = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store"}

// extras are the files and folders of /etc that the dynamic linker reads, or links of libraries lead through.
var extras = []string{"/etc/ld.so.cache", "/etc/alternatives"}

// common are the devices that every program has.
var common = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"}

// needed says whether barriers can be built at all: by root, for others have not the rights, and are the program's user
// already.
func (w *Isolation) needed() bool { return w != nil && os.Geteuid() == 0 }

// build takes the calling thread behind the barriers, as far as its children inherit them, and gives the command the
// rest. It says what could not be built.
func (w *Isolation) build(cmd *exec.Cmd) (missing []string) {
	lacks := func(format string, a ...any) { missing = append(missing, fmt.Sprintf(format, a...)) }
	program := cmd.Path
	if p, err := filepath.EvalSymlinks(program); err == nil {
		program = p
	}
	if p, err := filepath.Abs(program); err == nil {
		program = p
	}
	user, groups := 0, []uint32{}
	if len(w.Capabilities) == 0 {
		var err error
		if user, groups, err = w.user(program); err != nil {
			lacks("a user of its own: %v", err)
		}
	} else {
		lacks("a user of its own: %s", w.Why)
	}
	if err := w.enterRoot(program); err != nil {
		lacks("a mount namespace of its own: %v", err)
	} else {
		cmd.Path = program
		cmd.Dir = "/"
	}
	// The session's keys are root's. keyctl(2), KEYCTL_JOIN_SESSION_KEYRING.
	if _, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0); err != nil &&
		!errors.Is(err, unix.ENOSYS) {
		lacks("keys of its own: %v", err)
	}
	if err := dropBounding(w.Capabilities); err != nil {
		lacks("a bound of capabilities: %v", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		lacks("no new privileges: %v", err)
	}
	// A user namespace may have no say over groups; user_namespaces(7). Where the user is new, they must not stay.
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(user), Gid: uint32(user), Groups: groups,
		NoSetGroups: user == 0}
	// What whoever started this process left open is not for the program. The files of this process are all marked so
	// already.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		lacks("a bound of open files: %v", err)
	}
	cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWPID | unix.CLONE_NEWIPC
	return missing
}

// user is the number of the program's user and group, and its other groups. It is 0 where there is an error: the
// program then stays root, without capabilities.
func (w *Isolation) user(program string) (int, []uint32, error) {
	id := FirstUser + unix.Gettid()
	for _, file := range []string{"/proc/self/uid_map", "/proc/self/gid_map"} {
		b, err := os.ReadFile(file)
		if err != nil {
			return 0, []uint32{}, err
		}
		if !mapped(string(b), id) {
			return 0, []uint32{}, fmt.Errorf("user %d has no number outside of this user namespace (%s)", id, file)
		}
	}
	st, err := os.Stat(program)
	if err != nil {
		return 0, []uint32{}, err
	}
	if st.Mode().Perm()&0o005 != 0o005 {
		return 0, []uint32{}, fmt.Errorf("%s has mode %04o, so that other users cannot run it", program,
			st.Mode().Perm())
	}
	groups := []uint32{}
	for _, d := range w.Devices {
		st, err := os.Stat(d)
		if err != nil {
			return 0, []uint32{}, err
		}
		switch gid := st.Sys().(*syscall.Stat_t).Gid; {
		case st.Mode().Perm()&0o006 == 0o006:
		case st.Mode().Perm()&0o060 == 0o060 && gid != 0:
			groups = append(groups, gid)
		default:
			return 0, []uint32{}, fmt.Errorf("%s is for root alone (mode %04o, group %d)", d, st.Mode().Perm(), gid)
		}
	}
	return id, groups, nil
}

// refused says whether this is how a kernel refuses a namespace. clone(2).
func refused(err error) bool {
	return errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EINVAL) ||
		errors.Is(err, unix.EUSERS)
}

// mapped says whether a user namespace with this map has the user. user_namespaces(7): first inside, first outside, how
// many.
func mapped(table string, id int) bool {
	s := bufio.NewScanner(strings.NewReader(table))
	for s.Scan() {
		var inside, outside, n int64
		if _, err := fmt.Sscan(s.Text(), &inside, &outside, &n); err == nil && int64(id) >= inside &&
			int64(id) < inside+n {
			return true
		}
	}
	return false
}

// place is where the new root is put together: an own mount hides what is there, which nothing needs meanwhile.
const place = "/proc"

// enterRoot gives the calling thread a mount namespace with the program's files alone. After an error the thread sees
// what it saw before.
func (w *Isolation) enterRoot(program string) (err error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	// What is mounted in the Folder later has to be seen, and nothing of ours outside.
	if err := mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return err
	}
	if err := mount("tmpfs", place, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC,
		"mode=755,size=64k,nr_inodes=256"); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, unix.Unmount(place, unix.MNT_DETACH))
		}
	}()
	if err := w.fill(program); err != nil {
		return err
	}
	if err := mount("", place, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|
		unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	// pivot_root(2), "pivot_root(".", ".")": the old root lies on the new one then, and goes.
	if err := unix.Chdir(place); err != nil {
		return &fs.PathError{Op: "enter", Path: place, Err: err}
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return errors.Join(fmt.Errorf("pivot_root: %w", err), unix.Chdir("/"))
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		// The host's files are still reachable by whoever can undo mounts, for which the program lacks the capability.
		return fmt.Errorf("leave the old root: %w", err)
	}
	return unix.Chdir("/")
}

// fill puts the new root together at place.
func (w *Isolation) fill(program string) error {
	trees := slices.Clone(system)
	if !slices.ContainsFunc(trees, func(t string) bool { return strings.HasPrefix(program, t+"/") }) {
		// As in /opt/NAME/bin: with what was installed beside it.
		dir := filepath.Dir(program)
		trees = append(trees, dir)
		for _, beside := range []string{"share", "lib", "lib64", "libexec"} {
			trees = append(trees, filepath.Join(filepath.Dir(dir), beside))
		}
	}
	for _, t := range slices.Concat(trees, extras, w.ReadOnly) {
		if err := readOnly(t); err != nil {
			return err
		}
	}
	for _, d := range slices.Concat(common, w.Devices) {
		if err := bind(d, false); err != nil {
			return err
		}
	}
	if w.Folder != "" {
		if err := bind(w.Folder, true); err != nil {
			return err
		}
	}
	// Files that are inherited are opened by /proc/self/fd. Linux, Documentation/filesystems/proc.rst, "Mount Options".
	proc := place + "/proc"
	if err := os.Mkdir(proc, 0o555); err != nil {
		return err
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	err := mount("proc", proc, "proc", flags, "hidepid=ptraceable,subset=pid")
	if errors.Is(err, unix.EINVAL) { // Linux before 5.8
		err = mount("proc", proc, "proc", flags, "hidepid=2")
	}
	return err
}

// readOnly shows a file, a folder with all that is mounted in it, or a link, in the new root. One that is not there is
// left out.
func readOnly(path string) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case st.Mode()&fs.ModeSymlink != 0:
		to, err := os.Readlink(path)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(place+path), 0o755); err != nil {
			return err
		}
		return os.Symlink(to, place+path)
	}
	if err := bind(path, true); err != nil {
		return err
	}
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV,
		Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(unix.AT_FDCWD, place+path, unix.AT_RECURSIVE, attr); err != nil {
		return &fs.PathError{Op: "make read-only", Path: path, Err: err}
	}
	return nil
}

// bind shows a file, or a folder, in the new root where it is.
func bind(path string, below bool) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	target := place + path
	if st.IsDir() {
		err = os.MkdirAll(target, 0o755)
	} else if err = os.MkdirAll(filepath.Dir(target), 0o755); err == nil {
		err = os.WriteFile(target, nil, 0o444)
	}
	if err != nil {
		return err
	}
	flags := uintptr(unix.MS_BIND)
	if below {
		flags |= unix.MS_REC
	}
	return mount(path, target, "", flags, "")
}

func mount(source, target, fstype string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return &fs.PathError{Op: "mount", Path: target, Err: err}
	}
	return nil
}

// dropBounding takes all capabilities but some from what the calling thread's children can have after an exec.
// capabilities(7).
func dropBounding(keep []uintptr) error {
	for c := uintptr(0); ; c++ {
		if slices.Contains(keep, c) {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) && c > 0 {
			break // the kernel knows no more
		}
		if err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("drop ambient capabilities: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	data[0].Inheritable, data[1].Inheritable = 0, 0
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("drop inheritable capabilities: %w", err)
	}
	return nil
}
