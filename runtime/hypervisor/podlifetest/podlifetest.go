// Package podlifetest runs a pod's whole life in a hypervisor whose API a strict server stands for, with a guest in the
// QEMU behind it.
package podlifetest

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katabuild/katabuild/internal/boottest"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/internal/verdict"
	"github.com/katabuild/katabuild/runtime/agentlink"
	"github.com/katabuild/katabuild/runtime/config"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/pod"
	"github.com/katabuild/katabuild/runtime/record"
	"github.com/katabuild/katabuild/runtime/share"
)

// lifeTime bounds a pod's life on a host that emulates.
const lifeTime = 5 * time.Minute

// Options are those of a pod in a hypervisor of a name, by a program, without network and shared folders. The guest is
// the folder that KATABUILD_TEST_GUEST names.
func Options(t testing.TB, name, program, guest string, h machine.Hypervisor) pod.Options {
	t.Helper()
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_BOOT", "test-boot"), testenv.File("KATABUILD_TEST_GUEST"),
		testenv.Tool("qemu-system-x86_64"), testenv.Tool("mkfs.ext4"))
	c := config.DefaultOf(name)
	c.VM.Guest, c.VM.Path, c.VM.SharedFS = guest, program, config.SharedNone
	c.VM.DefaultMaxMemoryMiB, c.VM.DefaultMaxVCPUs, c.VM.DefaultVCPUs = 1024, 1, 1
	c.VM.Disk = config.Rate{MaxRate: 8 << 30, OpsMaxRate: 1 << 20}
	c.Runtime.InternetworkingModel = config.NetworkNone
	c.Agent.DialTimeout = 2 * time.Minute
	dir := t.TempDir()
	return pod.Options{ID: "pod-1", Config: &c, Hypervisor: h,
		Log:  slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo})),
		Dirs: record.Dirs{State: filepath.Join(dir, "s"), Share: filepath.Join(dir, "f")}}
}

// rootDisk is a file with an ext4 file system that holds a program /hello, which greets, and writes to /written.
func rootDisk(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	source := `package main

import "os"

func main() {
	if err := os.WriteFile("/written", []byte("kept"), 0o600); err != nil {
		panic(err)
	}
	b, err := os.ReadFile("/written")
	if err != nil {
		panic(err)
	}
	os.Stdout.WriteString("hello from a disk, " + string(b) + "\n")
}
`
	for name, text := range map[string]string{"go.mod": "module hello\n\ngo 1.26\n", "main.go": source} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	program := boottest.Build(t, dir, "build", ".")
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"dev", "proc", "sys"} {
		if err := os.Mkdir(filepath.Join(tree, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(program, filepath.Join(tree, "hello")); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(dir, "image")
	if out, err := exec.Command("mkfs.ext4", "-q", "-d", tree, image, "16m").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return image
}

// Live runs a pod's whole life: its guest comes up and is attested, containers have their roots on disks that are
// plugged in, one after the other in the same place, and nothing is left. Within the pod, meanwhile is called.
func Live(t *testing.T, o pod.Options, meanwhile func(*pod.Pod)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), lifeTime)
	defer cancel()
	p, err := pod.Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop() //nolint:errcheck // again, where the test has failed
	r, err := record.Read(o.Dirs, o.ID)
	if err != nil || r.State != record.Running || r.Verdict == nil || r.Verdict.Result != verdict.Attested {
		t.Errorf("record %+v, %v", r, err)
	}
	for _, id := range []string{"c1", "c2"} {
		hello(ctx, t, p, id)
	}
	if meanwhile != nil {
		meanwhile(p)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	if ids, err := record.List(o.Dirs); err != nil || len(ids) > 0 {
		t.Errorf("left over: %v, %v", ids, err)
	}
}

// hello runs a container whose root is a disk of its own.
func hello(ctx context.Context, t *testing.T, p *pod.Pod, id string) {
	t.Helper()
	limit := int64(64 << 20)
	c := pod.Container{ID: id, Bundle: t.TempDir(),
		Rootfs: []share.Mount{{Type: "ext4", Source: rootDisk(t), Options: []string{"loop"}}},
		Spec: &specs.Spec{Version: "1.2.0", Root: &specs.Root{Path: "rootfs"},
			Linux:   &specs.Linux{Resources: &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}},
			Process: &specs.Process{Args: []string{"/hello"}, Cwd: "/"}},
		Streams: agentlink.Streams{Stdout: true}}
	proc, err := p.Create(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(ctx, id); err != nil {
		t.Fatal(err)
	}
	if out, err := io.ReadAll(proc.Stdout); err != nil || string(out) != "hello from a disk, kept\n" {
		t.Errorf("%q, %v", out, err)
	}
	if code, err := proc.Wait(ctx); err != nil || code != 0 {
		t.Errorf("exit code %d, %v", code, err)
	}
	if err := p.Remove(ctx, id); err != nil {
		t.Error(err)
	}
}
