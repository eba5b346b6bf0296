// Package hostgroup keeps the control groups of containers on hosts, of version 1 or 2, whichever the host has.
//
// In come the resources of the runtime specification and where the groups shall be; version 2 is package cgroup's work,
// and version 1, which has a hierarchy of folders for each controller, is done here. It knows neither containers nor
// their processes. Linux: Documentation/admin-guide/cgroup-v1.
package hostgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/container/cgroup"
	"github.com/katabuild/katabuild/internal/mountinfo"
)

// Host is how control groups are mounted on this host.
type Host struct {
	root string // where cgroup2 is, if that is all there is
	// hierarchies of version 1, sorted by name; none with version 2
	hierarchies []hierarchy
}

// hierarchy is one of version 1.
type hierarchy struct {
	name        string // its controllers as mounted, "cpu,cpuacct", or "name=systemd"
	controllers []string
	point       string // where it is mounted
	own         string // the caller's group in it, below point
}

// unified is where hosts mount cgroups.
const unified = "/sys/fs/cgroup"

// Find looks at this host.
func Find() (*Host, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(unified, &st); err != nil {
		return nil, fmt.Errorf("control groups %s: %w", unified, err)
	}
	if int64(st.Type) == unix.CGROUP2_SUPER_MAGIC {
		return &Host{root: unified}, nil
	}
	said, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("own control groups: %w", err)
	}
	all, err := mountinfo.Self()
	if err != nil {
		return nil, fmt.Errorf("control groups: %w", err)
	}
	h := &Host{hierarchies: hierarchies(all, groupsOf(string(said)))}
	if len(h.hierarchies) == 0 {
		return nil, fmt.Errorf("control groups %s: none are mounted", unified)
	}
	return h, nil
}

// groupsOf reads /proc/PID/cgroup: "4:cpu,cpuacct:/a". Version 2 is "". cgroups(7).
func groupsOf(text string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) != 3 {
			continue
		}
		for c := range strings.SplitSeq(f[1], ",") {
			out[c] = f[2]
		}
	}
	return out
}

// hierarchies finds those of version 1 among mounts. own are the caller's groups by controller.
func hierarchies(all []mountinfo.Mount, own map[string]string) []hierarchy {
	var out []hierarchy
	for _, m := range all {
		if m.Type != "cgroup" {
			continue
		}
		var h hierarchy
		for _, o := range m.Super {
			if _, is := own[o]; is {
				h.controllers = append(h.controllers, o)
			}
		}
		seen := func(o hierarchy) bool { return slices.Contains(o.controllers, h.controllers[0]) }
		if len(h.controllers) == 0 || slices.ContainsFunc(out, seen) {
			continue
		}
		slices.Sort(h.controllers)
		h.name, h.point = strings.Join(h.controllers, ","), m.Point
		h.own = strings.TrimPrefix(own[h.controllers[0]], strings.TrimSuffix(m.Root, "/"))
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b hierarchy) int { return strings.Compare(a.name, b.name) })
	return out
}

// V2 says whether this host has version 2 alone.
func (h *Host) V2() bool { return h.root != "" }

// Groups are the control groups of a container. Its methods are used by one goroutine at a time.
type Groups struct {
	v2   *cgroup.Group
	dirs map[string]string // folders of version 1 by controller
}

// Make makes the groups that the specification's cgroupsPath names: an absolute path is below the root, a relative one
// and the fallback for none are below the caller's groups. Those that are there must have no processes.
func (h *Host) Make(spec, fallback string) (*Groups, error) {
	relative := spec == "" || !path.IsAbs(spec)
	if spec == "" {
		spec = fallback
	}
	name := cgroup.Path(spec, fallback)
	if h.V2() {
		// A group with processes, as the caller's is, cannot have controlled groups below it, so all are below the
		// root: cgroup-v2.rst, "No Internal Process Constraint".
		if err := cgroup.Enable(h.root); err != nil {
			return nil, err
		}
		g, err := cgroup.Make(h.root, name)
		if err != nil {
			return nil, err
		}
		return &Groups{v2: g}, nil
	}
	g := &Groups{dirs: map[string]string{}}
	for _, hi := range h.hierarchies {
		from := hi.point
		if relative {
			from = filepath.Join(hi.point, hi.own)
		}
		dir := filepath.Join(from, name)
		for _, c := range hi.controllers {
			g.dirs[c] = dir
		}
		if err := makeBelow(from, name, slices.Contains(hi.controllers, "cpuset")); err != nil {
			for _, made := range g.all() {
				unix.Rmdir(made) // only what is empty goes: what was there before may be another's
			}
			return nil, err
		}
	}
	return g, nil
}

// makeBelow makes folders below a group. A group of the cpuset controller has neither processors nor memory at first,
// and takes no process then: it gets those of the one above.
func makeBelow(from, name string, cpuset bool) error {
	dir := from
	for part := range strings.SplitSeq(name, "/") {
		above := dir
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make cgroup %s: %w", dir, err)
		}
		if !cpuset {
			continue
		}
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
			b, err := os.ReadFile(filepath.Join(dir, f))
			if err != nil || strings.TrimSpace(string(b)) != "" {
				continue
			}
			if b, err = os.ReadFile(filepath.Join(above, f)); err != nil {
				return fmt.Errorf("cgroup %s: %w", above, err)
			}
			if err := write(dir, f, strings.TrimSpace(string(b))); err != nil {
				return err
			}
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, procs))
	if err != nil {
		return fmt.Errorf("processes of cgroup %s: %w", dir, err)
	}
	if w := strings.Fields(string(b)); len(w) > 0 {
		return fmt.Errorf("cgroup %s: process %s is in it already: %w", dir, w[0], fs.ErrExist)
	}
	return nil
}

// procs is the file of a group's processes.
const procs = "cgroup.procs"

// Open takes groups up again that Make made, by what Folders said.
func Open(folders map[string]string) *Groups {
	if dir, is := folders[""]; is {
		return &Groups{v2: cgroup.At(dir)}
	}
	return &Groups{dirs: folders}
}

// Folders are the groups' folders by controller; "" is version 2.
func (g *Groups) Folders() map[string]string {
	if g.v2 != nil {
		return map[string]string{"": g.v2.Path}
	}
	return g.dirs
}

// V2 is the group of version 2, which processes are cloned into; nil where there are others.
func (g *Groups) V2() *cgroup.Group { return g.v2 }

// all are the folders of version 1, each once.
func (g *Groups) all() []string {
	return slices.Compact(slices.Sorted(maps.Values(g.dirs)))
}

// Add moves a process into the groups.
func (g *Groups) Add(pid int) error {
	if g.v2 != nil {
		return g.v2.Add(pid)
	}
	for _, dir := range g.all() {
		if err := write(dir, procs, strconv.Itoa(pid)); err != nil {
			return err
		}
	}
	return nil
}

// tracker is the controller of version 1 whose processes count as the container's: it has no other use.
func (g *Groups) tracker() string {
	for _, c := range []string{"devices", "freezer", "pids", "memory", "name=systemd"} {
		if dir := g.dirs[c]; dir != "" {
			return dir
		}
	}
	for _, dir := range g.all() {
		return dir
	}
	return ""
}

// Pids are the processes in the groups and below. Groups that are gone have none.
func (g *Groups) Pids() ([]int, error) {
	group := g.v2
	if group == nil {
		group = cgroup.At(g.tracker())
	}
	pids, err := group.Pids()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return pids, err
}

// Signal signals every process in the groups and below.
func (g *Groups) Signal(sig unix.Signal) error {
	if g.v2 != nil && sig == unix.SIGKILL {
		if err := g.v2.Kill(); err == nil || errors.Is(err, fs.ErrNotExist) && !exists(g.v2.Path) {
			return nil // before Linux 5.14 there is no cgroup.kill
		}
	}
	pids, err := g.Pids()
	if err != nil {
		return err
	}
	var errs []error
	for _, pid := range pids {
		if err := unix.Kill(pid, sig); err != nil && err != unix.ESRCH {
			errs = append(errs, fmt.Errorf("signal process %d: %w", pid, err))
		}
	}
	return errors.Join(errs...)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Remove ends all processes in the groups and removes them. Calling it again is a no-op.
func (g *Groups) Remove(ctx context.Context) error {
	folders := g.all()
	if g.v2 != nil {
		folders = []string{g.v2.Path}
	}
	pause := 100 * time.Microsecond
	for {
		var left []string
		var last error
		for _, dir := range folders {
			if err := removeTree(dir); err != nil {
				left, last = append(left, dir), err
			}
		}
		if folders = left; len(folders) == 0 {
			return nil
		}
		if !errors.Is(last, unix.EBUSY) {
			return last
		}
		if err := g.Signal(unix.SIGKILL); err != nil {
			return err
		}
		if frozen, _ := g.Frozen(); frozen && g.v2 == nil {
			_ = write(g.dirs["freezer"], "freezer.state", "THAWED") // or nobody in there ends
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", last, ctx.Err())
		case <-time.After(pause):
		}
		pause = min(2*pause, 20*time.Millisecond)
	}
}

// removeTree removes a group and those below it.
func removeTree(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	entries, e := os.ReadDir(dir)
	if errors.Is(e, fs.ErrNotExist) {
		return nil
	}
	below := false
	for _, en := range entries {
		if en.IsDir() {
			below = true
			if err := removeTree(filepath.Join(dir, en.Name())); err != nil {
				return err
			}
		}
	}
	if below {
		err = unix.Rmdir(dir)
	}
	if err != nil && err != unix.ENOENT {
		return fmt.Errorf("remove cgroup %s: %w", dir, err)
	}
	return nil
}

// Freeze stops every process in the groups, or lets it go on, and returns when all have.
func (g *Groups) Freeze(ctx context.Context, on bool) error {
	if g.v2 != nil {
		return g.v2.Freeze(ctx, on)
	}
	dir := g.dirs["freezer"]
	if dir == "" {
		return errors.New("this host has no freezer for control groups")
	}
	want := "THAWED"
	if on {
		want = "FROZEN"
	}
	pause := 100 * time.Microsecond
	for {
		// A process that was forked meanwhile may have to be frozen by another write. freezer-subsystem.rst.
		if err := write(dir, "freezer.state", want); err != nil {
			return err
		}
		b, err := os.ReadFile(filepath.Join(dir, "freezer.state"))
		if err != nil {
			return fmt.Errorf("state of cgroup %s: %w", dir, err)
		}
		if strings.TrimSpace(string(b)) == want {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cgroup %s: wait until it is %s: %w", dir, want, ctx.Err())
		case <-time.After(pause):
		}
		pause = min(2*pause, 20*time.Millisecond)
	}
}

// Frozen says whether the processes are stopped, or are being stopped.
func (g *Groups) Frozen() (bool, error) {
	file, want := "", "1"
	switch {
	case g.v2 != nil:
		file = filepath.Join(g.v2.Path, "cgroup.freeze")
	case g.dirs["freezer"] == "":
		return false, nil
	default:
		file, want = filepath.Join(g.dirs["freezer"], "freezer.state"), "FROZEN"
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("state of cgroup: %w", err)
	}
	got := strings.TrimSpace(string(b))
	return got == want || got == "FREEZING", nil
}

// write writes a file of a group that exists.
func write(dir, name, value string) error {
	p := filepath.Join(dir, name)
	fd, err := unix.Open(p, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("set %s to %q: %w", p, value, err)
	}
	defer unix.Close(fd)
	for {
		if _, err = unix.Write(fd, []byte(value)); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("set %s to %q: %w", p, value, err)
	}
	return nil
}

// shown is a folder of a container's groups and the name of its hierarchy's folder.
type shown struct{ Name, Folder string }

// Shown are a container's groups of version 1, sorted by the hierarchy's name.
func (h *Host) Shown(g *Groups) []shown {
	var out []shown
	for _, hi := range h.hierarchies {
		out = append(out, shown{filepath.Base(hi.point), g.dirs[hi.controllers[0]]})
	}
	return out
}
