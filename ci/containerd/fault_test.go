package containerd

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/katabuild/katabuild/ci/containerd/image"
	"github.com/katabuild/katabuild/ci/containerd/nest"
	"github.com/katabuild/katabuild/internal/testenv"
)

const (
	// cyclesVariable is how many life cycles are broken for each victim: 3 by default.
	cyclesVariable = "KATABUILD_TEST_CYCLES"
	// seedVariable repeats a run that printed its seed.
	seedVariable = "KATABUILD_TEST_SEED"
	// victimsVariable keeps to some victims, separated by commas.
	victimsVariable = "KATABUILD_TEST_VICTIMS"

	faultTime = 20 * time.Second // for a client to hear of a fault
	nameTime  = 10 * time.Second // for an error that names its cause
	killTime  = 30 * time.Second // for a process to end that was killed
)

// number reads a variable that is a number.
func number(t *testing.T, variable string, otherwise int) int {
	t.Helper()
	v := os.Getenv(variable)
	if v == "" {
		return otherwise
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

// onGuests is onEach for tests of what is around a virtual machine, with a client whose image is there.
func onGuests(t *testing.T, test func(t *testing.T, c *client)) {
	onEach(t, func(t *testing.T, s *setting) {
		if !s.guest() {
			t.Log("nothing to test: containers run on the host")
			return
		}
		c := &client{setting: s, TasksClient: tasks.NewTasksClient(s.Conn),
			namespace: nest.Name() + "-ctr-" + s.Release.Name}
		archive := filepath.Join(s.dir, "tools.tar")
		if err := s.images.Save(image.Tools, archive); err != nil {
			t.Fatal(err)
		}
		if out, err := s.Ctr(c.namespace, "images", "import", archive).CombinedOutput(); err != nil {
			t.Fatalf("ctr images import: %v: %s", err, out)
		}
		test(t, c)
	})
}

// processes are the pids whose command line has every one of words, and whose program's name begins with program.
func processes(program string, words ...string) []int {
	var out []int
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		name, _, _ := strings.Cut(string(b), "\x00")
		if !strings.HasPrefix(filepath.Base(name), program) || slices.ContainsFunc(words,
			func(w string) bool { return !strings.Contains(string(b), w) }) {
			continue
		}
		if n, err := strconv.Atoi(filepath.Base(filepath.Dir(f))); err == nil {
			out = append(out, n)
		}
	}
	return out
}

// victims are what is killed: the processes of the pod of a container.
var victims = []struct {
	name string
	find func(id string) []int // nil is containerd itself
}{
	{"QEMU", func(id string) []int { return processes("qemu-system-", "-"+id+"\x00") }},
	{"shim", func(id string) []int { return processes("containerd-shim-", "\x00-id\x00"+id+"\x00", "\x00serve\x00") }},
	{"virtiofsd", func(id string) []int { return processes("virtiofsd", "/"+id+"/") }},
	{"containerd", nil},
}

// stages are when: the step of a life cycle, and the part of its usual time in which the moment lies.
var stages = []struct {
	name     string
	step     int
	from, to float64
}{
	{"create", 0, 0, 0.8},
	{"start", 0, 0.8, 1.1},
	{"exec", 1, 0, 1},
	{"kill", 2, 0, 1},
	{"delete", 3, 0, 1},
}

// faulty is a pod's network namespace and what was there before any fault.
type faulty struct {
	*client
	netns  string
	before nest.State
	usual  [4]time.Duration // of each step, without a fault
}

// steps are the life of a container after another.
func (f *faulty) steps(id string) [4][]string {
	return [4][]string{
		f.run(id, []string{"-d", "--with-ns", "network:/run/netns/" + f.netns}, "toolbox", "pause"),
		{"task", "exec", "--exec-id", "e", id, "sh", "-c", "toolbox spew 1 | toolbox sum"},
		{"task", "kill", "-s", "SIGKILL", id},
		{"task", "delete", id},
	}
}

// faultVariable turns on the tests that take minutes because machines die in them.
const faultVariable = "KATABUILD_TEST_FAULTS"

func TestFaults(t *testing.T) {
	testenv.Require(t, testenv.Asked(faultVariable, "test-faults"))
	onGuests(t, func(t *testing.T, c *client) {
		f := &faulty{client: c, netns: "kbf" + strings.ReplaceAll(c.Release.Name, ".", "")}
		defer func() {
			if out, err := exec.Command("ip", "netns", "delete", f.netns).CombinedOutput(); err != nil {
				t.Errorf("ip netns delete: %v: %s", err, out)
			}
			_ = unix.Unmount("/run/netns", 0) // ip mounts it over itself
		}()
		for _, args := range [][]string{
			{"netns", "add", f.netns},
			{"-n", f.netns, "link", "add", "eth0", "type", "veth", "peer", "name", "wire0"},
			{"-n", f.netns, "addr", "add", "192.0.2.77/24", "dev", "eth0"},
			{"-n", f.netns, "link", "set", "eth0", "up"},
		} {
			if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
				t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
			}
		}
		var err error
		if f.before, err = nest.Look(); err != nil {
			t.Fatal(err)
		}
		seed := uint64(number(t, seedVariable, int(time.Now().Unix())))
		t.Logf("%s=%d", seedVariable, seed)
		t.Run("nothing is left without a fault", func(t *testing.T) { f.measure(t) })
		for n, v := range victims {
			if list := os.Getenv(victimsVariable); list != "" && !slices.Contains(strings.Split(list, ","), v.name) {
				continue
			}
			t.Run(v.name+" killed at any moment leaves nothing", func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, uint64(n)))
				var order []int
				for cycle := range number(t, cyclesVariable, 3) {
					if len(order) == 0 {
						order = r.Perm(len(stages)) // so that few cycles meet different stages
					}
					s := stages[order[0]]
					order = order[1:]
					after := time.Duration((s.from + (s.to-s.from)*r.Float64()) * float64(f.usual[s.step]))
					if !f.cycle(t, fmt.Sprintf("f%d-%d", n, cycle), v.find, s.name, s.step, after) {
						return
					}
				}
			})
		}
		t.Run("containerd started anew finds tasks that run", f.reload)
		t.Run("pods of Kubernetes are removed after a fault", f.pods)
	})
}

// measure goes through a whole life, and remembers how long each step takes.
func (f *faulty) measure(t *testing.T) {
	for i, args := range f.steps("whole") {
		start := time.Now()
		if r := f.ctr(t, nil, args...); r.code != 0 && i != 3 {
			t.Fatalf("ctr %q: %s", args, r.err)
		}
		f.usual[i] = time.Since(start)
		if i == 2 {
			f.ended(t, "whole")
		}
	}
	t.Logf("usual times %v", f.usual)
	f.nothing(t, "whole")
}

// cycle breaks a life after some time of a step, and says whether to go on.
func (f *faulty) cycle(t *testing.T, id string, find func(id string) []int, stage string, step int,
	after time.Duration) bool {
	t.Helper()
	what := fmt.Sprintf("%s: %v into %s", id, after.Round(time.Millisecond), stage)
	begin := make(chan struct{})
	over := make(chan struct{})
	struck := make(chan time.Time, 1) // when it happened; zero for never
	go func() {
		<-begin
		time.Sleep(after)
		struck <- f.strike(t, id, find, over)
	}()
	var said []string
	var hit time.Time
	for i, args := range f.steps(id) {
		if i == 3 {
			time.Sleep(300 * time.Millisecond) // for the end of what was killed
		}
		start := time.Now()
		if i == step {
			close(begin)
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		cmd := f.Ctr(f.namespace, args...)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
		err := cmd.Run()
		stop()
		cancel()
		took := time.Since(start)
		if err != nil {
			lines := slices.DeleteFunc(strings.Split(strings.TrimSpace(errs.String()), "\n"),
				func(l string) bool { return strings.Contains(l, "DEPRECATION") })
			said = append(said, strings.Join(args[:2], " ")+": "+strings.Join(lines, " "))
		}
		select {
		case hit = <-struck:
		default:
		}
		if !hit.IsZero() {
			if late := time.Since(later(hit, start)); late > faultTime {
				t.Errorf("%s: ctr %s took %v after the fault (%v in all): %s", what, args[0], late, took, errs.String())
			}
		}
		if i < step && err != nil {
			t.Errorf("%s: ctr %q before the fault: %s", what, args, errs.String())
		}
	}
	close(over)
	if hit.IsZero() {
		hit = <-struck
	}
	if hit.IsZero() {
		what += " (too late)"
	}
	t.Logf("%s: %q", what, said)
	f.nothing(t, id, deserted(said)...)
	// The next one may have the same name, and is left nothing by the one before.
	if err := f.again(id); err != nil {
		t.Errorf("%s: the next sandbox: %v", what, err)
	}
	f.nothing(t, id)
	return !t.Failed()
}

// again runs a sandbox of a name that was used before. containerd keeps the name of a task whose shim was killed in its
// table until it has seen the shim's end, without showing it: a client has to come again.
func (f *faulty) again(id string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for end := time.Now().Add(faultTime); ; time.Sleep(100 * time.Millisecond) {
		next := f.Ctr(f.namespace, f.run(id, []string{"--rm", "--with-ns", "network:/run/netns/" + f.netns}, "true")...)
		stop := context.AfterFunc(ctx, func() { _ = next.Process.Kill() })
		out, err := next.CombinedOutput()
		stop()
		if err == nil {
			return nil
		}
		if !strings.Contains(string(out), "task "+id+": already exists") || time.Now().After(end) {
			return fmt.Errorf("%w: %s", err, out)
		}
	}
}

// dialled is what containerd 1.6 says when a shim was killed between the end of its start and containerd's first call.
var dialled = regexp.MustCompile(`start failed: dial unix (/run/containerd/s/[0-9a-f]{64}): ` +
	`connect: connection refused`)

// deserted are the sockets of such shims. containerd asks nobody to clean up after them, so that they lie there until
// the next sandbox of that name.
func deserted(said []string) (sockets []string) {
	for _, s := range said {
		if m := dialled.FindStringSubmatch(s); m != nil {
			sockets = append(sockets, m[1])
		}
	}
	return sockets
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// strike kills what find finds, as soon as there is something, and says when. A nil find is containerd, which is
// started anew.
func (f *faulty) strike(t *testing.T, id string, find func(id string) []int, over <-chan struct{}) time.Time {
	if find == nil {
		if err := f.Daemon.Kill(); err != nil {
			t.Error(err)
		}
		now := time.Now()
		if err := f.Daemon.Again(context.Background()); err != nil {
			t.Error(err)
		}
		return now
	}
	for {
		pids := find(id)
		for _, p := range pids {
			_ = syscall.Kill(p, syscall.SIGKILL) // it may have ended by itself
		}
		if len(pids) > 0 {
			return time.Now()
		}
		select {
		case <-over:
			return time.Time{}
		case <-time.After(time.Millisecond):
		}
	}
}

// nothing removes a container as a client does, which must be possible, and looks for anything left but what nobody
// could have removed.
func (f *faulty) nothing(t *testing.T, id string, but ...string) {
	t.Helper()
	var last string
	quick := func(args ...string) string {
		ctx, cancel := context.WithTimeout(context.Background(), faultTime)
		defer cancel()
		cmd := f.Ctr(f.namespace, args...)
		stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
		defer stop()
		out, err := cmd.CombinedOutput()
		if err != nil {
			last = fmt.Sprintf("ctr %s: %v: %s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	for end := time.Now().Add(faultTime); ; time.Sleep(100 * time.Millisecond) {
		if slices.Contains(strings.Fields(quick("task", "list", "-q")), id) {
			quick("task", "delete", "-f", id)
		}
		if slices.Contains(strings.Fields(quick("container", "list", "-q")), id) {
			quick("container", "delete", id)
		}
		if !slices.Contains(strings.Fields(quick("task", "list", "-q")), id) &&
			!slices.Contains(strings.Fields(quick("container", "list", "-q")), id) {
			break
		}
		if time.Now().After(end) {
			t.Errorf("%s cannot be removed: %s", id, last)
			break
		}
	}
	var left []string
	for end := time.Now().Add(faultTime); ; time.Sleep(100 * time.Millisecond) {
		left = slices.DeleteFunc(f.left(t), func(l string) bool { return slices.Contains(but, l) })
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			break
		}
	}
	for _, l := range left {
		t.Errorf("%s left behind: %s", id, l)
	}
}

// left is what there is of ours now and was not before the faults.
func (f *faulty) left(t *testing.T) []string {
	t.Helper()
	left, err := nest.LeftSince(f.before, 0)
	if err != nil {
		t.Fatal(err)
	}
	left = slices.DeleteFunc(left, func(l string) bool {
		return strings.HasPrefix(l, "process ") && strings.Contains(l, "/containerd --config ") // started anew
	})
	for _, dir := range []string{"/run/katabuild/*", "/run/kata-containers/shared/sandboxes/*", "/run/containerd/s/*"} {
		files, err := filepath.Glob(dir)
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, files...)
	}
	for _, cmd := range [][]string{{"ip", "-n", f.netns, "-o", "link"}, {"tc", "-n", f.netns, "qdisc", "show"}} {
		out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", strings.Join(cmd, " "), err, out)
		}
		for l := range strings.Lines(string(out)) {
			if strings.Contains(l, "kbtap") || strings.Contains(l, "ingress") {
				left = append(left, strings.TrimSpace(l))
			}
		}
	}
	return left
}

// reload kills containerd under a task: its successor must find it.
func (f *faulty) reload(t *testing.T) {
	const id = "reload"
	if r := f.ctr(t, nil, f.steps(id)[0]...); r.code != 0 {
		t.Fatal(r.err)
	}
	if err := f.Daemon.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := f.Daemon.Again(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.TasksClient = tasks.NewTasksClient(f.Conn)
	if r := f.exec(t, id, "echo", "here"); r.code != 0 || r.out != "here\n" {
		t.Errorf("exec after the restart: %+v", r)
	}
	if r := f.ctr(t, nil, "task", "kill", "-s", "SIGTERM", id); r.code != 0 {
		t.Error(r.err)
	}
	equal(t, "exit code", f.ended(t, id), 0)
	f.nothing(t, id)
}

// pods breaks pods that run, each with a container and a network of CNI. It starts anew what the others compare with:
// the bridge comes with the first pod.
func (f *faulty) pods(t *testing.T) {
	n := newNode(t, f.setting)
	n.run(t, n.podConfig("first")).remove(t)
	var err error
	if f.before, err = nest.Look(); err != nil {
		t.Fatal(err)
	}
	for _, v := range victims {
		if v.find == nil {
			continue // reload has it
		}
		p := n.run(t, n.podConfig("fault-"+strings.ToLower(v.name)))
		p.start(t, nil, "toolbox", "pause")
		f.strike(t, p.id, v.find, t.Context().Done())
		ctx, cancel := context.WithTimeout(t.Context(), faultTime)
		if _, err := p.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.id}); err != nil {
			t.Errorf("with %s killed, stop pod: %v", v.name, err)
		}
		// containerd hears of a shim's end somewhat later, and refuses until then; kubelet tries again.
		for {
			_, err := p.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.id})
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				t.Errorf("with %s killed, remove pod: %v", v.name, err)
				break
			}
			time.Sleep(200 * time.Millisecond)
		}
		cancel()
		f.nothing(t, p.id)
	}
}

// causes are broken hosts and guests, and what the error must say.
var causes = []struct {
	name  string
	lines func(t *testing.T, c *client) string // of [hypervisor.qemu]
	words []string
}{
	{"a guest that panics", func(*testing.T, *client) string { return "kernel_params = \"init=/nowhere panic=1\"\n" },
		[]string{"panic", "/nowhere"}},
	{"a kernel that is missing", func(t *testing.T, c *client) string {
		dir := copyGuest(t, c)
		if err := os.Remove(filepath.Join(dir, "vmlinux")); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("guest = %q\n", dir)
	}, []string{"vmlinux", "no such file"}},
	{"a kernel of another digest", func(t *testing.T, c *client) string {
		dir := copyGuest(t, c)
		f, err := os.OpenFile(filepath.Join(dir, "vmlinux"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte{0x5a}, 1<<20); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("guest = %q\n", dir)
	}, []string{"vmlinux", "sha256:"}},
	{"a manifest that is missing", func(t *testing.T, c *client) string {
		return fmt.Sprintf("guest = %q\n", c.dir)
	}, []string{"manifest.json", "no such file"}},
	{"a QEMU that is missing", func(*testing.T, *client) string { return "path = \"/nowhere/qemu-system-x86_64\"\n" },
		[]string{"/nowhere/qemu-system-x86_64"}},
	{"a virtiofsd that is missing", func(*testing.T,
		*client) string {
		return "virtio_fs_daemon = \"/nowhere/virtiofsd\"\n"
	}, []string{"/nowhere/virtiofsd", "not installed"}},
	{"a number that is none", func(*testing.T, *client) string { return "default_vcpus = \"two\"\n" },
		[]string{"default_vcpus", "configuration.toml"}},
}

// guestOf is the guest's folder of the configuration under test.
func guestOf(t *testing.T, c *client) string {
	t.Helper()
	return guestIn(t, c.config)
}

// guestIn is the guest that a configuration of the tests names.
func guestIn(t *testing.T, config string) string {
	t.Helper()
	b, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(b), "guest = ")
	line, _, _ = strings.Cut(line, "\n")
	dir, err := strconv.Unquote(line)
	if err != nil {
		t.Fatalf("%s: guest is %q: %v", config, line, err)
	}
	return dir
}

// copyGuest is a copy of the guest to break.
func copyGuest(t *testing.T, c *client) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(guestOf(t, c))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// configured is the client with other lines in [hypervisor.qemu].
func (c *client) configured(t *testing.T, lines string) *client {
	t.Helper()
	if !strings.Contains(lines, "guest = ") {
		lines = fmt.Sprintf("guest = %q\n", guestOf(t, c)) + lines
	}
	if !strings.Contains(lines, "virtio_fs_daemon = ") {
		program, err := fileServer(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		lines = fmt.Sprintf("virtio_fs_daemon = %q\n", program) + lines
	}
	other := *c
	s := *c.setting
	other.setting = &s
	s.config = filepath.Join(t.TempDir(), "configuration.toml")
	if err := os.WriteFile(s.config, []byte("[hypervisor.qemu]\n"+lines), 0o644); err != nil {
		t.Fatal(err)
	}
	return &other
}

func TestCauses(t *testing.T) {
	testenv.Require(t, testenv.Asked(faultVariable, "test-faults"))
	onGuests(t, func(t *testing.T, c *client) {
		for _, x := range causes {
			t.Run(x.name+" is an error that says so", func(t *testing.T) {
				before, err := nest.Look()
				if err != nil {
					t.Fatal(err)
				}
				id := c.id()
				start := time.Now()
				r := c.ctr(t, nil, c.configured(t, x.lines(t, c)).run(id, []string{"--rm"}, "true")...)
				if took := time.Since(start); took > nameTime {
					t.Errorf("it took %v", took)
				}
				if r.code == 0 {
					t.Error("it ran")
				}
				for _, w := range x.words {
					if !strings.Contains(r.err, w) {
						t.Errorf("%q lacks %q", r.err, w)
					}
				}
				t.Logf("ctr: %s", strings.TrimSpace(r.err))
				_ = c.ctr(t, nil, "container", "delete", id) // ctr run --rm may have done it
				gone(t, before)
			})
		}
		t.Run("a guest that panics ends its tasks", c.panics)
		t.Run("an agent that does not answer is named", c.hangs)
		t.Run("a process that outlives its kill takes the guest along", c.outlives)
		t.Run("a container that outlives its kill takes the pod along when it is killed once more", c.outlivesTwice)
		t.Run("a full disk is the container's business", c.full)
	})
}

// gone fails when there is anything that was not before.
func gone(t *testing.T, before nest.State) {
	t.Helper()
	left, err := nest.LeftSince(before, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"/run/katabuild/*", "/run/kata-containers/shared/sandboxes/*"} {
		files, err := filepath.Glob(dir)
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, files...)
	}
	for _, l := range left {
		t.Errorf("left behind: %s", l)
	}
}

func (c *client) panics(t *testing.T) {
	before, err := nest.Look()
	if err != nil {
		t.Fatal(err)
	}
	t.Run("", func(t *testing.T) {
		id := c.detach(t, []string{"--privileged", "--memory-limit", strconv.Itoa(32 << 20)}, "toolbox", "pause")
		// Linux: Documentation/admin-guide/sysctl/vm.rst: with 2, a limit that is met is a panic.
		broken := make(chan result, 1)
		go func() { broken <- c.exec(t, id, "sh", "-c", "echo 2 >/proc/sys/vm/panic_on_oom && toolbox eat 64") }()
		// An emulated guest may take its time to run out of memory.
		until(t, patience, "the panic", func() bool { return len(processes("qemu-system-", "-"+id+"\x00")) == 0 })
		start := time.Now()
		equal(t, "exit code of a task whose guest is gone", c.ended(t, id), 255)
		if took := time.Since(start); took > faultTime {
			t.Errorf("it took %v", took)
		}
		equal(t, "exit code of the process that broke it", (<-broken).code, 255)
		r := c.exec(t, id, "true")
		if r.code == 0 || !strings.Contains(r.err, "panic") {
			t.Errorf("exec in a guest that is gone: %+v", r)
		}
		t.Logf("exec: %s", strings.TrimSpace(r.err))
	})
	gone(t, before)
}

func (c *client) hangs(t *testing.T) {
	before, err := nest.Look()
	if err != nil {
		t.Fatal(err)
	}
	t.Run("", func(t *testing.T) {
		id := c.detach(t, nil, "toolbox", "pause")
		for _, p := range processes("qemu-system-", "-"+id+"\x00") {
			if err := syscall.Kill(p, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		}
		start := time.Now()
		r := c.exec(t, id, "true")
		if took := time.Since(start); took > nameTime || r.code == 0 || !strings.Contains(r.err, "agent") {
			t.Errorf("exec took %v: %+v", took, r)
		}
		t.Logf("exec: %s", strings.TrimSpace(r.err))
		start = time.Now()
		_ = c.ctr(t, nil, "task", "delete", "-f", id) // how it ends is not the point
		if took := time.Since(start); took > faultTime {
			t.Errorf("the removal took %v", took)
		}
	})
	gone(t, before)
}

// stuck is a program that asks the host for names all the time.
var stuck = []string{"sh", "-c", "while :; do test -e /tmp/no; test -e /tmp/ready || echo >/tmp/ready; done"}

// freeze stops the virtiofsd of a pod. A program that asks it for something then waits in the guest's kernel, whatever
// signal it gets.
func freeze(t *testing.T, id string) {
	t.Helper()
	for _, p := range processes("virtiofsd", "/"+id+"/") {
		if err := syscall.Kill(p, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(2 * time.Second) // what the guest keeps of a name is good for a second
}

func (c *client) outlives(t *testing.T) {
	before, err := nest.Look()
	if err != nil {
		t.Fatal(err)
	}
	t.Run("", func(t *testing.T) {
		id := c.detach(t, nil, stuck...)
		c.ready(t, id)
		freeze(t, id)
		start := time.Now()
		if r := c.ctr(t, nil, "task", "kill", "-s", "SIGKILL", id); r.code != 0 {
			t.Error(r.err)
		}
		equal(t, "exit code of a task that cannot be killed", c.ended(t, id), 255)
		if took := time.Since(start); took > killTime+faultTime {
			t.Errorf("it took %v", took)
		}
		r := c.exec(t, id, "true")
		if r.code == 0 || !strings.Contains(r.err, "SIGKILL") {
			t.Errorf("exec in a guest that was given up: %+v", r)
		}
		t.Logf("exec: %s", strings.TrimSpace(r.err))
	})
	gone(t, before)
}

func (c *client) outlivesTwice(t *testing.T) {
	n := newNode(t, c.setting)
	p := n.run(t, n.podConfig("outlives"))
	x := p.start(t, nil, stuck...)
	until(t, patience, "the program", func() bool { return x.exec(t, "test", "-e", "/tmp/ready").code == 0 })
	freeze(t, p.id)
	stop := func(patience time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_, err := p.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: x.id})
		return err
	}
	if err := stop(killTime + 5*time.Second); err == nil {
		t.Error("the container ended by itself, or took the pod's others along at once")
	}
	if len(processes("qemu-system-", "-"+p.id+"\x00")) == 0 {
		t.Error("the guest ended before the container was killed once more")
	}
	if err := stop(faultTime); err != nil {
		t.Errorf("stop once more: %v", err)
	}
	equal(t, "exit code of a container that cannot be killed", x.status(t).ExitCode, 255)
}

// full runs a container whose writable layer is a file system of 4 MiB.
func (c *client) full(t *testing.T) {
	lower, small, merged := filepath.Join(c.dir, "lower"), filepath.Join(c.dir, "small"), filepath.Join(c.dir, "merged")
	for _, d := range []string{lower, small, merged} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"bin", "dev", "etc", "proc", "sys", "tmp", "var"} {
		if err := os.Mkdir(filepath.Join(lower, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	box, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(lower, "bin/busybox"), box, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, applet := range []string{"cat", "dd", "rm", "sh", "sleep"} {
		if err := os.Symlink("busybox", filepath.Join(lower, "bin", applet)); err != nil {
			t.Fatal(err)
		}
	}
	mount := func(kind, target, data string) {
		t.Helper()
		if err := unix.Mount("test", target, kind, 0, data); err != nil {
			t.Fatalf("mount %s: %v", target, err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(target, 0); err != nil {
				t.Errorf("unmount %s: %v", target, err)
			}
		})
	}
	mount("tmpfs", small, "size=4m")
	for _, d := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(small, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mount("overlay", merged, fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", lower, small, small))
	id := c.id()
	args := []string{"run", "-d", "--runtime", c.kind, "--runtime-config-path", c.config, "--rootfs", merged, id,
		"/bin/sleep", "600"}
	if r := c.ctr(t, nil, args...); r.code != 0 {
		t.Fatal(r.err)
	}
	r := c.exec(t, id, "/bin/dd", "if=/dev/zero", "of=/var/big", "bs=64k", "count=256")
	if r.code == 0 || !strings.Contains(r.err, "No space left on device") {
		t.Errorf("16 MiB into 4: %+v", r)
	}
	script := "export PATH=/bin; rm /var/big && echo room >/var/small && cat /var/small"
	if r := c.exec(t, id, "/bin/sh", "-c", script); r.out != "room\n" {
		t.Errorf("afterwards: %+v", r)
	}
	if r := c.ctr(t, nil, "task", "delete", "-f", id); r.code != 0 && !strings.Contains(r.err, "137") {
		t.Errorf("delete: %+v", r)
	}
	if r := c.ctr(t, nil, "container", "delete", id); r.code != 0 {
		t.Error(r.err)
	}
}
