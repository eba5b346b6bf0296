package jail

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Main becomes the jail when this process was started as one, and then does not return. Otherwise it returns at once.
func Main() {
	if len(os.Args) != 1 || os.Args[0] != stageName || os.Getpid() != 1 {
		return
	}
	// Bounding set, securebits and no_new_privs belong to a thread: the one that forks the program.
	runtime.LockOSThread()
	// Whatever a program of the jail sends to process 1 is taken and dropped. Ignored signals would stay ignored in the
	// programs.
	signal.Notify(make(chan os.Signal, 1))
	unix.CloseOnExec(3)
	unix.CloseOnExec(4)
	report := os.NewFile(4, "outcome")
	var once sync.Once
	end := func(out outcome) {
		once.Do(func() {
			json.NewEncoder(report).Encode(out) // a parent that is gone has killed us already
			report.Close()
			unix.Exit(0) // not os.Exit, which lets the runtime write what it likes to the program's standard error
		})
	}
	end(stage(os.NewFile(3, "spec"), func(what string) { end(outcome{Limit: what}) }))
}

// stage is the life of process 1 in the jail: make the root and its mounts, start the program, and collect processes
// that end until the program is one of them. It calls over when the programs exceed a limit, in another goroutine.
func stage(r io.Reader, over func(what string)) outcome {
	var s spec
	if err := json.NewDecoder(r).Decode(&s); err != nil {
		return outcome{Error: fmt.Sprintf("read the specification: %v", err)}
	}
	if err := enter(s); err != nil {
		return outcome{Error: err.Error(), Forbidden: errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)}
	}
	program, err := lookUp(s.Args[0])
	if err != nil {
		return outcome{Error: err.Error()}
	}
	if err := errors.Join(dropPrivileges(), s.Limits.set(), seccomp()); err != nil {
		return outcome{Error: err.Error()}
	}
	go s.Limits.watch(over)
	pid, err := syscall.ForkExec(program, s.Args, &syscall.ProcAttr{
		Dir: s.Dir, Env: s.Env, Files: []uintptr{0, 1, 2},
		Sys: &syscall.SysProcAttr{Setsid: true, Setctty: s.Terminal, Ctty: 0},
	})
	if err != nil {
		return outcome{Error: fmt.Sprintf("start %s in %s: %v", program, s.Dir, err)}
	}
	for {
		var ws syscall.WaitStatus
		got, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return outcome{Error: fmt.Sprintf("wait for %s: %v", program, err)}
		case got != pid:
		case ws.Signaled():
			return outcome{Code: -1, Signal: int(ws.Signal())}
		default:
			return outcome{Code: ws.ExitStatus()}
		}
	}
}

// set applies the limits that the kernel keeps for each process.
func (l Limits) set() error {
	for _, r := range []struct {
		which int
		most  uint64
	}{
		{unix.RLIMIT_NPROC, uint64(l.Processes)}, {unix.RLIMIT_AS, uint64(max(2<<30, l.Memory))},
		{unix.RLIMIT_FSIZE, uint64(l.File)}, {unix.RLIMIT_CORE, 0},
	} {
		var now unix.Rlimit
		if err := unix.Getrlimit(r.which, &now); err != nil {
			return fmt.Errorf("read a limit: %w", err)
		}
		most := min(r.most, now.Max)
		if err := unix.Setrlimit(r.which, &unix.Rlimit{Cur: most, Max: most}); err != nil {
			return fmt.Errorf("set a limit: %w", err)
		}
	}
	return nil
}

// system lists the folders of programs and libraries that a root has, or may have.
func system(root string) []string {
	list := []string{"/usr", "/bin", "/sbin"}
	libs, _ := filepath.Glob(root + "/lib*") // of a pattern that is not well-formed, there are none
	for _, p := range libs {
		list = append(list, strings.TrimPrefix(p, root))
	}
	return list
}

// etc lists what of /etc the jail shows: what the dynamic linker reads, and where Debian's links to compilers lead.
// None of it is secret.
func etc() []string {
	return []string{"/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives"}
}

// madeUp are the files of /etc that the jail has of its own: one user, which is root and nobody.
func madeUp() map[string]string {
	return map[string]string{
		"/etc/passwd": "root:x:0:0:katabuild:" + Home + ":/bin/sh\n", "/etc/group": "root:x:0:\n",
		"/etc/hosts":         "127.0.0.1 localhost\n",
		"/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
	}
}

// lookUp finds a program in Path.
func lookUp(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, dir := range strings.Split(Path, ":") {
		p := filepath.Join(dir, name)
		if fi, err := os.Stat(p); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("no program %q in %s", name, Path)
}

// newRoot is the folder the new root is mounted on before it becomes "/". Any folder that surely exists does.
const newRoot = "/usr"

// mount is one detached tree of the machine and where it goes.
type mount struct {
	fd     int
	target string // below the new root
	dir    bool
	attr   uint64
	name   string
}

const (
	attrReadOnly = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	attrWritable = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	attrDevice   = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC
)

// enter replaces everything this process sees of the machine.
func enter(s spec) error {
	// A session of keys of its own. Where a container forbids it, the filter of calls still stands.
	_, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0)
	if err != nil && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("leave the caller's keys: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}

	// First hold on to everything that comes along, since the new root hides part of the machine.
	var mounts []mount
	links := map[string]string{}
	take := func(host, target string, attr uint64) error {
		fi, err := os.Stat(host)
		if err != nil {
			return err
		}
		fd, err := unix.OpenTree(unix.AT_FDCWD, host, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err != nil {
			return fmt.Errorf("take %s along: %w", host, err)
		}
		mounts = append(mounts, mount{fd: fd, target: target, dir: fi.IsDir(), attr: attr, name: host})
		return nil
	}
	for _, p := range system(s.Root) {
		fi, err := os.Lstat(s.Root + p)
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			return err
		case fi.Mode()&os.ModeSymlink != 0:
			if links[p], err = os.Readlink(s.Root + p); err != nil {
				return err
			}
		case fi.IsDir():
			if err := take(s.Root+p, p, attrReadOnly); err != nil {
				return err
			}
		}
	}
	for _, p := range etc() {
		if s.Root != "" {
			break // a root of its own needs nothing of the machine's
		}
		if err := take(p, p, attrReadOnly); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	for _, d := range []string{"null", "zero", "full", "random", "urandom"} {
		if err := take("/dev/"+d, "/dev/"+d, attrDevice); err != nil {
			return err
		}
	}
	// These files list the keys of everybody with this user's number.
	for _, p := range []string{"/proc/keys", "/proc/key-users"} {
		if _, err := os.Lstat(p); err != nil {
			continue
		}
		if err := take("/dev/null", p, attrDevice); err != nil {
			return err
		}
	}
	for _, b := range s.Binds {
		attr := uint64(attrReadOnly)
		if b.Writable {
			attr = attrWritable
		}
		if err := take(b.Host, b.Jail, attr); err != nil {
			return err
		}
	}

	// Then furnish.
	unix.Umask(0o022)
	if err := unix.Mount("katabuild", newRoot, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount the new root: %w", err)
	}
	for link, to := range links {
		if err := os.Symlink(to, newRoot+link); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/dev", "/proc", "/tmp", "/etc", Home} {
		if err := os.MkdirAll(newRoot+dir, 0o755); err != nil {
			return err
		}
	}
	for name, text := range madeUp() {
		if err := os.WriteFile(newRoot+name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	for link, to := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1",
		"/dev/stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(to, newRoot+link); err != nil {
			return err
		}
	}
	// The kernel lets a user namespace mount a fresh proc only while it sees one that nothing covers. It is read-only
	// because the files under /proc/sys ask for user 0 of the machine, not for a capability, and root is that user
	// here.
	err = unix.Mount("proc", newRoot+"/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RDONLY, "")
	if err != nil {
		if err := take("/proc", "/proc", attrReadOnly|unix.MOUNT_ATTR_NOEXEC); err != nil {
			return err
		}
	}
	if err := unix.Mount("tmp", newRoot+"/tmp", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV,
		fmt.Sprintf("mode=1777,size=%d", s.Limits.Temporary)); err != nil {
		return fmt.Errorf("mount /tmp: %w", err)
	}
	for _, m := range mounts {
		if err := m.place(); err != nil {
			return err
		}
	}

	if err := unix.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("let go of the old root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", 0, &unix.MountAttr{Attr_set: attrReadOnly}); err != nil {
		return fmt.Errorf("make the root read-only: %w", err)
	}
	if err := unix.Sethostname([]byte(hostName)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	if err := unix.Setdomainname([]byte("(none)")); err != nil {
		return fmt.Errorf("set the domain name: %w", err)
	}
	return nil
}

// place puts a held tree into the new root.
func (m mount) place() error {
	at, err := m.point()
	if err != nil {
		return fmt.Errorf("make room at %s: %w", m.target, err)
	}
	defer unix.Close(at)
	// mount_setattr is Linux 5.12; before it a whole tree cannot be made read-only in one go.
	err = unix.MountSetattr(m.fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: m.attr})
	if errors.Is(err, unix.ENOSYS) {
		return errors.New("the jail needs Linux 5.12 or later (mount_setattr)")
	}
	if err != nil {
		return fmt.Errorf("set the mount flags of %s: %w", m.name, err)
	}
	if err := unix.MoveMount(m.fd, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return fmt.Errorf("bind %s at %s: %w", m.name, m.target, err)
	}
	return unix.Close(m.fd)
}

// point opens the place a tree is put at, and makes what is missing of it. It may lie in a tree that foreign programs
// wrote, so no link is followed.
func (m mount) point() (int, error) {
	at, err := unix.Open(newRoot, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	names := strings.Split(strings.TrimPrefix(m.target, "/"), "/")
	for i, name := range names {
		flags := unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
		if i < len(names)-1 || m.dir {
			flags |= unix.O_DIRECTORY
			err = unix.Mkdirat(at, name, 0o755)
		} else {
			err = unix.Mknodat(at, name, unix.S_IFREG|0o644, 0)
		}
		next, openErr := unix.Openat(at, name, flags, 0)
		unix.Close(at)
		if openErr != nil { // the first error says why it is missing, unless it is there
			if err != nil && !errors.Is(err, unix.EEXIST) {
				return -1, err
			}
			return -1, openErr
		}
		at = next
	}
	return at, nil
}

// The securebits that make user 0 an ordinary user for good.
// Linux: include/uapi/linux/securebits.h.
const (
	secbitNoRoot         = 1 << 0
	secbitNoSetuidFixup  = 1 << 2
	secbitNoAmbientRaise = 1 << 6
	secbitsForGood       = secbitNoRoot | secbitNoRoot<<1 | secbitNoSetuidFixup | secbitNoSetuidFixup<<1 |
		secbitNoAmbientRaise | secbitNoAmbientRaise<<1
)

// dropPrivileges sees to it that what this thread executes has no capability inside the jail either, so that it cannot
// undo the mounts, and meets the same file modes whether a plain user or root called.
func dropPrivileges() error {
	for c := uintptr(0); ; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); errors.Is(err, unix.EINVAL) && c > 0 {
			break // beyond the last capability
		} else if err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, secbitsForGood, 0, 0, 0); err != nil {
		return fmt.Errorf("set the securebits: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	return nil
}
