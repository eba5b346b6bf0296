package containerd

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/testenv"
)

// execsVariable is how many processes TestLeaks adds to a container: 100 by default.
const execsVariable = "KATABUILD_TEST_EXECS"

// held is what the shim and the agent hold on to.
type held struct {
	fds, threads  int // of the shim
	rssKiB        int
	ownKiB        int     // of it, what is no file's
	guestFiles    float64 // open in the whole guest. Linux: Documentation/admin-guide/sysctl/fs.rst, file-nr
	agentThreads  float64
	agentRSSBytes float64
}

func (h held) String() string {
	return fmt.Sprintf("shim: %d fds, %d threads, %d KiB, %d its own; guest: %.0f open files; agent: %.0f threads, "+
		"%.0f KiB",
		h.fds, h.threads, h.rssKiB, h.ownKiB, h.guestFiles, h.agentThreads, h.agentRSSBytes/1024)
}

// shimOf is the process that serves a container.
func shimOf(t testing.TB, id string) int {
	t.Helper()
	pids := processes("containerd-shim-", "\x00-id\x00"+id+"\x00", "\x00serve\x00")
	if len(pids) != 1 {
		t.Fatalf("processes that serve %s: %v, want one", id, pids)
	}
	return pids[0]
}

// statusOf reads a number of /proc/PID/status, such as VmRSS in KiB. proc_pid_status(5).
func statusOf(t testing.TB, pid int, key string) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(l, key+":"); ok {
			n, err := strconv.Atoi(strings.Fields(v)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("/proc/%d/status lacks %s", pid, key)
	return 0
}

func hold(t *testing.T, c *client, agent katapb.AgentServiceService, id string) held {
	t.Helper()
	r := c.exec(t, id, "cat", "/proc/sys/fs/file-nr")
	files, err := strconv.ParseFloat(append(strings.Fields(r.out), "")[0], 64)
	if err != nil {
		t.Fatalf("files open in the guest: %+v: %v", r, err)
	}
	pid := shimOf(t, id)
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := agentMetrics(t, agent)
	return held{
		fds: len(fds), threads: statusOf(t, pid, "Threads"), rssKiB: statusOf(t, pid, "VmRSS"),
		ownKiB:     statusOf(t, pid, "RssAnon"),
		guestFiles: files, agentThreads: m["kata_agent_threads"], agentRSSBytes: m["kata_agent_total_rss"],
	}
}

// dialAgent connects to the agent of a pod, past the shim's service, until the test ends.
func dialAgent(t *testing.T, id string) katapb.AgentServiceService {
	t.Helper()
	c, err := net.Dial("unix", "/run/katabuild/"+id+"/vsock.sock")
	if err != nil {
		t.Fatal(err)
	}
	// docs/formats/vsock.md.
	if _, err := fmt.Fprintf(c, "CONNECT %d\n", agentapi.Port); err != nil {
		t.Fatal(err)
	}
	line, answer := "", make([]byte, 1)
	for !strings.HasSuffix(line, "\n") && err == nil {
		_, err = c.Read(answer)
		line += string(answer)
	}
	if err != nil {
		t.Fatal(errors.Join(fmt.Errorf("connect to the agent: %q: %w", line, err), c.Close()))
	}
	client := ttrpc.NewClient(c)
	t.Cleanup(func() { _ = client.Close() })
	return katapb.NewAgentServiceClient(client)
}

// agentMetrics asks the agent of a pod for its numbers, past the shim's service.
func agentMetrics(t *testing.T, agent katapb.AgentServiceService) map[string]float64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := agent.GetMetrics(ctx, &katapb.GetMetricsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	s := bufio.NewScanner(strings.NewReader(r.GetMetrics()))
	for s.Scan() {
		if k, v, ok := strings.Cut(s.Text(), " "); ok && k != "#" {
			if n, err := strconv.ParseFloat(v, 64); err == nil {
				out[k] = n
			}
		}
	}
	return out
}

// process is what a call of the task service takes as the specification of a process.
func process(args ...string) (*anypb.Any, error) {
	b, err := json.Marshal(specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}})
	if err != nil {
		return nil, err
	}
	return &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: b}, nil
}

// add runs a process in a container through the task service alone, to its end, and forgets it.
func (c *client) add(ctx context.Context, id, exec string, stdin, stdout string, args ...string) (uint32, error) {
	spec, err := process(args...)
	if err != nil {
		return 0, err
	}
	if _, err := c.Exec(ctx, &tasks.ExecProcessRequest{ContainerID: id, ExecID: exec, Spec: spec, Stdin: stdin,
		Stdout: stdout, Stderr: stdout}); err != nil {
		return 0, fmt.Errorf("exec: %w", err)
	}
	if _, err := c.Start(ctx, &tasks.StartRequest{ContainerID: id, ExecID: exec}); err != nil {
		return 0, fmt.Errorf("start: %w", err)
	}
	r, err := c.Wait(ctx, &tasks.WaitRequest{ContainerID: id, ExecID: exec})
	if err != nil {
		return 0, fmt.Errorf("wait: %w", err)
	}
	if _, err := c.DeleteProcess(ctx, &tasks.DeleteProcessRequest{ContainerID: id, ExecID: exec}); err != nil {
		return 0, fmt.Errorf("delete: %w", err)
	}
	return r.ExitStatus, nil
}

func TestLeaks(t *testing.T) {
	testenv.Require(t, testenv.Asked(faultVariable, "test-faults"))
	onGuests(t, func(t *testing.T, c *client) {
		id := c.detach(t, nil, "toolbox", "pause")
		fifo := filepath.Join(c.dir, "fifo")
		if err := syscall.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
		input, err := os.OpenFile(fifo, os.O_RDWR, 0) // there is always a writer who says nothing
		if err != nil {
			t.Fatal(err)
		}
		defer input.Close()
		serial := 0
		run := func(n int) {
			t.Helper()
			for range n {
				serial++
				exec := fmt.Sprintf("x%d", serial)
				file := "file://" + filepath.Join(c.dir, "out")
				ctx := c.ctx(t)
				var code uint32
				var err error
				switch serial % 4 {
				case 0: // input that never ends
					code, err = c.add(ctx, id, exec, fifo, file, "sh", "-c", "exit 0")
				case 1: // no streams
					code, err = c.add(ctx, id, exec, "", "", "sh", "-c", "exit 0")
				case 2: // a program that is not there
					if code, err = c.add(ctx, id, exec, "", file, "/no/such/program"); err == nil {
						t.Fatalf("it ran, and ended with %d", code)
					}
					_, err = c.DeleteProcess(ctx, &tasks.DeleteProcessRequest{ContainerID: id, ExecID: exec})
				default:
					code, err = c.add(ctx, id, exec, "", file, "echo", "output")
				}
				if err != nil || code != 0 {
					t.Fatalf("process %d: %d, %v", serial, code, err)
				}
			}
		}
		agent := dialAgent(t, id)
		run(40) // caches and pools fill
		first := hold(t, c, agent, id)
		start := time.Now()
		n := number(t, execsVariable, 100)
		for range 4 { // what is still filling up is seen to level off
			run(n / 4)
			t.Logf("after %4d %v", serial, hold(t, c, agent, id))
		}
		t.Logf("%d processes in %v", n, time.Since(start).Round(time.Millisecond))
		// What was given up may be freed a little later.
		last := hold(t, c, agent, id)
		for end := time.Now().Add(10 * time.Second); last.fds > first.fds+4 && time.Now().Before(end); last = hold(t,
			c, agent, id) {
			time.Sleep(200 * time.Millisecond)
		}
		if last.fds > first.fds+4 {
			fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", shimOf(t, id)))
			for _, f := range fds {
				to, _ := os.Readlink(f)
				t.Logf("%s: %s", f, to)
			}
		}
		t.Logf("before %v", first)
		t.Logf("after  %v", last)
		for _, x := range []struct {
			what                   string
			first, last, allowance float64
		}{
			{"descriptors of the shim", float64(first.fds), float64(last.fds), 4},
			{"threads of the shim", float64(first.threads), float64(last.threads), 6},
			{"memory of the shim in KiB, but its program's", float64(first.ownKiB), float64(last.ownKiB), 4 << 10},
			{"files open in the guest", first.guestFiles, last.guestFiles, 64},
			{"threads of the agent", first.agentThreads, last.agentThreads, 6},
			{"memory of the agent in bytes", first.agentRSSBytes, last.agentRSSBytes, 8 << 20},
		} {
			if x.first == 0 || x.last > x.first+x.allowance {
				t.Errorf("%s grew from %.0f to %.0f", x.what, x.first, x.last)
			}
		}
	})
}
