package containerd

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/katabuild/katabuild/ci/containerd/daemon"
)

// nodeFolders are what the node has to itself: what an installation could touch.
var nodeFolders = []string{"/etc", "/opt", "/usr/local", "/var/lib"}

// ownFolders lets a test write to folders of this host: nobody else sees it, and it is gone afterwards.
func ownFolders(t *testing.T, folders ...string) {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	mounted := []string{dir}
	t.Cleanup(func() {
		for _, m := range slices.Backward(mounted) {
			if err := unix.Unmount(m, 0); err != nil {
				t.Errorf("unmount %s: %v", m, err)
			}
		}
	})
	for i, f := range folders {
		upper, work := fmt.Sprintf("%s/upper%d", dir, i), fmt.Sprintf("%s/work%d", dir, i)
		if err := errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(work, 0o755),
			unix.Mount("overlay", f, "overlay", 0, "lowerdir="+f+",upperdir="+upper+",workdir="+work)); err != nil {
			t.Fatalf("a %s of its own: %v", f, err)
		}
		mounted = append(mounted, f)
	}
	// What nest mounted there is hidden now.
	const cni = "/var/lib/cni"
	if slices.Contains(folders, "/var/lib") {
		if err := unix.Mount("tmpfs", cni, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		mounted = append(mounted, cni)
	}
}

// fileState is what counts of a file: two that are equal have not been changed. Folders' times change with what is made
// and removed in them.
type fileState struct {
	mode     fs.FileMode
	uid, gid uint32
	size     int64
	changed  time.Time
	content  string // a digest, or where a link leads
}

// look takes stock of what the node has to itself, file by file, but for what is mounted there.
func (*installer) look(t *testing.T) map[string]fileState {
	t.Helper()
	all := map[string]fileState{}
	for _, dir := range nodeFolders {
		top, err := os.Lstat(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			fi, err := d.Info()
			if err != nil {
				return err
			}
			if d.IsDir() && device(fi) != device(top) {
				return fs.SkipDir
			}
			all[p], err = stateOf(p, fi)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func device(fi fs.FileInfo) uint64 { return fi.Sys().(*syscall.Stat_t).Dev }

func stateOf(p string, fi fs.FileInfo) (fileState, error) {
	st := fi.Sys().(*syscall.Stat_t)
	s := fileState{mode: fi.Mode(), uid: st.Uid, gid: st.Gid}
	switch {
	case fi.Mode()&fs.ModeSymlink != 0:
		to, err := os.Readlink(p)
		s.content = to
		return s, err
	case !fi.Mode().IsRegular():
		return s, nil
	}
	s.size, s.changed = fi.Size(), fi.ModTime()
	f, err := os.Open(p)
	if err != nil {
		return s, err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	s.content = fmt.Sprintf("%x", h.Sum(nil))
	return s, err
}

// compare fails for every file that is not what it was.
func (i *installer) compare(t *testing.T, before map[string]fileState, by string) {
	t.Helper()
	now := i.look(t)
	for _, p := range slices.Sorted(maps.Keys(now)) {
		if was, ok := before[p]; !ok {
			t.Errorf("%s left %s", by, p)
		} else if was != now[p] {
			t.Errorf("%s changed %s: from %+v to %+v", by, p, was, now[p])
		}
	}
	for _, p := range slices.Sorted(maps.Keys(before)) {
		if _, ok := now[p]; !ok {
			t.Errorf("%s took %s away", by, p)
		}
	}
	t.Logf("%d files compared after %s", len(now), by)
}

func allProcesses(t *testing.T) []int {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var all []int
	for _, d := range dirs {
		if n, err := strconv.Atoi(filepath.Base(d)); err == nil {
			all = append(all, n)
		}
	}
	return all
}

// processes are those of the host that a pod has: its shim, and what that started.
func (i *installer) processes(t *testing.T, name string) []int {
	t.Helper()
	r, err := cri.NewRuntimeServiceClient(i.Conn).ListPodSandbox(t.Context(), &cri.ListPodSandboxRequest{
		Filter: &cri.PodSandboxFilter{LabelSelector: map[string]string{"io.kubernetes.pod.name": name}}})
	if err != nil || len(r.Items) != 1 {
		t.Fatalf("sandboxes of pod %s: %v, %v", name, r.GetItems(), err)
	}
	id := r.Items[0].Id
	parents, ours := map[int]int{}, map[int]bool{}
	for _, p := range allProcesses(t) {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p))
		stat, err2 := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p))
		if err != nil || err2 != nil {
			continue // it has ended
		}
		if strings.Contains(string(line), id) {
			ours[p] = true
		}
		// Linux: Documentation/filesystems/proc.rst, table 1-4: behind the name in brackets come state and parent.
		if f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:])); len(f) > 1 {
			parents[p], _ = strconv.Atoi(f[1])
		}
	}
	for again := true; again; {
		again = false
		for p, parent := range parents {
			if ours[parent] && !ours[p] {
				ours[p], again = true, true
			}
		}
	}
	return slices.Sorted(maps.Keys(ours))
}

// guestMemory is how a mapping of a guest's memory is called.
const guestMemory = "/memfd:"

// proportion is the memory of a process in KiB, with what it shares divided by those who share it, without the guest's
// memory and of that alone.
func proportion(pid int) (own, guest int64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return 0, 0, err
	}
	ofGuest := false
	for l := range strings.Lines(string(b)) {
		f := strings.Fields(l)
		switch {
		case len(f) >= 5 && !strings.HasSuffix(f[0], ":"):
			from, to, _ := strings.Cut(f[0], "-")
			a, err1 := strconv.ParseUint(from, 16, 64)
			z, err2 := strconv.ParseUint(to, 16, 64)
			if err := errors.Join(err1, err2); err != nil {
				return 0, 0, err
			}
			ofGuest = len(f) > 5 && strings.HasPrefix(f[5], guestMemory) && z-a >= 64<<20
		case f[0] == "Pss:":
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return 0, 0, err
			}
			if ofGuest {
				guest += n
			} else {
				own += n
			}
		}
	}
	return own, guest, nil
}

// ticks is the time that a pod's processes have run for, in hundredths of a second.
func (i *installer) ticks(t *testing.T, name string) (n int) {
	t.Helper()
	for _, p := range i.processes(t, name) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p))
		if err != nil {
			continue // it has ended
		}
		// Linux: Documentation/filesystems/proc.rst, table 1-4: utime and stime.
		f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		for _, v := range f[11:13] {
			ticks, err := strconv.Atoi(v)
			if err != nil {
				t.Fatal(err)
			}
			n += ticks
		}
	}
	return n
}

// measure prints what an idle pod costs its host.
func (i *installer) measure(t *testing.T, name string) {
	t.Helper()
	var own, guest int64
	for _, p := range i.processes(t, name) {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p))
		if err != nil {
			continue // it has ended
		}
		o, g, err := proportion(p)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("bench pod process %s: PSS %.1f MiB, of the guest's memory %.1f MiB", filepath.Base(exe),
			float64(o)/1024, float64(g)/1024)
		own, guest = own+o, guest+g
	}
	const quiet = 5 * time.Second
	before := i.ticks(t, name)
	time.Sleep(quiet)
	t.Logf("bench pod: %.0f m of a CPU when idle", float64(i.ticks(t, name)-before)*10/quiet.Seconds())
	t.Logf("bench pod: PSS of its processes %.1f MiB, of the guest's memory %.1f MiB", float64(own)/1024,
		float64(guest)/1024)
	if own == 0 || guest == 0 {
		t.Errorf("PSS of the processes is %d KiB, of the guest's memory %d KiB", own, guest)
	}
}

// systemd stands for the node's: kata-deploy asks it to restart containerd.
type systemd struct {
	dir  string
	done atomic.Int32
}

// restarts is how often containerd was restarted.
func (s *systemd) restarts() int { return int(s.done.Load()) }

// serve restarts a containerd when the node is asked to, until the test ends.
func (s *systemd) serve(t *testing.T, d *daemon.Daemon) {
	t.Helper()
	// Open for both ways, it has no end when a program that asked has ended.
	ask, err := os.OpenFile(s.dir+"/ask", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := os.OpenFile(s.dir+"/answer", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for r := bufio.NewScanner(ask); r.Scan(); {
			code := "0\n"
			if err := errors.Join(d.Kill(), d.Again(context.Background())); err != nil {
				t.Error(err)
				code = "1\n"
			}
			s.done.Add(1)
			if _, err := answer.WriteString(code); err != nil {
				t.Error(err)
			}
		}
	}()
	t.Cleanup(func() {
		if err := ask.Close(); err != nil {
			t.Error(err)
		}
		<-ended
		if err := answer.Close(); err != nil {
			t.Error(err)
		}
	})
}

// systemctl asks the test and waits for its answer.
const systemctl = `#!/bin/sh
case "$*" in
*"is-active"*" containerd"*) exit 0 ;;
*"is-active"*) exit 3 ;;
*"restart containerd"*)
	echo "$*" >DIR/ask
	read -r answer <DIR/answer
	exit "$answer" ;;
esac
echo "systemctl of a test: $*" >&2
exit 1
`

// newSystemd puts the stand-in where the node's program is. /run is the nest's own.
func newSystemd(t *testing.T) *systemd {
	t.Helper()
	s := &systemd{dir: "/run/systemd-of-test"}
	text := strings.ReplaceAll(systemctl, "DIR", s.dir)
	if err := errors.Join(os.MkdirAll("/run/systemd/system", 0o755), os.MkdirAll(s.dir, 0o755),
		unix.Mkfifo(s.dir+"/ask", 0o600), unix.Mkfifo(s.dir+"/answer", 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove("/usr/bin/systemctl"); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.WriteFile("/usr/bin/systemctl", []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(os.RemoveAll(s.dir), os.RemoveAll("/run/systemd")); err != nil {
			t.Error(err)
		}
	})
	return s
}
