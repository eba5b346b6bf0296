package sandbox

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/runtime/child"
	"github.com/katabuild/katabuild/runtime/guest"
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu"
	"github.com/katabuild/katabuild/runtime/machine"
)

// cpioFile is one entry of a test's initrd.
type cpioFile struct {
	name  string
	mode  uint32
	rmaj  uint32
	rmin  uint32
	bytes []byte
}

// writeCPIO writes a newc archive. Linux: Documentation/driver-api/early-userspace/buffer-format.rst.
func writeCPIO(files ...cpioFile) []byte {
	var b bytes.Buffer
	pad := func() {
		for b.Len()%4 != 0 {
			b.WriteByte(0)
		}
	}
	for i, f := range append(files, cpioFile{name: "TRAILER!!!"}) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
			i+1, f.mode, 0, 0, 1, 0, len(f.bytes), 0, 0, f.rmaj, f.rmin, len(f.name)+1, 0, f.name)
		pad()
		b.Write(f.bytes)
		pad()
	}
	return b.Bytes()
}

var buildGuest = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "guest")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, "init"),
		"./testdata/guest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return os.ReadFile(filepath.Join(dir, "init"))
})

// testConfig is a guest of the kernel that the environment names and this package's own init.
func testConfig(t testing.TB, mode string) Config {
	t.Helper()
	testenv.Require(t,
		testenv.Asked("KATABUILD_TEST_BOOT", "test-boot"), testenv.Tool("qemu-system-x86_64"),
		testenv.File("KATABUILD_TEST_VMLINUX"), testenv.File("KATABUILD_TEST_BZIMAGE"))
	init, err := buildGuest()
	if err != nil {
		t.Fatal(err)
	}
	initrd := writeCPIO(
		cpioFile{name: "dev", mode: 0o40755},
		cpioFile{name: "dev/console", mode: 0o20600, rmaj: 5, rmin: 1},
		cpioFile{name: "init", mode: 0o100755, bytes: init},
	)
	dir := t.TempDir()
	file := func(name string, b []byte) manifest.File {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
		return manifest.File{Path: name, Digest: digest.Of(b), Size: int64(len(b))}
	}
	read := func(variable string) []byte {
		b, err := os.ReadFile(os.Getenv(variable))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	m := &manifest.Manifest{
		Version: manifest.Version, Name: "boot-test", Arch: "x86_64",
		Kernel: manifest.Kernel{
			Image: file("bzImage", read("KATABUILD_TEST_BZIMAGE")), Vmlinux: file("vmlinux",
				read("KATABUILD_TEST_VMLINUX")),
			Config: file("config", nil), SystemMap: file("System.map", nil),
		},
		Initrd: &manifest.Initrd{File: file("initrd.cpio", initrd), Compression: "none"},
		Boot: manifest.Boot{
			Machine: "microvm", CPUs: 1, MemoryMiB: 256,
			CommandLine:    "console=ttyS0 panic=-1 quiet",
			TCGCommandLine: "tsc_early_khz={tsc_khz}",
		},
	}
	cfg := Config{Guest: described(t, m, dir, ""), Hypervisor: qemu.Hypervisor{}, Timeout: 30 * time.Second}
	if mode != "serve" {
		cfg.Words = []string{"guest.mode=" + mode}
	}
	return cfg
}

// boot starts a guest that must come up.
func boot(t testing.TB, cfg Config) *Sandbox {
	t.Helper()
	s, err := Start(t.Context(), cfg)
	if err != nil {
		fail(t, err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
		if t.Failed() {
			t.Logf("%s\n%s", machine.Quote(s.Argv()), strings.Join(s.Console(30), "\n"))
		}
	})
	return s
}

func fail(t testing.TB, err error) {
	t.Helper()
	var e *StageError
	if errors.As(err, &e) {
		t.Fatalf("%v\n%s\n%s", err, machine.Quote(e.Argv), strings.Join(e.Console, "\n"))
	}
	t.Fatal(err)
}

func TestBootOfEachMachineAndKernelForm(t *testing.T) {
	for _, machine := range []qemu.Machine{qemu.MicroVM, qemu.Q35} {
		for _, form := range []guest.KernelForm{guest.Vmlinux, guest.Image} {
			t.Run(fmt.Sprintf("%s %s", machine, form), func(t *testing.T) {
				cfg := testConfig(t, "serve")
				cfg.Machine = string(machine)
				cfg.Guest = described(t, cfg.Guest.Manifest, cfg.Guest.Dir, form)
				s := boot(t, cfg)
				c, err := s.Dial(t.Context(), agentapi.Port)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprint(c, "hello")
				b := make([]byte, 5)
				if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
					t.Errorf("echo %q, %v", b, err)
				}
				c.Close()
				var seen []string
				for _, m := range s.Timeline() {
					seen = append(seen, fmt.Sprintf("%s %d ms", m.Name, m.After.Milliseconds()))
				}
				t.Log(strings.Join(seen, ", "))
				if err := errors.Join(s.Stop(), s.Stop()); err != nil {
					t.Error(err)
				}
				if err := syscall.Kill(s.PID(), 0); !errors.Is(err, syscall.ESRCH) {
					t.Errorf("QEMU is still there: %v", err)
				}
				if _, err := s.Dial(t.Context(), agentapi.Port); err == nil {
					t.Error("dial after Stop: no error")
				}
				if len(s.Console(3)) == 0 {
					t.Error("the console is not readable after Stop")
				}
			})
		}
	}
}

// blocks is what sendBlocks of the guest sends.
func blocks(n uint32) []byte {
	block := make([]byte, 64<<10)
	for i := range block {
		block[i] = byte(i * 7 >> 3)
	}
	var b []byte
	for i := range n {
		binary.LittleEndian.PutUint32(block, i)
		b = append(b, block...)
	}
	return b
}

const streamBlocks = 512 // 32 MiB

func TestStreams(t *testing.T) {
	for _, machine := range []qemu.Machine{qemu.MicroVM, qemu.Q35} {
		t.Run(string(machine), func(t *testing.T) {
			cfg := testConfig(t, "serve")
			cfg.Machine = string(machine)
			cfg.Hybrid = filepath.Join(t.TempDir(), "v")
			s := boot(t, cfg)
			want := blocks(streamBlocks)
			sum := sha256.Sum256(want)
			dial := func(port uint32) net.Conn {
				t.Helper()
				c, err := s.Dial(t.Context(), port)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { c.Close() })
				return c
			}
			speed := func(what string, began time.Time) {
				d := time.Since(began)
				t.Logf("%s: %d MiB in %v, %.0f MiB/s", what, len(want)>>20, d.Round(time.Millisecond),
					float64(len(want)>>20)/d.Seconds())
			}
			t.Run("host to guest, half-close, answer", func(t *testing.T) {
				c := dial(1)
				began := time.Now()
				if _, err := c.Write(want); err != nil {
					t.Fatal(err)
				}
				if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
					t.Fatal(err)
				}
				answer, err := io.ReadAll(c)
				speed("host to guest", began)
				if got := fmt.Sprintf("%d %x <nil>\n", len(want), sum); err != nil || string(answer) != got {
					t.Errorf("the guest answered %q, %v; want %q", answer, err, got)
				}
			})
			t.Run("host to guest, which only counts", func(t *testing.T) {
				c := dial(5)
				began := time.Now()
				c.Write(want)
				c.(interface{ CloseWrite() error }).CloseWrite()
				answer, err := io.ReadAll(c)
				speed("host to guest, not hashed there", began)
				if got := fmt.Sprintf("%d <nil>\n", len(want)); err != nil || string(answer) != got {
					t.Errorf("the guest answered %q, %v; want %q", answer, err, got)
				}
			})
			t.Run("guest to host, closed right behind the last byte", func(t *testing.T) {
				c := dial(2)
				binary.Write(c, binary.LittleEndian, uint32(streamBlocks))
				began := time.Now()
				h := sha256.New()
				n, err := io.Copy(h, c)
				speed("guest to host", began)
				if err != nil || n != int64(len(want)) || [32]byte(h.Sum(nil)) != sum {
					t.Errorf("%d of %d bytes, %v", n, len(want), err)
				}
			})
			t.Run("over a connection that the guest makes", func(t *testing.T) {
				l, err := s.links.Channel.Listen(5000)
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				c := dial(3)
				binary.Write(c, binary.LittleEndian, [2]uint32{5000, streamBlocks})
				g, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				h := sha256.New()
				n, err := io.Copy(h, g)
				if err != nil || n != int64(len(want)) || [32]byte(h.Sum(nil)) != sum {
					t.Errorf("%d of %d bytes, %v", n, len(want), err)
				}
				g.Close()
				if answer, err := io.ReadAll(c); err != nil || string(answer) != "sent\n" {
					t.Errorf("%q, %v", answer, err)
				}
			})
			t.Run("over UNIX sockets, both ways", func(t *testing.T) {
				u, err := net.Dial("unix", cfg.Hybrid)
				if err != nil {
					t.Fatal(err)
				}
				defer u.Close()
				fmt.Fprint(u, "CONNECT 2\n")
				ok := make([]byte, len("OK 1073741824\n"))
				if _, err := io.ReadFull(u, ok); err != nil || !strings.HasPrefix(string(ok), "OK ") {
					t.Fatalf("%q, %v", ok, err)
				}
				binary.Write(u, binary.LittleEndian, uint32(streamBlocks))
				began := time.Now()
				if got, err := io.ReadAll(u); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d of %d bytes, %v", len(got), len(want), err)
				}
				speed("guest to UNIX socket", began)

				l, err := net.Listen("unix", cfg.Hybrid+"_5001")
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				c := dial(3)
				binary.Write(c, binary.LittleEndian, [2]uint32{5001, 16})
				g, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				if got, err := io.ReadAll(g); err != nil || !bytes.Equal(got, want[:16*64<<10]) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				g.Close()
			})
			t.Run("refused ports", func(t *testing.T) {
				if _, err := s.Dial(t.Context(), 99); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("host to guest: %v, want ECONNREFUSED", err)
				}
				c := dial(3)
				binary.Write(c, binary.LittleEndian, [2]uint32{5999, 1})
				// Linux makes ECONNRESET of the RST that refuses.
				if answer, err := io.ReadAll(c); err != nil || !strings.Contains(string(answer), "connection reset") {
					t.Errorf("guest to host: %q, %v", answer, err)
				}
			})
			t.Run("reset", func(t *testing.T) {
				c := dial(4)
				fmt.Fprint(c, "x")
				c.(interface{ Reset() }).Reset()
				waitConsole(t, s, "guest: port 4 ended with")
			})
			t.Run("200 connections at once", func(t *testing.T) {
				began := time.Now()
				var wg sync.WaitGroup
				for i := range 200 {
					wg.Go(func() {
						c, err := s.Dial(t.Context(), agentapi.Port)
						if err != nil {
							t.Error(err)
							return
						}
						defer c.Close()
						msg := bytes.Repeat([]byte{byte(i)}, 10_000)
						go func() {
							c.Write(msg)
							c.(interface{ CloseWrite() error }).CloseWrite()
						}()
						if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, msg) {
							t.Errorf("connection %d: %d bytes, %v", i, len(got), err)
						}
					})
				}
				wg.Wait()
				t.Logf("200 connections with 2 MiB each way: %v", time.Since(began).Round(time.Millisecond))
			})
			t.Run("round trips", func(t *testing.T) {
				c := dial(agentapi.Port)
				for _, size := range []int{64, 4096, 65536} {
					var ds []time.Duration
					b := make([]byte, size)
					for range 300 {
						began := time.Now()
						c.Write(b)
						if _, err := io.ReadFull(c, b); err != nil {
							t.Fatal(err)
						}
						ds = append(ds, time.Since(began))
					}
					slices.Sort(ds)
					t.Logf("%6d bytes: p50 %v, p99 %v", size, ds[150].Round(time.Microsecond),
						ds[297].Round(time.Microsecond))
				}
			})
		})
	}
}

func waitConsole(t *testing.T, s *Sandbox, text string) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		for _, l := range s.Console(50) {
			if strings.Contains(l, text) {
				t.Log(l)
				return
			}
		}
	}
	t.Errorf("the console never says %q", text)
}

func TestStagesThatFail(t *testing.T) {
	for name, tc := range map[string]struct {
		mode   string
		change func(t *testing.T, c *Config)
		stage  Stage
		says   string
	}{
		"QEMU is not installed": {"serve",
			func(_ *testing.T, c *Config) { c.Program = "/nowhere/qemu-system-x86_64" }, stageVMM,
			"Debian package qemu-system-x86"},
		"QEMU does not know the machine": {"serve", func(_ *testing.T, c *Config) { c.Machine = "toaster" }, stageVMM,
			"unsupported machine type"},
		"the host has not that much memory": {"serve",
			func(_ *testing.T, c *Config) { c.Size.MemoryMiB = 1 << 30 }, stageVMM,
			"allocate memory"},
		"the kernel is not a kernel": {"serve", func(t *testing.T, c *Config) {
			c.replaceVmlinux(t,
				[]byte("\x7fELF this is no kernel"))
		}, stageVMM, "QEMU"},
		"init ends before it says a word": {"mute-exit", nil, stageInit, "Attempted to kill init"},
		"init ends after it":              {"exit", nil, stageAgent, "Attempted to kill init"},
		"init ends and the kernel stays": {"exit", func(_ *testing.T, c *Config) {
			c.Guest.Boot.CommandLine = strings.Replace(c.Guest.Boot.CommandLine, "panic=-1", "panic=0", 1)
		}, stageAgent, "Attempted to kill init"},
		"the guest reboots":        {"poweroff", nil, stageAgent, "guest-reset"},
		"init hangs":               {"hang", short, stageAgent, "not ready within"},
		"the agent never connects": {"never-ready", short, stageAgent, "not ready within"},
		"the agent says else":      {"liar", short, stageAgent, "not ready within"},
		"there is no vsock device": {"hang", func(t *testing.T, c *Config) {
			short(t, c)
			c.Hypervisor = qemu.Hypervisor{NoVsock: true}
		}, stageTransport, "not ready within"},
		"there is no init": {"serve", func(t *testing.T, c *Config) {
			c.Words = append(c.Words, "rdinit=/nowhere",
				"init=/nowhere")
		}, stageInit, "kernel panic"},
		"init says nothing": {"speechless", short, stageInit, "not ready within"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t, tc.mode)
			if tc.change != nil {
				tc.change(t, &cfg)
			}
			began := time.Now()
			s, err := Start(t.Context(), cfg)
			if err == nil {
				s.Stop()
				t.Fatal("the guest came up")
			}
			var e *StageError
			if !errors.As(err, &e) {
				t.Fatalf("no stage: %v", err)
			}
			t.Logf("after %v: %v", time.Since(began).Round(time.Millisecond), err)
			if e.Stage != tc.stage || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("stage %s, want %s and %q; console:\n%s", e.Stage, tc.stage, tc.says,
					strings.Join(e.Console, "\n"))
			}
			if !strings.Contains(e.Command, "-append") || strings.Contains(e.Command, "/proc/self/fd") {
				t.Errorf("command line to paste: %s", e.Command)
			}
		})
	}
}

func short(_ *testing.T, c *Config) { c.Timeout = 4 * time.Second }

// replaceVmlinux puts other bytes in the kernel's place, with the right digest.
func (c *Config) replaceVmlinux(t *testing.T, b []byte) {
	if err := os.WriteFile(filepath.Join(c.Guest.Dir, "vmlinux"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	c.Guest.Manifest.Kernel.Vmlinux.Digest, c.Guest.Manifest.Kernel.Vmlinux.Size = digest.Of(b), int64(len(b))
}

func TestCancelledStartLeavesNothing(t *testing.T) {
	cfg := testConfig(t, "hang")
	ctx, cancel := context.WithCancel(t.Context())
	cfg.OnStage = func(m Moment) {
		if m.Name == stageInit.String() {
			cancel()
		}
	}
	_, err := Start(ctx, cfg)
	var e *StageError
	if !errors.As(err, &e) || !errors.Is(err, context.Canceled) {
		t.Fatalf("%v, want a StageError because of the cancellation", err)
	}
}

// TestKilledCallerTakesQEMUWithIt runs itself as the caller to be killed.
func TestKilledCallerTakesQEMUWithIt(t *testing.T) {
	cfg := testConfig(t, "serve") // before anything else: it may skip
	if os.Getenv("SANDBOX_TEST_VICTIM") != "" {
		s := boot(t, cfg)
		fmt.Printf("victim's QEMU is %d\n", s.PID())
		select {}
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "SANDBOX_TEST_VICTIM=1", "TMPDIR="+t.TempDir()) // it cannot tidy up behind itself
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := 0
	buf := make([]byte, 4096)
	for all := ""; pid == 0; {
		n, err := out.Read(buf)
		all += string(buf[:n])
		if m := regexp.MustCompile(`QEMU is (\d+)\n`).FindStringSubmatch(all); m != nil {
			fmt.Sscan(m[1], &pid)
		} else if err != nil {
			t.Fatalf("%v: %s", err, all)
		}
	}
	cmd.Process.Kill()
	cmd.Wait()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(b), ") Z ") { // a zombie waits for a parent that is not ours
			return
		}
	}
	t.Errorf("QEMU %d outlives its caller", pid)
}

func TestChangedFilesAreRefused(t *testing.T) {
	for _, name := range []string{"vmlinux", "initrd.cpio"} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t, "serve")
			path := filepath.Join(cfg.Guest.Dir, name)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			b[len(b)/2] ^= 1
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			for what, err := range map[string]error{
				"start": func() error { _, err := Start(t.Context(), cfg); return err }(),
			} {
				var m *digest.Mismatch
				if !errors.As(err, &m) || m.Name != path || m.Got != digest.Of(b) || m.Want == m.Got {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
}

// TestQEMUHasNothingOfRoots looks at a QEMU that root has started, from outside.
func TestQEMUHasNothingOfRoots(t *testing.T) {
	testenv.Require(t, testenv.Root)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, bytes.Repeat([]byte("secret "), 1<<17), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(t, "serve")
	cfg.Machine, cfg.Places = "q35", 1
	s := boot(t, cfg)
	proc := fmt.Sprintf("/proc/%d/", s.PID())
	b, err := os.ReadFile(proc + "status")
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]string{}
	for l := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(l, ":")
		have[k] = strings.Join(strings.Fields(v), " ")
	}
	id, _, _ := strings.Cut(have["Uid"], " ")
	n, err := strconv.Atoi(id)
	if err != nil || n < child.FirstUser || n >= child.FirstUser+1<<22 {
		t.Errorf("its user is %s", have["Uid"])
	}
	own := strings.Join([]string{id, id, id, id}, " ")
	const none = "0000000000000000"
	for field, want := range map[string]string{
		"Uid": own, "Gid": own, "Groups": "", "CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none,
		"CapAmb": none, "NoNewPrivs": "1", "Seccomp": "2",
	} {
		if have[field] != want {
			t.Errorf("%s is %q, want %q", field, have[field], want)
		}
	}
	for _, kind := range []string{"mnt", "pid", "ipc"} {
		its, err := os.Readlink(proc + "ns/" + kind)
		ours, err2 := os.Readlink("/proc/self/ns/" + kind)
		if err := errors.Join(err, err2); err != nil || its == ours {
			t.Errorf("it is in the host's namespace %s: %v", kind, err)
		}
	}
	for _, path := range []string{"/etc/passwd", "/root", "/home", "/var", "/run", "/sys", "/tmp", "/dev/kmsg",
		"/dev/net", "/proc/sys", secret} {
		if _, err := os.Lstat(proc + "root" + path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("it sees %s: %v", path, err)
		}
	}
	// A file that is for root alone is a disk all the same, and QEMU lets go of it.
	opened := func() (n int) {
		links, err := filepath.Glob(proc + "fd/*")
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range links {
			if to, err := os.Readlink(l); err == nil && to == secret {
				n++
			}
		}
		return n
	}
	if _, err := s.PlugDisk(t.Context(), machine.Disk{Path: secret, ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	if opened() == 0 {
		t.Error("QEMU does not have the disk open")
	}
	if _, err := s.PlugDisk(t.Context(), machine.Disk{Path: secret}); !errors.Is(err, machine.ErrNoPlace) {
		t.Errorf("a second disk in one place: %v", err)
	}
	if err := takeBack(t, s); err != nil {
		t.Error(err)
	}
}

// takeBack has QEMU close the files of the disks that were plugged in, as if they had been unplugged.
func takeBack(t *testing.T, s *Sandbox) error {
	t.Helper()
	vm := s.vm.(*qemu.VM)
	answer, err := vm.Query(t.Context(), "query-fdsets", nil)
	if err != nil {
		return err
	}
	var sets []struct {
		ID int `json:"fdset-id"`
	}
	if err := json.Unmarshal(answer, &sets); err != nil {
		return err
	}
	for _, set := range sets {
		if _, err := vm.Query(t.Context(), "remove-fd", map[string]any{"fdset-id": set.ID}); err != nil {
			return err
		}
	}
	return nil
}
