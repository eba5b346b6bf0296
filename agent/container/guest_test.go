package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/container/blueprint"
	"github.com/katabuild/katabuild/agent/reap"
	"github.com/katabuild/katabuild/internal/testenv"
)

// guest is the runner under test, on a machine of its own.
type guest struct {
	*Runner
	reaper *reap.Reaper
	n      int
	ahead  bool // all containers that can shall come from a stage that was started ahead
}

// buffer is a connection that remembers.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) { b.mu.Lock(); defer b.mu.Unlock(); return b.b.Write(p) }
func (b *buffer) String() string              { b.mu.Lock(); defer b.mu.Unlock(); return b.b.String() }
func (b *buffer) Close() error                { return nil }

// usual are the capabilities that engines give.
var usual = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW",
	"CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL",
	"CAP_AUDIT_WRITE"}

// spec is what containerd would ask for.
func spec(args ...string) *specs.Spec {
	return &specs.Spec{
		Version: specs.Version, Root: &specs.Root{Path: "/rootfs"}, Hostname: "pod",
		Process: &specs.Process{
			Args: args, Cwd: "/", Env: []string{"PATH=/bin"}, NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: usual, Effective: usual, Permitted: usual},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime",
				"mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec",
				"newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev",
				"mode=1777", "size=65536k"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec",
				"nodev"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec",
				"nodev", "relatime", "ro"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: "pid"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"},
				{Type: "cgroup"}},
			MaskedPaths: []string{"/proc/kcore", "/proc/version", "/proc/keys", "/sys/firmware", "/secret",
				"/nowhere"},
			ReadonlyPaths: []string{"/proc/sys", "/proc/bus"},
		},
	}
}

func sh(script string) *specs.Spec { return spec("/bin/sh", "-c", script) }

// create makes a container that goes with the test.
func (g *guest) create(t *testing.T, s *specs.Spec, stdio Stdio) *Container {
	t.Helper()
	g.n++
	waits := 0
	if g.ahead {
		waits = g.await(t)
	} else {
		g.Runner.ahead.drop(false)
	}
	c, err := g.Create(t.Context(), fmt.Sprintf("c%d", g.n), s, stdio)
	if err != nil {
		t.Fatal(err)
	}
	if p := c.plan; g.ahead && p.Clone&unix.CLONE_NEWPID != 0 && !p.User && c.init.pid != waits {
		t.Errorf("the process is %d, and %d was started ahead", c.init.pid, waits)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := c.Remove(ctx); err != nil {
			t.Error(err)
		}
	})
	return c
}

// start makes and starts one.
func (g *guest) start(t *testing.T, s *specs.Spec, stdio Stdio) *Container {
	t.Helper()
	c := g.create(t, s, stdio)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

// run runs one to its end and returns both outputs and the exit code.
func (g *guest) run(t *testing.T, s *specs.Spec) (string, int) {
	t.Helper()
	var out buffer
	c := g.start(t, s, Stdio{Stdout: &out, Stderr: &out})
	p, _ := c.Process("")
	return finish(t, p, &out)
}

func finish(t *testing.T, p *Process, out *buffer) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	code, err := p.Wait(ctx)
	if err != nil {
		t.Fatalf("%v; output %q", err, out)
	}
	<-p.Drained()
	return out.String(), code
}

// exec runs a script in a container.
func (g *guest) exec(t *testing.T, c *Container, script string) (string, int) {
	t.Helper()
	g.n++
	var out buffer
	p, err := c.Exec(t.Context(), fmt.Sprintf("e%d", g.n), &specs.Process{Args: []string{"/bin/sh", "-c", script},
		Cwd: "/", Env: []string{"PATH=/bin"}}, Stdio{Stdout: &out, Stderr: &out})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Forget()
	return finish(t, p, &out)
}

// expect runs a script that has to print want.
func (g *guest) expect(t *testing.T, s *specs.Spec, want string) {
	t.Helper()
	if got, code := g.run(t, s); strings.TrimSpace(got) != want || code != 0 {
		t.Errorf("%q printed %q and ended with %d, want %q", s.Process.Args, got, code, want)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	e, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(e)
}

// fewFiles waits until no more files are open than a number: those of streams are closed a little after their end.
func fewFiles(t *testing.T, most int) {
	t.Helper()
	n := openFiles(t)
	for end := time.Now().Add(10 * time.Second); n > most && time.Now().Before(end); n = openFiles(t) {
		time.Sleep(10 * time.Millisecond)
	}
	if n > most {
		t.Errorf("%d files are open, want at most %d", n, most)
	}
}

// says waits until a text is in an output.
func (b *buffer) says(t *testing.T, text string) {
	t.Helper()
	end := time.Now().Add(10 * time.Second)
	for !strings.Contains(b.String(), text) {
		if time.Sleep(10 * time.Millisecond); time.Now().After(end) {
			t.Fatalf("it says %q, and not %q", b, text)
		}
	}
}

func TestInGuest(t *testing.T) {
	if os.Getpid() != 1 || os.Getenv("container_test") != "1" {
		return // TestContainersInAGuest runs it where it belongs, and insists on that
	}
	reaper, err := reap.New()
	if err != nil {
		t.Fatal(err)
	}
	go reaper.Run(context.Background())
	r, err := New(Config{Reaper: reaper})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("root is changed by moving it: %v", r.cfg.NoPivot)
	g := &guest{Runner: r, reaper: reaper}
	if b, err := os.ReadFile("/proc/self/mountinfo"); err != nil || !strings.Contains(string(b),
		" - cgroup2 cgroup2 rw,nsdelegate,favordynmods\n") {
		t.Errorf("options of cgroups: %v\n%s", err, b)
	}
	r.stages.Self() // the copy of the program stays open
	files := openFiles(t)
	if os.Getenv("container_root") == "tmpfs" { // as each pod has one
		pause, err := g.Create(t.Context(), "pause", spec("/bin/sleep", "100000"), Stdio{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := pause.Remove(t.Context()); err != nil {
				t.Error(err)
			}
			g.end(t, files)
		}()
		g.ahead = true
		t.Log("stages are started ahead")
	} else {
		defer g.end(t, files)
	}
	for _, test := range guestTests {
		t.Run(test.name, func(t *testing.T) { test.run(t, g) })
	}
}

// end looks for what is left, and ends the runner.
func (g *guest) end(t *testing.T, files int) {
	if left := g.Containers(); len(left) > 0 {
		t.Errorf("%d containers are left", len(left))
	}
	if e, err := os.ReadDir("/run/kata-containers"); err != nil || len(e) > 0 {
		t.Errorf("folders left: %v, %v", e, err)
	}
	g.idle(t)
	g.Close()
	g.Close()
	if after := openFiles(t); after > files {
		t.Errorf("%d files at first, %d at the end", files, after)
	}
}

// idle waits until this process has no children.
func (g *guest) idle(t *testing.T) {
	t.Helper()
	var left []int
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if left = children(t); len(left) == 0 {
			return
		}
	}
	for _, pid := range left {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		group, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		t.Errorf("a process is left: %d, %q, in %s%s", pid, line, group, status)
	}
}

// children are the processes that this one has, dead or alive. /proc/pid/task/tid/children of proc(5) has those of one
// thread each.
func children(t *testing.T) []int {
	t.Helper()
	files, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	var out []int
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // the thread has ended
		}
		for _, w := range strings.Fields(string(b)) {
			if n, err := strconv.Atoi(w); err == nil {
				out = append(out, n)
			}
		}
	}
	return out
}

var guestTests = []struct {
	name string
	run  func(*testing.T, *guest)
}{
	{"a program prints and ends with its code", func(t *testing.T, g *guest) {
		if got, code := g.run(t, sh("echo out; echo err >&2; exit 7")); !strings.Contains(got, "out\n") ||
			!strings.Contains(got, "err\n") || code != 7 {
			t.Error(got, code)
		}
	}},
	{"streams of what cannot be made are closed", func(t *testing.T, g *guest) {
		for name, s := range map[string]*specs.Spec{"bad/id": sh("true"), "early": spec(), "late": sh("true")} {
			if name == "late" {
				s.Mounts = append(s.Mounts, specs.Mount{Destination: "/late", Type: "nosuchfs"})
			}
			r, w := io.Pipe()
			if _, err := g.Create(t.Context(), name, s, Stdio{Stdout: w}); err == nil {
				t.Fatal("made")
			}
			read := make(chan error, 1)
			go func() { _, err := io.ReadAll(r); read <- err }()
			select {
			case <-read:
			case <-time.After(5 * time.Second):
				t.Errorf("%s: the stream is open", name)
			}
		}
	}},
	{"a created container waits for its start", func(t *testing.T, g *guest) {
		var out buffer
		c := g.create(t, sh("echo ran"), Stdio{Stdout: &out})
		if s := c.now(); s != stateCreated {
			t.Error(s)
		}
		time.Sleep(50 * time.Millisecond) // in which nothing may happen
		if out.String() != "" {
			t.Error("it ran already")
		}
		if _, err := g.Create(t.Context(), c.id, sh("x"), Stdio{}); !errors.Is(err, ErrExists) {
			t.Error(err)
		}
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		p, _ := c.Process(c.id)
		if got, _ := finish(t, p, &out); got != "ran\n" {
			t.Error(got)
		}
		if s := c.now(); s != stateStopped {
			t.Error(s)
		}
		if err := c.Start(t.Context()); !errors.Is(err, ErrState) {
			t.Error("a second start:", err)
		}
		if _, err := g.Container("nobody"); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
	}},
	{"a container killed before its start cannot be started", func(t *testing.T, g *guest) {
		c := g.create(t, sh("true"), Stdio{})
		p, _ := c.Process("")
		if err := p.Signal(unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if code, err := p.Wait(t.Context()); err != nil || code != 137 {
			t.Error(code, err)
		}
		if err := c.Start(t.Context()); err == nil {
			t.Error("it started")
		} else {
			t.Log(err)
		}
	}},
	{"programs that cannot run are named with the reason before they are started", func(t *testing.T, g *guest) {
		for program, want := range map[string]error{
			"nosuch": os.ErrNotExist, "/no/such": os.ErrNotExist, "/notexec": unix.EACCES, "/bin": unix.EISDIR,
			"bin/../notexec": unix.EACCES,
		} {
			_, err := g.Create(t.Context(), "no-program", spec(program), Stdio{})
			if !errors.Is(err, want) || !strings.Contains(err.Error(), program) {
				t.Errorf("%s: %v, want %v", program, err, want)
			}
			t.Log(err)
		}
		c := g.create(t, spec("/garbage"), Stdio{}) // which nobody but the kernel knows
		if err := c.Start(t.Context()); !errors.Is(err, unix.ENOEXEC) || !strings.Contains(err.Error(), "/garbage") {
			t.Error(err)
		}
	}},
	{"programs are looked for with the rights of their user", func(t *testing.T, g *guest) {
		root := copyRoot(t)
		if err := errors.Join(os.Mkdir(root+"/own", 0o700), os.Link(root+"/bin/busybox", root+"/own/true"),
			os.Chmod(root+"/own", 0o710),
			os.Chown(root+"/own", 0, 2000)); err != nil {
			t.Fatal(err)
		}
		s := spec("/own/true")
		s.Root.Path = root
		s.Process.User = specs.User{UID: 1000, GID: 1000}
		s.Process.Capabilities.Effective = nil
		if _, err := g.Create(t.Context(), "no-right", s, Stdio{}); !errors.Is(err, unix.EACCES) ||
			!strings.Contains(err.Error(), "/own/true") {
			t.Error("a folder of others:", err)
		}
		s.Process.User.AdditionalGids = []uint32{2000}
		g.expect(t, s, "")
		s.Process.User.AdditionalGids = nil
		s.Process.Capabilities.Effective = []string{"CAP_DAC_OVERRIDE"}
		g.expect(t, s, "")
		s.Process.Args = []string{"/bin/sh", "-c", "id -u; id -g; id -G; grep CapEff /proc/self/status"}
		s.Process.Capabilities = nil
		g.expect(t, s, "1000\n1000\n1000\nCapEff:\t0000000000000000")
	}},
	{"namespaces are the container's own", func(t *testing.T, g *guest) {
		got, _ := g.run(t, sh(
			"echo $$; hostname; for n in pid mnt uts ipc cgroup net; do readlink /proc/self/ns/$n; done; cat "+
				"/proc/self/cgroup"))
		lines := strings.Split(strings.TrimSpace(got), "\n")
		if len(lines) != 9 || lines[0] != "1" || lines[1] != "pod" || lines[8] != "0::/" {
			t.Fatalf("%q", lines)
		}
		for i, n := range []string{"pid", "mnt", "uts", "ipc", "cgroup"} {
			own, _ := os.Readlink("/proc/self/ns/" + n)
			if lines[2+i] == own {
				t.Errorf("namespace %s is the guest's", n)
			}
		}
		if own, _ := os.Readlink("/proc/self/ns/net"); lines[7] != own {
			t.Error("the network is not the guest's")
		}
	}},
	{"namespaces are joined by path", func(t *testing.T, g *guest) {
		first := g.start(t, spec("/bin/sleep", "100"), Stdio{})
		s := sh("readlink /proc/self/ns/ipc; readlink /proc/self/ns/uts; readlink /proc/self/ns/pid; readlink " +
			"/proc/self/ns/net")
		s.Linux.Namespaces = []specs.LinuxNamespace{{Type: "mount"}, {Type: "network"}}
		want := ""
		for _, n := range []string{"ipc", "uts", "pid"} {
			p := fmt.Sprintf("/proc/%d/ns/%s", first.init.pid, n)
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.LinuxNamespaceType(n),
				Path: p})
			l, _ := os.Readlink(p)
			want += l + "\n"
		}
		got, _ := g.run(t, s)
		own, _ := os.Readlink("/proc/self/ns/net")
		if !strings.HasPrefix(got, want) || strings.Contains(got, own) {
			t.Errorf("%q, want %q and another network than %s", got, want, own)
		}
	}},
	{"masked and read-only paths are", func(t *testing.T, g *guest) {
		g.expect(t, sh("ls /secret; wc -c < /proc/version; (echo 1 > /proc/sys/kernel/panic) 2>/dev/null || echo "+
			"refused"), "0\nrefused")
	}},
	{"a read-only root is, its mounts are not", func(t *testing.T, g *guest) {
		s := sh("(touch /x) 2>/dev/null || echo refused; touch /dev/shm/x && echo ok")
		s.Root.Readonly = true
		g.expect(t, s, "refused\nok")
		if _, err := os.Stat("/rootfs/x"); err == nil {
			t.Error("the file is there")
		}
	}},
	{"devices and links are there", func(t *testing.T, g *guest) {
		s := sh("cd /dev; for d in null zero full random urandom tty extra; do stat -c '%n %F %t:%T %a' $d; done; " +
			"for l in fd stdin ptmx; do readlink $l; done; head -c 3 zero | wc -c")
		mode := os.FileMode(0o640)
		s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/extra", Type: "c", Major: 1, Minor: 5, FileMode: &mode}}
		const f = " character special file "
		g.expect(t, s, "null"+f+"1:3 666\nzero"+f+"1:5 666\nfull"+f+"1:7 666\nrandom"+f+"1:8 666\nurandom"+f+
			"1:9 666\ntty"+f+"5:0 666\nextra"+f+"1:5 640\n/proc/self/fd\n/proc/self/fd/0\npts/ptmx\n3")
	}},
	{"a device that nobody allowed is refused", func(t *testing.T, g *guest) {
		s := sh("mknod /tmp/kmsg c 1 11; cat /tmp/kmsg 2>&1 | head -1; rm /tmp/kmsg")
		if got, _ := g.run(t, s); !strings.Contains(got, "Operation not permitted") {
			t.Error(got)
		}
		all := sh("mknod /tmp/kmsg c 1 11; head -c 1 /tmp/kmsg | wc -c; rm /tmp/kmsg")
		all.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}}
		all.Process.Capabilities.Bounding, all.Process.Capabilities.Permitted,
			all.Process.Capabilities.Effective = allCaps(), allCaps(), allCaps()
		if got, _ := g.run(t, all); strings.Contains(got, "not permitted") {
			t.Error("allowed, and refused:", got)
		}
	}},
	{"rights are those asked for", func(t *testing.T, g *guest) {
		s := sh("grep -E '^(Cap|NoNewPrivs|Groups|Uid|Gid)' /proc/self/status; umask; echo $HOME")
		mask := uint32(0o027)
		s.Process.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{7, 8}, Umask: &mask}
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN", "CAP_KILL"},
			Permitted: []string{"CAP_CHOWN", "CAP_KILL"}, Inheritable: []string{"CAP_KILL"},
			Effective: []string{"CAP_KILL"}, Ambient: []string{"CAP_KILL"}}
		got, _ := g.run(t, s)
		for _, want := range []string{"CapInh:\t0000000000000020", "CapPrm:\t0000000000000020",
			"CapEff:\t0000000000000020", "CapBnd:\t0000000000000021", "CapAmb:\t0000000000000020", "NoNewPrivs:\t1",
			"Uid:\t1000\t1000\t1000\t1000", "Gid:\t1000\t1000", "Groups:\t7 8 \n", "\n0027\n", "/home/user\n"} {
			if !strings.Contains(got, want) {
				t.Errorf("no %q in %s", want, got)
			}
		}
		s = sh("grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp:)' /proc/self/status")
		s.Process.NoNewPrivileges = false
		if got, _ := g.run(t, s); got != "CapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nNoNewPrivs:"+
			"\t0\nSeccomp:\t0\n" {
			t.Error(got)
		}
	}},
	{"a seccomp filter refuses with its number, with and without no_new_privs", func(t *testing.T, g *guest) {
		for _, nnp := range []bool{true, false} {
			errno := uint(unix.ENOTTY)
			s := sh("mkdir /tmp/d; grep Seccomp: /proc/self/status; grep CapEff /proc/self/status")
			s.Process.NoNewPrivileges = nnp
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow,
				Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86},
				Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat", "no_such_call"},
					Action: specs.ActErrno, ErrnoRet: &errno}}}
			if got, _ := g.run(t, s); !strings.Contains(got, "Inappropriate ioctl") &&
				!strings.Contains(got, "Not a tty") || !strings.Contains(got, "Seccomp:\t2") ||
				!strings.Contains(got, "00000000a80425fb") {
				t.Error(nnp, got)
			}
		}
	}},
	{"a filter that allows a handful of calls still starts the program", func(t *testing.T, g *guest) {
		s := spec("/bin/true")
		s.Process.NoNewPrivileges = false
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActErrno,
			Syscalls: []specs.LinuxSyscall{{Action: specs.ActAllow,
				Names: []string{"execve", "capset", "brk", "arch_prctl", "set_tid_address", "set_robust_list", "rseq",
					"prlimit64", "readlink", "readlinkat", "getrandom", "mprotect", "exit_group", "getuid", "prctl",
					"newfstatat", "mmap", "munmap"}}}}
		if got, code := g.run(t, s); code != 0 {
			t.Error(got, code)
		}
	}},
	{"limits of a process and the score for want of memory", func(t *testing.T, g *guest) {
		s := sh("ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj")
		score := 321
		s.Process.OOMScoreAdj = &score
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 123, Hard: 456}}
		g.expect(t, s, "123\n456\n321")
	}},
	{"sysctls of namespaces, and no others", func(t *testing.T, g *guest) {
		s := sh("cat /proc/sys/kernel/shmmni /proc/sys/fs/mqueue/msg_max")
		s.Linux.Sysctl = map[string]string{"kernel.shmmni": "1234", "fs.mqueue.msg_max": "77"}
		g.expect(t, s, "1234\n77")
		for _, n := range []string{"kernel.hostname", "vm.overcommit_memory", "kernel.panic", "kernel/panic",
			"net/../kernel/panic"} {
			s.Linux.Sysctl = map[string]string{n: "1"}
			if c, err := g.Create(t.Context(), "bad", s, Stdio{}); err == nil {
				c.Remove(t.Context())
				t.Errorf("%s was taken", n)
			}
		}
	}},
	{"mounts have the options asked for", func(t *testing.T, g *guest) {
		dir := t.TempDir()
		os.WriteFile(filepath.Join(dir, "f"), []byte("data"), 0o644)
		os.Mkdir(filepath.Join(dir, "sub"), 0o755)
		if err := unix.Mount("tmpfs", filepath.Join(dir, "sub"), "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		defer unix.Unmount(filepath.Join(dir, "sub"), unix.MNT_DETACH)
		s := sh("cat /m/f /deep/file; (touch /m/x) 2>/dev/null || echo ro; touch /m/sub/x && echo rw; (touch " +
			"/r/sub/y) 2>/dev/null || echo rro; grep -E ' /(m|m/sub|t) ' /proc/self/mounts")
		s.Mounts = append(s.Mounts,
			specs.Mount{Destination: "/m", Type: "bind", Source: dir, Options: []string{"rbind", "ro", "nosuid",
				"noexec"}},
			specs.Mount{Destination: "/r", Type: "bind", Source: dir, Options: []string{"rbind", "rro", "rslave"}},
			specs.Mount{Destination: "/deep/file", Type: "bind", Source: dir + "/f", Options: []string{"bind", "ro"}},
			specs.Mount{Destination: "/t", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=64k", "mode=0700",
				"nodev"}})
		got, code := g.run(t, s)
		for _, want := range []string{"datadata", "ro\nrw\nrro\n", "/m tmpfs ro,nosuid,noexec",
			"/t tmpfs rw,nodev,relatime,size=64k,mode=700"} {
			if strings.HasPrefix(want, "/m") && r(g) { // the folder is on the initramfs, whose type has another name
				want = "ro,nosuid,noexec"
			}
			if !strings.Contains(got, want) {
				t.Errorf("no %q in %q, %d", want, got, code)
			}
		}
	}},
	{"a mount does not leave the root through a link", func(t *testing.T, g *guest) {
		root := copyRoot(t)
		victim := t.TempDir()
		os.Symlink(victim, root+"/out")
		os.Symlink("../../../../../../.."+victim, root+"/up")
		os.MkdirAll(root+"/"+victim, 0o755)
		for _, d := range []string{"/out/x", "/up/y"} {
			s := sh("mount")
			s.Root.Path = root
			s.Mounts = append(s.Mounts, specs.Mount{Destination: d, Type: "tmpfs", Source: "tmpfs"})
			got, _ := g.run(t, s)
			if !strings.Contains(got, victim) {
				t.Errorf("%s: not mounted inside: %s", d, got)
			}
		}
		if e, _ := os.ReadDir(victim); len(e) > 0 {
			t.Error("the mount point was made outside:", e)
		}
		os.Symlink("/tmp", root+"/proc2")
		s := sh("true")
		s.Root.Path = root
		s.Mounts = []specs.Mount{{Destination: "/proc2", Type: "proc", Source: "proc"}}
		if _, err := g.Create(t.Context(), "link", s, Stdio{}); err == nil || !strings.Contains(err.Error(),
			"mount /proc2: a symbolic link") {
			t.Error("proc behind a link:", err)
		}
		s.Mounts = []specs.Mount{{Destination: "/x", Type: "nosuchfs", Source: "none"}}
		if _, err := g.Create(t.Context(), "link", s, Stdio{}); err == nil || !strings.Contains(err.Error(),
			"mount /x: this kernel has no nosuchfs") {
			t.Error("an unknown file system:", err)
		}
	}},
	{"a working folder is made, and never outside", func(t *testing.T, g *guest) {
		s := sh("pwd")
		s.Process.Cwd = "/tmp/new/folder"
		g.expect(t, s, "/tmp/new/folder")
		for fd := 3; fd < 12; fd++ {
			s.Process.Cwd = fmt.Sprintf("/proc/self/fd/%d", fd)
			if _, err := g.Create(t.Context(), "outside", s, Stdio{}); err == nil {
				t.Errorf("%s was entered", s.Process.Cwd)
			}
		}
		s = sh("pwd; touch x")
		s.Root.Path, s.Root.Readonly, s.Process.Cwd = copyRoot(t), true, "/made/before/it"
		// What it prints and what it complains of come by two ways.
		if got, _ := g.run(t, s); !strings.Contains(got, "/made/before/it\n") ||
			!strings.Contains(got, "Read-only file system") {
			t.Errorf("below a root file system that is read-only: %q", got)
		}
		s.Process.Cwd = "/etc/passwd/x"
		if _, err := g.Create(t.Context(), "no-folder", s, Stdio{}); !errors.Is(err, unix.ENOTDIR) ||
			!strings.Contains(err.Error(), "working folder /etc/passwd/x") {
			t.Error(err)
		}
		// Only the first process has its folder made.
		c := g.start(t, spec("/bin/sleep", "100"), Stdio{})
		_, err := c.Exec(t.Context(), "x", &specs.Process{Args: []string{"/bin/true"}, Cwd: "/nodir"}, Stdio{})
		if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "working folder /nodir") {
			t.Error(err)
		}
		if got, code := g.exec(t, c, "ls -d /nodir"); code == 0 {
			t.Errorf("it was left behind: %q", got)
		}
	}},
	{"a mount behind a link that leads nowhere yet is made inside", func(t *testing.T, g *guest) {
		s := sh("cat /etc/resolv.conf /run/deep/f; ls /run/t; ls -d /out*; grep -c ' /run/t ' /proc/self/mountinfo")
		s.Root.Path = copyRoot(t)
		source := filepath.Join(t.TempDir(), "f")
		if err := errors.Join(os.WriteFile(source, []byte("seen\n"), 0o644), os.Symlink("../run/systemd/stub.conf",
			s.Root.Path+"/etc/resolv.conf"),
			os.Symlink("/first", s.Root.Path+"/second"), os.Symlink("run/deep", s.Root.Path+"/first"),
			os.Symlink("../../../run/t", s.Root.Path+"/behind")); err != nil {
			t.Fatal(err)
		}
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/run", Type: "tmpfs"},
			specs.Mount{Destination: "/etc/resolv.conf", Type: "bind", Source: source, Options: []string{"rbind",
				"ro"}},
			specs.Mount{Destination: "/second", Type: "bind", Source: filepath.Dir(source), Options: []string{"rbind"}},
			specs.Mount{Destination: "/behind", Type: "tmpfs"})
		if got, _ := g.run(t, s); got != "seen\nseen\nls: /out*: No such file or directory\n1\n" {
			t.Errorf("%q", got)
		}
	}},
	{"a tmpfs has the mode of the folder below, and its files where asked", func(t *testing.T, g *guest) {
		s := sh("stat -c '%a %u:%g %n' /d /d/sub /d/sub/f /e /new; cat /d/sub/f; readlink /d/l; touch /d/x; touch /e/x")
		s.Root.Path = copyRoot(t)
		d := s.Root.Path + "/d"
		if err := errors.Join(os.MkdirAll(d+"/sub", 0o755), os.WriteFile(d+"/sub/f", []byte("text\n"), 0o640),
			os.Chown(d+"/sub/f", 1000, 2000), os.Symlink("x", d+"/l"),
			os.Chmod(d, 0o751), os.Mkdir(s.Root.Path+"/e", 0o705), os.Chmod(s.Root.Path+"/e", 0o705)); err != nil {
			t.Fatal(err)
		}
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/d", Type: "tmpfs", Options: []string{"tmpcopyup", "ro"}},
			specs.Mount{Destination: "/e", Type: "tmpfs", Source: "tmpfs"}, specs.Mount{Destination: "/new",
				Type: "tmpfs"})
		want := "751 0:0 /d\n755 0:0 /d/sub\n640 1000:2000 /d/sub/f\n705 0:0 /e\n1777 0:0 /new\ntext\nx\ntouch: " +
			"/d/x: Read-only file system\n"
		if got, _ := g.run(t, s); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}},
	{"only the standard streams are open", func(t *testing.T, g *guest) {
		g.expect(t, spec("/bin/ls", "/proc/self/fd"), "0\n1\n2\n3") // 3 is the folder itself
	}},
	{"the stage's program cannot be written to", func(t *testing.T, g *guest) {
		c := g.create(t, sh("true"), Stdio{})
		exe := fmt.Sprintf("/proc/%d/exe", c.init.pid)
		if f, err := os.OpenFile(exe, os.O_WRONLY, 0); err == nil {
			if _, err := f.Write([]byte("x")); err == nil {
				t.Error("it was written to")
			}
			f.Close()
		} else {
			t.Log(err)
		}
	}},
	{"/dev/stdout can be opened by any user", func(t *testing.T, g *guest) {
		s := sh("echo hello > /dev/stdout; echo there > /proc/self/fd/2")
		s.Process.User = specs.User{UID: 1000, GID: 1000}
		if got, code := g.run(t, s); !strings.Contains(got, "hello\n") || !strings.Contains(got, "there\n") ||
			code != 0 {
			t.Error(got, code)
		}
	}},
	{"streams are served by calls", func(t *testing.T, g *guest) {
		c := g.start(t, sh("cat; echo err >&2; exit 3"), Stdio{})
		p := c.init
		if n, err := p.WriteStdin(t.Context(), []byte("hello")); n != 5 || err != nil {
			t.Fatal(n, err)
		}
		if b, err := p.ReadStdout(t.Context(), 100); string(b) != "hello" || err != nil {
			t.Error(string(b), err)
		}
		short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if _, err := p.ReadStdout(short, 100); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		p.CloseStdin()
		if b, err := p.ReadStdout(t.Context(), 100); len(b) != 0 || err != nil {
			t.Error(string(b), err)
		}
		if b, err := p.ReadStderr(t.Context(), 100); string(b) != "err\n" || err != nil {
			t.Error(string(b), err)
		}
		if code, err := p.Wait(t.Context()); code != 3 || err != nil {
			t.Error(code, err)
		}
	}},
	{"standard input comes from the host and ends", func(t *testing.T, g *guest) {
		var out buffer
		c := g.start(t, sh("wc -c"), Stdio{Stdin: io.NopCloser(strings.NewReader(strings.Repeat("x", 300_000))),
			Stdout: &out})
		if got, _ := finish(t, c.init, &out); got != "300000\n" {
			t.Error(got)
		}
	}},
	{"much output arrives whole", func(t *testing.T, g *guest) {
		if got, _ := g.run(t, sh("head -c 5000000 /dev/zero")); len(got) != 5000000 {
			t.Error(len(got))
		}
	}},
	{"a grandchild that keeps the output open is not waited for", func(t *testing.T, g *guest) {
		s := sh("sleep 100 & echo done")
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces,
			func(n specs.LinuxNamespace) bool { return n.Type == "pid" })
		began := time.Now()
		if got, _ := g.run(t, s); got != "done\n" {
			t.Error(got)
		}
		if d := time.Since(began); d > 5*time.Second {
			t.Error(d)
		}
	}},
	{"a terminal is one", func(t *testing.T, g *guest) {
		s := sh("tty; stty size; ls -l /dev/console | head -c 1; echo; read x; stty size; echo got $x " +
			">/dev/tty; exit 4")
		s.Process.Terminal = true
		s.Process.ConsoleSize = &specs.Box{Height: 33, Width: 77}
		c := g.start(t, s, Stdio{})
		p := c.init
		if !p.io.tty {
			t.Error("no terminal")
		}
		var all strings.Builder
		until := func(text string) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			for !strings.Contains(all.String(), text) {
				b, err := p.ReadStdout(ctx, 100)
				if err != nil || len(b) == 0 {
					t.Fatalf("%q, %v", all.String(), err)
				}
				all.Write(b)
			}
		}
		until("/dev/pts/0\r\n33 77\r\nc\r\n")
		if err := p.Resize(11, 22); err != nil {
			t.Error(err)
		}
		p.WriteStdin(t.Context(), []byte("word\n"))
		until("11 22\r\ngot word\r\n")
		if code, _ := p.Wait(t.Context()); code != 4 {
			t.Error(code)
		}
		if b, err := p.ReadStdout(t.Context(), 10); len(b) > 0 || err != nil {
			t.Error(string(b), err)
		}
		plain := g.start(t, sh("sleep 100"), Stdio{})
		if err := plain.init.Resize(1, 1); !errors.Is(err, ErrNoTerminal) {
			t.Error(err)
		}
		tty, err := plain.Exec(t.Context(), "tty", &specs.Process{Args: []string{"/bin/tty"}, Cwd: "/",
			Terminal: true}, Stdio{})
		if err != nil {
			t.Fatal(err)
		}
		if b, err := tty.ReadStdout(t.Context(), 100); string(b) != "/dev/pts/0\r\n" {
			t.Errorf("%q, %v", b, err)
		}
	}},
	{"an exec is in the container, with its rights", func(t *testing.T, g *guest) {
		s := sh("sleep 100")
		errno := uint(unix.ENOTTY)
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow,
			Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActErrno, ErrnoRet: &errno}}}
		c := g.start(t, s, Stdio{})
		got, code := g.exec(t, c, "hostname; for n in pid mnt uts ipc cgroup; do readlink /proc/self/ns/$n; done; "+
			"readlink /proc/1/ns/mnt; cat /proc/self/cgroup; grep -E '^(CapEff|NoNewPrivs|Seccomp:)' "+
			"/proc/self/status; ls /secret; pwd; exit 5")
		want := "pod\n"
		for _, n := range []string{"pid", "mnt", "uts", "ipc", "cgroup", "mnt"} {
			l, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", c.init.pid, n))
			want += l + "\n"
		}
		want += "0::/\nCapEff:\t00000000a80425fb\nNoNewPrivs:\t1\nSeccomp:\t2\n/\n"
		if got != want || code != 5 {
			t.Errorf("%q, %d, want %q", got, code, want)
		}
		if _, err := c.Exec(t.Context(), "x", &specs.Process{Args: []string{"nosuch"}, Cwd: "/"},
			Stdio{}); !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		} else {
			t.Log(err)
		}
		if _, err := c.Process("x"); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
	}},
	{"signals reach processes, and an init that is deaf to SIGTERM is killed by Kata's rule",
		func(t *testing.T, g *guest) {
			deaf := g.start(t, spec("/bin/sleep", "100"), Stdio{})
			if err := deaf.init.Signal(unix.SIGTERM); err != nil {
				t.Error(err)
			}
			short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			if _, err := deaf.init.Wait(short); !errors.Is(err, context.DeadlineExceeded) {
				t.Error("SIGTERM ended process 1, which is deaf to it:", err)
			}
			cancel()
			deaf.init.SignalOrKill(unix.SIGTERM)
			if code, err := deaf.init.Wait(t.Context()); code != 137 || err != nil {
				t.Error(code, err)
			}
			var out buffer
			hears := g.start(t, sh("trap 'echo bye; exit 9' TERM; echo ready; while true; do sleep 0.1; done"),
				Stdio{Stdout: &out})
			out.says(t, "ready")
			hears.init.Signal(unix.SIGTERM)
			if got, code := finish(t, hears.init, &out); code != 9 || got != "ready\nbye\n" {
				t.Error(got, code)
			}
			all := g.start(t, sh("sleep 100 & sleep 101 & wait"), Stdio{})
			p, err := all.Exec(t.Context(), "s", &specs.Process{Args: []string{"/bin/sleep", "102"}, Cwd: "/"}, Stdio{})
			if err != nil {
				t.Fatal(err)
			}
			if pids, err := all.pids(); err != nil || len(pids) < 2 || !slices.Contains(pids, p.PID()) {
				t.Error(pids, err)
			}
			all.SignalAll(t.Context(), unix.SIGKILL)
			if code, _ := p.Wait(t.Context()); code != 137 {
				t.Error(code)
			}
			if code, _ := all.init.Wait(t.Context()); code != 137 {
				t.Error(code)
			}
		}},
	{"a paused container stands still", func(t *testing.T, g *guest) {
		var out buffer
		c := g.start(t, sh("while true; do echo x; sleep 0.01; done"), Stdio{Stdout: &out})
		if err := c.Pause(t.Context()); err != nil || c.now() != statePaused {
			t.Fatal(err, c.now())
		}
		before := len(out.String())
		for end := time.Now().Add(5 * time.Second); ; { // what it wrote before comes yet
			time.Sleep(200 * time.Millisecond) // in which nothing may happen: twenty times as long as it sleeps
			after := len(out.String())
			if after == before {
				break
			}
			if time.Now().After(end) {
				t.Fatal(before, after)
			}
			before = after
		}
		if _, err := c.Exec(t.Context(), "p", &specs.Process{Args: []string{"true"}, Cwd: "/"},
			Stdio{}); !errors.Is(err, ErrState) {
			t.Error(err)
		}
		if err := c.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(5 * time.Second); len(out.String()) == before; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("it does not go on")
			}
		}
		if err := c.Resume(t.Context()); !errors.Is(err, ErrState) {
			t.Error(err)
		}
		if err := c.Pause(t.Context()); err != nil {
			t.Fatal(err)
		} // and is removed while it is paused
	}},
	{"limits are set, updated and counted", func(t *testing.T, g *guest) {
		s := sh("while true; do sleep 1; done")
		n := func(v int64) *int64 { return &v }
		shares, period := uint64(1024), uint64(100000)
		s.Linux.CgroupsPath = "/kubepods/pod1/" + "limits"
		s.Linux.Resources = &specs.LinuxResources{
			CPU:     &specs.LinuxCPU{Shares: &shares, Quota: n(50000), Period: &period, Cpus: "0"},
			Memory:  &specs.LinuxMemory{Limit: n(64 << 20), Reservation: n(1 << 20)},
			Pids:    &specs.LinuxPids{Limit: n(50)},
			Unified: map[string]string{"memory.high": "60000000"},
		}
		c := g.start(t, s, Stdio{})
		if c.group.Path != "/sys/fs/cgroup/kubepods/pod1/limits" {
			t.Error(c.group.Path)
		}
		check := func(want map[string]string) {
			t.Helper()
			for f, w := range want {
				if b, err := os.ReadFile(filepath.Join(c.group.Path, f)); err != nil ||
					strings.TrimSpace(string(b)) != w {
					t.Errorf("%s: %q, %v, want %s", f, b, err, w)
				}
			}
		}
		check(map[string]string{"cpu.weight": "39", "cpu.max": "50000 100000", "cpuset.cpus": "0",
			"memory.max": "67108864", "memory.low": "1048576", "pids.max": "50", "memory.high": "59998208"})
		if err := c.Update(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: n(128 << 20)},
			Pids: &specs.LinuxPids{Limit: n(-1)}}); err != nil {
			t.Error(err)
		}
		check(map[string]string{"memory.max": "134217728", "pids.max": "max", "cpu.max": "50000 100000"})
		st, err := c.Stats()
		if err != nil || st.CPU.Usage == 0 || st.Memory.Usage == 0 || st.Memory.Limit != 128<<20 ||
			st.Pids.Current == 0 || st.Memory.Stat["anon"] == 0 {
			t.Errorf("%+v, %v", st, err)
		}
		if err := c.Update(&specs.LinuxResources{Unified: map[string]string{"nosuch.max": "1"}}); err == nil ||
			!strings.Contains(err.Error(), "controller nosuch") {
			t.Error(err)
		}
	}},
	{"a limit of processes holds", func(t *testing.T, g *guest) {
		s := sh("i=0; while [ $i -lt 40 ]; do sleep 5 & i=$((i+1)); done; echo all")
		limit := int64(20)
		s.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}
		if got, code := g.run(t, s); strings.Contains(got, "all") {
			t.Error(got, code)
		}
	}},
	{"want of memory is told", func(t *testing.T, g *guest) {
		s := sh("x=$(head -c 60000000 /dev/zero | tail -c 60000000 | wc -c); echo $x; tail -c 60000000 /dev/zero")
		limit := int64(24 << 20)
		s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
		c := g.start(t, s, Stdio{})
		select {
		case id := <-g.OOM():
			if id != c.id {
				t.Error(id)
			}
		case <-time.After(20 * time.Second):
			t.Error("nothing was told")
		}
	}},
	{"hooks run where and when they should", func(t *testing.T, g *guest) {
		log := filepath.Join(t.TempDir(), "log")
		hook := func(word string) []specs.Hook {
			return []specs.Hook{{Path: "/rootfs/bin/busybox", Args: []string{"sh", "-c",
				"echo " + word + " $(/rootfs/bin/busybox grep -o '\"status\":\"[a-z]*\"') >> " + log},
				Env: []string{"PATH=/rootfs/bin"}}}
		}
		s := sh("true")
		s.Hooks = &specs.Hooks{
			//lint:ignore SA1019 prestart hooks are deprecated, and in use
			Prestart: hook("prestart"), CreateRuntime: hook("createRuntime"),
			CreateContainer: hook("createContainer"), Poststart: hook("poststart"), Poststop: hook("poststop"),
			StartContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "cat > /tmp/state"},
				Env: []string{"PATH=/bin"}}},
		}
		c, err := g.Create(t.Context(), "hooks", s, Stdio{})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(t.Context()); err != nil {
			t.Error(err)
		}
		c.init.Wait(t.Context())
		if err := c.Remove(t.Context()); err != nil {
			t.Error(err)
		}
		b, _ := os.ReadFile(log)
		if want := "prestart \"status\":\"creating\"\ncreateRuntime \"status\":\"creating\"\ncreateContainer " +
			"\"status\":\"creating\"\npoststart \"status\":\"running\"\npoststop \"status\":\"stopped\"\n"; string(
			b) != want {
			t.Errorf("%s, want %s", b, want)
		}
		if b, err := os.ReadFile("/rootfs/tmp/state"); err != nil || !strings.Contains(string(b),
			`"status":"created"`) {
			t.Error(string(b), err)
		}
		one := 1
		for _, bad := range []specs.Hooks{
			{Prestart: []specs.Hook{{Path: "/rootfs/bin/busybox", Args: []string{"sh", "-c", "echo no luck; exit 3"}}}},
			{CreateContainer: []specs.Hook{{Path: "/rootfs/bin/busybox", Args: []string{"sh", "-c",
				"echo no luck; exit 3"}}}},
			{CreateRuntime: []specs.Hook{{Path: "/rootfs/bin/busybox", Args: []string{"sleep", "100"}, Timeout: &one}}},
			{CreateContainer: []specs.Hook{{Path: "/rootfs/bin/busybox", Args: []string{"sleep", "100"},
				Timeout: &one}}},
		} {
			s.Hooks = &bad
			if _, err := g.Create(t.Context(), "hooks", s, Stdio{}); err == nil || !strings.Contains(err.Error(),
				"no luck") && !strings.Contains(err.Error(), "not done after 1s") {
				t.Error(err)
			} else {
				t.Log(err)
			}
		}
	}},
	{"a user namespace maps its root", func(t *testing.T, g *guest) {
		s := sh("cat /proc/self/uid_map; id -u; echo > /dev/null && echo null; (mknod /tmp/z c 1 5) 2>/dev/null || " +
			"echo refused")
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "user"},
			specs.LinuxNamespace{Type: "network"})
		s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
		s.Linux.GIDMappings = s.Linux.UIDMappings
		got, code := g.run(t, s)
		if f := strings.Fields(got); code != 0 || len(f) < 6 || f[1] != "100000" || f[3] != "0" || f[4] != "null" ||
			f[5] != "refused" {
			t.Error(got, code)
		}
	}},
	{"an exec joins a user namespace, also one whose network is another's", func(t *testing.T, g *guest) {
		for name, network := range map[string]specs.LinuxNamespace{"own": {Type: "network"},
			"shared": {Type: "network", Path: "/proc/1/ns/net"}} {
			// The program is one that nobody in the namespace can read, as are some that drop rights.
			s := spec("/tmp/busybox", "sleep", "1000")
			b, err := os.ReadFile("/rootfs/bin/busybox")
			if err != nil || os.WriteFile("/rootfs/tmp/busybox", b, 0o711) != nil {
				t.Fatal(err)
			}
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "user"}, network)
			s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
			s.Linux.GIDMappings = s.Linux.UIDMappings
			if network.Path != "" { // sysfs shows a network, and only its owner mounts it
				s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool {
					return m.Type == "sysfs" ||
						m.Type == "cgroup"
				})
			}
			errno := uint(unix.ENOTTY)
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow,
				Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActErrno, ErrnoRet: &errno}}}
			c := g.create(t, s, Stdio{})
			if got, code := g.exec(t, c, "id -u"); got != "0\n" || code != 0 {
				t.Errorf("%s: before the start: %q, %d", name, got, code)
			}
			if err := c.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			got, code := g.exec(
				t, c, "hostname; id -u; for n in user pid mnt uts ipc cgroup net; do readlink /proc/self/ns/$n; "+
					"done; cat /proc/self/cgroup; grep -E '^(CapEff|NoNewPrivs|Seccomp:)' /proc/self/status; pwd; "+
					"ls /proc/self/fd | wc -l; head -c 100 /proc/self/uid_map | grep -c 100000; exit 5")
			want := "pod\n0\n"
			for _, n := range []string{"user", "pid", "mnt", "uts", "ipc", "cgroup", "net"} {
				l, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", c.init.pid, n))
				want += l + "\n"
			}
			want += "0::/\nCapEff:\t00000000a80425fb\nNoNewPrivs:\t1\nSeccomp:\t2\n/\n4\n1\n"
			if got != want || code != 5 {
				t.Errorf("%s: %q, %d, want %q", name, got, code, want)
			}
			user, err := c.Exec(t.Context(), "user", &specs.Process{Args: []string{"/bin/sleep", "100"}, Cwd: "/",
				User: specs.User{UID: 1000, GID: 1000}}, Stdio{})
			if err != nil {
				t.Fatal(err)
			}
			if pids, err := c.pids(); err != nil || !slices.Contains(pids, user.PID()) {
				t.Error(pids, err)
			}
			if st, err := os.Stat(fmt.Sprintf("/proc/%d", user.PID())); err != nil ||
				st.Sys().(*syscall.Stat_t).Uid != 101000 {
				t.Error(st, err)
			}
			user.Signal(unix.SIGTERM)
			if code, err := user.Wait(t.Context()); code != 143 || err != nil {
				t.Error(code, err)
			}
			tty, err := c.Exec(t.Context(), "tty", &specs.Process{Args: []string{"/bin/tty"}, Cwd: "/",
				Terminal: true}, Stdio{})
			if err != nil {
				t.Fatal(err)
			}
			if b, err := tty.ReadStdout(t.Context(), 100); string(b) != "/dev/pts/0\r\n" {
				t.Errorf("%q, %v", b, err)
			}
			if _, err := c.Exec(t.Context(), "x", &specs.Process{Args: []string{"nosuch"}, Cwd: "/"},
				Stdio{}); !errors.Is(err, os.ErrNotExist) {
				t.Error(err)
			}
			<-user.Drained()
			<-tty.Drained()
			before := openFiles(t)
			began := time.Now()
			for range 20 {
				g.exec(t, c, "true")
			}
			t.Logf("%s: an exec takes %v", name, (time.Since(began) / 20).Round(time.Microsecond))
			fewFiles(t, before+2)
			last, err := c.Exec(t.Context(), "last", &specs.Process{Args: []string{"/bin/sleep", "100"}, Cwd: "/"},
				Stdio{})
			if err != nil {
				t.Fatal(err)
			}
			c.init.Signal(unix.SIGKILL)
			if code, err := last.Wait(t.Context()); code != 137 || err != nil {
				t.Error("it outlives its container:", code, err)
			}
			if _, err := c.Exec(t.Context(), "late", &specs.Process{Args: []string{"/bin/true"}, Cwd: "/"},
				Stdio{}); err == nil {
				t.Error("an exec in a container that has ended")
			}
		}
	}},
	{"a user namespace is joined by path, as the containers of a pod do", func(t *testing.T, g *guest) {
		s := spec("/bin/sleep", "1000")
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "user"},
			specs.LinuxNamespace{Type: "network"})
		s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
		s.Linux.GIDMappings = s.Linux.UIDMappings
		pod := g.start(t, s, Stdio{})
		path := func(n string) string { return fmt.Sprintf("/proc/%d/ns/%s", pod.init.pid, n) }
		for name, own := range map[string][]specs.LinuxNamespace{
			"processes of its own": {{Type: "pid"}},
			"the pod's processes":  {{Type: "pid", Path: path("pid")}},
		} {
			s := sh("echo $$; cat /proc/self/uid_map; id -u; hostname; for n in user net ipc uts; do readlink " +
				"/proc/self/ns/$n; done; cat /proc/self/cgroup; head -c 1 /dev/zero | wc -c; (mknod /tmp/z c 1 5) " +
				"2>/dev/null || echo refused; cat /proc/self/oom_score_adj; sleep 1000")
			s.Hostname = ""
			s.Linux.Namespaces = append(own, specs.LinuxNamespace{Type: "mount"}, specs.LinuxNamespace{Type: "cgroup"})
			for n, kind := range map[string]specs.LinuxNamespaceType{"user": "user", "net": "network", "ipc": "ipc",
				"uts": "uts"} {
				s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path(n)})
			}
			score := 77
			s.Process.OOMScoreAdj = &score
			var out buffer
			c := g.start(t, s, Stdio{Stdout: &out, Stderr: &out})
			out.says(t, "77\n")
			f := strings.Fields(out.String())
			want := []string{"0", "100000", "65536", "0", "pod"}
			for _, n := range []string{"user", "net", "ipc", "uts"} {
				l, _ := os.Readlink(path(n))
				want = append(want, l)
			}
			want = append(want, "0::/", "1", "refused", "77")
			if len(f) < 1 || !slices.Equal(f[1:], want) || (f[0] == "1") != (own[0].Path == "") {
				t.Errorf("%s: %q, want %q", name, f, want)
			}
			if got, code := g.exec(t, c, "id -u; readlink /proc/self/ns/user; exit 3"); got != "0\n"+want[5]+"\n" ||
				code != 3 {
				t.Errorf("%s: an exec: %q, %d", name, got, code)
			}
			if pids, err := c.pids(); err != nil || !slices.Contains(pids, c.init.pid) {
				t.Error(name, pids, err)
			}
			if st, err := os.Stat(fmt.Sprintf("/proc/%d", c.init.pid)); err != nil ||
				st.Sys().(*syscall.Stat_t).Uid != 100000 {
				t.Error(name, st, err)
			}
			c.init.Signal(unix.SIGKILL)
			if code, err := c.init.Wait(t.Context()); code != 137 || err != nil {
				t.Error(name, code, err)
			}
		}
		bad := sh("true")
		bad.Linux.Namespaces = append(bad.Linux.Namespaces, specs.LinuxNamespace{Type: "user",
			Path: "/proc/1/ns/nosuch"})
		if _, err := g.Create(t.Context(), "bad", bad, Stdio{}); !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
		bad.Linux.Namespaces[len(bad.Linux.Namespaces)-1].Path = path("net")
		if _, err := g.Create(t.Context(), "bad", bad, Stdio{}); !errors.Is(err, unix.EINVAL) ||
			!strings.Contains(err.Error(), "join the user namespace") {
			t.Error(err)
		} else {
			t.Log(err)
		}
	}},
	{"a mount has other owners", func(t *testing.T, g *guest) {
		some := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
		for _, name := range []string{"tmpfs", "ext4"} {
			dir := "/volume-" + name // the user of a namespace has to get there
			err := os.Mkdir(dir, 0o755)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.Remove(dir) })
			switch name {
			case "tmpfs":
				err = unix.Mount("tmpfs", dir, "tmpfs", 0, "")
			default:
				err = mountImage(t, "/"+name+".img", dir, name)
			}
			if err != nil {
				t.Fatal(name, err)
			}
			t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
			below := filepath.Join(dir, "below")
			if err := errors.Join(os.WriteFile(dir+"/root", nil, 0o600), os.WriteFile(dir+"/user", nil, 0o600),
				os.Chown(dir+"/user", 7, 8), os.Mkdir(below, 0o755),
				unix.Mount("tmpfs", below, "tmpfs", 0, ""), os.WriteFile(below+"/root", nil, 0o600),
				os.Chmod(dir, 0o777), os.Chown(below, 0, 0)); err != nil {
				t.Fatal(name, err)
			}
			t.Cleanup(func() { unix.Unmount(below, unix.MNT_DETACH) })
			script := "cd /vol; stat -c '%u:%g' root user below/root; touch made && stat -c '%u:%g' made; rm made"
			plain := sh(script)
			plain.Mounts = append(plain.Mounts, specs.Mount{Destination: "/vol", Type: "bind", Source: dir,
				Options: []string{"rbind", "nosuid"}})
			g.expect(t, plain, "0:0\n7:8\n0:0\n0:0")
			// The container sees its mount's owners as the guest does: it is in no user namespace.
			mapped := sh("cd /vol; stat -c '%u:%g' root user below/root")
			mapped.Mounts = append(mapped.Mounts, specs.Mount{Destination: "/vol", Type: "bind", Source: dir,
				Options: []string{"rbind"}, UIDMappings: some, GIDMappings: some})
			g.expect(t, mapped, "100000:100000\n100007:100008\n0:0")
			mapped.Mounts[len(mapped.Mounts)-1].Options = []string{"rbind", "ridmap"}
			g.expect(t, mapped, "100000:100000\n100007:100008\n100000:100000")
			// In a user namespace, and with its mappings, all is as if there were none, and what it makes belongs to
			// root on the disk.
			user := sh(script + "; touch kept")
			user.Mounts = append(user.Mounts, specs.Mount{Destination: "/vol", Type: "bind", Source: dir,
				Options: []string{"rbind", "ridmap"}})
			user.Linux.Namespaces = append(user.Linux.Namespaces, specs.LinuxNamespace{Type: "user"},
				specs.LinuxNamespace{Type: "network"})
			user.Linux.UIDMappings, user.Linux.GIDMappings = some, some
			g.expect(t, user, "0:0\n7:8\n0:0\n0:0")
			var st unix.Stat_t
			if err := unix.Stat(dir+"/kept", &st); err != nil || st.Uid != 0 || st.Gid != 0 {
				t.Errorf("%s: %+v, %v", name, st, err)
			}
			without := sh("cd /vol; stat -c '%u:%g' root")
			without.Linux.Namespaces, without.Linux.UIDMappings, without.Linux.GIDMappings = user.Linux.Namespaces,
				some, some
			without.Mounts = append(without.Mounts, specs.Mount{Destination: "/vol", Type: "bind", Source: dir,
				Options: []string{"rbind"}})
			g.expect(t, without, "65534:65534")
			// A namespace by path says which, too.
			pod := user
			pod.Process.Args = []string{"/bin/sleep", "1000"}
			keeper := g.start(t, pod, Stdio{})
			path := func(n string) string { return fmt.Sprintf("/proc/%d/ns/%s", keeper.init.pid, n) }
			joined := sh(script)
			joined.Linux.Namespaces = append(joined.Linux.Namespaces, specs.LinuxNamespace{Type: "user",
				Path: path("user")}, specs.LinuxNamespace{Type: "network", Path: path("net")})
			joined.Mounts = append(joined.Mounts, specs.Mount{Destination: "/vol", Type: "bind", Source: dir,
				Options: []string{"rbind", "idmap"}})
			g.expect(t, joined, "0:0\n7:8\n65534:65534\n0:0")
		}
		bad := sh("true")
		bad.Mounts = append(bad.Mounts, specs.Mount{Destination: "/vol", Type: "bind", Source: "/proc/sys",
			Options: []string{"bind"}, UIDMappings: some, GIDMappings: some})
		before := openFiles(t)
		_, err := g.Create(t.Context(), "bad", bad, Stdio{})
		if !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(),
			"mount /vol: other owners: the file system proc of /proc/sys") {
			t.Error(err)
		}
		t.Log(err)
		if after := openFiles(t); after > before+2 {
			t.Errorf("%d files before, %d after", before, after)
		}
	}},
	{"an exec has the clocks of the container", func(t *testing.T, g *guest) {
		s := spec("/bin/sleep", "100")
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "time"})
		s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1000000}}
		c := g.start(t, s, Stdio{})
		got, _ := g.exec(t, c, "cat /proc/uptime; readlink /proc/self/ns/time")
		l, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/time", c.init.pid))
		if !strings.HasPrefix(got, "1000") || !strings.Contains(got, l) {
			t.Errorf("%q, want an uptime above 1000000 and %s", got, l)
		}
	}},
	{"two hundred execs leave nothing", func(t *testing.T, g *guest) {
		c := g.start(t, spec("/bin/sleep", "1000"), Stdio{})
		g.exec(t, c, "true")
		before := openFiles(t)
		began := time.Now()
		for i := range 200 {
			p, err := c.Exec(t.Context(), strconv.Itoa(i), &specs.Process{Args: []string{"/bin/true"}, Cwd: "/"},
				Stdio{})
			if err != nil {
				t.Fatal(err)
			}
			if code, err := p.Wait(t.Context()); code != 0 || err != nil {
				t.Fatal(code, err)
			}
			<-p.Drained()
			p.Forget()
		}
		t.Logf("an exec takes %v", (time.Since(began) / 200).Round(time.Microsecond))
		fewFiles(t, before+2)
		if pids, err := c.pids(); err != nil || len(pids) != 1 {
			t.Error(pids, err)
		}
	}},
	{"a stage that was started ahead is used, and gone with the last container", func(t *testing.T, g *guest) {
		r, err := New(Config{Reaper: g.reaper, Root: "/run/others"})
		if err != nil {
			t.Fatal(err)
		}
		r.stages.Self = g.stages.Self
		defer os.Remove("/run/others")
		own := &guest{Runner: r}
		before, files := len(children(t)), openFiles(t)
		waiting := func() bool {
			r.ahead.mu.Lock()
			defer r.ahead.mu.Unlock()
			return r.ahead.ready != nil || r.ahead.timer != nil
		}
		time.Sleep(2 * aheadDelay) // in which nothing may happen
		if waiting() {
			t.Error("something is started ahead, and there is no container")
		}
		make := func(id string) *Container {
			t.Helper()
			c, err := r.Create(
				t.Context(), id, sh(
					"cat /proc/self/oom_score_adj; cat /proc/self/cgroup; ls /proc | grep -c '^[0-9]'; exec "+
						"sleep 1000"), Stdio{})
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		remove := func(c *Container) {
			t.Helper()
			if err := c.Remove(t.Context()); err != nil {
				t.Error(err)
			}
		}
		first := make("ahead-1")
		pid := own.await(t)
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid)); err != nil ||
			strings.TrimSpace(string(b)) != "0::/"+leaf {
			t.Errorf("%q, %v", b, err)
		}
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		for line := range strings.Lines(string(b)) {
			if strings.HasPrefix(line, "VmRSS") || strings.HasPrefix(line, "RssAnon") {
				t.Log(strings.TrimSpace(line))
			}
		}
		second := make("ahead-2")
		if second.init.pid != pid {
			t.Errorf("the process is %d, and %d was started ahead", second.init.pid, pid)
		}
		if pids, err := second.pids(); err != nil || !slices.Equal(pids, []int{pid}) {
			t.Error(pids, err)
		}
		if err := second.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		var got string
		for strings.Count(got, "\n") < 3 {
			b, err := second.init.ReadStdout(t.Context(), 100)
			if err != nil || len(b) == 0 {
				t.Fatalf("%q, %v", got, err)
			}
			got += string(b)
		}
		// At most the shell, twice as it forks, and the two programs: nothing that waits is seen.
		if rest, ok := strings.CutPrefix(got, "0\n0::/\n"); !ok || !slices.Contains([]string{"2\n", "3\n", "4\n"},
			rest) {
			t.Errorf("%q", got)
		}
		// One that ends is of no consequence, whenever it does.
		pid = own.await(t)
		unix.Kill(pid, unix.SIGKILL)
		remove(make("ahead-3")) // perhaps before it was noticed
		pid = own.await(t)
		unix.Kill(pid, unix.SIGKILL)
		r.ahead.mu.Lock()
		<-r.ahead.ready.Child.Done()
		r.ahead.mu.Unlock()
		third := make("ahead-4")
		remove(third)
		if third.init.pid == pid {
			t.Error("it was used")
		}
		pid = own.await(t)
		unix.Kill(pid, unix.SIGSTOP)
		go func() {
			testenv.Blocked(t, "launch.(*Control).peek") // it has its plan, and has not read it
			unix.Kill(pid, unix.SIGKILL)
		}()
		fourth := make("ahead-5")
		if fourth.init.pid == pid {
			t.Error("it was used")
		}
		if pids, err := fourth.pids(); err != nil || !slices.Equal(pids, []int{fourth.init.pid}) {
			t.Error(pids, err)
		}
		if err := fourth.Start(t.Context()); err != nil {
			t.Error(err)
		}
		remove(fourth)
		// Without the agent there is no stage.
		own.await(t)
		r.ahead.mu.Lock()
		s := r.ahead.ready
		r.ahead.mu.Unlock()
		s.Control.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if e, err := s.Child.Wait(ctx); err != nil || e.Code != 0 {
			t.Error("it outlives its agent:", e, err)
		}
		// A deadline holds for a stage that does not answer, too, and nothing is left then.
		pid = own.await(t)
		unix.Kill(pid, unix.SIGSTOP)
		short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if _, err := r.Create(short, "ahead-6", sh("true"), Stdio{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if _, err := os.Stat("/sys/fs/cgroup/kata/ahead-6"); !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
		own.await(t)
		remove(second)
		if !waiting() {
			t.Error("there is a container, and nothing is started ahead")
		}
		remove(first)
		time.Sleep(2 * aheadDelay) // in which nothing may happen
		if waiting() {
			t.Error("something is started ahead, and there is no container any more")
		}
		for end := time.Now().Add(10 * time.Second); len(children(t)) > before && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond)
		}
		if n := len(children(t)); n > before {
			t.Errorf("%d processes before, %d after", before, n)
		}
		r.Close()
		remove(make("ahead-7"))
		if waiting() {
			t.Error("something is started ahead after the end")
		}
		fewFiles(t, files) // less the inotify
	}},
	{"an exec while its container is removed ends, and nothing is left", func(t *testing.T, g *guest) {
		before, kids := openFiles(t), len(children(t))
		said := map[string]int{}
		for i := range 6 {
			id := fmt.Sprintf("going%d", i)
			c, err := g.Create(t.Context(), id, spec("/bin/sleep", "1000"), Stdio{})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			var mu sync.Mutex
			var wg sync.WaitGroup
			for j := range 3 {
				wg.Go(func() {
					for k := 0; ; k++ {
						p, err := c.Exec(ctx, fmt.Sprintf("%d-%d", j, k), &specs.Process{Args: []string{"/bin/true"},
							Cwd: "/"}, Stdio{})
						if err != nil {
							mu.Lock()
							_, why, _ := strings.Cut(err.Error(), id)
							said[why]++
							mu.Unlock()
							if ctx.Err() != nil || !strings.Contains(err.Error(), id) || !errors.Is(err, ErrState) {
								t.Error(err)
							}
							return
						}
						if _, err := p.Wait(ctx); err != nil {
							t.Error(err)
							return
						}
						p.Forget()
					}
				})
			}
			time.Sleep(time.Duration(i) * 50 * time.Millisecond) // each at another moment
			if err := c.Remove(ctx); err != nil {
				t.Error(err)
			}
			wg.Wait()
			cancel()
			if _, err := os.Stat(c.group.Path); !errors.Is(err, os.ErrNotExist) {
				t.Error("the control group:", err)
			}
			if _, err := os.Stat(c.dir); !errors.Is(err, os.ErrNotExist) {
				t.Error("the folder:", err)
			}
		}
		t.Log(said)
		g.Runner.ahead.drop(false)
		fewFiles(t, before+2)
		for end := time.Now().Add(10 * time.Second); len(children(t)) > kids && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond)
		}
		if after := len(children(t)); after > kids {
			t.Errorf("%d processes before, %d after", kids, after)
		}
	}},
	{"output that nobody reads keeps nothing", func(t *testing.T, g *guest) {
		g.run(t, sh("true")) // to the end of its streams
		before, routines := openFiles(t), runtime.NumGoroutine()
		deaf, listener := io.Pipe() // a connection whose other end is there, and reads nothing
		for name, stdio := range map[string]Stdio{"by calls": {}, "by a connection": {Stdout: listener,
			Stderr: &buffer{}}} {
			c, err := g.Create(t.Context(), "unread", sh("echo out; echo err >&2; exit 3"), stdio)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			if code, err := c.init.Wait(ctx); code != 3 || err != nil {
				t.Error(name, code, err)
			}
			ended := time.Now()
			if name == "by calls" {
				select {
				case <-c.init.Drained():
				case <-time.After(drainTime + 5*time.Second):
					t.Error(name, "it is waited for")
				}
				time.Sleep(drainTime) // in which nothing may happen: it is still there for a late reader
				if b, err := c.init.ReadStdout(ctx, 100); string(b) != "out\n" || err != nil {
					t.Errorf("%s: %q, %v", name, b, err)
				}
			}
			if err := c.Remove(ctx); err != nil {
				t.Error(name, err)
			}
			select {
			case <-c.init.Drained():
				t.Logf("%s: drained after %v", name, time.Since(ended).Round(time.Millisecond))
			case <-ctx.Done():
				t.Error(name, "it is still waited for")
			}
			cancel()
		}
		deaf.Close()
		// One that is in the middle of it is ended, too.
		c, err := g.Create(t.Context(), "unread", sh("head -c 5000000 /dev/zero"), Stdio{})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond) // in which nothing may happen
		if c.now() != stateRunning {
			t.Error("it did not wait for a reader:", c.now())
		}
		if err := c.Remove(t.Context()); err != nil {
			t.Error(err)
		}
		g.Runner.ahead.drop(false)
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end) && (openFiles(t) > before ||
			runtime.NumGoroutine() > routines); {
			time.Sleep(20 * time.Millisecond)
		}
		if after := openFiles(t); after > before {
			t.Errorf("%d files before, %d after", before, after)
		}
		if after := runtime.NumGoroutine(); after > routines {
			t.Errorf("%d goroutines before, %d after", routines, after)
		}
	}},
	{"a container costs a few times a process, and less with a stage that was started ahead",
		func(t *testing.T, g *guest) {
			const n = 21
			g.start(t, spec("/bin/sleep", "1000"), Stdio{}) // while there is none, nothing is started ahead
			before := openFiles(t)
			var bare []time.Duration
			var without, with [5][]time.Duration // create, start, wait, remove, all
			measure := func(times *[5][]time.Duration) {
				t0 := time.Now()
				c, err := g.Create(t.Context(), "fast", spec("/bin/true"), Stdio{})
				if err != nil {
					t.Fatal(err)
				}
				t1 := time.Now()
				if err := c.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
				t2 := time.Now()
				c.init.Wait(t.Context())
				t3 := time.Now()
				if err := c.Remove(t.Context()); err != nil {
					t.Fatal(err)
				}
				t4 := time.Now()
				for i, d := range []time.Duration{t1.Sub(t0), t2.Sub(t1), t3.Sub(t2), t4.Sub(t3), t4.Sub(t0)} {
					times[i] = append(times[i], d)
				}
			}
			for range n { // by turns, so that whatever else the machine does concerns all alike
				g.await(t)
				measure(&with)
				g.Runner.ahead.drop(false)
				began := time.Now()
				ch, err := g.reaper.Start(&exec.Cmd{Path: "/rootfs/bin/busybox", Args: []string{"true"}})
				if err != nil {
					t.Fatal(err)
				}
				ch.Wait(t.Context())
				bare = append(bare, time.Since(began))
				measure(&without)
			}
			unit := median(bare)
			for name, times := range map[string]*[5][]time.Duration{"without": &without, "with": &with} {
				r := func(i int) time.Duration { return median(times[i]).Round(10 * time.Microsecond) }
				t.Logf("bare %v; %s: create %v, start %v, wait %v, remove %v, all %v: %.1f times; at best %.1f",
					unit.Round(10*time.Microsecond),
					name, r(0), r(1), r(2), r(3), r(4), float64(median(times[4]))/float64(unit),
					float64(slices.Min(times[4]))/float64(slices.Min(bare)))
			}
			if median(with[0]) >= median(without[0]) {
				t.Errorf("to create takes %v with a stage that was started ahead, %v without", median(with[0]),
					median(without[0]))
			}
			fewFiles(t, before+2)
		}},
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

// mountImage mounts a file with a file system.
func mountImage(t *testing.T, image, dir, kind string) error {
	t.Helper()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer control.Close()
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return err
	}
	device := fmt.Sprintf("/dev/loop%d", n)
	loop, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer loop.Close() // a second time
	file, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_SET_FD, int(file.Fd())); err != nil {
		return err
	}
	loop.Close() // what can be written to is not mounted
	t.Cleanup(func() {
		if f, err := os.Open(device); err == nil {
			unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0)
			f.Close()
		}
	})
	return unix.Mount(device, dir, kind, 0, "")
}

// await waits until a stage was started ahead and has nothing to do any more.
func (g *guest) await(t *testing.T) int {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		g.Runner.ahead.mu.Lock()
		s, asked := g.Runner.ahead.ready, g.Runner.ahead.timer != nil
		g.Runner.ahead.mu.Unlock()
		if s == nil || s.Child.Ended() {
			if !asked {
				g.startNext()
			}
			continue
		}
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", s.Child.Pid)); err == nil &&
			strings.HasPrefix(string(b), fmt.Sprint(unix.SYS_RECVMSG)+" ") {
			return s.Child.Pid
		}
	}
	t.Fatal("no stage is started ahead")
	return 0
}

// r says whether the guest's root is its initramfs.
func r(g *guest) bool { return g.cfg.NoPivot }

func allCaps() []string { return blueprint.CapabilityNames(1<<(unix.CAP_LAST_CAP+1) - 1) }

// copyRoot is a root file system of the test's own.
func copyRoot(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "root")
	if err := os.CopyFS(dir, os.DirFS("/rootfs")); err != nil {
		t.Fatal(err)
	}
	return dir
}
