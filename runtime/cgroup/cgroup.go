// Package cgroup puts a pod's processes on the host under one control group, in every hierarchy of version 1 or the one
// of version 2.
//
// In comes the cgroups path of a container as containerd gives it; out go the folders that were made. It sets no
// limits: whoever made the parent has done so for the pod. What may not be done is told, and nothing else, for a pod is
// better outside its group than not at all.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/katabuild/katabuild/internal/mountinfo"
)

// prefix begins the name of a pod's group, as with Kata Containers.
const prefix = "kata_"

// Group is where this process has gone. The zero value is nowhere.
type Group struct {
	Dirs []string // made, parents first
	home []place  // where this process was before
}

// place is a group in one hierarchy.
type place struct {
	mount string // of the hierarchy
	path  string // in it
}

// Parent is the group that a pod's group belongs in, of the path in a container's specification: /a/b/ID, or in
// systemd's notation SLICE:PREFIX:NAME. An empty path is the root.
func Parent(cgroupsPath string) string {
	if slice, _, ok := strings.Cut(cgroupsPath, ":"); ok {
		return expandSlice(slice)
	}
	p := filepath.Dir(filepath.Join("/", cgroupsPath))
	return p
}

// expandSlice is the path of a slice: each dash is a level. systemd.slice(5).
func expandSlice(slice string) string {
	name := strings.TrimSuffix(slice, ".slice")
	if name == "" || name == "-" {
		return "/"
	}
	path := "/"
	for i, c := range name + "-" {
		if c == '-' {
			path = filepath.Join(path, name[:i]+".slice")
		}
	}
	return path
}

// Dirs are the groups of the pod id that Join would make, without parents: what to remove after a process that was
// killed while it joined.
func Dirs(parent, id string) ([]string, error) {
	return groups("/proc/self/mountinfo", "/proc/self/cgroup", parent, id)
}

func groups(mounts, self, parent, id string) ([]string, error) {
	places, err := readPlaces(mounts, self)
	if err != nil {
		return nil, fmt.Errorf("control groups: %w", err)
	}
	var out []string
	for _, p := range places {
		out = append(out, filepath.Join(p.mount, parent, prefix+id))
	}
	return out, nil
}

// Join makes the group of the pod id below parent, and moves this process into it, so that its children are born there.
// It returns what was done, also beside errors.
func Join(parent, id string) (Group, error) {
	return join("/proc/self/mountinfo", "/proc/self/cgroup", parent, id)
}

func join(mounts, self, parent, id string) (Group, error) {
	var g Group
	places, err := readPlaces(mounts, self)
	if err != nil {
		return g, fmt.Errorf("control groups: %w", err)
	}
	var errs []error
	for _, p := range places {
		dir := filepath.Join(p.mount, parent, prefix+id)
		made, err := mkdirs(p.mount, dir)
		g.Dirs = append(g.Dirs, made...)
		if err == nil {
			err = enter(dir)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("control group: %w", err))
			continue
		}
		g.home = append(g.home, p)
	}
	return g, errors.Join(errs...)
}

// mkdirs makes dir and its parents below mount, and returns those that it made.
func mkdirs(mount, dir string) ([]string, error) {
	rel, err := filepath.Rel(mount, dir)
	if err != nil || !filepath.IsLocal(rel) {
		return nil, fmt.Errorf("%s is not below %s", dir, mount)
	}
	path := mount
	var made []string
	for _, name := range strings.Split(rel, "/") {
		parent := path
		path = filepath.Join(path, name)
		switch err := os.Mkdir(path, 0o755); {
		case err == nil:
			made = append(made, path)
			inheritCPUs(parent, path)
		case !errors.Is(err, fs.ErrExist):
			return made, err
		}
	}
	return made, nil
}

// inheritCPUs gives a new group of the version 1 controller cpuset what its parent has; without, nothing can enter it.
// Linux: Documentation/admin-guide/cgroup-v1/cpusets.rst.
func inheritCPUs(parent, dir string) {
	for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
		have, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil || strings.TrimSpace(string(have)) != "" {
			continue
		}
		if b, err := os.ReadFile(filepath.Join(parent, f)); err == nil {
			_ = os.WriteFile(filepath.Join(dir, f), b, 0) // entering fails next, and says so
		}
	}
}

func enter(dir string) error { return put(dir, os.Getpid()) }

// put moves a process into a group.
func put(dir string, pid int) error {
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o600)
}

// Release moves another process to where this one was before it joined.
func (g *Group) Release(pid int) error {
	var errs []error
	for _, h := range g.home {
		if err := put(filepath.Join(h.mount, h.path), pid); err != nil {
			errs = append(errs, fmt.Errorf("control group: %w", err))
		}
	}
	return errors.Join(errs...)
}

// Take moves another process into the group, where there is one.
func (g *Group) Take(pid int) error {
	var errs []error
	for _, d := range g.Dirs {
		if strings.HasPrefix(filepath.Base(d), prefix) {
			if err := put(d, pid); err != nil {
				errs = append(errs, fmt.Errorf("control group: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}

// OOMKills is how many processes of the group the host has ended because the group, or one it is in, had no memory
// left. Linux: Documentation/admin-guide/cgroup-v1/memory.rst, "OOM Control", and cgroup-v2.rst, memory.events.
func (g *Group) OOMKills() int {
	sum := 0
	for _, d := range g.Dirs {
		if !strings.HasPrefix(filepath.Base(d), prefix) {
			continue
		}
		for _, f := range []string{"memory.oom_control", "memory.events"} {
			b, err := os.ReadFile(filepath.Join(d, f))
			if err == nil {
				sum += oomKills(string(b))
			}
		}
	}
	return sum
}

// oomKills reads the number of either file; what is none counts nothing.
func oomKills(text string) int {
	for l := range strings.Lines(text) {
		if f := strings.Fields(l); len(f) == 2 && f[0] == "oom_kill" {
			if n, err := strconv.Atoi(f[1]); err == nil {
				return n
			}
		}
	}
	return 0
}

// Leave moves this process back to where it was and removes the group. Other processes in it must have ended. Calling
// it again is a no-op.
func (g *Group) Leave() error {
	var errs []error
	for _, p := range g.home {
		if err := enter(filepath.Join(p.mount, p.path)); err != nil {
			errs = append(errs, fmt.Errorf("leave the control group: %w", err))
		}
	}
	errs = append(errs, Remove(g.Dirs))
	g.Dirs, g.home = nil, nil
	return errors.Join(errs...)
}

// A killed process leaves its group a moment after whoever waits for it has heard of its end, and its own children, as
// virtiofsd's, later still.
const (
	busyTime = 3 * time.Second
	busyRest = 5 * time.Millisecond
)

// Remove removes groups that Join made, whose processes have ended. A parent that others use by now stays.
func Remove(dirs []string) error {
	var errs []error
	end := time.Now().Add(busyTime)
	for _, d := range slices.Backward(dirs) {
		err := syscall.Rmdir(d)
		ours := strings.HasPrefix(filepath.Base(d), prefix)
		for ours && errors.Is(err, syscall.EBUSY) && time.Now().Before(end) {
			time.Sleep(busyRest)
			err = syscall.Rmdir(d)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && ours {
			errs = append(errs, &os.PathError{Op: "remove the control group", Path: d, Err: err})
		}
	}
	return errors.Join(errs...)
}

// readPlaces says where this process is in every hierarchy that is mounted.
// Formats: proc_pid_mountinfo(5), proc_pid_cgroup(5).
func readPlaces(mounts, self string) ([]place, error) {
	paths, err := readSelf(self)
	if err != nil {
		return nil, err
	}
	all, err := mountinfo.File(mounts)
	if err != nil {
		return nil, err
	}
	var out []place
	seen := map[string]bool{}
	for _, m := range all {
		key := ""
		switch m.Type {
		case "cgroup":
			key = hierarchy(m.Super, paths)
		case "cgroup2":
			// Beside hierarchies of version 1 it has no controllers, and whoever made the parents has not made them
			// here.
			if len(paths) == 1 {
				key = ""
			} else {
				continue
			}
		default:
			continue
		}
		p, ok := paths[key]
		if !ok || seen[key] || m.Root != "/" {
			continue
		}
		seen[key] = true
		out = append(out, place{mount: m.Point, path: p})
	}
	return out, nil
}

// hierarchy is the key of the hierarchy whose mount has these options.
func hierarchy(options []string, paths map[string]string) string {
	for key := range paths {
		if key == "" {
			continue
		}
		if !slices.ContainsFunc(strings.Split(key, ","), func(c string) bool { return !slices.Contains(options, c) }) {
			return key
		}
	}
	return "none"
}

// readSelf reads the paths by the list of controllers, which is empty for version 2.
func readSelf(file string) (map[string]string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) == 3 {
			out[f[1]] = f[2]
		}
	}
	return out, nil
}
