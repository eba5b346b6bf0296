// Package nest runs a test binary in namespaces of its own, where it may make networks and mounts, and tells what was
// left behind.
package nest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/mountinfo"
)

// variable tells the stages of Run apart.
const variable = "KATABUILD_TEST_NEST"

// gatewayless is the address of a bridge without ports that gives the nest a default route, which kubelet and CNI want
// to see. RFC 5737: 192.0.2.0/24 is for documentation and never routed.
const gatewayless = "192.0.2.1/24"

// Run runs tests in new pid, mount, network, IPC and UTS namespaces and returns the exit code. It must be called by
// TestMain.
//
// There are three stages of the same program: the first waits outside, the second is process 1 of the namespaces and
// reaps, the third runs the tests. When the first is killed, the kernel ends all others with it. cgroups are the
// host's: tests name theirs by Name.
func Run(tests func() int) int {
	switch os.Getenv(variable) {
	case "":
		return outside()
	case "first":
		code, err := first()
		if err != nil {
			fmt.Fprintln(os.Stderr, "nest:", err)
			return 1
		}
		return code
	default:
		return tests()
	}
}

// Inside says whether this process is one of Run's.
func Inside() bool { return os.Getenv(variable) != "" }

// Name is a prefix for what lives outside the namespaces, such as cgroups: no two runs at a time have the same.
func Name() string { return os.Getenv("KATABUILD_TEST_NEST_NAME") }

func outside() int {
	// Pdeathsig follows the thread that made the child.
	runtime.LockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), variable+"=first", "KATABUILD_TEST_NEST_NAME=katabuild-"+strconv.Itoa(os.Getpid()))
	cmd.SysProcAttr = &unix.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Pdeathsig:  unix.SIGKILL,
	}
	err := cmd.Run()
	if err == nil {
		return 0
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, "nest:", err)
	return 1
}

func first() (int, error) {
	runtime.LockOSThread()
	if err := furnish(); err != nil {
		return 0, err
	}
	wd, err := os.Getwd()
	if err != nil {
		return 0, err
	}
	env := slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, variable+"=") })
	p, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{
		Dir: wd, Env: append(env, variable+"=tests"), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
	if err != nil {
		return 0, err
	}
	for {
		var s unix.WaitStatus
		pid, err := unix.Wait4(-1, &s, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait: %w", err)
		case pid == p.Pid && s.Signaled():
			return 0, fmt.Errorf("the tests ended by %v", s.Signal())
		case pid == p.Pid:
			return s.ExitStatus(), nil
		}
	}
}

// furnish makes the namespaces fit to live in.
func furnish() error {
	mount := func(source, target, kind string, flags uintptr) error {
		if err := unix.Mount(source, target, kind, flags, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", kind, target, err)
		}
		return nil
	}
	const cni = "/var/lib/cni" // where CNI plugins remember results
	if err := os.MkdirAll(cni, 0o755); err != nil {
		return err
	}
	err := errors.Join(
		mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE),
		mount("proc", "/proc", "proc", 0),
		mount("tmpfs", "/run", "tmpfs", 0),
		mount("tmpfs", cni, "tmpfs", 0),
		// Containers' mounts must reach those who share their files with a guest.
		mount("", "/", "", unix.MS_REC|unix.MS_SHARED),
	)
	if err != nil {
		return err
	}
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"link", "add", "nest0", "type", "bridge"},
		{"addr", "add", gatewayless, "dev", "nest0"},
		{"link", "set", "nest0", "up"},
		{"route", "add", "default", "dev", "nest0"},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	for _, p := range []string{"ip_forward", "conf/all/route_localnet"} {
		if err := os.WriteFile("/proc/sys/net/ipv4/"+p, []byte("1"), 0); err != nil {
			return err
		}
	}
	return nil
}

// State is what exists in the nest and of the nest at one time.
type State struct{ things map[string]bool }

// Look takes stock of processes, mounts, network namespaces and devices, and of the cgroups below Name.
func Look() (State, error) {
	s := State{map[string]bool{}}
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return s, err
	}
	for _, p := range procs {
		pid := filepath.Base(filepath.Dir(p))
		b, err := os.ReadFile(p)
		if err != nil || pid == strconv.Itoa(os.Getpid()) {
			continue // it has ended, or is this one
		}
		stat, _ := os.ReadFile("/proc/" + pid + "/stat")
		// Linux: Documentation/filesystems/proc.rst, table 1-4: the state comes behind the name in brackets.
		if i := strings.LastIndexByte(string(stat), ')'); i < 0 || strings.HasPrefix(string(stat[i+1:]), " Z") {
			continue // it has ended and will be reaped
		}
		s.things["process "+pid+": "+strings.ReplaceAll(strings.TrimRight(string(b), "\x00"), "\x00", " ")] = true
	}
	mounts, err := mountinfo.Self()
	if err != nil {
		return s, err
	}
	for _, m := range mounts {
		s.things["mount "+m.Point] = true
	}
	ns, _ := filepath.Glob("/run/netns/*")
	for _, n := range ns {
		s.things["network namespace "+n] = true
	}
	out, err := exec.Command("ip", "-o", "link").Output()
	if err != nil {
		return s, fmt.Errorf("ip -o link: %w", err)
	}
	for l := range strings.Lines(string(out)) {
		if f := strings.Fields(l); len(f) > 1 {
			name, _, _ := strings.Cut(f[1], "@")
			s.things["network device "+name] = true
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*/", "/sys/fs/cgroup/"} {
		g, _ := filepath.Glob(pattern + Name() + "*/*")
		for _, c := range g {
			if fi, err := os.Stat(c); err == nil && fi.IsDir() {
				s.things["cgroup "+c] = true
			}
		}
	}
	return s, nil
}

// LeftSince lists what exists now and did not exist at before. It looks again for up to patience, since ends take a
// moment.
func LeftSince(before State, patience time.Duration) ([]string, error) {
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		now, err := Look()
		if err != nil {
			return nil, err
		}
		var left []string
		for t := range now.things {
			if !before.things[t] {
				left = append(left, t)
			}
		}
		slices.Sort(left)
		if len(left) == 0 || time.Now().After(end) {
			return left, nil
		}
	}
}

// RemoveCgroups removes the empty cgroups whose first name starts with Name. Those that are not empty stay.
func RemoveCgroups() {
	for _, pattern := range []string{"/sys/fs/cgroup/*/", "/sys/fs/cgroup/"} {
		tops, _ := filepath.Glob(pattern + Name() + "*")
		for _, top := range tops {
			var dirs []string
			_ = filepath.WalkDir(top, func(p string, d os.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, p)
				}
				return nil
			})
			slices.Reverse(dirs)
			for _, d := range dirs {
				_ = unix.Rmdir(d)
			}
		}
	}
}
