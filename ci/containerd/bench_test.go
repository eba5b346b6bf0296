package containerd

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/katabuild/katabuild/ci/containerd/image"
	"github.com/katabuild/katabuild/ci/containerd/nest"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/agentapi/oci"
	"github.com/katabuild/katabuild/internal/testenv"
)

// benchVariable turns TestBench on; it tests nothing, and prints a table.
const benchVariable = "KATABUILD_TEST_BENCH"

// benchRuns is what medians are taken of.
const benchRuns = 5

// row prints one figure, and what it is compared with.
func row(name, figure, compared string) {
	fmt.Printf("bench  %-46s %16s  %s\n", name, figure, compared)
}

func median[T int64 | float64 | time.Duration](all []T) T {
	all = slices.Clone(all)
	slices.Sort(all)
	return all[len(all)/2]
}

func milli(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}

// speed is MiB a second.
func speed(bytes int, d time.Duration) float64 { return float64(bytes) / (1 << 20) / d.Seconds() }

// cpu is the processor time that a process has used, in steps of a tick. proc_pid_stat(5): utime and stime are fields
// 14 and 15.
func cpu(t testing.TB, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:])) // from field 3 on
	var ticks int
	for _, x := range f[14-3 : 16-3] {
		n, err := strconv.Atoi(x)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every architecture but alpha and ia64
	return time.Duration(ticks) * tick
}

func TestBench(t *testing.T) {
	testenv.Require(t, testenv.Asked(benchVariable, "bench-containers"), testenv.Asked(asked, "bench-containers"))
	onGuests(t, func(t *testing.T, c *client) {
		if c.Release.Name != "2" {
			return
		}
		t.Run("pod", func(t *testing.T) { benchPod(t, c) })
		t.Run("streams", func(t *testing.T) { benchStreams(t, c) })
		t.Run("files", func(t *testing.T) { benchFiles(t, c) })
		t.Run("starts", func(t *testing.T) { benchStarts(t, c) })
	})
}

// benchPod measures operations on containers of a pod that runs, and its network.
func benchPod(t *testing.T, c *client) {
	n := newNode(t, c.setting)
	p := n.run(t, n.podConfig("bench"))
	shim, daemon := shimOf(t, p.id), processes("containerd", "\x00--config\x00"+filepath.Dir(c.LogFile()))
	if len(daemon) != 1 {
		t.Fatalf("containerd is %v", daemon)
	}
	time.Sleep(3 * time.Second)
	row("shim, idle", fmt.Sprintf("%.1f MiB", float64(statusOf(t, shim, "VmRSS"))/1024),
		fmt.Sprintf("%.1f MiB of it its own; aim 16 MiB", float64(statusOf(t, shim, "RssAnon"))/1024))
	const n0 = 10
	ctx := t.Context()
	var ids []string
	measure := func(name string, do func(i int) error) {
		t.Helper()
		s, d := cpu(t, shim), cpu(t, daemon[0])
		var wall []time.Duration
		for i := range n0 {
			start := time.Now()
			if err := do(i); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			wall = append(wall, time.Since(start))
		}
		s, d = cpu(t, shim)-s, cpu(t, daemon[0])-d
		row("container, "+name, milli(median(wall)), fmt.Sprintf("CPU of the shim %s, of containerd %s", milli(s/n0),
			milli(d/n0)))
	}
	measure("create", func(i int) error {
		r, err := p.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: p.id, SandboxConfig: p.config,
			Config: &cri.ContainerConfig{
				Metadata: &cri.ContainerMetadata{Name: fmt.Sprintf("bench%d", i)},
				Image:    &cri.ImageSpec{Image: image.Tools}, Command: []string{"toolbox", "pause"},
				LogPath: fmt.Sprintf("bench%d.log", i), Linux: &cri.LinuxContainerConfig{},
			}})
		ids = append(ids, r.GetContainerId())
		return err
	})
	measure("start (makes it in the guest)", func(i int) error {
		_, err := p.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: ids[i]})
		return err
	})
	measure("exec, to its end", func(i int) error {
		r, err := p.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: ids[i], Cmd: []string{"true"}, Timeout: 60})
		if err == nil && r.ExitCode != 0 {
			err = fmt.Errorf("true ended with %d", r.ExitCode)
		}
		return err
	})
	measure("stop", func(i int) error {
		_, err := p.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: ids[i]})
		return err
	})
	measure("delete", func(i int) error {
		_, err := p.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: ids[i]})
		return err
	})
	benchNetwork(t, p)
}

// benchNetwork measures TCP between the host and a pod, by the pod's address.
func benchNetwork(t *testing.T, p *pod) {
	r, err := p.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: p.id})
	if err != nil {
		t.Fatal(err)
	}
	address := net.JoinHostPort(r.Status.Network.Ip, "8300")
	p.start(t, nil, "toolbox", "wire", ":8300")
	dial := func(word string) net.Conn {
		var c net.Conn
		until(t, patience, "the server", func() bool { c, err = net.Dial("tcp", address); return err == nil })
		if _, err := io.WriteString(c, word); err != nil {
			t.Fatal(err)
		}
		return c
	}
	echo := dial("e")
	defer echo.Close()
	var rtt []time.Duration
	for range 200 {
		start, b := time.Now(), make([]byte, 1)
		if _, err := echo.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(echo, b); err != nil {
			t.Fatal(err)
		}
		rtt = append(rtt, time.Since(start))
	}
	row("network, round trip", fmt.Sprintf("%.0f us", float64(median(rtt).Microseconds())),
		"TCP, one byte, median of 200")
	const size = 32 << 20
	var in, out []float64
	for range benchRuns {
		s := dial("s")
		start := time.Now()
		if _, err := io.CopyN(io.Discard, s, size); err != nil {
			t.Fatal(err)
		}
		out = append(out, speed(size, time.Since(start)))
		s.Close()
		w := dial("r")
		start = time.Now()
		if _, err := w.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if err := w.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(w, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		in = append(in, speed(size, time.Since(start)))
		w.Close()
	}
	row("network, pod to host", fmt.Sprintf("%.1f MiB/s", median(out)), "TCP, 32 MiB")
	row("network, host to pod", fmt.Sprintf("%.1f MiB/s", median(in)), "TCP, 32 MiB")
}

// benchStreams compares the streams of a process with calls that read and write 32 KiB each.
func benchStreams(t *testing.T, c *client) {
	id := c.detach(t, nil, "toolbox", "pause")
	fifo := filepath.Join(c.dir, "stream")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	const size = 32 << 20
	mib := strconv.Itoa(size >> 20)
	var out, in, polledOut, polledIn []float64
	for i := range benchRuns {
		f, err := os.OpenFile(fifo, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		c.begin(t, id, fmt.Sprintf("out%d", i), "", fifo, "dd", "if=/dev/zero", "bs=64k",
			"count="+strconv.Itoa(size>>16))
		if _, err := io.ReadFull(f, make([]byte, 1)); err != nil { // from the first byte on
			t.Fatal(err)
		}
		begin := time.Now()
		if _, err := io.CopyN(io.Discard, f, size-1); err != nil {
			t.Fatal(err)
		}
		out = append(out, speed(size, time.Since(begin)))
		c.forget(t, id, fmt.Sprintf("out%d", i))
		f.Close()
		if f, err = os.OpenFile(fifo, os.O_RDWR, 0); err != nil {
			t.Fatal(err)
		}
		begin = c.begin(t, id, fmt.Sprintf("in%d", i), fifo, "", "dd", "of=/dev/null", "iflag=fullblock", "bs=1M",
			"count="+mib)
		if _, err := f.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		c.forget(t, id, fmt.Sprintf("in%d", i)) // waits for its end
		in = append(in, speed(size, time.Since(begin)))
		f.Close()
	}
	a := dialAgent(t, id)
	const chunk = 32 << 10
	ctx := t.Context()
	run := func(exec string, args ...string) {
		t.Helper()
		p := oci.ProcessToWire(&specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}})
		if _, err := a.ExecProcess(ctx, &katapb.ExecProcessRequest{ContainerId: id, ExecId: exec,
			Process: p}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range benchRuns {
		exec := fmt.Sprintf("pout%d", i)
		var start time.Time // of the first bytes
		run(exec, "dd", "if=/dev/zero", "bs=64k", "count="+strconv.Itoa(size>>16))
		for n := 0; n < size; {
			r, err := a.ReadStdout(ctx, &katapb.ReadStreamRequest{ContainerId: id, ExecId: exec, Len: chunk})
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				start = time.Now()
			}
			n += len(r.Data)
		}
		polledOut = append(polledOut, speed(size, time.Since(start)))
		if _, err := a.WaitProcess(ctx, &katapb.WaitProcessRequest{ContainerId: id, ExecId: exec}); err != nil {
			t.Fatal(err)
		}
		exec = fmt.Sprintf("pin%d", i)
		run(exec, "dd", "of=/dev/null", "iflag=fullblock", "bs=1M", "count="+mib)
		start = time.Now()
		for n := 0; n < size; {
			r, err := a.WriteStdin(ctx, &katapb.WriteStreamRequest{ContainerId: id, ExecId: exec,
				Data: make([]byte, chunk)})
			if err != nil {
				t.Fatal(err)
			}
			n += int(r.Len)
		}
		if _, err := a.WaitProcess(ctx, &katapb.WaitProcessRequest{ContainerId: id, ExecId: exec}); err != nil {
			t.Fatal(err)
		}
		polledIn = append(polledIn, speed(size, time.Since(start)))
	}
	for _, x := range []struct {
		name           string
		stream, polled []float64
	}{{"stdout", out, polledOut}, {"stdin", in, polledIn}} {
		s, p := median(x.stream), median(x.polled)
		row(x.name+", stream", fmt.Sprintf("%.1f MiB/s", s),
			fmt.Sprintf("%.1f times calls of 32 KiB (%.1f MiB/s); aim 5", s/p, p))
	}
}

// begin starts a process and returns when it runs.
func (c *client) begin(t *testing.T, id, exec, stdin, stdout string, args ...string) time.Time {
	t.Helper()
	spec, err := process(args...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(c.ctx(t), &tasks.ExecProcessRequest{ContainerID: id, ExecID: exec, Spec: spec, Stdin: stdin,
		Stdout: stdout}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Start(c.ctx(t), &tasks.StartRequest{ContainerID: id, ExecID: exec}); err != nil {
		t.Fatal(err)
	}
	return time.Now()
}

// forget waits for the end of a process, which must be a good one.
func (c *client) forget(t *testing.T, id, exec string) {
	t.Helper()
	r, err := c.Wait(c.ctx(t), &tasks.WaitRequest{ContainerID: id, ExecID: exec})
	if err != nil || r.ExitStatus != 0 {
		t.Fatalf("%s: %v, %v", exec, r, err)
	}
	if _, err := c.DeleteProcess(c.ctx(t), &tasks.DeleteProcessRequest{ContainerID: id, ExecID: exec}); err != nil {
		t.Fatal(err)
	}
}

// benchFiles compares the ways to share a container's files.
func benchFiles(t *testing.T, c *client) {
	const mib = 32
	for _, kind := range []string{"virtio-fs", "virtio-9p"} {
		o := c.configured(t, fmt.Sprintf("shared_fs = %q\n", kind))
		o.serial = 1000
		if kind == "virtio-9p" {
			o.serial = 2000
		}
		id := o.detach(t, []string{"--privileged"}, "toolbox", "pause")
		var write, read, stat []float64
		for range benchRuns {
			r := o.exec(t, id, "toolbox", "disk", "/var", strconv.Itoa(mib))
			var us [3]float64
			if _, err := fmt.Sscan(r.out, &us[0], &us[1], &us[2]); err != nil {
				t.Fatalf("%s: %+v: %v", kind, r, err)
			}
			write, read, stat = append(write, mib/(us[0]/1e6)), append(read, mib/(us[1]/1e6)), append(stat, us[2]/1e3)
		}
		row(kind+", sequential write", fmt.Sprintf("%.1f MiB/s", median(write)), fmt.Sprintf("%d MiB and fsync", mib))
		row(kind+", sequential read", fmt.Sprintf("%.1f MiB/s", median(read)),
			fmt.Sprintf("%d MiB, guest's caches empty", mib))
		row(kind+", 300 stats", fmt.Sprintf("%.1f ms", median(stat)), "guest's caches empty")
	}
}

// benchStarts compares a container from nothing to its end with runc's, and with a virtual machine alone.
func benchStarts(t *testing.T, c *client) {
	timed := func(what string, cmd func(i int) *exec.Cmd) time.Duration {
		t.Helper()
		var all []time.Duration
		for i := range benchRuns {
			start := time.Now()
			if out, err := cmd(i).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v: %s", what, err, out)
			}
			all = append(all, time.Since(start))
		}
		return median(all)
	}
	ours := timed("run", func(i int) *exec.Cmd {
		return c.Ctr(c.namespace, c.run(fmt.Sprintf("bench-k%d", i), []string{"--rm"}, "true")...)
	})
	runc := timed("runc", func(i int) *exec.Cmd {
		return c.Ctr(c.namespace, "run", "--rm", "--runtime", "io.containerd.runc.v2", image.Tools,
			fmt.Sprintf("bench-r%d", i), "true")
	})
	boot := timed("boot", func(int) *exec.Cmd {
		return exec.Command(filepath.Join(repository, "bin/katabuild"), "boot",
			guestOf(t, c))
	})
	nest.RemoveCgroups() // runc's shim of containerd 2.4 leaves empty ones now and then
	row("ctr run --rm true", milli(ours), "")
	row("ctr run --rm true, runc", milli(runc), fmt.Sprintf("ours takes %.1f times as long",
		float64(ours)/float64(runc)))
	row("katabuild boot, the machine alone", milli(boot), fmt.Sprintf("ctr run takes %.2f times as long",
		float64(ours)/float64(boot)))
}
