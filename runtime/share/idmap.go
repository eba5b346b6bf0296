package share

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Owners says by which numbers the owners of files are seen: those of a user namespace. The zero value leaves them.
type Owners struct {
	UIDs, GIDs []IDMap
}

// IDMap is a range of numbers: Inside is the first of them on the disk, Outside the first as which they are seen.
type IDMap struct {
	Inside, Outside, Size uint32
}

// Set says whether owners are seen by other numbers.
func (o Owners) Set() bool { return len(o.UIDs)+len(o.GIDs) > 0 }

// parseOwners reads the options uidmap= and gidmap= of a mount, INSIDE:OUTSIDE:SIZE with commas between, and returns
// the others. containerd, core/mount: options of the overlay snapshotter for user namespaces.
func parseOwners(options []string) (o Owners, others []string, err error) {
	for _, opt := range options {
		key, value, _ := strings.Cut(opt, "=")
		var list *[]IDMap
		switch key {
		case "uidmap":
			list = &o.UIDs
		case "gidmap":
			list = &o.GIDs
		default:
			others = append(others, opt)
			continue
		}
		for _, r := range strings.Split(value, ",") {
			var m IDMap
			f := strings.Split(r, ":")
			for i, to := range []*uint32{&m.Inside, &m.Outside, &m.Size} {
				n, perr := uint64(0), errors.New("want INSIDE:OUTSIDE:SIZE")
				if len(f) == 3 {
					n, perr = strconv.ParseUint(f[i], 10, 32)
				}
				if perr != nil {
					return Owners{}, nil, fmt.Errorf("option %s: %w", opt, perr)
				}
				*to = uint32(n)
			}
			*list = append(*list, m)
		}
	}
	if (len(o.UIDs) == 0) != (len(o.GIDs) == 0) {
		return Owners{}, nil, errors.New("options uidmap and gidmap only go together")
	}
	return o, others, nil
}

// namespace makes a user namespace with these owners, which lives as long as its file is open. It needs a first
// process, which is this program, stopped before its first instruction, and ended. ptrace(2), PTRACE_TRACEME.
func (o Owners) namespace() (_ *os.File, err error) {
	// A traced process and one that dies with its parent belong to a thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	maps := func(list []IDMap) (out []syscall.SysProcIDMap) {
		for _, m := range list {
			out = append(out, syscall.SysProcIDMap{ContainerID: int(m.Inside), HostID: int(m.Outside),
				Size: int(m.Size)})
		}
		return out
	}
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{"katabuild-owners"}, Env: []string{},
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWUSER, UidMappings: maps(o.UIDs), GidMappings: maps(o.GIDs), Ptrace: true,
			Pdeathsig: syscall.SIGKILL,
		}}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("user namespace for owners of files: %w", err)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid))
	if killErr := cmd.Process.Kill(); killErr != nil {
		err = errors.Join(err, killErr)
	}
	_ = cmd.Wait() // killed, which is no news
	if err != nil {
		return nil, fmt.Errorf("user namespace for owners of files: %w", err)
	}
	return f, nil
}

// apply has the mounts of a tree show these owners. mount_setattr(2): only before the tree is attached, and where the
// file system can.
func (o Owners) apply(tree int, path string, below bool) error {
	if !o.Set() {
		return nil
	}
	ns, err := o.namespace()
	if err != nil {
		return err
	}
	defer ns.Close()
	return applyNamespace(tree, path, below, ns)
}

func applyNamespace(tree int, path string, below bool, ns *os.File) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if below {
		flags |= unix.AT_RECURSIVE
	}
	err := unix.MountSetattr(tree, "", flags, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP,
		Userns_fd: uint64(ns.Fd())})
	if errors.Is(err, unix.EINVAL) {
		err = fmt.Errorf("its file system, or one mounted below it, cannot show files to a user namespace: %w", err)
	}
	if err != nil {
		return &os.PathError{Op: "show other owners of", Path: path, Err: err}
	}
	return nil
}

// mapped is an overlay whose lower layers show other owners, as the options uidmap and gidmap ask for: each layer is
// mounted with them at a place of its own. What the container writes belongs to its numbers anyway. done takes the
// places away again; the overlay keeps what it needs of them.
func (s *Share) mapped(m Mount) (_ Mount, done func() error, err error) {
	nothing := func() error { return nil }
	o, options, err := parseOwners(m.Options)
	if err != nil || !o.Set() {
		return m, nothing, err
	}
	if m.Type != "overlay" {
		return m, nothing, fmt.Errorf("mount %s of type %s: only the layers of an overlay can show other owners",
			m.Source, m.Type)
	}
	ns, err := o.namespace()
	if err != nil {
		return m, nothing, err
	}
	defer ns.Close()
	dir, err := os.MkdirTemp(s.dir, "lower-")
	if err != nil {
		return m, nothing, err
	}
	var places []string
	done = func() error {
		var errs []error
		for _, p := range places {
			if err := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil &&
				!errors.Is(err, unix.EINVAL) {
				errs = append(errs, &os.PathError{Op: "unmount", Path: p, Err: err})
			}
			errs = append(errs, os.Remove(p))
		}
		return errors.Join(append(errs, os.Remove(dir))...)
	}
	for i, opt := range options {
		lower, ok := strings.CutPrefix(opt, "lowerdir=")
		if !ok {
			continue
		}
		layers := strings.Split(lower, ":")
		for j, l := range layers {
			p := filepath.Join(dir, strconv.Itoa(j))
			if err := os.Mkdir(p, 0o700); err != nil {
				return m, nothing, errors.Join(err, done())
			}
			places = append(places, p)
			if err := attachMapped(l, p, ns); err != nil {
				return m, nothing, errors.Join(err, done())
			}
			layers[j] = p
		}
		options[i] = "lowerdir=" + strings.Join(layers, ":")
	}
	m.Options = options
	return m, done, nil
}

// attachMapped mounts a copy of the folder source, without what is mounted below it, at target, with the owners of ns.
func attachMapped(source, target string, ns *os.File) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return &os.PathError{Op: "copy the mount at", Path: source, Err: err}
	}
	defer unix.Close(tree)
	if err := applyNamespace(tree, source, false, ns); err != nil {
		return err
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.LinkError{Op: "mount", Old: source, New: target, Err: err}
	}
	return nil
}
