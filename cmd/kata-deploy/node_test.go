package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/releases/assemble"
	"github.com/katabuild/katabuild/releases/ceremony"
	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/install"
	"github.com/katabuild/katabuild/releases/keys"
	"github.com/katabuild/katabuild/releases/releasetest"
	"github.com/katabuild/katabuild/releases/roles"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"kata-deploy": main}) }

// Files of a host's /run that say how its programs behave.
const (
	activeUnits = "run/units"  // a folder: what is in it is active
	restarted   = "run/log"    // a line for each restart
	badCheck    = "run/broken" // what kata-runtime check says, where it fails
)

// self is this test's program.
func self(t testing.TB) string {
	t.Helper()
	p, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// hostProgram is testdata/host, built without a C library, which hosts of tests have not.
var hostProgram = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "kata-deploy-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "host")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "./testdata/host")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, said)
	}
	return os.ReadFile(out)
})

// put makes a program of hosts and releases by some name.
func put(t testing.TB, p string) {
	t.Helper()
	data, err := hostProgram()
	if err := errors.Join(err, os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, data, 0o755)); err != nil {
		t.Fatal(err)
	}
}

// write makes a file.
func write(t testing.TB, p, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

const mainFile = "version = 2\n\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n" +
	"  runtime_type = \"io.containerd.runc.v2\"\n"

// newHost makes the root file system of a node of kubeadm's, where systemd runs containerd.
func newHost(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	for _, d := range []string{"run/systemd/system", "opt", "usr/local/bin", activeUnits, "proc"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(root, "etc/containerd/config.toml"), mainFile)
	write(t, filepath.Join(root, activeUnits, "containerd.service"), "")
	put(t, filepath.Join(root, "usr/bin/systemctl"))
	return root
}

func TestTheNodesOwnProgramWritesTheReport(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Tool("go"))
	root := newHost(t)
	args := []string{"debug", "--host", root, "--", "--since", "-10min"}
	run := func() (string, error) {
		var out bytes.Buffer
		c := (&app{out: &out, err: t.Output()}).root()
		c.SetArgs(args)
		err := c.ExecuteContext(t.Context())
		return out.String(), err
	}
	if _, err := run(); err == nil || !strings.Contains(err.Error(),
		"there is no /usr/local/bin/kata-runtime in "+root) {
		t.Errorf("of a node without the runtime: %v", err)
	}
	put(t, filepath.Join(root, "opt/kata-runtime"))
	if err := os.Symlink("/opt/kata-runtime", filepath.Join(root, "usr/local/bin/kata-runtime")); err != nil {
		t.Fatal(err)
	}
	said, err := run()
	if want := `report of ["--output-file" "-" "--since" "-10min"]`; err != nil || strings.TrimSpace(said) != want {
		t.Errorf("%q, %v, want %q", said, err, want)
	}
}

// tree is every name below a host's root, but for what runs, with what it is.
func tree(t testing.TB, root string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) (broken error) {
		defer func() {
			if errors.Is(broken, fs.ErrNotExist) { // what is being written goes while it is looked at
				fmt.Fprintf(&b, "%s goes\n", p)
				broken = nil
			}
		}()
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(p, root)
		if name == "/run" || name == "/proc" {
			return fs.SkipDir
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		text := ""
		switch {
		case fi.Mode()&fs.ModeSymlink != 0:
			text, err = os.Readlink(p)
		case fi.Mode().IsRegular():
			var x digest.Digest
			x, _, err = digest.File(p)
			text = string(x)
		}
		fmt.Fprintf(&b, "%s %v %s\n", name, fi.Mode(), text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// machine is the name of this machine's architecture.
func machine(t testing.TB) string {
	t.Helper()
	a, err := arch.FromGo(runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	return a.Name
}

// newRelease makes a release of one guest for this machine, and of one for another.
func newRelease(t testing.TB, version string, sign keys.Signer) string {
	t.Helper()
	dir, programs := filepath.Join(t.TempDir(), "release"), t.TempDir()
	cfg := assemble.Config{Version: version, Channel: "stable", Origin: releasetest.Origin, Claims: releasetest.Claims,
		Programs: programs, Sign: sign}
	for _, p := range []string{"containerd-shim-kata-v2", "kata-runtime", "katabuild"} {
		put(t, filepath.Join(programs, machine(t), p))
	}
	other := "aarch64"
	if machine(t) == other {
		other = "x86_64"
	}
	for _, a := range []string{machine(t), other} {
		d := t.TempDir()
		if err := (releasetest.Guest{Arch: a, Mark: version}).Write(d); err != nil {
			t.Fatal(err)
		}
		cfg.Guests = append(cfg.Guests, assemble.Guest{Dir: d})
	}
	to, err := folder.Create(t.Context(), dir)
	if err == nil {
		_, err = assemble.Release(t.Context(), cfg, to)
		err = errors.Join(err, to.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// daemon is a kata-deploy run that runs.
type daemon struct {
	t    *testing.T
	cmd  *exec.Cmd
	work string
	done chan error

	mu   sync.Mutex
	said bytes.Buffer
}

func (d *daemon) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.said.Write(p)
}

// log is what it has said.
func (d *daemon) log() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.said.String()
}

// start starts kata-deploy run on a host, in a chroot of which it runs the host's programs.
func start(t *testing.T, a *apiServer, host string, args ...string) *daemon {
	t.Helper()
	d := &daemon{t: t, work: t.TempDir(), done: make(chan error, 1)}
	d.cmd = exec.Command(self(t))
	d.cmd.Args = append([]string{"kata-deploy", "run", "--host", host, "--work", d.work, "--interval", "50ms",
		"--retry", "50ms", "--service-account", a.account}, args...)
	d.cmd.Env = append(os.Environ(), a.environment()...)
	d.cmd.Stdout, d.cmd.Stderr = d, d
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { d.done <- d.cmd.Wait() }()
	t.Cleanup(func() {
		if d.cmd.Process.Kill() == nil {
			<-d.done
		}
		if t.Failed() {
			t.Log(d.log())
		}
	})
	return d
}

// until waits until something is so.
func (d *daemon) until(what string, so func() bool) {
	d.t.Helper()
	for end := time.Now().Add(50 * time.Second); !so(); time.Sleep(10 * time.Millisecond) {
		select {
		case err := <-d.done:
			d.done <- err
			d.t.Fatalf("it ended (%v) before: %s\n%s", err, what, d.log())
		default:
		}
		if time.Now().After(end) {
			d.t.Fatalf("it does not come to this: %s\n%s", what, d.log())
		}
	}
}

// ready waits until the probe says so.
func (d *daemon) ready(as string) {
	d.t.Helper()
	d.until("ready as "+as, func() bool { return d.probe() == as })
}

// probe is what the probe says; empty for not ready.
func (d *daemon) probe() string {
	var out bytes.Buffer
	a := &app{out: &out, err: &out}
	if run([]string{"ready", "--work", d.work}, a) != 0 {
		return ""
	}
	return strings.TrimSpace(out.String())
}

// says waits until it has said something.
func (d *daemon) says(what string) {
	d.t.Helper()
	d.until("the log has "+what, func() bool { return strings.Contains(d.log(), what) })
}

// stop ends it as a node does, and checks that it leaves all as it is.
func (d *daemon) stop(a *apiServer, host string) {
	d.t.Helper()
	labels, before := a.labels(), tree(d.t, host)
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		d.t.Fatal(err)
	}
	err := <-d.done
	d.done <- err
	if err != nil {
		d.t.Errorf("it ended with %v\n%s", err, d.log())
	}
	if a.labels() != labels || tree(d.t, host) != before {
		d.t.Errorf("ending has changed the node: %s, before %s\n%s", a.labels(), labels, d.log())
	}
}

const (
	begunLabel = "katabuild.io/installed=default"
	readyLabel = "katabuild.io/installed=default katabuild.io/release=%s katacontainers.io/kata-runtime=true"
)

// order lets the test fail where labels come or go at another time than they may.
func order(t *testing.T, a *apiServer, host, before string) {
	a.changed = func(_ string, labels map[string]string) {
		_, err := os.Lstat(filepath.Join(host, "opt/katabuild/current"))
		there := err == nil
		if labels["katabuild.io/installed"] == "" && tree(t, host) != before {
			t.Error("the label goes while something of it is on the host")
		}
		if labels["katacontainers.io/kata-runtime"] == "true" && !there {
			t.Error("pods may come while nothing is installed")
		}
	}
}

// in says what the installation has in force.
func in(t testing.TB, host string) string {
	t.Helper()
	to, err := filepath.EvalSymlinks(filepath.Join(host, "opt/katabuild/current/release"))
	if err != nil {
		return ""
	}
	return filepath.Base(to)
}

func text(t testing.TB, p string) string {
	t.Helper()
	data, err := os.ReadFile(p)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return string(data)
}

// A node gets a release, a newer one, the one before again, and nothing: through the program, its chroot and an API
// server.
func TestTheLifeOfANode(t *testing.T) {
	t.Parallel()
	if !testenv.Inside(t, 0) {
		return
	}
	a, host := newAPI(t), newHost(t)
	before := tree(t, host)
	order(t, a, host, before)
	one, two := newRelease(t, "1.0.0", nil), newRelease(t, "2.0.0", nil)
	state := filepath.Join(t.TempDir(), "state")
	write(t, state, "present\n")
	restarts := func() string { return text(t, filepath.Join(host, restarted)) }

	d := start(t, a, host, "--release", one, "--state", state)
	d.ready("installed 1.0.0")
	if got, want := a.labels(), fmt.Sprintf(readyLabel, "1.0.0"); got != want {
		t.Errorf("labels %s, want %s", got, want)
	}
	if got := restarts(); got != "containerd.service\n" {
		t.Errorf("restarted %q", got)
	}
	first := in(t, host)
	if !strings.HasPrefix(first, "1.0.0-") {
		t.Errorf("in force: %s", first)
	}
	d.stop(a, host)

	// The node comes up again: nothing is written, nothing restarted.
	was := tree(t, host)
	d = start(t, a, host, "--release", one, "--state", state)
	d.ready("installed 1.0.0")
	if tree(t, host) != was || restarts() != "containerd.service\n" {
		t.Errorf("the second time it changes the host\n%s", d.log())
	}
	// What somebody changes is put right, in the release as elsewhere.
	for _, p := range []string{"usr/local/bin/containerd-shim-kata-v2", "opt/katabuild/releases/" + first +
		"/guests/sample/vmlinux", "opt/katabuild/releases/" + first + "/files.json"} {
		if err := os.Remove(filepath.Join(host, p)); err != nil {
			t.Fatal(err)
		}
		d.until(p+" is there again", func() bool { return tree(t, host) == was })
	}
	write(t, filepath.Join(host, "etc/containerd/config.toml"), mainFile)
	d.until("containerd is told again", func() bool { return tree(t, host) == was })
	d.until("it starts anew for that", func() bool { return strings.Count(restarts(), "\n") == 2 })
	// Somebody takes the label away.
	a.mu.Lock()
	delete(a.nodes["node-1"], "katacontainers.io/kata-runtime")
	a.mu.Unlock()
	d.until("the label is there again", func() bool { return a.labels() == fmt.Sprintf(readyLabel, "1.0.0") })
	d.stop(a, host)

	// Another release, and the one before, which is there still.
	d = start(t, a, host, "--release", two, "--state", state)
	d.ready("installed 2.0.0")
	if got, want := a.labels(), fmt.Sprintf(readyLabel, "2.0.0"); got != want {
		t.Errorf("labels %s, want %s", got, want)
	}
	d.stop(a, host)
	d = start(t, a, host, "--release", one, "--state", state)
	d.ready("installed 1.0.0")
	if got := in(t, host); got != first || strings.Contains(d.log(), "add   ") {
		t.Errorf("in force: %s, want %s\n%s", got, first, d.log())
	}
	if got := restarts(); strings.Count(got, "\n") != 2 {
		t.Errorf("another release restarts containerd: %q", got)
	}

	// Off, and on again.
	write(t, state, "absent")
	d.ready("absent")
	if after := tree(t, host); after != before || a.labels() != "" {
		t.Errorf("labels %q; before:\n%s\nafter:\n%s", a.labels(), before, after)
	}
	write(t, state, "present")
	d.ready("installed 1.0.0")
	// From a node with everything, by the command that the chart calls.
	a.mu.Lock()
	a.told = func(data map[string]string) { write(t, state, data["state"]) }
	a.mu.Unlock()
	var out bytes.Buffer
	if code := remove(t, a, &out); code != 0 {
		t.Errorf("remove ends with %d: %s", code, out.String())
	}
	if after := tree(t, host); after != before || a.labels() != "" {
		t.Errorf("labels %q; before:\n%s\nafter:\n%s", a.labels(), before, after)
	}
	if a.maps["kube-system/kata-deploy-state"]["other"] != "stays" {
		t.Error("another key of the ConfigMap is gone")
	}
	d.stop(a, host)
}

// remove runs kata-deploy remove.
func remove(t *testing.T, a *apiServer, out *bytes.Buffer, args ...string) int {
	t.Helper()
	env := map[string]string{}
	for _, e := range a.environment() {
		k, v, _ := strings.Cut(e, "=")
		env[k] = v
	}
	return run(append([]string{"remove", "--configmap", "kata-deploy-state", "--namespace", "kube-system",
		"--service-account", a.account}, args...), &app{out: out, err: out, getenv: func(k string) string {
		return env[k]
	}})
}

func TestAnAPIServerThatIsAwayIsWaitedFor(t *testing.T) {
	t.Parallel()
	if !testenv.Inside(t, 0) {
		return
	}
	a, host := newAPI(t), newHost(t)
	before := tree(t, host)
	order(t, a, host, before)
	a.setDown(true)
	d := start(t, a, host, "--release", newRelease(t, "1.0.0", nil))
	d.says("apiserver is shutting down")
	if got := tree(t, host); got != before {
		t.Errorf("something is installed of which no label tells:\n%s", got)
	}
	a.setDown(false)
	d.ready("installed 1.0.0")
	a.setDown(true)
	d.says("the node stays as it is")
	if d.probe() != "installed 1.0.0" {
		t.Error("a node is not ready any more because the API server is away")
	}
	// A token that is renewed.
	a.mu.Lock()
	a.down, a.token = false, "token-2"
	a.mu.Unlock()
	d.says("the token of the service account")
	write(t, filepath.Join(a.account, "token"), "token-2")
	n := a.requests()
	d.until("it asks again", func() bool { return a.requests() > n+2 })
	d.ready("installed 1.0.0")
}

func TestACheckThatFailsTakesTheLabelAway(t *testing.T) {
	t.Parallel()
	if !testenv.Inside(t, 0) {
		return
	}
	a, host := newAPI(t), newHost(t)
	release := newRelease(t, "1.0.0", nil)
	broken := filepath.Join(host, badCheck)
	write(t, broken, "ok qemu: 9.0\nmissing kvm: no /dev/kvm; load kvm_intel\n")
	d := start(t, a, host, "--release", release)
	d.says("missing kvm: no /dev/kvm; load kvm_intel")
	if d.probe() != "" || a.labels() != begunLabel {
		t.Errorf("ready %q, labels %s", d.probe(), a.labels())
	}
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	d.ready("installed 1.0.0")
	write(t, broken, "missing kvm: gone\n")
	d.until("the label goes", func() bool {
		return a.labels() == begunLabel+" katabuild.io/release=1.0.0" && d.probe() == ""
	})
	d.stop(a, host)
	d = start(t, a, host, "--release", release, "--check", "warn")
	d.ready("installed 1.0.0")
	d.says("pods may not run here")
}

func TestAHostWithoutSystemd(t *testing.T) {
	t.Parallel()
	if !testenv.Inside(t, 0) {
		return
	}
	a, host := newAPI(t), newHost(t)
	release := newRelease(t, "1.0.0", nil)
	if err := os.Remove(filepath.Join(host, "run/systemd/system")); err != nil {
		t.Fatal(err)
	}
	d := start(t, a, host, "--release", release, "--log", "json")
	d.ready("installed 1.0.0")
	d.says(`"what":"containerd.service","why":"no systemd runs here"`)
}

func TestRestartsAsAskedFor(t *testing.T) {
	t.Parallel()
	if !testenv.Inside(t, 0) {
		return
	}
	a, release := newAPI(t), newRelease(t, "1.0.0", nil)
	for how, want := range map[string]string{"none": "", "my-containerd.service": "my-containerd.service\n"} {
		host := newHost(t)
		d := start(t, a, host, "--release", release, "--restart", how)
		d.ready("installed 1.0.0")
		if got := text(t, filepath.Join(host, restarted)); got != want {
			t.Errorf("--restart %s: restarted %q, want %q", how, got, want)
		}
		d.stop(a, host)
	}
}

func TestPodsAreMadeByWhomTheDaemonSays(t *testing.T) {
	t.Parallel()
	if !testenv.Inside(t, 0) {
		return
	}
	a, host, release := newAPI(t), newHost(t), newRelease(t, "1.0.0", nil)
	const main, word = "etc/containerd/config.toml", `sandboxer = "shim"`
	write(t, filepath.Join(host, main), "version = 3\n")
	told := func() bool { return strings.Contains(text(t, filepath.Join(host, main)), word) }
	d := start(t, a, host, "--release", release, "--sandboxer", "shim")
	d.ready("installed 1.0.0")
	if !told() {
		t.Error("containerd does not hear that the shim makes pods")
	}
	d.stop(a, host)
	d = start(t, a, host, "--release", release)
	d.until("containerd hears it no more", func() bool { return !told() })
	if !strings.Contains(text(t, filepath.Join(host, main)), "runtimes.kata]") {
		t.Error("containerd hears nothing of the runtime")
	}
}

func TestARuntimeThatDidNotStartAnewIsNotReady(t *testing.T) {
	t.Parallel()
	if !testenv.Inside(t, 0) {
		return
	}
	a, host := newAPI(t), newHost(t)
	unit := filepath.Join(host, activeUnits, "containerd.service")
	if err := os.Remove(unit); err != nil {
		t.Fatal(err)
	}
	d := start(t, a, host, "--release", newRelease(t, "1.0.0", nil))
	d.says("no unit containerd.service is active on this node: name the one")
	d.until("it is installed", func() bool { return in(t, host) != "" })
	if d.probe() != "" || a.labels() != begunLabel {
		t.Errorf("ready %q, labels %s", d.probe(), a.labels())
	}
	// A restart that is owed is made up for, though nothing is left to change.
	write(t, unit, "")
	d.ready("installed 1.0.0")
	if got := text(t, filepath.Join(host, restarted)); got != "containerd.service\n" {
		t.Errorf("restarted %q", got)
	}
}

// The kubelet hears of a handler some time after the container runtime has: until then a pod would fail.
func TestPodsComeWhenTheKubeletKnowsTheHandler(t *testing.T) {
	t.Parallel()
	if !testenv.Inside(t, 0) {
		return
	}
	a, host := newAPI(t), newHost(t)
	a.handlers = []string{"", "runc"}
	d := start(t, a, host, "--release", newRelease(t, "1.0.0", nil), "--kubelet-timeout", "20ms", "--suffix", "test")
	d.says("the kubelet does not know the handler kata-test after 20ms, only runc")
	if got := a.labels(); got != "katabuild.io/installed-test=test" || d.probe() != "" {
		t.Errorf("labels %s; the probe says %q", got, d.probe())
	}
	a.mu.Lock()
	a.handlers = append(a.handlers, "kata-test")
	a.mu.Unlock()
	d.ready("installed 1.0.0")
	if got := text(t, filepath.Join(host, restarted)); got != "containerd.service\n" {
		t.Errorf("restarted %q", got)
	}
	d.stop(a, host)
}

func TestPodsThatStillRunAreWaitedFor(t *testing.T) {
	t.Parallel()
	if !testenv.Inside(t, 0) {
		return
	}
	a, host := newAPI(t), newHost(t)
	before := tree(t, host)
	order(t, a, host, before)
	release, state := newRelease(t, "1.0.0", nil), filepath.Join(t.TempDir(), "state")
	d := start(t, a, host, "--release", release, "--state", state)
	d.ready("installed 1.0.0")
	// A shim, as the host's own proc shows it.
	shim := filepath.Join(host, "proc/4711")
	if err := errors.Join(os.MkdirAll(filepath.Join(shim, "fd"), 0o755), os.Symlink("/opt/katabuild/releases/"+
		in(t, host)+"/bin/containerd-shim-kata-v2", filepath.Join(shim, "exe"))); err != nil {
		t.Fatal(err)
	}
	installed := tree(t, host)
	write(t, state, "absent")
	d.says("waiting for pods to end")
	if got := d.probe(); got != "" {
		t.Errorf("ready as %s while pods are waited for", got)
	}
	if got := a.labels(); strings.Contains(got, "kata-runtime") || !strings.Contains(got, begunLabel) {
		t.Errorf("labels %s", got)
	}
	if tree(t, host) != installed || d.probe() == "absent" {
		t.Error("it goes while a pod runs")
	}
	// Whoever thinks better of it gets it back, at once.
	write(t, state, "present")
	d.until("the label is there again", func() bool { return a.labels() == fmt.Sprintf(readyLabel, "1.0.0") })
	d.stop(a, host)

	write(t, state, "absent")
	d = start(t, a, host, "--release", release, "--state", state, "--drain-timeout", "1ms")
	d.says("pods run from /opt/katabuild/releases/")
	var out bytes.Buffer
	if code := remove(t, a, &out, "--timeout", "100ms"); code != exitError ||
		!strings.Contains(out.String(), "still on 1 nodes: node-1;") {
		t.Errorf("remove ends with %d: %s", code, out.String())
	}
	if tree(t, host) != installed {
		t.Error("it goes while a pod runs")
	}
	d.stop(a, host)
	d = start(t, a, host, "--release", release, "--state", state, "--drain-timeout", "1ms", "--force")
	d.ready("absent")
	if after := tree(t, host); after != before || a.labels() != "" {
		t.Errorf("labels %q; before:\n%s\nafter:\n%s", a.labels(), before, after)
	}
}

func TestTwoInstallationsHaveTheirOwnLabels(t *testing.T) {
	t.Parallel()
	if !testenv.Inside(t, 0) {
		return
	}
	a, host := newAPI(t), newHost(t)
	release, state := newRelease(t, "1.0.0", nil), filepath.Join(t.TempDir(), "state")
	d := start(t, a, host, "--release", release)
	d.ready("installed 1.0.0")
	one := tree(t, host)
	e := start(t, a, host, "--release", release, "--suffix", "test", "--state", state)
	e.ready("installed 1.0.0")
	want := "katabuild.io/installed-test=test katabuild.io/installed=default katabuild.io/release-test=1.0.0 " +
		"katabuild.io/release=1.0.0 katacontainers.io/kata-runtime-test=true katacontainers.io/kata-runtime=true"
	if got := a.labels(); got != want {
		t.Errorf("labels %s, want %s", got, want)
	}
	write(t, state, "absent")
	e.ready("absent")
	if got := a.labels(); got != fmt.Sprintf(readyLabel, "1.0.0") || tree(t, host) != one {
		t.Errorf("labels %s; the other one's host:\n%s", got, tree(t, host))
	}
}

// A web server has a release: only what a policy accepts is installed, only what this machine needs of it moves, and a
// node that comes up again does not need the server.
func TestAReleaseFromElsewhere(t *testing.T) {
	t.Parallel()
	if !testenv.Inside(t, 0) {
		return
	}
	file := filepath.Join(t.TempDir(), "key")
	public, err := keys.Write(file, keys.Ed25519, nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := keys.Read(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	// A ConfigMap's folder, to which others may write, as its mode has it.
	volume := t.TempDir()
	policy := filepath.Join(volume, "release-policy.yaml")
	write(t, policy, "version: 1\nthreshold: 1\nkeys:\n  - name: us\n    public_key: |\n      "+
		strings.ReplaceAll(strings.TrimSpace(string(public.PEM())), "\n", "\n      ")+"\nchannels: [stable]\n")
	if err := os.Chmod(volume, 0o777); err != nil {
		t.Fatal(err)
	}
	unsigned, signed := newRelease(t, "1.0.0", nil), newRelease(t, "1.1.0", signer)
	var mu sync.Mutex
	var sent int64
	served := unsigned
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if served == "" {
			http.Error(w, "away", http.StatusServiceUnavailable)
			return
		}
		if fi, err := os.Stat(filepath.Join(served, r.URL.Path)); err == nil {
			sent += fi.Size()
		}
		http.FileServer(http.Dir(served)).ServeHTTP(w, r)
	}))
	defer web.Close()
	serve := func(dir string) {
		mu.Lock()
		defer mu.Unlock()
		served = dir
	}
	a, host := newAPI(t), newHost(t)
	before := tree(t, host)
	d := start(t, a, host, "--release", web.URL, "--policy", policy)
	d.says("release " + web.URL + ": ")
	d.says("refused, ")
	if d.probe() != "" || a.labels() != begunLabel || tree(t, host) != before {
		t.Errorf("an unsigned release: labels %s", a.labels())
	}
	mu.Lock()
	served, sent = signed, 0
	mu.Unlock()
	d.ready("installed 1.1.0")
	mu.Lock()
	var all int64
	for _, p := range []string{"containerd-shim-kata-v2", "kata-runtime"} {
		fi, err := os.Stat(filepath.Join(host, "opt/katabuild/current/release/bin", p))
		if err != nil {
			t.Fatal(err)
		}
		all += fi.Size()
	}
	if sent > all+all/2 { // a third program and another machine's guest lie there, too
		t.Errorf("%d bytes were sent for %d", sent, all)
	}
	mu.Unlock()
	if names, err := os.ReadDir(d.work); err != nil || len(names) != 1 {
		t.Errorf("what was taken is left: %v %v", names, err)
	}
	d.stop(a, host)

	// The server is away: what was installed from there stays, and is put right as far as that goes.
	serve("")
	was := tree(t, host)
	d = start(t, a, host, "--release", web.URL, "--policy", policy)
	d.ready("installed 1.1.0")
	d.says("what was installed from there stays")
	if got := a.labels(); got != fmt.Sprintf(readyLabel, "1.1.0") {
		t.Errorf("labels %s", got)
	}
	broken := filepath.Join(host, "opt/katabuild/current/release/bin/kata-runtime")
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	d.says("is not as it was installed, and its place cannot be asked now")
	serve(signed)
	d.until("it is put right", func() bool { return tree(t, host) == was && d.probe() != "" })
	d.stop(a, host)

	// A place from which nothing was installed is no such case.
	serve("")
	d = start(t, a, host, "--release", web.URL+"/other", "--policy", policy)
	d.says("the node is not what it should be")
	d.until("the label goes", func() bool { return !strings.Contains(a.labels(), "kata-runtime") })
	if d.probe() != "" {
		t.Error("ready as what was not asked for")
	}
}

// A policy with roles: what they offer is installed, and what they offered before is refused, by a new pod too, which
// has another work folder.
func TestRolesAreRememberedByTheHost(t *testing.T) {
	t.Parallel()
	if !testenv.Inside(t, 0) {
		return
	}
	seed := sha256.Sum256([]byte("of all roles"))
	signer, err := keys.FromPrivate(ed25519.NewKeyFromSeed(seed[:]))
	if err != nil {
		t.Fatal(err)
	}
	dir, volume := t.TempDir(), t.TempDir()
	party := ceremony.Party{Keys: []ceremony.Named{{Name: "us", Public: signer.Public()}}}
	when := ceremony.When{Now: time.Now()}
	c, err := ceremony.Create(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// list has the roles offer a release, and nothing else, and returns a copy of their metadata.
	list := func(release, instead string) string {
		data, err := os.ReadFile(filepath.Join(release, "index.json"))
		if err == nil && instead != "" {
			_, err = c.Withdraw(instead, when)
		}
		if err == nil {
			_, _, err = c.Add(data, when)
		}
		if err == nil {
			_, err = c.Sign(t.Context(), signer)
		}
		if err == nil {
			_, err = c.Refresh(t.Context(), when.Now, nil, signer)
		}
		to := filepath.Join(t.TempDir(), "roles")
		if err = errors.Join(err, os.CopyFS(to, os.DirFS(dir))); err != nil {
			t.Fatal(err)
		}
		return to
	}
	if err := c.Init(map[string]ceremony.Party{roles.Root: party, roles.Targets: party, roles.Snapshot: party,
		roles.Timestamp: party}, when); err != nil {
		t.Fatal(err)
	}
	first, second := newRelease(t, "1.1.0", nil), newRelease(t, "1.2.0", nil)
	early := list(first, "")
	late := list(second, "stable/1.1.0")
	var at atomic.Pointer[string]
	web := httptest.NewServer(http.StripPrefix("/roles", http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) { http.FileServer(http.Dir(*at.Load())).ServeHTTP(w, r) })))
	defer web.Close()
	root, err := os.ReadFile(filepath.Join(dir, "1.root.json"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(volume, "root.json"), string(root))
	policy := filepath.Join(volume, "release-policy.yaml")
	write(t, policy, "version: 1\nchannels: [stable]\nroles:\n  root: root.json\n  metadata: "+web.URL+"/roles\n")
	state := filepath.Join(t.TempDir(), "state")
	write(t, state, "present")
	a, host := newAPI(t), newHost(t)
	before := tree(t, host)
	run := func(release string) *daemon {
		return start(t, a, host, "--release", release, "--policy", policy, "--state", state)
	}

	at.Store(&late)
	d := run(second)
	d.ready("installed 1.2.0")
	d.stop(a, host)
	was := tree(t, host)
	// Whoever serves the metadata goes back to that of before, which is good for a while yet.
	at.Store(&early)
	d = run(first)
	d.says("a newer one was met before")
	if !strings.HasPrefix(in(t, host), "1.2.0-") || d.probe() != "" {
		t.Errorf("in force: %s; the probe says %q", in(t, host), d.probe())
	}
	at.Store(&late)
	d.says("no role that may speak for it lists this release")
	if tree(t, host) != was {
		t.Errorf("before:\n%s\nafter:\n%s", was, tree(t, host))
	}
	// All of it goes with the installation.
	write(t, state, "absent")
	d.ready("absent")
	if after := tree(t, host); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	d.stop(a, host)
	// To a host that has nothing, the early ones are as good as any.
	at.Store(&early)
	write(t, state, "present")
	d = run(first)
	d.ready("installed 1.1.0")
	d.stop(a, host)
}

// What somebody else put in the way is not written over, and the release is not taken anew for each try.
func TestWhatIsInTheWayIsKept(t *testing.T) {
	t.Parallel()
	if !testenv.Inside(t, 0) {
		return
	}
	a, host := newAPI(t), newHost(t)
	theirs := filepath.Join(host, "usr/local/bin/containerd-shim-kata-v2")
	write(t, theirs, "#!/bin/sh\n")
	before := tree(t, host)
	d := start(t, a, host, "--release", newRelease(t, "1.0.0", nil))
	d.says("/usr/local/bin/containerd-shim-kata-v2 is there and not ours, so it is kept")
	if d.probe() != "" || a.labels() != begunLabel || tree(t, host) != before {
		t.Errorf("labels %s; host:\n%s", a.labels(), tree(t, host))
	}
	if _, err := os.Stat(filepath.Join(d.work, "programs")); err != nil {
		t.Errorf("what was taken is gone: %v", err)
	}
	if err := os.Remove(theirs); err != nil {
		t.Fatal(err)
	}
	d.ready("installed 1.0.0")
	if _, err := os.Stat(filepath.Join(d.work, "programs")); err == nil {
		t.Error("what was taken is left")
	}
}

func TestAnotherCommandIsWaitedFor(t *testing.T) {
	t.Parallel()
	if !testenv.Inside(t, 0) {
		return
	}
	a, host := newAPI(t), newHost(t)
	i, err := install.Open(host, install.DefaultPrefix, true)
	if err != nil {
		t.Fatal(err)
	}
	d := start(t, a, host, "--release", newRelease(t, "1.0.0", nil))
	d.says("another command changes the installations")
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	d.ready("installed 1.0.0")
	if strings.Contains(d.log(), "ERROR") {
		t.Error("that is no error")
	}
}

// What is asked of a node whose Kubernetes is another one lands where that one reads.
func TestANodeOfK3s(t *testing.T) {
	t.Parallel()
	if !testenv.Inside(t, 0) {
		return
	}
	a, host := newAPI(t), newHost(t)
	const dir = "var/lib/rancher/k3s/agent/etc/containerd"
	write(t, filepath.Join(host, activeUnits, "k3s-agent.service"), "")
	release, state := newRelease(t, "1.0.0", nil), filepath.Join(t.TempDir(), "state")
	if err := os.MkdirAll(filepath.Join(host, dir), 0o755); err != nil {
		t.Fatal(err)
	}
	d := start(t, a, host, "--release", release, "--state", state)
	d.says("distribution: k3s: /" + dir + "/config.toml is not there: it has not started on this host yet")
	write(t, filepath.Join(host, dir, "config.toml"), strings.Replace(mainFile, "version = 2", "version = 2 # k3s", 1))
	before := tree(t, host)
	d.ready("installed 1.0.0")
	if got := text(t, filepath.Join(host, restarted)); got != "k3s-agent.service\n" {
		t.Errorf("restarted %q", got)
	}
	if got := text(t, filepath.Join(host, dir, "config.toml.tmpl")); !strings.Contains(got, "runtimes.kata]") {
		t.Errorf("k3s hears %q", got)
	}
	write(t, state, "absent")
	d.ready("absent")
	if after := tree(t, host); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

func TestTheWordOfTheStateIsOneOfTwo(t *testing.T) {
	t.Parallel()
	if !testenv.Inside(t, 0) {
		return
	}
	a, host, state := newAPI(t), newHost(t), filepath.Join(t.TempDir(), "state")
	before := tree(t, host)
	write(t, state, "off")
	d := start(t, a, host, "--release", newRelease(t, "1.0.0", nil), "--state", state)
	d.says(`\"off\": want present or absent`)
	if tree(t, host) != before {
		t.Error("something is installed")
	}
}
