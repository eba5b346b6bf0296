// Package runk_test runs containers by runk and by runc, and has both do the same: what is compared is what a user
// sees.
package runk_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katabuild/katabuild/internal/boottest"
	"github.com/katabuild/katabuild/internal/testenv"
)

// need is what all tests here need.
func need(t testing.TB) {
	t.Helper()
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_RUNK", "test-runk"), testenv.Root, testenv.Tool("go"),
		testenv.Tool("runc"), testenv.File("KATABUILD_TEST_BUSYBOX"))
}

// program builds runk as make build does.
func program(t testing.TB) string {
	t.Helper()
	return boottest.Build(t, "../..", "build", "-trimpath", "-ldflags=-s -w -X main.version=1.2.3", "./cmd/runk")
}

// host is where one runtime does a scenario.
type host struct {
	*testing.T
	runtime string // its program
	name    string // runk or runc
	root    string // of its states
	bundle  string
	spec    *specs.Spec

	user     int  // who runs the runtime, with a group of the same number
	version2 bool // let the runtime see control groups of version 2 alone, on a host that has both
}

// rootfs makes a small root file system.
func rootfs(t testing.TB, dir string) {
	t.Helper()
	check := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	for _, d := range []string{"bin", "proc", "sys", "dev", "etc", "tmp", "home/someone"} {
		check(os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	b, err := os.ReadFile(os.Getenv("KATABUILD_TEST_BUSYBOX"))
	check(err)
	check(os.WriteFile(filepath.Join(dir, "bin/busybox"), b, 0o755))
	for _, w := range strings.Fields("sh cat ls id env sleep true false mount hostname grep sort stty mkdir touch " +
		"readlink stat kill tail head ps seq tty echo pwd chown") {
		check(os.Symlink("busybox", filepath.Join(dir, "bin", w)))
	}
	check(os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\n"+
		"someone:x:1000:1000::/home/someone:/bin/sh\n"), 0o644))
}

// newHost makes a bundle for a runtime, whose specification is runc's own.
func newHost(t *testing.T, name, runtime string) *host {
	t.Helper()
	h := &host{T: t, name: name, runtime: runtime, root: t.TempDir(), bundle: t.TempDir()}
	rootfs(t, filepath.Join(h.bundle, "rootfs"))
	cmd := exec.Command("runc", "spec")
	cmd.Dir = h.bundle
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("runc spec: %v\n%s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(h.bundle, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	h.spec = &specs.Spec{}
	if err := json.Unmarshal(b, h.spec); err != nil {
		t.Fatal(err)
	}
	h.spec.Process.Terminal = false
	h.spec.Hostname = "box"
	h.spec.Linux.CgroupsPath = h.group()
	return h
}

// group is where the container's control groups are.
func (h *host) group() string { return "/runk-test/" + h.name }

// id is the container's.
func (h *host) id() string { return "test-" + h.name }

// write writes the specification.
func (h *host) write() {
	h.Helper()
	b, err := json.Marshal(h.spec)
	if err != nil {
		h.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(h.bundle, "config.json"), b, 0o644); err != nil {
		h.Fatal(err)
	}
}

// result is what came of a command.
type result struct {
	Code     int
	Out, Err string
}

// command is the runtime with arguments.
func (h *host) command(args ...string) *exec.Cmd {
	cmd := exec.Command(h.runtime, append([]string{"--root", h.root}, args...)...)
	if h.user != 0 {
		cmd = exec.Command("setpriv", append([]string{"--reuid", strconv.Itoa(h.user), "--regid", strconv.Itoa(h.user),
			"--clear-groups"}, cmd.Args...)...)
	}
	if h.version2 {
		cmd = exec.Command("unshare", append([]string{"-m", "sh", "-c",
			`mount --bind /sys/fs/cgroup/unified /sys/fs/cgroup; exec "$@"`, "sh"}, cmd.Args...)...)
	}
	cmd.Dir = h.bundle
	return cmd
}

// do runs the runtime. What it starts may keep its streams, so they are files.
func (h *host) do(args ...string) result {
	h.Helper()
	return h.with(h.command(args...))
}

func (h *host) with(cmd *exec.Cmd) result {
	h.Helper()
	out, err := os.CreateTemp(h.TempDir(), "out")
	if err != nil {
		h.Fatal(err)
	}
	defer out.Close()
	said, err := os.CreateTemp(h.TempDir(), "err")
	if err != nil {
		h.Fatal(err)
	}
	defer said.Close()
	cmd.Stdout, cmd.Stderr = out, said
	var r result
	if err := cmd.Run(); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			h.Fatal(err)
		}
		r.Code = exit.ExitCode()
	}
	read := func(f *os.File) string {
		b, err := os.ReadFile(f.Name())
		if err != nil {
			h.Fatal(err)
		}
		return string(b)
	}
	r.Out, r.Err = read(out), read(said)
	return r
}

// good runs the runtime, which must succeed, and returns what it printed.
func (h *host) good(args ...string) string {
	h.Helper()
	r := h.do(args...)
	if r.Code != 0 {
		h.Fatalf("%s %s: %d\n%s%s", h.name, strings.Join(args, " "), r.Code, r.Out, r.Err)
	}
	return r.Out
}

// sh has the container's process be a shell that runs a script.
func (h *host) sh(script string) *host {
	h.spec.Process.Args = []string{"/bin/sh", "-c", script}
	h.write()
	return h
}

// run runs the container's script to its end, and returns what it printed and its exit code.
func (h *host) run() string {
	h.Helper()
	r := h.do("run", h.id())
	if r.Err != "" {
		h.Logf("%s: %s", h.name, r.Err)
	}
	return fmt.Sprintf("%s(%d)", r.Out, r.Code)
}

// file is where the container's process sees /tmp/NAME.
func (h *host) file(name string) string { return filepath.Join(h.bundle, "rootfs/tmp", name) }

// await waits until a file is there.
func (h *host) await(path string) {
	h.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return
		}
	}
	h.Fatalf("%s: there is no %s", h.name, path)
}

// status waits until the container is in a state.
func (h *host) status(want string) {
	h.Helper()
	got := ""
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		var s struct{ Status string }
		if err := json.Unmarshal([]byte(h.good("state", h.id())), &s); err != nil {
			h.Fatal(err)
		}
		if got = s.Status; got == want {
			return
		}
	}
	h.Fatalf("%s: the container is %s, not %s", h.name, got, want)
}

// background starts a container that lives until it is killed, and waits until its program runs.
func (h *host) background() {
	h.Helper()
	h.spec.Root.Readonly = false
	h.sh("touch /tmp/up; exec sleep 1000")
	h.good("run", "--detach", h.id())
	h.await(h.file("up"))
}

// both runs a scenario by both runtimes and compares what they return.
func both(t *testing.T, scenario func(h *host) string) {
	t.Helper()
	need(t)
	self := program(t)
	var got [2]string
	for i, r := range []struct{ name, path string }{{"runc", "runc"}, {"runk", self}} {
		ok := t.Run(r.name, func(t *testing.T) {
			h := newHost(t, r.name, r.path)
			t.Cleanup(func() {
				h.do("delete", "--force", h.id())
				for _, dir := range h.groups() {
					if _, err := os.Stat(dir); err == nil {
						t.Errorf("%s: its control group %s is left", r.name, dir)
						os.Remove(dir)
					}
				}
			})
			got[i] = scenario(h)
		})
		if !ok {
			return
		}
	}
	if got[0] == "" {
		t.Fatal("nothing was compared")
	}
	if got[0] != got[1] {
		t.Errorf("runc and runk differ:\n%s", diff(got[0], got[1]))
	}
}

// groups are the folders that the container's control groups would be.
func (h *host) groups() []string {
	out, err := filepath.Glob("/sys/fs/cgroup/*" + h.group())
	if err != nil {
		h.Fatal(err)
	}
	return out
}

// diff are the lines that only one of two texts has.
func diff(a, b string) string {
	var out bytes.Buffer
	la, lb := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := 0; i < len(la) || i < len(lb); i++ {
		x, y := "", ""
		if i < len(la) {
			x = la[i]
		}
		if i < len(lb) {
			y = lb[i]
		}
		if x != y {
			fmt.Fprintf(&out, "  runc: %s\n  runk: %s\n", x, y)
		}
	}
	return out.String()
}

// drain reads from a terminal until its other end is closed, or a text has come.
func drain(r io.Reader, until string) string {
	var got bytes.Buffer
	b := make([]byte, 1<<10)
	for {
		n, err := r.Read(b)
		got.Write(b[:n])
		if err != nil || until != "" && strings.Contains(got.String(), until) {
			return got.String()
		}
	}
}
