package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// wrong is what is told of an operation that succeeded, and did not do what it should.
type wrong string

func (w wrong) Error() string { return string(w) }

// same is nil if what is there is what is wanted.
func same(what string, got, want any) error {
	if fmt.Sprint(got) != fmt.Sprint(want) {
		return wrong(fmt.Sprintf("%s %v, not %v", what, got, want))
	}
	return nil
}

// fileOperation is done in an empty folder of its own.
type fileOperation struct {
	name string
	do   func(dir string) error
}

// fileops prints a line for each operation: its name, a tabulator, and "yes", an error's name, or what is wrong.
func fileops(args []string) error {
	if len(args) == 0 {
		return errors.New("give a folder")
	}
	unix.Umask(0o022)
	for _, o := range fileOperations {
		if len(args) > 1 && !slices.Contains(args[1:], o.name) {
			continue
		}
		dir, err := os.MkdirTemp(args[0], "op")
		if err == nil {
			err = os.Chmod(dir, 0o755)
		}
		if err == nil {
			err = o.do(dir)
		}
		said := "yes"
		var errno syscall.Errno
		var w wrong
		switch {
		case errors.As(err, &w):
			said = "wrong: " + string(w)
		case errors.As(err, &errno):
			said = unix.ErrnoName(errno)
		case err != nil:
			said = "wrong: " + err.Error()
		}
		fmt.Printf("%s\t%s\n", o.name, strings.ReplaceAll(said, "\n", " "))
		_ = os.RemoveAll(dir) // what an operation leaves is in nobody's way
	}
	return nil
}

// other is this program as another user, with a supplementary group, doing one thing.
func other(word string, args ...string) error {
	cmd := exec.Command("/proc/self/exe", append([]string{"fileop", word}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000,
		Groups: []uint32{2000}}}
	return told(cmd)
}

// again is this program as another process, doing one thing.
func again(word string, args ...string) error {
	return told(exec.Command("/proc/self/exe", append([]string{"fileop", word}, args...)...))
}

// told runs a fileop and returns its error.
func told(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	s := strings.TrimSpace(string(out))
	if err != nil {
		return wrong(err.Error() + ": " + s)
	}
	if n, err := strconv.Atoi(s); err == nil && n != 0 {
		return syscall.Errno(n)
	} else if err != nil {
		return wrong(s)
	}
	return nil
}

// fileop does one thing and prints the error's number.
func fileop(args []string) error {
	if len(args) < 2 {
		return errors.New("give a word and a path")
	}
	err := map[string]func(string) error{
		"flock": func(p string) error {
			return withFile(p, os.O_RDWR, func(f *os.File) error {
				return unix.Flock(int(f.Fd()),
					unix.LOCK_EX|unix.LOCK_NB)
			})
		},
		"posix": func(p string) error {
			return withFile(p, os.O_RDWR, func(f *os.File) error {
				return unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Len: 1})
			})
		},
		"ofd": func(p string) error {
			return withFile(p, os.O_RDWR, func(f *os.File) error {
				return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Len: 1})
			})
		},
		"make":   func(p string) error { return makeAll(p) },
		"append": func(p string) error { return appendTo(p, "x", os.O_CREATE) },
		"write":  func(p string) error { return os.WriteFile(p, []byte("x"), 0o644) },
		"read":   func(p string) error { _, err := os.ReadFile(p); return err },
		"unlink": os.Remove,
		"chgrp":  func(p string) error { return os.Chown(p, -1, 2000) },
		"setgid": func(p string) error { return os.Chmod(p, 0o755|os.ModeSetgid) },
		"touch":  func(p string) error { return unix.UtimesNanoAt(unix.AT_FDCWD, p, nil, 0) },
	}[args[0]](args[1])
	var errno syscall.Errno
	if err != nil && !errors.As(err, &errno) {
		return err
	}
	fmt.Println(int(errno))
	return nil
}

func withFile(p string, flags int, do func(*os.File) error) error {
	f, err := os.OpenFile(p, flags, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(do(f), f.Close())
}

func appendTo(p, text string, flags int) error {
	return withFile(p, os.O_WRONLY|os.O_APPEND|flags, func(f *os.File) error {
		_,
			err := f.WriteString(text)
		return err
	})
}

// makeAll makes one of each kind in a folder.
func makeAll(dir string) error {
	p := func(name string) string { return filepath.Join(dir, name) }
	return errors.Join(os.WriteFile(p("file"), []byte("x"), 0o644), os.Mkdir(p("folder"), 0o755),
		os.Symlink("x", p("link")),
		os.Link(p("file"), p("hard")), os.Rename(p("hard"), p("moved")), os.Remove(p("moved")))
}

// content compares a file.
func content(p, want string) error {
	b, err := os.ReadFile(p)
	if err != nil {
		return err
	}
	if string(b) != want {
		return wrong(fmt.Sprintf("%d bytes that begin with %.8q, not %d with %.8q", len(b), b, len(want), want))
	}
	return nil
}

// mapped changes the first bytes of a file through a shared mapping.
func mapped(f *os.File, size int, text string) error {
	m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	copy(m, text)
	return errors.Join(unix.Msync(m, unix.MS_SYNC), unix.Munmap(m))
}

// excluded says whether another process is refused what this one has.
func excluded(kind, p string) error {
	err := again(kind, p)
	switch {
	case err == nil:
		return wrong("two processes have it")
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES):
		return nil
	}
	return err
}

func mode(p string) string {
	st, err := os.Lstat(p)
	if err != nil {
		return err.Error()
	}
	return st.Mode().String()
}

func stat(p string) (st unix.Stat_t, err error) { err = unix.Lstat(p, &st); return }

// acl is the value of system.posix_acl_access or _default: owner rwx, group and others nothing, and user 1000 rwx.
// Linux: include/uapi/linux/posix_acl_xattr.h: a version (4 bytes), then tag (2), permissions (2) and id (4) each.
var acl = []byte{
	2, 0, 0, 0,
	1, 0, 7, 0, 255, 255, 255, 255, // ACL_USER_OBJ
	2, 0, 7, 0, 232, 3, 0, 0, // ACL_USER 1000
	4, 0, 0, 0, 255, 255, 255, 255, // ACL_GROUP_OBJ
	16, 0, 7, 0, 255, 255, 255, 255, // ACL_MASK
	32, 0, 0, 0, 255, 255, 255, 255, // ACL_OTHER
}

// renamed is renameat2(2) of a to b, both there.
func renamed(dir string, flags uint) error {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if err := errors.Join(os.WriteFile(a, []byte("a"), 0o644), os.WriteFile(b, []byte("b"), 0o644)); err != nil {
		return err
	}
	return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, flags)
}

// fallocated applies a mode to a file of four blocks of x, and compares its length.
func fallocated(mode uint32, off, length, size int64) func(string) error {
	return func(dir string) error {
		p := filepath.Join(dir, "f")
		if err := os.WriteFile(p, bytes.Repeat([]byte("x"), 4*block4k), 0o644); err != nil {
			return err
		}
		return withFile(p, os.O_RDWR, func(f *os.File) error {
			if err := unix.Fallocate(int(f.Fd()), mode, off, length); err != nil {
				return err
			}
			st, err := f.Stat()
			if err != nil {
				return err
			}
			if err := same("size", st.Size(), size); err != nil ||
				mode&(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_ZERO_RANGE) == 0 {
				return err
			}
			b := make([]byte, 1)
			_, err = f.ReadAt(b, off)
			return errors.Join(err, same("byte", b[0], 0))
		})
	}
}

const block4k = 4096

// flagged opens a file, sets status flags, and looks whether they are set.
func flagged(flag int) func(string) error {
	return func(dir string) error {
		return withFile(filepath.Join(dir, "f"), os.O_RDWR|os.O_CREATE, func(f *os.File) error {
			fd := f.Fd() // once, as it takes O_NONBLOCK away
			have, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
			if err != nil {
				return err
			}
			if _, err := unix.FcntlInt(fd, unix.F_SETFL, have|flag); err != nil {
				return err
			}
			have, err = unix.FcntlInt(fd, unix.F_GETFL, 0)
			return errors.Join(err, same("flags", have&flag, flag))
		})
	}
}

// attribute sets, lists, reads and removes an extended attribute.
func attribute(name string, value []byte) func(string) error {
	return func(dir string) error {
		p := filepath.Join(dir, "f")
		if err := os.WriteFile(p, nil, 0o755); err != nil {
			return err
		}
		if err := unix.Setxattr(p, name, value, 0); err != nil {
			return err
		}
		b := make([]byte, 256)
		n, err := unix.Getxattr(p, name, b)
		if err != nil {
			return err
		}
		if !bytes.Equal(b[:n], value) {
			return wrong("another value")
		}
		if n, err = unix.Listxattr(p, b); err != nil {
			return err
		}
		if !strings.Contains(string(b[:n]), name) {
			return wrong("not in the list")
		}
		return unix.Removexattr(p, name)
	}
}

// node makes a special file and looks at it.
func node(kind uint32, dev uint64) func(string) error {
	return func(dir string) error {
		p := filepath.Join(dir, "n")
		if err := unix.Mknod(p, kind|0o600, int(dev)); err != nil {
			return err
		}
		st, err := stat(p)
		return errors.Join(err, same("kind", st.Mode&unix.S_IFMT, kind), same("device", st.Rdev, dev))
	}
}

// cleared has a file with set-id bits, does something to it, and says which mode is left.
func cleared(want string, do func(p string) error) func(string) error {
	return func(dir string) error {
		p := filepath.Join(dir, "f")
		err := errors.Join(os.WriteFile(p, []byte("x"), 0o755), os.Chown(p, 1000, 1000),
			os.Chmod(p, 0o755|os.ModeSetuid|os.ModeSetgid))
		if err != nil {
			return err
		}
		if err := do(p); err != nil {
			return err
		}
		return same("mode", mode(p), want)
	}
}

// locked takes a lock and has another process try.
func locked(kind string, take func(fd uintptr) error) func(string) error {
	return func(dir string) error {
		p := filepath.Join(dir, "f")
		return withFile(p, os.O_RDWR|os.O_CREATE, func(f *os.File) error {
			if err := take(f.Fd()); err != nil {
				return err
			}
			return excluded(kind, p)
		})
	}
}

func posixLock(cmd int) func(fd uintptr) error {
	return func(fd uintptr) error { return unix.FcntlFlock(fd, cmd, &unix.Flock_t{Type: unix.F_WRLCK, Len: 1}) }
}

// many makes a folder with n files and reads it in two ways.
func many(dir string) error {
	const n = 500
	for i := range n {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file-%04d", i)), nil, 0o644); err != nil {
			return err
		}
	}
	list, err := os.ReadDir(dir)
	return errors.Join(err, same("files", len(list), n))
}

// seekFolder reads a part of a folder, returns to a place in it, and reads on: telldir(3), seekdir(3).
func seekFolder(dir string) error {
	for i := range 300 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file-%04d", i)), nil, 0o644); err != nil {
			return err
		}
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd) // only read from
	b := make([]byte, 2048)
	n, err := unix.Getdents(fd, b)
	if err != nil || n == 0 {
		return errors.Join(err, wrong("an empty folder"))
	}
	at, err := unix.Seek(fd, 0, io.SeekCurrent)
	if err != nil {
		return err
	}
	next := func() (string, error) {
		n, err := unix.Getdents(fd, b)
		_, _, names := unix.ParseDirent(b[:max(n, 0)], -1, nil)
		return strings.Join(names, " "), err
	}
	first, err := next()
	if err != nil {
		return err
	}
	if _, err := unix.Seek(fd, at, io.SeekStart); err != nil {
		return err
	}
	second, err := next()
	return errors.Join(err, same("names", len(second), len(first)))
}

// watched waits for an event of inotify(7).
func watched(dir string, mask uint32, do func() error) error {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "inotify") // waits by Go's poller, as a signal would end poll(2) with EINTR
	defer f.Close()                         // only read from
	if _, err := unix.InotifyAddWatch(fd, dir, mask); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	if err := f.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	_, err = f.Read(make([]byte, unix.SizeofInotifyEvent+unix.NAME_MAX+1))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return wrong("no event")
	}
	return err
}

// direct writes and reads one block past the kernel's memory of the file.
func direct(dir string) error {
	p := filepath.Join(dir, "f")
	m, err := unix.Mmap(-1, 0, block4k, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	copy(m, "direct")
	return withFile(p, os.O_RDWR|os.O_CREATE|unix.O_DIRECT, func(f *os.File) error {
		if _, err := unix.Pwrite(int(f.Fd()), m, 0); err != nil {
			return err
		}
		clear(m)
		_, err := unix.Pread(int(f.Fd()), m, 0)
		return errors.Join(err, same("content", string(m[:6]), "direct"))
	})
}

// copied is copy_file_range(2).
func copied(dir string) error {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if err := os.WriteFile(a, []byte("copied"), 0o644); err != nil {
		return err
	}
	err := withFile(a, os.O_RDONLY, func(in *os.File) error {
		return withFile(b, os.O_RDWR|os.O_CREATE, func(out *os.File) error {
			n, err := unix.CopyFileRange(int(in.Fd()), nil, int(out.Fd()), nil, 6, 0)
			return errors.Join(err, same("bytes", n, 6))
		})
	})
	if err != nil {
		return err
	}
	return content(b, "copied")
}

// nameless makes a file without a name and gives it one.
func nameless(dir string) error {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o640)
	if err != nil {
		return err
	}
	defer unix.Close(fd) // what was written is looked at
	if _, err := unix.Write(fd, []byte("x")); err != nil {
		return err
	}
	p := filepath.Join(dir, "f")
	if err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, p,
		unix.AT_SYMLINK_FOLLOW); err != nil {
		return err
	}
	return errors.Join(content(p, "x"), same("mode", mode(p), "-rw-r-----"))
}

// unlinked uses a file that has no name any more.
func unlinked(dir string) error {
	p := filepath.Join(dir, "f")
	return withFile(p, os.O_RDWR|os.O_CREATE, func(f *os.File) error {
		if _, err := f.WriteString("kept"); err != nil {
			return err
		}
		if err := os.Remove(p); err != nil {
			return err
		}
		b := make([]byte, 4)
		if _, err := f.ReadAt(b, 0); err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			return err
		}
		return errors.Join(same("content", string(b), "kept"), same("links", st.Nlink, 0), f.Truncate(2),
			f.Chmod(0o600))
	})
}

// executed copies this program and runs it from there.
func executed(dir string) error {
	p := filepath.Join(dir, "program")
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	if err := os.WriteFile(p, b, 0o755); err != nil {
		return err
	}
	return told(exec.Command(p, "fileop", "write", filepath.Join(dir, "f")))
}

// busy writes to a program that runs.
func busy(dir string) error {
	p := filepath.Join(dir, "program")
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	if err := os.WriteFile(p, b, 0o755); err != nil {
		return err
	}
	cmd := exec.Command(p, "cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	_, err = os.OpenFile(p, os.O_WRONLY, 0)
	e := errors.Join(in.Close(), cmd.Wait())
	if errors.Is(err, unix.ETXTBSY) {
		err = nil
	} else if err == nil {
		err = wrong("opened to write")
	}
	return errors.Join(err, e)
}

func socket(dir string) error {
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		return err
	}
	defer l.Close() // nothing is written
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = c.Write([]byte("hi"))
			_ = c.Close()
		}
	}()
	c, err := net.Dial("unix", filepath.Join(dir, "s"))
	if err != nil {
		return err
	}
	b, err := io.ReadAll(c)
	return errors.Join(err, same("content", string(b), "hi"))
}

// holes finds data behind a hole of a MiB.
func holes(dir string) error {
	return withFile(filepath.Join(dir, "f"), os.O_RDWR|os.O_CREATE, func(f *os.File) error {
		const size = 1 << 20
		if _, err := f.WriteAt([]byte("x"), size); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		at, err := f.Seek(0, unix.SEEK_DATA)
		if err != nil {
			return err
		}
		if at > size {
			return wrong(fmt.Sprintf("data at %d", at))
		} else if at == 0 {
			return wrong("all is told to be data")
		}
		at, err = f.Seek(0, unix.SEEK_HOLE)
		return errors.Join(err, same("hole at", at, 0))
	})
}

// lease takes a lease and looks at it. fcntl(2), F_SETLEASE.
func lease(dir string) error {
	p := filepath.Join(dir, "f")
	if err := os.WriteFile(p, nil, 0o644); err != nil {
		return err
	}
	return withFile(p, os.O_RDONLY, func(f *os.File) error {
		if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK); err != nil {
			return err
		}
		n, err := unix.FcntlInt(f.Fd(), unix.F_GETLEASE, 0)
		return errors.Join(err, same("lease", n, unix.F_RDLCK))
	})
}

// groupFolder is a folder that group 2000 may write to.
func groupFolder(dir string, bits os.FileMode) (string, error) {
	p := filepath.Join(dir, "g")
	return p, errors.Join(os.Mkdir(p, 0o755), os.Chown(p, 0, 2000), os.Chmod(p, bits))
}

// fileHandle opens a file by its handle.
func fileHandle(dir string) error {
	p := filepath.Join(dir, "f")
	if err := os.WriteFile(p, nil, 0o644); err != nil {
		return err
	}
	_, _, err := unix.NameToHandleAt(unix.AT_FDCWD, p, 0)
	return err
}

// ioctlFlags reads the flags that chattr(1) sets.
func ioctlFlags(dir string) error {
	p := filepath.Join(dir, "f")
	if err := os.WriteFile(p, nil, 0o644); err != nil {
		return err
	}
	return withFile(p, os.O_RDONLY, func(f *os.File) error {
		_, err := unix.IoctlGetUint32(int(f.Fd()),
			unix.FS_IOC_GETFLAGS)
		return err
	})
}

// space compares what statfs(2) says with reason.
func space(dir string) error {
	var sf unix.Statfs_t
	if err := unix.Statfs(dir, &sf); err != nil {
		return err
	}
	if sf.Blocks == 0 || sf.Namelen == 0 {
		return wrong(fmt.Sprintf("%d blocks, names of %d", sf.Blocks, sf.Namelen))
	}
	return nil
}

func statx(dir string, mask int) (st unix.Statx_t, err error) {
	p := filepath.Join(dir, "f")
	if err = os.WriteFile(p, nil, 0o644); err != nil {
		return
	}
	err = unix.Statx(unix.AT_FDCWD, p, 0, mask, &st)
	return
}

// readAhead asks the kernel to read a file, in two ways.
func readAhead(dir string) error {
	p := filepath.Join(dir, "f")
	if err := os.WriteFile(p, make([]byte, 64<<10), 0o644); err != nil {
		return err
	}
	return withFile(p, os.O_RDONLY, func(f *os.File) error {
		_, _, e := unix.Syscall(unix.SYS_READAHEAD, f.Fd(), 0, 64<<10)
		runtime.KeepAlive(f)
		if e != 0 {
			return e
		}
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_WILLNEED)
	})
}

// atomicAppend has two descriptors append in turn.
func atomicAppend(dir string) error {
	p := filepath.Join(dir, "f")
	for i := range 4 {
		if err := appendTo(p, strconv.Itoa(i), os.O_CREATE); err != nil {
			return err
		}
	}
	return withFile(p, os.O_WRONLY|os.O_APPEND, func(f *os.File) error {
		if err := appendTo(p, "a", 0); err != nil {
			return err
		}
		_, err := f.WriteString("b")
		return errors.Join(err, content(p, "0123ab"))
	})
}

// setAppend sets O_APPEND on an open file and writes at its start.
func setAppend(dir string) error {
	p := filepath.Join(dir, "f")
	if err := os.WriteFile(p, []byte("first"), 0o644); err != nil {
		return err
	}
	return withFile(p, os.O_WRONLY, func(f *os.File) error {
		if _, err := unix.FcntlInt(f.Fd(), unix.F_SETFL, unix.O_APPEND); err != nil {
			return err
		}
		_, err := unix.Write(int(f.Fd()), []byte("+"))
		return errors.Join(err, content(p, "first+"))
	})
}

// clearAppend takes O_APPEND from an open file and writes at its start.
func clearAppend(dir string) error {
	p := filepath.Join(dir, "f")
	if err := os.WriteFile(p, []byte("first"), 0o644); err != nil {
		return err
	}
	return withFile(p, os.O_WRONLY|os.O_APPEND, func(f *os.File) error {
		if _, err := unix.FcntlInt(f.Fd(), unix.F_SETFL, 0); err != nil {
			return err
		}
		_, err := unix.Pwrite(int(f.Fd()), []byte("F"), 0)
		return errors.Join(err, content(p, "First"))
	})
}

// appendMapped is a file that was opened to append and is changed through a mapping.
func appendMapped(flags int) func(dir string) error {
	return func(dir string) error {
		p := filepath.Join(dir, "f")
		err := withFile(p, os.O_RDWR|os.O_APPEND|flags, func(f *os.File) error {
			return errors.Join(f.Truncate(1024), mapped(f, 1024, "ABCD"))
		})
		if err != nil {
			return err
		}
		return content(p, "ABCD"+strings.Repeat("\x00", 1020))
	}
}

// fileOperations are what is tried, in the order of the table.
var fileOperations = []fileOperation{
	{"write and read", func(d string) error {
		p := filepath.Join(d, "f")
		return errors.Join(os.WriteFile(p, []byte("text"), 0o644), content(p, "text"))
	}},
	{"open O_EXCL on what is there", func(d string) error {
		p := filepath.Join(d, "f")
		if err := os.WriteFile(p, nil, 0o644); err != nil {
			return err
		}
		if _, err := os.OpenFile(p, os.O_CREATE|os.O_EXCL, 0o644); !errors.Is(err, unix.EEXIST) {
			return wrong(fmt.Sprint(err))
		}
		return nil
	}},
	{"append by two descriptors", atomicAppend},
	{"map shared and write", func(d string) error {
		p := filepath.Join(d, "f")
		err := withFile(p, os.O_RDWR|os.O_CREATE, func(f *os.File) error {
			return errors.Join(f.Truncate(1024),
				mapped(f, 1024, "ABCD"))
		})
		if err != nil {
			return err
		}
		return content(p, "ABCD"+strings.Repeat("\x00", 1020))
	}},
	{"map shared and write, opened O_APPEND", func(d string) error {
		if err := os.WriteFile(filepath.Join(d, "f"), nil, 0o644); err != nil {
			return err
		}
		return appendMapped(0)(d)
	}},
	{"map shared and write, created O_APPEND", appendMapped(os.O_CREATE)},
	{"map privately", func(d string) error {
		p := filepath.Join(d, "f")
		if err := os.WriteFile(p, []byte("text"), 0o644); err != nil {
			return err
		}
		return withFile(p, os.O_RDONLY, func(f *os.File) error {
			m, err := unix.Mmap(int(f.Fd()), 0, 4, unix.PROT_READ, unix.MAP_PRIVATE)
			if err != nil {
				return err
			}
			return errors.Join(same("content", string(m), "text"), unix.Munmap(m))
		})
	}},
	{"execute", executed},
	{"write to a running program: ETXTBSY", busy},
	{"fcntl F_SETFL O_APPEND", setAppend},
	{"fcntl F_SETFL without O_APPEND", clearAppend},
	{"fcntl F_SETFL O_NONBLOCK", flagged(unix.O_NONBLOCK)},
	{"fcntl F_SETFL O_DIRECT", flagged(unix.O_DIRECT)},
	{"fcntl F_SETFL O_NOATIME", flagged(unix.O_NOATIME)},
	{"open O_DIRECT, write and read", direct},
	{"open O_TMPFILE and linkat", nameless},
	{"open O_PATH and fchmodat by /proc", func(d string) error {
		p := filepath.Join(d, "f")
		if err := os.WriteFile(p, nil, 0o644); err != nil {
			return err
		}
		fd, err := unix.Open(p, unix.O_PATH, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd) // nothing is written
		return errors.Join(os.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), 0o600), same("mode", mode(p), "-rw-------"))
	}},
	{"flock excludes another process", locked("flock", func(fd uintptr) error {
		return unix.Flock(int(fd),
			unix.LOCK_EX|unix.LOCK_NB)
	})},
	{"flock, blocking", locked("flock", func(fd uintptr) error { return unix.Flock(int(fd), unix.LOCK_EX) })},
	{"flock ends with the last descriptor", func(d string) error {
		p := filepath.Join(d, "f")
		return withFile(p, os.O_RDWR|os.O_CREATE, func(f *os.File) error {
			if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
				return err
			}
			two, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 100)
			if err != nil {
				return err
			}
			one := withFile(p, os.O_RDWR, func(*os.File) error { return nil }) // which would end a POSIX lock
			err = errors.Join(one, excluded("flock", p), unix.Close(two), excluded("flock", p))
			return errors.Join(err, unix.Flock(int(f.Fd()), unix.LOCK_UN), again("flock", p))
		})
	}},
	{"fcntl F_SETLK excludes another process", locked("posix", posixLock(unix.F_SETLK))},
	{"fcntl F_SETLKW", locked("posix", posixLock(unix.F_SETLKW))},
	{"fcntl F_SETLK ends with any descriptor", func(d string) error {
		p := filepath.Join(d, "f")
		return withFile(p, os.O_RDWR|os.O_CREATE, func(f *os.File) error {
			return errors.Join(posixLock(unix.F_SETLK)(f.Fd()), excluded("posix", p),
				withFile(p, os.O_RDWR, func(*os.File) error { return nil }), again("posix", p))
		})
	}},
	{"fcntl F_OFD_SETLK excludes another process", locked("ofd", posixLock(unix.F_OFD_SETLK))},
	{"fcntl F_OFD_SETLK ends with its descriptor", func(d string) error {
		p := filepath.Join(d, "f")
		return withFile(p, os.O_RDWR|os.O_CREATE, func(f *os.File) error {
			return errors.Join(posixLock(unix.F_OFD_SETLK)(f.Fd()),
				withFile(p, os.O_RDWR, func(*os.File) error { return nil }), excluded("posix", p))
		})
	}},
	{"fcntl F_SETLEASE", lease},
	{"truncate and extend", func(d string) error {
		p := filepath.Join(d, "f")
		return errors.Join(os.WriteFile(p, []byte("text"), 0o644), os.Truncate(p, 2), os.Truncate(p, 4),
			content(p, "te\x00\x00"))
	}},
	{"fallocate", fallocated(0, 0, 8*block4k, 8*block4k)},
	{"fallocate KEEP_SIZE", fallocated(unix.FALLOC_FL_KEEP_SIZE, 0, 8*block4k, 4*block4k)},
	{"fallocate PUNCH_HOLE", fallocated(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, block4k, block4k,
		4*block4k)},
	{"fallocate ZERO_RANGE", fallocated(unix.FALLOC_FL_ZERO_RANGE, block4k, block4k, 4*block4k)},
	{"fallocate COLLAPSE_RANGE", fallocated(unix.FALLOC_FL_COLLAPSE_RANGE, block4k, block4k, 3*block4k)},
	{"fallocate INSERT_RANGE", fallocated(unix.FALLOC_FL_INSERT_RANGE, block4k, block4k, 5*block4k)},
	{"lseek SEEK_DATA, SEEK_HOLE", holes},
	{"copy_file_range", copied},
	{"fsync, fdatasync, syncfs", func(d string) error {
		return withFile(filepath.Join(d, "f"), os.O_RDWR|os.O_CREATE, func(f *os.File) error {
			fd := int(f.Fd())
			return errors.Join(unix.Fsync(fd), unix.Fdatasync(fd), unix.Syncfs(fd))
		})
	}},
	{"fsync of a folder", func(d string) error {
		return withFile(d, os.O_RDONLY,
			func(f *os.File) error { return f.Sync() })
	}},
	{"sync_file_range", func(d string) error {
		return withFile(filepath.Join(d, "f"), os.O_RDWR|os.O_CREATE, func(f *os.File) error {
			return unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
		})
	}},
	{"readahead, fadvise", readAhead},
	{"rename over an open file", func(d string) error {
		a, b := filepath.Join(d, "a"), filepath.Join(d, "b")
		if err := errors.Join(os.WriteFile(a, []byte("new"), 0o644), os.WriteFile(b, []byte("old"),
			0o644)); err != nil {
			return err
		}
		return withFile(b, os.O_RDONLY, func(f *os.File) error {
			if err := os.Rename(a, b); err != nil {
				return err
			}
			old, err := io.ReadAll(f)
			return errors.Join(err, same("content", string(old), "old"), content(b, "new"))
		})
	}},
	{"renameat2 NOREPLACE", func(d string) error {
		if err := renamed(d, unix.RENAME_NOREPLACE); !errors.Is(err, unix.EEXIST) {
			return errors.Join(err, wrong(fmt.Sprint(err)))
		}
		return nil
	}},
	{"renameat2 EXCHANGE", func(d string) error {
		if err := renamed(d, unix.RENAME_EXCHANGE); err != nil {
			return err
		}
		return errors.Join(content(filepath.Join(d, "a"), "b"), content(filepath.Join(d, "b"), "a"))
	}},
	{"renameat2 WHITEOUT", func(d string) error { return renamed(d, unix.RENAME_WHITEOUT) }},
	{"use an unlinked file", unlinked},
	{"remove a folder that is not empty: ENOTEMPTY", func(d string) error {
		p := filepath.Join(d, "d")
		if err := os.MkdirAll(filepath.Join(p, "e"), 0o755); err != nil {
			return err
		}
		if err := unix.Rmdir(p); !errors.Is(err, unix.ENOTEMPTY) {
			return wrong(fmt.Sprint(err))
		}
		return nil
	}},
	{"hard link", func(d string) error {
		a, b := filepath.Join(d, "a"), filepath.Join(d, "b")
		if err := errors.Join(os.WriteFile(a, nil, 0o644), os.Link(a, b), appendTo(b, "x", 0)); err != nil {
			return err
		}
		x, err := stat(a)
		y, err2 := stat(b)
		return errors.Join(err, err2, same("links", x.Nlink, 2), same("inode", x.Ino, y.Ino), content(a, "x"))
	}},
	{"symbolic link", func(d string) error {
		p := filepath.Join(d, "l")
		if err := os.Symlink("../x", p); err != nil {
			return err
		}
		to, err := os.Readlink(p)
		return errors.Join(err, same("target", to, "../x"), os.Lchown(p, 1000, 1000))
	}},
	{"mkfifo, write and read", func(d string) error {
		p := filepath.Join(d, "p")
		if err := unix.Mkfifo(p, 0o600); err != nil {
			return err
		}
		return withFile(p, os.O_RDWR, func(f *os.File) error {
			if _, err := f.WriteString("x"); err != nil {
				return err
			}
			_, err := f.Read(make([]byte, 1))
			return err
		})
	}},
	{"unix socket", socket},
	{"mknod of a character device", node(unix.S_IFCHR, unix.Mkdev(1, 3))},
	{"mknod of a block device", node(unix.S_IFBLK, unix.Mkdev(7, 0))},
	{"mknod 0:0, an overlay's whiteout", node(unix.S_IFCHR, 0)},
	{"xattr user.", attribute("user.x", []byte("value"))},
	{"xattr trusted.", attribute("trusted.x", []byte("value"))},
	{"xattr security.", attribute("security.x", []byte("value"))},
	{"xattr security.capability", attribute("security.capability", []byte{1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0,
		0, 0, 0, 0, 0, 0})},
	{"ACL set and read", attribute("system.posix_acl_access", acl)},
	{"ACL grants", func(d string) error {
		p := filepath.Join(d, "f")
		err := errors.Join(os.WriteFile(p, nil, 0o600), unix.Setxattr(p, "system.posix_acl_access", acl, 0))
		if err != nil {
			return err
		}
		return other("write", p)
	}},
	{"ACL denies", func(d string) error {
		p := filepath.Join(d, "f")
		deny := slices.Clone(acl)
		deny[14], deny[38] = 0, 7 // user 1000 nothing, and others all
		if err := errors.Join(os.WriteFile(p, nil, 0o666), unix.Setxattr(p, "system.posix_acl_access", deny,
			0)); err != nil {
			return err
		}
		if err := other("read", p); !errors.Is(err, unix.EACCES) {
			return errors.Join(err, wrong("it may read"))
		}
		return nil
	}},
	{"ACL inherited from a folder", func(d string) error {
		if err := unix.Setxattr(d, "system.posix_acl_default", acl, 0); err != nil {
			return err
		}
		p := filepath.Join(d, "f")
		if err := os.WriteFile(p, nil, 0o666); err != nil {
			return err
		}
		n, err := unix.Getxattr(p, "system.posix_acl_access", make([]byte, 256))
		return errors.Join(err, same("size", n, len(acl)), other("read", p))
	}},
	{"make files by a supplementary group", func(d string) error {
		p, err := groupFolder(d, 0o775)
		if err != nil {
			return err
		}
		return other("make", p)
	}},
	{"a group's folder hands its group down", func(d string) error {
		p, err := groupFolder(d, 0o775|os.ModeSetgid)
		if err != nil {
			return err
		}
		if err := other("make", p); err != nil {
			return err
		}
		f, err := stat(filepath.Join(p, "file"))
		return errors.Join(err, same("group", f.Gid, 2000), same("user", f.Uid, 1000),
			same("mode", mode(filepath.Join(p, "folder")), "dgrwxr-xr-x"))
	}},
	{"append to a file of a supplementary group", func(d string) error {
		p := filepath.Join(d, "f")
		if err := errors.Join(os.WriteFile(p, nil, 0o644), os.Chown(p, 0, 2000), os.Chmod(p, 0o660)); err != nil {
			return err
		}
		return other("append", p)
	}},
	{"chgrp to a supplementary group", func(d string) error {
		p := filepath.Join(d, "f")
		if err := errors.Join(os.WriteFile(p, nil, 0o644), os.Chown(p, 1000, 1000)); err != nil {
			return err
		}
		return other("chgrp", p)
	}},
	{"chmod g+s in a foreign group has no effect", func(d string) error {
		p := filepath.Join(d, "f")
		if err := errors.Join(os.WriteFile(p, nil, 0o755), os.Chown(p, 1000, 3000)); err != nil {
			return err
		}
		return errors.Join(other("setgid", p), same("mode", mode(p), "-rwxr-xr-x"))
	}},
	{"nothing is made in another's folder: EACCES", func(d string) error {
		if err := other("write", filepath.Join(d, "f")); !errors.Is(err, unix.EACCES) {
			return errors.Join(err, wrong("it may"))
		}
		return nil
	}},
	{"a sticky folder keeps others' files", func(d string) error {
		p := filepath.Join(d, "f")
		if err := errors.Join(os.Chmod(d, 0o777|os.ModeSticky), os.WriteFile(p, nil, 0o666)); err != nil {
			return err
		}
		if err := other("unlink", p); !errors.Is(err, unix.EPERM) {
			return errors.Join(err, wrong("it may remove it"))
		}
		return nil
	}},
	{"chown clears set-id bits", cleared("-rwxr-xr-x", func(p string) error { return os.Chown(p, 1001, 1001) })},
	{"a write clears set-id bits", cleared("-rwxr-xr-x", func(p string) error {
		return errors.Join(os.Chmod(p, 0o777|os.ModeSetuid|os.ModeSetgid), other("append", p),
			os.Chmod(p, mustMode(p)&^0o022))
	})},
	{"a write clears file capabilities", func(d string) error {
		p := filepath.Join(d, "f")
		caps := []byte{1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
		if err := errors.Join(os.WriteFile(p, nil, 0o755), unix.Setxattr(p, "security.capability", caps, 0),
			appendTo(p, "x", 0)); err != nil {
			return err
		}
		if _, err := unix.Getxattr(p, "security.capability", make([]byte, 64)); !errors.Is(err, unix.ENODATA) {
			return errors.Join(err, wrong("it has them still"))
		}
		return nil
	}},
	{"utimensat to the nanosecond", func(d string) error {
		p := filepath.Join(d, "f")
		if err := os.WriteFile(p, nil, 0o644); err != nil {
			return err
		}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{{Sec: 1, Nsec: 2}, {Sec: 3, Nsec: 123456789}},
			0); err != nil {
			return err
		}
		st, err := stat(p)
		return errors.Join(err, same("time", st.Mtim, unix.Timespec{Sec: 3, Nsec: 123456789}))
	}},
	{"a write changes mtime and ctime", func(d string) error {
		p := filepath.Join(d, "f")
		old := []unix.Timespec{{Sec: 1}, {Sec: 1}}
		if err := errors.Join(os.WriteFile(p, nil, 0o644), unix.UtimesNanoAt(unix.AT_FDCWD, p, old, 0),
			appendTo(p, "x", 0)); err != nil {
			return err
		}
		st, err := stat(p)
		if err == nil && (st.Mtim.Sec == 1 || st.Ctim.Sec == 1) {
			err = wrong("the old times")
		}
		return err
	}},
	{"statx with the time of birth", func(d string) error {
		st, err := statx(d, unix.STATX_BTIME)
		if err == nil && st.Mask&unix.STATX_BTIME == 0 {
			err = wrong("none")
		}
		return err
	}},
	{"statx with a mount's number", func(d string) error {
		st, err := statx(d, unix.STATX_MNT_ID)
		if err == nil && st.Mask&unix.STATX_MNT_ID == 0 {
			err = wrong("none")
		}
		return err
	}},
	{"statfs", space},
	{"inotify of a file that is made", func(d string) error {
		return watched(d, unix.IN_CREATE, func() error { return os.WriteFile(filepath.Join(d, "f"), nil, 0o644) })
	}},
	{"inotify of a write", func(d string) error {
		p := filepath.Join(d, "f")
		if err := os.WriteFile(p, nil, 0o644); err != nil {
			return err
		}
		return watched(p, unix.IN_MODIFY, func() error { return appendTo(p, "x", 0) })
	}},
	{"a folder of 500 files", many},
	{"telldir and seekdir", seekFolder},
	{"a name of 255 bytes", func(d string) error {
		return os.WriteFile(filepath.Join(d, strings.Repeat("n", 255)),
			nil, 0o644)
	}},
	{"a name of 256 bytes: ENAMETOOLONG", func(d string) error {
		if err := os.WriteFile(filepath.Join(d, strings.Repeat("n", 256)), nil, 0o644); !errors.Is(err,
			unix.ENAMETOOLONG) {
			return errors.Join(err, wrong("it is made"))
		}
		return nil
	}},
	{"a name that is no UTF-8", func(d string) error {
		return os.WriteFile(filepath.Join(d, "\xff\xfe\n"), nil,
			0o644)
	}},
	{"name_to_handle_at", fileHandle},
	{"ioctl FS_IOC_GETFLAGS", ioctlFlags},
	{"FICLONE", func(d string) error {
		a := filepath.Join(d, "a")
		if err := os.WriteFile(a, []byte("x"), 0o644); err != nil {
			return err
		}
		return withFile(a, os.O_RDONLY, func(in *os.File) error {
			return withFile(filepath.Join(d, "b"), os.O_WRONLY|os.O_CREATE, func(out *os.File) error {
				return unix.IoctlFileClone(int(out.Fd()), int(in.Fd()))
			})
		})
	}},
	{"mincore and mlock of a mapping", func(d string) error {
		p := filepath.Join(d, "f")
		if err := os.WriteFile(p, make([]byte, block4k), 0o644); err != nil {
			return err
		}
		return withFile(p, os.O_RDONLY, func(f *os.File) error {
			m, err := unix.Mmap(int(f.Fd()), 0, block4k, unix.PROT_READ, unix.MAP_SHARED)
			if err != nil {
				return err
			}
			var in byte
			_, _, e := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), block4k,
				uintptr(unsafe.Pointer(&in)))
			err = errors.Join(unix.Mlock(m), unix.Munlock(m), unix.Munmap(m))
			if e != 0 {
				return e
			}
			return err
		})
	}},
}

func mustMode(p string) os.FileMode {
	st, err := os.Lstat(p)
	if err != nil {
		return 0
	}
	return st.Mode() & (os.ModePerm | os.ModeSetuid | os.ModeSetgid | os.ModeSticky)
}
