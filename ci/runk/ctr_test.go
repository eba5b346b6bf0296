package runk_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/ci/containerd/daemon"
	"github.com/katabuild/katabuild/internal/testenv"
)

// TestUnderContainerd has the distribution's containerd run containers by ctr, with runc and with runk.
func TestUnderContainerd(t *testing.T) {
	need(t)
	testenv.Require(t, testenv.Tool("containerd"), testenv.Tool("ctr"))
	containerd, err := exec.LookPath("containerd")
	if err != nil {
		t.Fatal(err)
	}
	release, err := daemon.Distribution(t.Context(), filepath.Dir(containerd))
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "kbrunk") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d, err := daemon.Start(t.Context(), daemon.Config{Release: release, Dir: dir, Hosts: dir + "/certs.d",
		Pause: "localhost/none", Bridge: "kbrunk", Subnet: "10.88.77"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("containerd said at last:\n%s", d.Tail(30))
		}
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
	})
	both(t, func(h *host) string { return underContainerd(h, d) })
}

func underContainerd(h *host, d *daemon.Daemon) string {
	runtime, err := exec.LookPath(h.runtime)
	if err != nil {
		h.Fatal(err)
	}
	tree := filepath.Join(h.bundle, "rootfs")
	ctr := func(args ...string) string {
		r := h.with(d.Ctr("test", args...))
		return fmt.Sprintf("%s%s(%d)\n", r.Out, r.Err, r.Code)
	}
	id := "ctr-" + h.name
	run := func(flags []string, command ...string) string {
		args := append([]string{"run", "--runc-binary", runtime, "--env", "PATH=/bin", "--rootfs"}, flags...)
		return ctr(append(append(args, tree, id), command...)...)
	}
	said := run([]string{"--rm"}, "sh", "-c", "id; grep -e ^Cap -e ^NoNew /proc/self/status; env | sort; exit 3")
	said += run([]string{"--rm", "--env", "A=b", "--cwd", "/tmp", "--memory-limit", "67108864"}, "sh", "-c",
		"pwd; env | grep A=")
	failed := run([]string{"--rm"}, "nosuch")
	said += fmt.Sprint(strings.Contains(failed, "executable file not found in $PATH"), strings.Contains(failed, "(1)"))
	said += ctr("containers", "rm", id)
	said += run([]string{"--detach"}, "sh", "-c", "sleep 1000 & wait")
	said += ctr("task", "exec", "--exec-id", "e1", id, "sh", "-c", "echo from exec; exit 6")
	said += ctr("task", "pause", id) + ctr("task", "ls") + ctr("task", "resume", id) + ctr("task", "ls")
	metrics := ctr("task", "metrics", id)
	said += fmt.Sprint(strings.Contains(metrics, "pids.current"), strings.Contains(metrics, "cpuacct.usage"), "\n")
	ps, lines := "", 0
	for range 100 { // what was executed there is gone a moment after it has ended
		ps = ctr("task", "ps", id)
		if lines = strings.Count(ps, "\n"); lines == 4 {
			break
		}
	}
	if lines != 4 { // a heading, the shell, what it waits for, and the exit code
		h.Errorf("%s: not a shell and what it waits for: %s", h.name, ps)
	}
	said += ctr("task", "kill", "--signal", "KILL", id)
	for range 1000 {
		if strings.Contains(ctr("task", "ls"), "STOPPED") {
			break
		}
	}
	said += ctr("task", "ls") + ctr("task", "rm", id) + ctr("containers", "rm", id)
	numbers := regexp.MustCompile(` +[0-9]+ +|time="[^"]*"`)
	return numbers.ReplaceAllString(strings.ReplaceAll(strings.ReplaceAll(said, id, "ID"), h.bundle, "BUNDLE"), " N ")
}
