// Package cgroup keeps the control groups of containers, version 2 only: limits, devices, the freezer, what was used,
// and the end of all.
//
// In come the resources of the runtime specification; they are turned into files and values (Files, Rules) before
// anything is written. The package knows neither containers nor their processes. Linux:
// Documentation/admin-guide/cgroup-v2.rst.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/mountinfo"
)

// controllers are those that containers use.
var controllers = []string{"cpu", "cpuset", "io", "memory", "hugetlb", "pids", "rdma"}

// Group is one control group. Its methods may be called at the same time.
type Group struct {
	Path string // below /sys/fs/cgroup or wherever cgroup2 is mounted

	mu      sync.Mutex
	program int // guarded by mu; the attached device program, -1 without
}

// Prepare makes the controllers of root available below it. If this process is in root itself, it goes to a group of
// its own, called leaf: only the root of the whole hierarchy may have both processes and controlled groups.
func Prepare(root, leaf string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil {
		return fmt.Errorf("cgroups %s: %w", root, err)
	}
	if int64(st.Type) != unix.CGROUP2_SUPER_MAGIC {
		return fmt.Errorf("cgroups %s: not a cgroup2 file system", root)
	}
	self := strconv.Itoa(os.Getpid())
	procs, err := os.ReadFile(filepath.Join(root, "cgroup.procs"))
	if err != nil {
		return fmt.Errorf("processes of cgroup %s: %w", root, err)
	}
	if slices.Contains(strings.Fields(string(procs)), self) {
		dir := filepath.Join(root, leaf)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make cgroup %s: %w", dir, err)
		}
		if err := write(dir, "cgroup.procs", self); err != nil {
			return err
		}
	}
	if os.Getpid() == 1 { // in a guest that is another's, this is for it to decide
		_ = favorMoves(root) // without it all is as well, and slower
	}
	return Enable(root)
}

// favorMoves lets processes change their group without waiting until every processor has looked away (two to three
// ticks of the clock), for a slightly dearer fork(2). Linux: Documentation/admin-guide/cgroup-v2.rst, "favordynmods";
// before 6.0 there is no such option, and no harm done.
func favorMoves(root string) error {
	all, err := mountinfo.Self()
	if err != nil {
		return fmt.Errorf("mount options of cgroups: %w", err)
	}
	mount, err := mountinfo.At(all, root)
	if err != nil {
		return fmt.Errorf("mount options of cgroups: %w", err)
	}
	fs, err := unix.Fspick(unix.AT_FDCWD, root, unix.FSPICK_CLOEXEC)
	if err != nil {
		return fmt.Errorf("mount options of cgroups: %w", err)
	}
	defer unix.Close(fs)
	for _, o := range mount.Super { // what is not said again is taken away
		if o != "rw" && o != "ro" {
			if err := unix.FsconfigSetFlag(fs, o); err != nil {
				return fmt.Errorf("mount option %s of cgroups: %w", o, err)
			}
		}
	}
	if unix.FsconfigSetFlag(fs, "favordynmods") != nil {
		return nil
	}
	if err := unix.FsconfigReconfigure(fs); err != nil {
		return fmt.Errorf("mount option favordynmods of cgroups: %w", err)
	}
	return nil
}

// Enable passes on every controller that dir has. Those that it has not are complained of where they are asked for.
func Enable(dir string) error {
	has, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("controllers of cgroup %s: %w", dir, err)
	}
	on, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
	if err != nil {
		return fmt.Errorf("controllers of cgroup %s: %w", dir, err)
	}
	var want []string
	for _, c := range controllers {
		if slices.Contains(strings.Fields(string(has)), c) && !slices.Contains(strings.Fields(string(on)), c) {
			want = append(want, "+"+c)
		}
	}
	if len(want) == 0 {
		return nil
	}
	return write(dir, "cgroup.subtree_control", strings.Join(want, " "))
}

// Path turns the specification's cgroupsPath into a path below a root: absolute and relative ones alike, never above;
// "" is fallback. systemd's slice:prefix:name is taken as slice/prefix-name.scope.
func Path(spec, fallback string) string {
	if p := strings.Split(spec, ":"); len(p) == 3 {
		spec = p[0] + "/" + p[1] + "-" + p[2] + ".scope"
	}
	if p := path.Clean("/" + spec); p != "/" {
		return p[1:]
	}
	return strings.TrimLeft(path.Clean("/"+fallback), "/")
}

// Make makes the group name below root, with all controllers. A group that is there must be empty.
func Make(root, name string) (*Group, error) {
	dir := root
	parts := strings.Split(name, "/")
	fresh := false
	for i, p := range parts {
		dir = filepath.Join(dir, p)
		err := os.Mkdir(dir, 0o755)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make cgroup %s: %w", dir, err)
		}
		fresh = err == nil
		if i < len(parts)-1 {
			if err := Enable(dir); err != nil {
				return nil, err
			}
		}
	}
	g := &Group{Path: dir, program: -1}
	if fresh {
		return g, nil
	}
	if pids, err := g.Pids(); err != nil {
		return nil, err
	} else if len(pids) > 0 {
		return nil, fmt.Errorf("cgroup %s: process %d is in it already: %w", dir, pids[0], fs.ErrExist)
	}
	return g, nil
}

// At is the group with this folder, which somebody else has made. Its device program is not known, and stays.
func At(dir string) *Group { return &Group{Path: dir, program: -1} }

// write writes a file that exists.
func write(dir, name, value string) error {
	p := filepath.Join(dir, name)
	fd, err := unix.Open(p, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		if c, _, ok := strings.Cut(name, "."); ok && c != "cgroup" {
			return fmt.Errorf("set %s to %q: the controller %s has no such file here: %w", p, value, c, err)
		}
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", p, err)
	}
	defer unix.Close(fd)
	for {
		_, err = unix.Write(fd, []byte(value))
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("set %s to %q: %w", p, value, err)
	}
	return nil
}

// Set writes files in order.
func (g *Group) Set(files []File) error {
	for _, f := range files {
		if err := write(g.Path, f.Name, f.Value); err != nil {
			if f.Optional && errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return err
		}
	}
	return nil
}

// Pids are the processes in the group and below.
func (g *Group) Pids() ([]int, error) {
	var out []int
	err := filepath.WalkDir(g.Path, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			if p != g.Path && errors.Is(err, fs.ErrNotExist) {
				return nil // it went meanwhile
			}
			return err
		}
		if !e.IsDir() {
			return nil
		}
		b, err := os.ReadFile(filepath.Join(p, "cgroup.procs"))
		if errors.Is(err, unix.EOPNOTSUPP) || p != g.Path && (errors.Is(err, fs.ErrNotExist) ||
			errors.Is(err, unix.ENODEV)) {
			return nil // a threaded group: its processes are told above
		}
		if err != nil {
			return err
		}
		for _, w := range strings.Fields(string(b)) {
			if n, err := strconv.Atoi(w); err == nil && n > 0 { // 0 is a process of another pid namespace
				out = append(out, n)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("processes of cgroup %s: %w", g.Path, err)
	}
	return out, nil
}

// Kill ends every process in the group and below. They may take a moment; see Empty.
func (g *Group) Kill() error { return write(g.Path, "cgroup.kill", "1") }

// Freeze stops every process, or lets it go on, and returns when all have.
func (g *Group) Freeze(ctx context.Context, on bool) error {
	want := "0"
	if on {
		want = "1"
	}
	if err := write(g.Path, "cgroup.freeze", want); err != nil {
		return err
	}
	if err := g.await(ctx, "frozen", want); err != nil {
		return fmt.Errorf("freeze=%s: %w", want, err)
	}
	return nil
}

// Empty waits until no process is left.
func (g *Group) Empty(ctx context.Context) error { return g.await(ctx, "populated", "0") }

// await waits for a value in cgroup.events. Its changes can be polled for, but what is waited for here mostly takes
// less than a millisecond.
func (g *Group) await(ctx context.Context, key, want string) error {
	pause := 100 * time.Microsecond
	for {
		v, err := keyed(filepath.Join(g.Path, "cgroup.events"))
		if errors.Is(err, fs.ErrNotExist) && key == "populated" {
			return nil
		}
		if err != nil {
			return err
		}
		if strconv.FormatUint(v[key], 10) == want {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cgroup %s: wait for %s %s: %w", g.Path, key, want, ctx.Err())
		case <-time.After(pause):
		}
		pause = min(2*pause, 20*time.Millisecond)
	}
}

// Remove removes the group and those below. It must be empty; calling it again is a no-op.
func (g *Group) Remove() error {
	if unix.Rmdir(g.Path) == nil { // mostly there are none below
		g.close()
		return nil
	}
	var dirs []string
	err := filepath.WalkDir(g.Path, func(p string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && e.IsDir() {
			dirs = append(dirs, p)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("remove cgroup %s: %w", g.Path, err)
	}
	for _, d := range slices.Backward(dirs) {
		if err := unix.Rmdir(d); err != nil && err != unix.ENOENT {
			return fmt.Errorf("remove cgroup %s: %w", d, err)
		}
	}
	g.close()
	return nil
}

// close lets go of the device program.
func (g *Group) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.program >= 0 {
		unix.Close(g.program)
		g.program = -1
	}
}

// Add moves a process into the group. What it has used until then counts where it was.
func (g *Group) Add(pid int) error { return write(g.Path, "cgroup.procs", strconv.Itoa(pid)) }

// Open opens the group's folder, for clone(2) into it.
func (g *Group) Open() (int, error) {
	fd, err := unix.Open(g.Path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open cgroup %s: %w", g.Path, err)
	}
	return fd, nil
}

// OOMKills is how many processes the kernel has killed for want of memory.
func (g *Group) OOMKills() (uint64, error) {
	v, err := keyed(filepath.Join(g.Path, EventsFile))
	return v["oom_kill"], err
}

// EventsFile is modified when the group lacks memory.
const EventsFile = "memory.events"
