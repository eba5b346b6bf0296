package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/boottest"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/runtime/guest"
	"github.com/katabuild/katabuild/runtime/hypervisor"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/record"
	"github.com/katabuild/katabuild/runtime/sandbox"
)

// logPort is where Kata's runtimes have the agent's log.
const logPort = 1025

// agentInitrd packs the agent, and busybox as a shell.
func agentInitrd(t *testing.T) []byte {
	t.Helper()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	more := []boottest.Entry{{Name: "bin", Mode: cpio.TypeDir | 0o755}, boottest.File(t, "bin/busybox", busybox)}
	for _, n := range []string{"sh", "cat", "tty", "stty", "seq", "ps", "uname", "tar", "base64"} {
		more = append(more, boottest.Entry{Name: "bin/" + n, Mode: cpio.TypeSymlink | 0o777, Data: []byte("busybox")})
	}
	data, err := os.ReadFile(boottest.Initrd(t, boottest.Build(t, "", "build", "-trimpath", "-ldflags=-s -w",
		"../kata-agent"), more...))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// bootPod boots a guest with a debug console and a log on vsock, and writes the record of a pod called booted. It
// returns the folder of records.
func bootPod(t *testing.T) string {
	t.Helper()
	dir, root := t.TempDir(), t.TempDir()
	file := func(name string, b []byte) manifest.File {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
		return manifest.File{Path: name, Digest: digest.Of(b), Size: int64(len(b))}
	}
	vmlinux, err := os.ReadFile(os.Getenv("KATABUILD_TEST_DEFAULT_VMLINUX"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := newRecord("booted")
	if err != nil {
		t.Fatal(err)
	}
	if err := writeRecord(root, r); err != nil {
		t.Fatal(err)
	}
	g, err := guest.FromManifest(&manifest.Manifest{
		Version: manifest.Version, Name: "console-test", Arch: "x86_64",
		Kernel: manifest.Kernel{Vmlinux: file("vmlinux", vmlinux), Image: file("bzImage", nil),
			Config: file("config", nil), SystemMap: file("System.map", nil)},
		Initrd: &manifest.Initrd{File: file("initrd", agentInitrd(t)), Compression: "none"},
		Boot: manifest.Boot{Machine: "microvm", CPUs: 1, MemoryMiB: 256,
			CommandLine: "console=ttyS0 quiet panic=-1", TCGCommandLine: "tsc_early_khz={tsc_khz}"},
	}, "", dir, "")
	if err != nil {
		t.Fatal(err)
	}
	s, err := sandbox.Start(t.Context(), sandbox.Config{
		Guest: g, Hypervisor: hypervisor.Default(), Timeout: 4 * time.Minute,
		Hybrid: record.Dirs{State: root}.VsockSocket("booted"),
		Words: []string{"agent.debug_console", "agent.debug_console_vport=1026", "agent.log_vport=1025",
			"agent.log=debug"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("%s\n%s", machine.Quote(s.Argv()), strings.Join(s.Console(40), "\n"))
		}
	})
	return root
}

func TestAGuestIsReachedThroughItsDebugConsole(t *testing.T) {
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_BOOT", "test-boot"),
		testenv.File("KATABUILD_TEST_DEFAULT_VMLINUX"),
		testenv.Tool("qemu-system-x86_64"), testenv.Tool("busybox"), testenv.Tool("go"))
	root := bootPod(t)
	// The agent is ready for the API before it is for people.
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		c, err := dialHybrid(t.Context(), record.Dirs{State: root}.VsockSocket("booted"), agentapi.DebugConsolePort)
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	kataRuntime := func(in io.Reader, args ...string) (string, int) {
		t.Helper()
		var out, errs bytes.Buffer
		code := run(append([]string{"--root", root}, args...), &app{in: in, out: &out, err: &errs,
			getenv: func(string) string { return "" }})
		if errs.Len() > 0 {
			t.Logf("%q: %s", args, errs.String())
		}
		return out.String(), code
	}
	for _, tc := range []struct {
		command []string
		out     string
		code    int
	}{
		{[]string{"cat", "/proc/1/comm"}, "init\n", 0},
		{[]string{"sh", "-c", "echo one; echo two >&2; exit 9"}, "one\ntwo\n", 9},
		{[]string{"stty", "size"}, "24 80\n", 0},
		{[]string{"no-such-program"}, "", 127},
	} {
		start := time.Now()
		out, code := kataRuntime(nil, append([]string{"exec", "booted", "--"}, tc.command...)...)
		if code != tc.code || tc.out != "" && out != tc.out {
			t.Errorf("%q: %q, exit code %d; want %q, %d", tc.command, out, code, tc.out, tc.code)
		}
		t.Logf("%q took %v", tc.command, time.Since(start))
	}
	var seq strings.Builder
	for i := range 5000 {
		seq.WriteString(strings.Repeat("x", i%7) + "\n")
	}
	if out, code := kataRuntime(nil, "exec", "booted", "--", "sh", "-c",
		`i=0; while [ $i -lt 5000 ]; do n=$((i%7)); s=xxxxxxx; echo "${s:0:$n}"; i=$((i+1)); done`); code != 0 ||
		out != seq.String() {
		t.Errorf("5000 lines: exit code %d, %d bytes, want %d", code, len(out), seq.Len())
	}
	if out, code := kataRuntime(strings.NewReader("echo sum=$((6*7))\n"), "exec", "booted"); code != 0 ||
		!strings.Contains(out, "sum=42") {
		t.Errorf("typed: %q, %d", out, code)
	}
	if out, code := kataRuntime(nil, "metrics", "booted"); code != 0 ||
		!strings.Contains(out, "\nkata_guest_load{") || !strings.Contains(out, "katabuild_pod_up 1\n") {
		t.Errorf("metrics: %d, %s", code, out)
	}
	copyFiles(t, root, kataRuntime)
	// What the shells have left behind: nothing. The agent ends a shell after its connection, so that the one before
	// may still be there for a moment.
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		out, _ := kataRuntime(nil, "exec", "booted", "--", "ps", "-o", "comm")
		if strings.Count(out, "sh\n") == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("more than one shell runs:\n%s", out)
			break
		}
	}

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, err := dialHybrid(ctx, record.Dirs{State: root}.VsockSocket("booted"), logPort)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(c).ReadBytes('\n')
	var record struct{ TS, Level, Msg, Name string }
	if err := json.Unmarshal(line, &record); err != nil || record.Name != "kata-agent" || record.Msg == "" ||
		record.Level == "" {
		t.Errorf("the log begins with %q: %v", line, err)
	}
	if err != nil {
		t.Error(err)
	}
}
