package containerd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1stats "github.com/containerd/cgroups/v3/cgroup1/stats"
	v2stats "github.com/containerd/cgroups/v3/cgroup2/stats"
	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/services/events/v1"
	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/katabuild/katabuild/ci/containerd/image"
	"github.com/katabuild/katabuild/ci/containerd/nest"
	"github.com/katabuild/katabuild/runtime/logs"
)

// client is a user of ctr and of the task service.
type client struct {
	*setting
	tasks.TasksClient
	namespace string
	serial    int
}

// taskChecks are the subtests; each makes its own tasks.
var taskChecks = []struct {
	name string
	run  func(t *testing.T, c *client)
}{
	{"run prints output and errors and ends with the code", taskRun},
	{"ten megabytes go in and out unchanged, to the end of input", taskPipe},
	{"a terminal echoes and knows its size", taskTerminal},
	{"exec beside a running task has its own code", taskExec},
	{"signals arrive, and kill -a reaches every process", taskKill},
	{"time stands still while paused", taskPause},
	{"metrics decode and show memory in use", taskMetrics},
	{"an update of the memory limit is seen inside", taskUpdate},
	{"a machine grows with what its container may use", taskGrow},
	{"a guest is restored from a template, with files, network and memory", taskTemplate},
	{"an interface that comes later reaches the guest", taskLate},
	{"an interface is joined by macvtap", taskMacvtap},
	{"where the time of a start goes is one tree", taskTrace},
	{"an OOM is told on the event stream", taskOOM},
	{"events come in order, and two clients see the end", taskEvents},
	{"a policy by annotation decides what the agent does", taskPolicy},
	{"a network that a hook makes is the container's", taskHook},
	{"operations on files do what docs/files.md says", taskFiles},
	{"locks that another pod has are refused", taskLocks},
	{"what cannot run is an error that leaves no machine", taskCannot},
	{"no container has the agent's vsock ports", taskVsockPorts},
	{"QEMU has nothing of root's but what 9p wants", taskWalls},
	{"a limit of the host's that is too small for the machine is told", taskHostMemory},
	{"a killed shim leaves nothing", taskShimKilled},
	{"containerd's log has whole records of every pod", taskLogs},
}

func TestTasks(t *testing.T) {
	onEach(t, func(t *testing.T, s *setting) {
		c := newClient(t, s)
		for _, k := range taskChecks {
			t.Run(k.name, func(t *testing.T) { k.run(t, c) })
		}
	})
}

// newClient is a client whose namespace has the image of tools.
func newClient(t *testing.T, s *setting) *client {
	t.Helper()
	c := &client{setting: s, TasksClient: tasks.NewTasksClient(s.Conn),
		namespace: nest.Name() + "-ctr-" + s.Release.Name}
	archive := filepath.Join(s.dir, "tools.tar")
	if err := s.images.Save(image.Tools, archive); err != nil {
		t.Fatal(err)
	}
	if out, err := s.Ctr(c.namespace, "images", "import", archive).CombinedOutput(); err != nil {
		t.Fatalf("ctr images import: %v: %s", err, out)
	}
	return c
}

func (c *client) ctx(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "containerd-namespace",
		c.namespace), patience)
	t.Cleanup(cancel)
	return ctx
}

// ctr runs ctr, which has patience to end.
func (c *client) ctr(t *testing.T, in []byte, args ...string) result {
	t.Helper()
	cmd := c.Ctr(c.namespace, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &out, &errs
	if in == nil {
		cmd.Stdin = nil
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{out.String(), errs.String(), int32(cmd.ProcessState.ExitCode())}
}

// run is the arguments of ctr run for a new id.
func (c *client) run(id string, flags []string, args ...string) []string {
	all := []string{"run", "--runtime", c.kind}
	if c.config != "" {
		all = append(all, "--runtime-config-path", c.config)
	}
	return slices.Concat(all, flags, []string{image.Tools, id}, args)
}

func (c *client) id() string {
	c.serial++
	return fmt.Sprintf("t%d", c.serial)
}

// detach starts a task that is removed with the test.
func (c *client) detach(t *testing.T, flags []string, args ...string) string {
	t.Helper()
	id := c.id()
	t.Cleanup(func() {
		_ = c.ctr(t, nil, "task", "kill", "-s", "SIGKILL", id) // it may have ended
		until(t, patience, "the removal of task "+id, func() bool {
			_ = c.ctr(t, nil, "task", "delete", id)
			return !slices.Contains(strings.Fields(c.ctr(t, nil, "task", "list", "-q").out), id)
		})
		if r := c.ctr(t, nil, "container", "delete", id); r.code != 0 {
			t.Errorf("ctr container delete: %s", r.err)
		}
	})
	if r := c.ctr(t, nil, c.run(id, append([]string{"-d"}, flags...), args...)...); r.code != 0 {
		t.Fatalf("ctr run -d: %s", r.err)
	}
	return id
}

func (c *client) exec(t *testing.T, id string, args ...string) result {
	t.Helper()
	return c.ctr(t, nil, append([]string{"task", "exec", "--exec-id", "e" + c.id(), id}, args...)...)
}

func taskRun(t *testing.T, c *client) {
	r := c.ctr(t, nil, c.run(c.id(), []string{"--rm"}, "sh", "-c", "echo out; echo err >&2; exit 5")...)
	equal(t, "output", r.out, "out\n")
	if !strings.Contains(r.err, "err\n") { // ctr may add warnings
		t.Errorf("errors are %q", r.err)
	}
	equal(t, "exit code", r.code, 5)
	equal(t, "exit code of true", c.ctr(t, nil, c.run(c.id(), []string{"--rm"}, "true")...).code, 0)
}

func taskPipe(t *testing.T, c *client) {
	data := bytes.Repeat([]byte("0123456789ABCDEF"), 10<<16) // 10 MiB
	r := c.ctr(t, data, c.run(c.id(), []string{"--rm"}, "toolbox", "cat")...)
	equal(t, "exit code", r.code, 0)
	equal(t, "digest", sha256.Sum256([]byte(r.out)), sha256.Sum256(data))
	equal(t, "length", len(r.out), len(data))
}

// terminal is a pseudo-terminal: what is opened is the side of the user.
func terminal(t *testing.T) (user, program *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return user, program
}

func taskTerminal(t *testing.T, c *client) {
	user, program := terminal(t)
	defer user.Close()
	size := func(rows, columns uint16) {
		t.Helper()
		if err := unix.IoctlSetWinsize(int(user.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows,
			Col: columns}); err != nil {
			t.Fatal(err)
		}
	}
	size(31, 101)
	id := c.id()
	cmd := c.Ctr(c.namespace, c.run(id, []string{"--rm", "-t"}, "toolbox", "winsize")...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = program, program, program
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	program.Close()
	var out buffer
	var wait sync.WaitGroup
	wait.Go(func() {
		b := make([]byte, 4096)
		for {
			n, err := user.Read(b)
			_, _ = out.Write(b[:n])
			if err != nil {
				return // EIO when the last program has closed its side
			}
		}
	})
	defer wait.Wait()
	defer func() {
		_ = cmd.Process.Kill() // it has ended, where the test went well
		if t.Failed() {
			t.Logf("the terminal showed %q", out.String())
			_ = c.ctr(t, nil, "task", "delete", "-f", id)
		}
	}()
	until(t, patience, "the first size", func() bool { return strings.Contains(out.String(), "size 31 101\r") })
	size(32, 102)
	until(t, patience, "the new size", func() bool { return strings.Contains(out.String(), "size 32 102\r") })
	if _, err := user.WriteString("typed"); err != nil {
		t.Fatal(err)
	}
	until(t, patience, "the echo of what is typed", func() bool { return strings.HasSuffix(out.String(), "typed") })
	if _, err := user.WriteString("\x1c"); err != nil { // control-backslash is SIGQUIT
		t.Fatal(err)
	}
	err := cmd.Wait()
	equal(t, "exit code after SIGQUIT is not 0", err != nil, true)
}

func taskExec(t *testing.T, c *client) {
	// Who reads the slack of others' timers needs that capability.
	id := c.detach(t, []string{"--cap-add", "CAP_SYS_NICE"}, "toolbox", "pause")
	for code := range int32(3) {
		r := c.exec(t, id, "sh", "-c", fmt.Sprintf("echo out%d; echo err%d >&2; exit %d", code, code, code))
		equal(t, "output", r.out, fmt.Sprintf("out%d\n", code))
		equal(t, "exit code", r.code, code)
	}
	r := c.exec(t, id, "sh", "-c", "cat /proc/1/timerslack_ns /proc/self/timerslack_ns")
	equal(t, "slack of timers", r.out, "50000\n50000\n") // Linux's own, whatever the agent's is
	r = c.ctr(t, []byte("to the end"), "task", "exec", "--exec-id", "stdin", id, "toolbox", "sum")
	equal(t, "what exec read", r.out, fmt.Sprintf("%x 10\n", sha256.Sum256([]byte("to the end"))))
	if r := c.exec(t, id, "/no/such/program"); r.code == 0 || !strings.Contains(r.err, "/no/such/program") {
		t.Errorf("exec of no program: %+v", r)
	}
	p, err := c.ListPids(c.ctx(t), &tasks.ListPidsRequest{ContainerID: id})
	if err != nil || len(p.Processes) == 0 || p.Processes[0].Pid == 0 {
		t.Errorf("pids: %v, %v", p, err)
	}
}

// ended waits for the end of a task and returns its code.
func (c *client) ended(t *testing.T, id string) uint32 {
	t.Helper()
	r, err := c.Wait(c.ctx(t), &tasks.WaitRequest{ContainerID: id})
	if err != nil {
		t.Fatalf("wait for %s: %v", id, err)
	}
	return r.ExitStatus
}

// ready waits for the file that a program makes when it handles signals.
func (c *client) ready(t *testing.T, id string) {
	t.Helper()
	until(t, patience, "a signal handler", func() bool { return c.exec(t, id, "test", "-e", "/tmp/ready").code == 0 })
}

func taskKill(t *testing.T, c *client) {
	for signal, code := range map[string]uint32{"SIGTERM": 0, "SIGKILL": 137} {
		id := c.detach(t, nil, "toolbox", "pause", "/tmp/ready")
		c.ready(t, id)
		if r := c.ctr(t, nil, "task", "kill", "-s", signal, id); r.code != 0 {
			t.Fatal(r.err)
		}
		equal(t, "exit code after "+signal, c.ended(t, id), code)
	}
	id := c.detach(t, nil, "toolbox", "stubborn", "/tmp/ready")
	c.ready(t, id)
	done := make(chan result, 1)
	go func() { done <- c.exec(t, id, "sleep", "600") }()
	until(t, patience, "the exec", func() bool { return strings.Contains(c.exec(t, id, "ps").out, "sleep 600") })
	if r := c.ctr(t, nil, "task", "kill", "-a", "-s", "SIGTERM", id); r.code != 0 {
		t.Fatal(r.err)
	}
	equal(t, "exit code of the exec", (<-done).code, 143)
	r, err := c.Get(c.ctx(t), &tasks.GetRequest{ContainerID: id})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "state of one that ignores the signal", r.Process.Status, task.Status_RUNNING)
}

func taskPause(t *testing.T, c *client) {
	const every, paused = 20 * time.Millisecond, 4 * time.Second
	id := c.detach(t, nil, "toolbox", "ticks", "/tmp/ticks", strconv.Itoa(int(every/time.Millisecond)))
	count := func() int {
		n, err := strconv.Atoi(strings.TrimSpace(c.exec(t, id, "cat", "/tmp/ticks").out))
		if err != nil {
			return -1
		}
		return n
	}
	until(t, patience, "ticks", func() bool { return count() > 10 })
	start, first := time.Now(), count()
	if _, err := c.Pause(c.ctx(t), &tasks.PauseTaskRequest{ContainerID: id}); err != nil {
		t.Fatal(err)
	}
	r, err := c.Get(c.ctx(t), &tasks.GetRequest{ContainerID: id})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "state", r.Process.Status, task.Status_PAUSED)
	time.Sleep(paused) // in which nothing may happen
	if _, err := c.Resume(c.ctx(t), &tasks.ResumeTaskRequest{ContainerID: id}); err != nil {
		t.Fatal(err)
	}
	last := count()
	running := time.Since(start) - paused
	if n := last - first; n < 0 || time.Duration(n)*every > running+paused/4 {
		t.Errorf("%d ticks of %v in %v besides a pause", n, every, running)
	}
	until(t, patience, "ticks after the pause", func() bool { return count() > last })
}

func taskMetrics(t *testing.T, c *client) {
	id := c.detach(t, nil, "toolbox", "eat", "20")
	var used uint64
	until(t, patience, "20 MiB of memory in use", func() bool {
		m, err := c.Metrics(c.ctx(t), &tasks.MetricsRequest{Filters: []string{"id==" + id}})
		if err != nil || len(m.Metrics) != 1 {
			t.Fatalf("metrics: %v, %v", m, err)
		}
		d := m.Metrics[0].Data
		switch d.TypeUrl {
		case "io.containerd.cgroups.v1.Metrics":
			var v v1stats.Metrics
			if err := proto.Unmarshal(d.Value, &v); err != nil {
				t.Fatal(err)
			}
			used = v.GetMemory().GetUsage().GetUsage()
		case "io.containerd.cgroups.v2.Metrics":
			var v v2stats.Metrics
			if err := proto.Unmarshal(d.Value, &v); err != nil {
				t.Fatal(err)
			}
			used = v.GetMemory().GetUsage()
		default:
			t.Fatalf("metrics are of type %q", d.TypeUrl)
		}
		return used > 20<<20
	})
}

func taskUpdate(t *testing.T, c *client) {
	mount := "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro:nosuid"
	id := c.detach(t, []string{"--memory-limit", strconv.Itoa(64 << 20), "--mount", mount}, "toolbox", "pause")
	limit := func() string {
		return strings.TrimSpace(c.exec(t, id, "sh", "-c",
			"cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes").out)
	}
	equal(t, "limit", limit(), strconv.Itoa(64<<20))
	r, err := json.Marshal(map[string]any{"memory": map[string]any{"limit": 80 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	// typeurl of containerd: JSON of a Go type of the OCI runtime specification.
	a := &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", Value: r}
	if _, err := c.Update(c.ctx(t), &tasks.UpdateTaskRequest{ContainerID: id, Resources: a}); err != nil {
		t.Fatal(err)
	}
	equal(t, "limit after the update", limit(), strconv.Itoa(80<<20))
}

func taskGrow(t *testing.T, c *client) {
	if !c.guest() {
		t.Log("nothing to test: containers run on the host")
		return
	}
	c = c.configured(t, "machine_type = \"q35\"\n") // microvm stays as it is
	id := c.detach(t, nil, "toolbox", "pause")
	have := func() (mib int) {
		t.Helper()
		r := c.exec(t, id, "cat", "/proc/meminfo")
		var kib int
		if _, err := fmt.Sscanf(r.out, "MemTotal: %d kB", &kib); err != nil {
			t.Fatalf("memory: %+v: %v", r, err)
		}
		return kib >> 10
	}
	before := have()
	update := func(mib int) error {
		t.Helper()
		b, err := json.Marshal(specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: new(int64(100_000)),
			Period: new(uint64(100_000))}, Memory: &specs.LinuxMemory{Limit: new(int64(mib) << 20)}})
		if err != nil {
			t.Fatal(err)
		}
		a := &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", Value: b}
		_, err = c.Update(c.ctx(t), &tasks.UpdateTaskRequest{ContainerID: id, Resources: a})
		return err
	}
	for _, mib := range []int{300, 700} {
		if err := update(mib); err != nil {
			t.Fatal(err)
		}
		now := have()
		// It comes in blocks of 128 MiB, some of which the kernel keeps for itself.
		if more := now - before; more < mib-30 || more > mib+128 {
			t.Errorf("the machine has %d MiB more than before, want %d", more, mib)
		}
	}
	if err := update(1 << 21); err == nil || !strings.Contains(err.Error(),
		"MiB of memory are wanted, and the machine can have") {
		t.Errorf("an update to 2 TiB: %v", err)
	}
	// What was plugged in is of use: with only the old memory this would be killed.
	if r := c.exec(t, id, "dd", "if=/dev/zero", "of=/dev/null", fmt.Sprintf("bs=%dM", before+100),
		"count=1"); r.code != 0 {
		t.Errorf("a buffer larger than the machine was: %d, %s", r.code, r.err)
	}
}

// wired is a network namespace with one end of a wire called eth0, once join is called; the other end is in the test's.
// Both have addresses.
func wired(t *testing.T, name string) (join func()) {
	t.Helper()
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	ip("netns", "add", name)
	t.Cleanup(func() {
		ip("netns", "delete", name)
		_ = unix.Unmount("/run/netns", 0) // ip mounts it over itself
	})
	return func() {
		t.Helper()
		ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
		ip("addr", "add", "192.0.2.129/25", "dev", name)
		ip("link", "set", name, "up")
		ip("-n", name, "addr", "add", "192.0.2.130/25", "dev", "eth0")
		ip("-n", name, "link", "set", "eth0", "up")
	}
}

// echoes is whether a container that runs toolbox wire :8300 echoes through its end of the wire.
func echoes(t *testing.T) {
	t.Helper()
	var conn net.Conn
	until(t, patience, "the container's answer", func() bool {
		var err error
		conn, err = net.DialTimeout("tcp", "192.0.2.130:8300", time.Second)
		return err == nil
	})
	defer conn.Close()
	b := make([]byte, 1)
	if _, err := conn.Write([]byte("e")); err != nil { // what follows is echoed
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, b); err != nil || b[0] != 'x' {
		t.Errorf("the echo is %q: %v", b, err)
	}
}

func taskLate(t *testing.T, c *client) {
	if !c.guest() {
		t.Log("nothing to test: containers run on the host")
		return
	}
	c = c.configured(t, "machine_type = \"q35\"\n") // microvm has no place for it
	join := wired(t, "kblate")
	id := c.detach(t, []string{"--with-ns", "network:/run/netns/kblate"}, "toolbox", "wire", ":8300")
	join()
	until(t, patience, "the interface in the guest",
		func() bool { return strings.Contains(c.exec(t, id, "cat", "/proc/net/dev").out, "eth0:") })
	echoes(t)
}

func taskMacvtap(t *testing.T, c *client) {
	if !c.guest() {
		t.Log("nothing to test: containers run on the host")
		return
	}
	c = c.configured(t, "[runtime]\ninternetworking_model = \"macvtap\"\n")
	wired(t, "kbmacvtap")()
	_ = c.detach(t, []string{"--with-ns", "network:/run/netns/kbmacvtap"}, "toolbox", "wire", ":8300")
	echoes(t)
}

// eventLog collects the topics of what happens to tasks, in order, each with the container.
type eventLog struct {
	mu  sync.Mutex // guards all
	all []string
}

func (l *eventLog) of(id string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for _, e := range l.all {
		if topic, ok := strings.CutSuffix(e, " "+id); ok {
			out = append(out, topic)
		}
	}
	return out
}

// subscribe collects events until the test ends.
func (c *client) subscribe(t *testing.T) *eventLog {
	t.Helper()
	api := events.NewEventsClient(c.Conn)
	s, err := api.Subscribe(c.ctx(t),
		&events.SubscribeRequest{Filters: []string{"namespace==" + c.namespace}})
	if err != nil {
		t.Fatal(err)
	}
	l := &eventLog{}
	const subscribed = "/tests/subscribed"
	ids := map[string]func([]byte) (string, error){
		subscribed:      id(func(e *apievents.TaskStart) string { return e.ContainerID }),
		"/tasks/create": id(func(e *apievents.TaskCreate) string { return e.ContainerID }),
		"/tasks/start":  id(func(e *apievents.TaskStart) string { return e.ContainerID }),
		"/tasks/exit":   id(func(e *apievents.TaskExit) string { return e.ContainerID }),
		"/tasks/delete": id(func(e *apievents.TaskDelete) string { return e.ContainerID }),
		"/tasks/oom":    id(func(e *apievents.TaskOOM) string { return e.ContainerID }),
	}
	go func() {
		for {
			e, err := s.Recv()
			if err != nil {
				return // the test has ended
			}
			if f, ok := ids[e.Topic]; ok {
				container, err := f(e.Event.GetValue())
				if err != nil {
					container = err.Error()
				}
				l.mu.Lock()
				l.all = append(l.all, e.Topic+" "+container)
				l.mu.Unlock()
			}
		}
	}()
	// The stream is ready some time after it was asked for, and nothing says when but an event of our own.
	e, err := anypb.New(&apievents.TaskStart{ContainerID: "none"})
	if err != nil {
		t.Fatal(err)
	}
	until(t, patience, "an event of our own", func() bool {
		if _, err := api.Publish(c.ctx(t), &events.PublishRequest{Topic: subscribed, Event: e}); err != nil {
			t.Fatal(err)
		}
		return len(l.of("none")) > 0
	})
	return l
}

// id reads the container's id from an event of type T.
func id[T any, P interface {
	*T
	proto.Message
}](get func(P) string) func([]byte) (string, error) {
	return func(b []byte) (string, error) {
		e := P(new(T))
		err := proto.Unmarshal(b, e)
		return get(e), err
	}
}

func taskOOM(t *testing.T, c *client) {
	l := c.subscribe(t)
	id := c.detach(t, []string{"--memory-limit", strconv.Itoa(32 << 20)}, "toolbox", "eat", "200")
	equal(t, "exit code", c.ended(t, id), 137)
	until(t, 30*time.Second, "the event /tasks/oom", func() bool { return slices.Contains(l.of(id), "/tasks/oom") })
}

func taskEvents(t *testing.T, c *client) {
	l := c.subscribe(t)
	id := c.id()
	args := c.run(id, []string{"--rm"}, "sh", "-c", "sleep 3; exit 6")
	done := make(chan result, 1)
	go func() { done <- c.ctr(t, nil, args...) }()
	until(t, patience, "the start", func() bool { return slices.Contains(l.of(id), "/tasks/start") })
	codes := make(chan uint32, 2)
	for range 2 {
		go func() { codes <- c.ended(t, id) }()
	}
	for range 2 {
		equal(t, "the code that a client sees", <-codes, 6)
	}
	equal(t, "ctr's exit code", (<-done).code, 6)
	want := "/tasks/create /tasks/start /tasks/exit /tasks/delete"
	for end := time.Now().Add(10 * time.Second); strings.Join(l.of(id), " ") != want && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond)
	}
	got := strings.Join(l.of(id), " ")
	if !c.guest() && got+" /tasks/delete" == want {
		// Measured with runc's shim of containerd 2.4: in some runs the last event never comes.
		t.Logf("events are %s", got)
		return
	}
	equal(t, "events", got, want)
}

// shims are the pids of the shim's processes that serve a container.
func shims(id string) []int {
	var out []int
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		words := strings.Split(string(b), "\x00")
		if strings.HasPrefix(filepath.Base(words[0]), "containerd-shim-") && slices.Contains(words, id) {
			if n, err := strconv.Atoi(filepath.Base(filepath.Dir(f))); err == nil {
				out = append(out, n)
			}
		}
	}
	return out
}

func taskPolicy(t *testing.T, c *client) {
	if !c.guest() {
		t.Log("nothing to test: there is no agent")
		return
	}
	annotate := func(policy string) []string {
		return []string{"--annotation", "io.katacontainers.config.agent.policy=" + base64.StdEncoding.EncodeToString(
			[]byte(policy))}
	}
	id := c.detach(t, annotate(
		"katabuild-policy 1\ndefault allow\nallow ExecProcess process.Args=[\"true\"] ...\ndeny ExecProcess\n"),
		"toolbox", "pause")
	if r := c.exec(t, id, "true"); r.code != 0 {
		t.Errorf("a command that is allowed: %s", r.err)
	}
	if r := c.exec(t, id, "id"); r.code == 0 || !strings.Contains(r.err,
		"ExecProcessRequest is blocked by policy: the rule in line 4 denies it") {
		t.Errorf("a command that is not: %d, %s", r.code, r.err)
	}
	r := c.ctr(t, nil, c.run(c.id(), append(annotate("package agent_policy\n"), "--rm"), "true")...)
	if r.code == 0 || !strings.Contains(r.err, "policy of the pod: this policy is written in Rego") {
		t.Errorf("a policy that the agent cannot read: %d, %s", r.code, r.err)
	}
}

func taskVsockPorts(t *testing.T, c *client) {
	if !c.guest() {
		t.Log("nothing to test: there is no agent")
		return
	}
	r := c.ctr(t, nil, c.run(c.id(), []string{"--rm"}, "toolbox", "vsock", "1024", "1025", "1026", "1027", "1032",
		"5000")...)
	const used = " address already in use\n"
	if want := "1024" + used + "1025" + used + "1026" + used + "1027" + used + "1032" + used +
		"5000 ok\n"; r.code != 0 || r.out != want {
		t.Errorf("%d, %s\ngot\n%s\nwant\n%s", r.code, r.err, r.out, want)
	}
}

func taskShimKilled(t *testing.T, c *client) {
	before, err := nest.Look()
	if err != nil {
		t.Fatal(err)
	}
	id := c.id()
	if r := c.ctr(t, nil, c.run(id, []string{"-d"}, "toolbox", "pause")...); r.code != 0 {
		t.Fatal(r.err)
	}
	pids := shims(id)
	if len(pids) == 0 {
		t.Fatal("no shim's process was found")
	}
	for _, p := range pids {
		if err := syscall.Kill(p, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	until(t, patience, "the end of the task", func() bool {
		_ = c.ctr(t, nil, "task", "delete", "-f", id)
		return !slices.Contains(strings.Fields(c.ctr(t, nil, "task", "list", "-q").out), id)
	})
	if r := c.ctr(t, nil, "container", "delete", id); r.code != 0 {
		t.Error(r.err)
	}
	if !c.guest() {
		// containerd 1.6 with runc 1.1 leaves the cgroups, empty, when it cleans up for a killed shim.
		until(t, patience, "the end of its processes", func() bool {
			nest.RemoveCgroups()
			left, err := nest.LeftSince(before, 0)
			return err == nil && len(left) == 0
		})
	}
	left, err := nest.LeftSince(before, 30*time.Second)
	if os.Getenv(factoryVariable) == pooled { // which has started another guest meanwhile
		left = slices.DeleteFunc(left, func(l string) bool {
			return strings.Contains(l, " factory keep") || strings.Contains(l, "-name katabuild-default-pool ")
		})
	}
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// taskLogs reads containerd's log, with the lines of all the pods before, as kata-runtime logs does.
func taskLogs(t *testing.T, c *client) {
	if !c.guest() {
		return // runc has nothing to say
	}
	log, err := os.Open(c.LogFile())
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	// Strictly: what a record of the shim lacks, Kata Containers' log parser would refuse.
	records, err := logs.Reader{Others: true}.All(log, c.LogFile(), logs.Filter{}, nil, func(l *logs.Lost) error {
		if strings.Contains(l.Why, "no key=value") {
			return nil // what containerd's libraries print
		}
		return l
	})
	if err != nil {
		t.Fatal(err)
	}
	pods := map[string]bool{}
	for _, r := range records {
		if r.Source != "katabuild-shim" || r.Name != "containerd-shim-kata-v2" || r.Sandbox == "" {
			t.Errorf("a record of somebody else: %s", r.Text())
		}
		pods[r.Sandbox] = true
	}
	if len(pods) == 0 {
		t.Error("no pod has logged anything")
	}
}

// taskWalls looks at the QEMU of a container: by virtio-fs it has no rights at all, and by 9p those to make files of
// others.
func taskWalls(t *testing.T, c *client) {
	if !c.guest() {
		t.Log("nothing to test: there is no machine")
		return
	}
	const none = "0000000000000000"
	for kind, capabilities := range map[string]string{"virtio-fs": none, "virtio-9p": "000000008800001b"} {
		c = c.configured(t, fmt.Sprintf("shared_fs = %q\n", kind)) // which also counts on
		id := c.detach(t, nil, "toolbox", "pause")
		r := c.exec(t, id, "sh", "-c", "mkdir /w && echo words >/w/f && chown 7:8 /w/f && chmod 0640 /w/f && stat "+
			"-c '%u %g %a' /w/f && cat /w/f")
		if r.code != 0 || r.out != "7 8 640\nwords\n" {
			t.Errorf("%s: files of others: %d, %q, %s", kind, r.code, r.out, r.err)
		}
		pid := ""
		for l := range strings.Lines(c.ctr(t, nil, "task", "list").out) {
			if f := strings.Fields(l); len(f) > 1 && f[0] == id {
				pid = f[1]
			}
		}
		b, err := os.ReadFile("/proc/" + pid + "/status")
		if err != nil {
			t.Fatal(err)
		}
		have := map[string]string{}
		for l := range strings.Lines(string(b)) {
			k, v, _ := strings.Cut(l, ":")
			have[k] = strings.Join(strings.Fields(v), " ")
		}
		if root := have["Uid"] == "0 0 0 0"; root != (kind == "virtio-9p") {
			t.Errorf("%s: QEMU's user is %s", kind, have["Uid"])
		}
		for field, want := range map[string]string{"CapPrm": capabilities, "CapEff": capabilities,
			"CapBnd": capabilities, "CapInh": none, "NoNewPrivs": "1", "Seccomp": "2"} {
			equal(t, kind+": QEMU's "+field, have[field], want)
		}
		for _, path := range []string{"/etc/passwd", "/root", "/home", "/var", "/sys", "/run/containerd",
			"/run/katabuild"} {
			if _, err := os.Lstat("/proc/" + pid + "/root" + path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: QEMU sees %s: %v", kind, path, err)
			}
		}
	}
}

// taskHostMemory has a control group on the host that is too small for a machine: at its start, or once its container
// takes what it was promised.
func taskHostMemory(t *testing.T, c *client) {
	if _, err := os.Stat("/sys/fs/cgroup/memory"); err != nil || !c.guest() {
		t.Log("nothing to test: the limit is one of cgroups of version 1, and of a machine's")
		return
	}
	name := "/" + c.namespace + "-small"
	dir := "/sys/fs/cgroup/memory" + name
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		until(t, patience, "the end of the group "+dir, func() bool {
			err := os.Remove(dir)
			return err == nil ||
				errors.Is(err, fs.ErrNotExist)
		})
	})
	group := []string{"--cgroup", name + "/x"}
	limit := func(mib int) {
		t.Helper()
		if err := os.WriteFile(dir+"/memory.limit_in_bytes", []byte(strconv.Itoa(mib<<20)), 0); err != nil {
			t.Fatal(err)
		}
	}
	if os.Getenv(factoryVariable) != pooled { // what a guest of the pool has touched before counts as its daemon's
		limit(100)
		r := c.ctr(t, nil, c.run(c.id(), append(group, "--rm"), "true")...)
		if r.code == 0 || !strings.Contains(r.err, "the host had no more memory for the pod") {
			t.Errorf("a machine that cannot come up: %d, %s", r.code, r.err)
		}
	}
	limit(600)
	l := c.subscribe(t)
	id := c.detach(t, group, "toolbox", "pause")
	limit(280)                                 // a guest of 256 MiB had no need of more yet
	_ = c.exec(t, id, "toolbox", "eat", "200") // it ends with the machine
	equal(t, "exit code of a task whose machine the host ended", c.ended(t, id), 255)
	until(t, 30*time.Second, "the event /tasks/oom", func() bool { return slices.Contains(l.of(id), "/tasks/oom") })
}
