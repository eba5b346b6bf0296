// Package kerneltest boots a kernel under QEMU's emulation with an init of its own, and says what the kernel reported
// and how long it took. It is for tests and benchmarks of the component kernel; the guests that people run are booted
// by runtime/sandbox.
package kerneltest

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/katabuild/katabuild/internal/digest"
)

//go:embed testdata/init/main.go testdata/init/parts.go testdata/init/ticks_amd64.s
var initSource embed.FS

// Initrd builds the init with the go command and returns it as an uncompressed initrd: nothing but /init and
// /dev/console.
func Initrd(ctx context.Context) ([]byte, error) {
	dir, err := os.MkdirTemp("", "kerneltest-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	for _, name := range []string{"main.go", "parts.go", "ticks_amd64.s"} {
		data, err := initSource.ReadFile("testdata/init/" + name)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module init\n\ngo 1.24\n"), 0o644); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w -buildid=", "-o", "init", ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=", "GOWORK=off",
		"GOTOOLCHAIN=local")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the init: %w: %s", err, out)
	}
	program, err := os.ReadFile(filepath.Join(dir, "init"))
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	const folder, device, file = 0o040755, 0o020600, 0o100755
	entry(&b, "dev", folder, 0, 0, nil)
	entry(&b, "dev/console", device, 5, 1, nil)
	entry(&b, "init", file, 0, 0, program)
	entry(&b, "TRAILER!!!", 0, 0, 0, nil)
	return b.Bytes(), nil
}

// entry writes one file of a newc archive.
// Linux: Documentation/driver-api/early-userspace/buffer-format.rst.
func entry(b *bytes.Buffer, name string, mode, major, minor int, data []byte) {
	pad := func() {
		for b.Len()%4 != 0 {
			b.WriteByte(0)
		}
	}
	// inode, mode, uid, gid, links, mtime, size, device (2), device described (2), length of name, checksum
	fmt.Fprintf(b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		b.Len()+1, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0)
	b.WriteString(name)
	b.WriteByte(0)
	pad()
	b.Write(data)
	pad()
}

// Machine is one boot.
type Machine struct {
	QEMU        string // the emulator; "qemu-system-x86_64" when empty
	Kernel      string // path of vmlinux or bzImage
	Initrd      string // path
	Machine     string // microvm or q35
	CPUs        int    // 0 stands for 1
	MemoryMiB   int    // 0 stands for 256
	CommandLine string
	// Virtual makes time the number of instructions executed, so that it does not depend on how busy the host is.
	Virtual bool
}

// args is QEMU's command line.
func (m Machine) args() []string {
	cpus, memory := max(1, m.CPUs), m.MemoryMiB
	if memory == 0 {
		memory = 256
	}
	qemu := m.QEMU
	if qemu == "" {
		qemu = "qemu-system-x86_64"
	}
	args := []string{
		qemu, "-M", m.Machine, "-accel", "tcg", "-cpu", "max", "-smp", strconv.Itoa(cpus), "-m", strconv.Itoa(memory),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-kernel", m.Kernel, "-initrd", m.Initrd, "-append", m.CommandLine,
	}
	if m.Virtual {
		args = append(args, "-icount", "shift=0,sleep=off")
	}
	return args
}

// Report is what the kernel said of itself.
type Report struct {
	Release, Version, BuildID string
	Config                    digest.Digest // of /proc/config.gz, unpacked
	CPUs                      int
	VSock                     bool          // AF_VSOCK sockets can be made
	BootTime                  time.Duration // CLOCK_BOOTTIME when init began: what the kernel believes
	// time-stamp counter when init began; nanoseconds since power-on when the machine is Virtual
	Ticks uint64
	Wall  time.Duration // from starting QEMU to init's first line
	// with TryParts on the command line: each part that was tried, and "<nil>" or what it lacks
	Parts   map[string]string
	Console string
}

// TryParts is the word on the command line that makes init try what containers ask of a kernel.
const TryParts = "kernel_test_parts"

// Boot starts the machine and waits until it has switched itself off. On an error the report still has the console.
func Boot(ctx context.Context, m Machine) (Report, error) {
	args := m.args()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.WaitDelay = time.Second
	w := &console{start: time.Now()}
	cmd.Stdout, cmd.Stderr = w, w
	runErr := cmd.Run()
	r := Report{Console: w.buf.String(), Wall: w.first}
	if runErr != nil {
		return r, fmt.Errorf("%s: %w", strings.Join(args, " "), runErr)
	}
	if err := r.read(); err != nil {
		return r, err
	}
	return r, nil
}

// mark begins every line of init.
const mark = "kernel-test: "

// console keeps what is written and when init's first line came.
type console struct {
	buf   bytes.Buffer
	start time.Time
	first time.Duration
}

func (c *console) Write(p []byte) (int, error) {
	c.buf.Write(p)
	if c.first == 0 && bytes.Contains(c.buf.Bytes(), []byte(mark)) {
		c.first = time.Since(c.start)
	}
	return len(p), nil
}

// read parses init's lines; the last must say that it is done.
func (r *Report) read() error {
	said := map[string]string{}
	for line := range strings.Lines(r.Console) {
		if _, rest, ok := strings.Cut(line, mark); ok {
			key, value, _ := strings.Cut(strings.TrimRight(rest, "\r\n"), "=")
			said[key] = value
			if part, ok := strings.CutPrefix(key, "part "); ok {
				if r.Parts == nil {
					r.Parts = map[string]string{}
				}
				r.Parts[part] = value
			}
		}
	}
	if said["done"] != "true" {
		return errors.New("init did not come to its end")
	}
	if e := said["error"]; e != "<nil>" {
		return fmt.Errorf("init: %s", e)
	}
	r.Release, r.Version, r.BuildID = said["release"], said["version"], said["build_id"]
	r.VSock = said["vsock"] == "true"
	var errs [4]error
	var ns int64
	ns, errs[0] = strconv.ParseInt(said["boottime_ns"], 10, 64)
	r.BootTime = time.Duration(ns)
	r.Ticks, errs[1] = strconv.ParseUint(said["tsc"], 10, 64)
	r.CPUs, errs[2] = strconv.Atoi(said["cpus"])
	r.Config, errs[3] = digest.Parse(said["config"])
	return errors.Join(errs[:]...)
}
