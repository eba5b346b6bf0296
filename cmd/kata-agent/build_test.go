package main

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/testenv"
)

// build is how an agent for a guest is built.
func build(t *testing.T, dir, out string, env ...string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags=-s -w -buildid= -X main.version=1.2.3", "-o", out, "./cmd/kata-agent")
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0", "PWD="+dir), env...)
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, b)
	}
}

// copyModule copies what the agent is made of.
func copyModule(t *testing.T, to string) {
	t.Helper()
	root := filepath.Join("..", "..")
	for _, p := range []string{"go.mod", "go.sum", "agent", "internal", "cmd/kata-agent"} {
		err := filepath.WalkDir(filepath.Join(root, p), func(from string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(root, from)
			if err != nil {
				return err
			}
			if e.IsDir() {
				return os.MkdirAll(filepath.Join(to, rel), 0o755)
			}
			b, err := os.ReadFile(from)
			if err != nil {
				return err
			}
			if err := os.MkdirAll(filepath.Dir(filepath.Join(to, rel)), 0o755); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(to, rel), b, 0o644)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func twice(t *testing.T, env ...string) {
	t.Helper()
	dir := t.TempDir()
	here, there := filepath.Join(dir, "here"), filepath.Join(dir, "there")
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	build(t, root, here)
	elsewhere := filepath.Join(dir, "another", "folder")
	copyModule(t, elsewhere)
	old := syscall.Umask(0o077)
	build(t, elsewhere, there, append(env, "TZ=Asia/Kathmandu", "LANG=tr_TR.UTF-8", "GOMAXPROCS=1")...)
	syscall.Umask(old)
	a, size, err := digest.File(here)
	if err != nil {
		t.Fatal(err)
	}
	if err := digest.Check(there, a); err != nil {
		t.Error(err)
	}
	// 9 MB is what the agent may weigh with everything.
	if limit := int64(9_000_000); size > limit {
		t.Errorf("the agent has %d bytes, more than %d", size, limit)
	}
	out, err := exec.Command(here, "--version").Output()
	if err != nil || !strings.HasPrefix(string(out), "kata-agent 1.2.3 (katabuild, go") {
		t.Errorf("--version: %q, %v", out, err)
	}
}

// maxTracing is what the agent may weigh more for being able to trace, in bytes. It is some 41 KB.
const maxTracing = 1_000_000

func TestTracingCostsLittleAndNothingWithoutIt(t *testing.T) {
	testenv.Require(t, testenv.Tool("go"))
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	const without = "GOFLAGS=-tags=notrace"
	var sizes []int64
	for i, env := range [][]string{nil, {without}} {
		out := filepath.Join(t.TempDir(), "agent")
		build(t, root, out, env...)
		_, size, err := digest.File(out)
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, size)
		cmd := exec.Command("go", "list", "-deps", "./cmd/kata-agent")
		cmd.Dir, cmd.Env = root, append(append(os.Environ(), "CGO_ENABLED=0"), env...)
		deps, err := cmd.Output()
		if has := strings.Contains(string(deps), "/internal/spans\n"); err != nil || has != (i == 0) {
			t.Errorf("%q: it has the writer of spans: %v, %v", env, has, err)
		}
	}
	if more := sizes[0] - sizes[1]; more < 0 || more > maxTracing {
		t.Errorf("tracing costs %d bytes", more)
	} else {
		t.Logf("tracing costs %d bytes", more)
	}
}

func TestBuiltTwiceElsewhereTheAgentIsTheSame(t *testing.T) {
	testenv.Require(t, testenv.Tool("go"))
	twice(t)
}

// With a cache of its own, every package is compiled anew too.
func TestCompiledTwiceElsewhereTheAgentIsTheSame(t *testing.T) {
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_TWICE", "twice"), testenv.Tool("go"))
	twice(t, "GOCACHE="+t.TempDir(), "GOFLAGS=-p=1")
}

func TestTheAgentBuildsForEveryArchitecture(t *testing.T) {
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_CROSS", "test-cross"), testenv.Tool("go"))
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range arch.All() {
		t.Run(a.Name, func(t *testing.T) { build(t, root, filepath.Join(t.TempDir(), "agent"), "GOARCH="+a.Go) })
	}
}
