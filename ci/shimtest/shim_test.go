// Package shimtest has containerd's own conformance suite for shims judge ours, by the shim's socket alone.
//
// It is a module of its own for the sake of what the suite needs.
package shimtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/shimtest"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/ci/containerd/nest"
	"github.com/katabuild/katabuild/internal/testenv"
)

// testbin names the program that the suite's containers run.
const testbin = "SHIMTEST_TESTBIN"

func TestMain(m *testing.M) {
	if os.Getenv("KATABUILD_TEST_CONTAINERD") == "" || os.Geteuid() != 0 {
		os.Exit(m.Run()) // which says why it skips
	}
	if nest.Inside() {
		os.Exit(nest.Run(m.Run))
	}
	os.Exit(outside(m))
}

// outside builds the suite's program where there are the modules that it is made of, and goes on in the nest.
func outside(m *testing.M) int {
	dir, err := os.MkdirTemp("", "shimtest")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	p := filepath.Join(dir, "testbin")
	// Its command "forever" waits for any signal at all, and Go's runtime sends its own programs SIGURG to interrupt a
	// goroutine that computes for longer than 10 ms, which starting takes at times under emulation.
	build := exec.Command("go", "build", "-ldflags=-X=runtime.godebugDefault=asyncpreemptoff=1", "-o", p,
		"github.com/containerd/shimtest/cmd/testbin")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v: %s\n", err, out)
		return 1
	}
	if err := os.Setenv(testbin, p); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return nest.Run(m.Run)
}

// configure makes the file of the shim's configuration, which has to lie in /etc, in this mount namespace alone. The
// suite's containers name no network namespace: theirs would be the host's network.
func configure(t *testing.T, guest string) {
	t.Helper()
	dir := "/run/shimtest"
	text := fmt.Sprintf("[hypervisor.qemu]\nguest = %q\n\n[runtime]\ninternetworking_model = \"none\"\n", guest)
	err := errors.Join(
		os.MkdirAll(dir+"/work", 0o755),
		os.MkdirAll(dir+"/upper/katabuild", 0o755),
		os.WriteFile(dir+"/upper/katabuild/configuration.toml", []byte(text), 0o644),
		unix.Mount("overlay", "/etc", "overlay", 0, "lowerdir=/etc,upperdir="+dir+"/upper,workdir="+dir+"/work"),
	)
	if err != nil {
		t.Fatal(err)
	}
}

func TestContainerdsSuiteJudgesTheShim(t *testing.T) {
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_CONTAINERD", "test-containerd"), testenv.Root,
		testenv.File("KATABUILD_TEST_GUEST"), testenv.Tool("qemu-system-x86_64"))
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	configure(t, os.Getenv("KATABUILD_TEST_GUEST"))
	t.Setenv("MAX_SHIM_VERSION", "3") // as containerd 2 does
	// As a client of containerd does.
	typeurl.Register(&specs.Process{}, "types.containerd.io", "opencontainers/runtime-spec", "1", "Process")
	c := shimtest.Config{ShimBinary: filepath.Join(bin, "containerd-shim-kata-v2"), Debug: true}
	for name, run := range map[string]func(*testing.T){
		"run": shimtest.NewRunSuite(c).Run, "exec": shimtest.NewExecSuite(c).Run, "oom": shimtest.NewOOMSuite(c).Run,
	} {
		t.Run(name, func(t *testing.T) {
			run(t)
			t.Cleanup(func() { end(t) }) // runs before the suite looks for shims that are left
		})
	}
}

// busy are the suite's tests that ask for a shim's end while its container is there, and never delete that. As runc's,
// our shim goes on until the last container is deleted: containerd asks for the end after each.
var busy = []string{"-fastexitinit-", "-fastexitoutput-", "-execoutputdrain"}

// end ends the shims of those tests, and gives all others the time to end by themselves: the suite waits half a second
// before it calls a shim lost, and a loaded machine takes longer to stop a guest.
func end(t *testing.T) {
	for id, pid := range shims(t) {
		if !slices.ContainsFunc(busy, func(b string) bool { return strings.Contains(id, b) }) {
			continue
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	for end := time.Now().Add(20 * time.Second); len(shims(t)) > 0 && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond)
	}
}

// shims are the command lines of those that run, and their processes.
func shims(t *testing.T) map[string]int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int{}
	for _, f := range files {
		line, err := os.ReadFile(f)
		if err != nil || !strings.Contains(string(line), "containerd-shim-kata-v2") {
			continue // it has ended, or is another program
		}
		if found[string(line)], err = strconv.Atoi(filepath.Base(filepath.Dir(f))); err != nil {
			t.Fatal(err)
		}
	}
	return found
}
