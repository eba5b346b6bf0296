package measure

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/agent/timeline"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/extension"
	"github.com/katabuild/katabuild/internal/report"
)

// guest lays out a root folder with the files that a report reads; change gives other content, or none where it is nil.
// buildIDNote is an ELF note with the build-id abcd: System V ABI, "Note Section"; <elf.h>, NT_GNU_BUILD_ID.
func buildIDNote() []byte {
	var b []byte
	for _, word := range []uint32{4, 2, 3} {
		b = binary.NativeEndian.AppendUint32(b, word)
	}
	return append(b, "GNU\x00\xab\xcd\x00\x00"...)
}

func guest(t *testing.T, change map[string][]byte) *Guest {
	t.Helper()
	files := map[string][]byte{
		"proc/cmdline":        []byte("console=ttyS0 quiet\n"),
		"proc/config.gz":      zipped(t, []byte("CONFIG_X=y\n")),
		"proc/modules":        []byte("vsock 36864 1 - Live 0x0\naf_packet 1 0 - Live 0x0\n"),
		"proc/1/comm":         []byte("systemd\n"),
		"proc/self/exe":       []byte("the agent"),
		"proc/self/mountinfo": []byte("1 1 0:2 / / rw - rootfs rootfs rw\n"),
		"sys/kernel/notes":    buildIDNote(),
		"sys/devices/system/memory/block_size_bytes": []byte("8000000\n"),
	}
	for name, data := range change {
		files[name] = data
	}
	root := t.TempDir()
	for name, data := range files {
		if data == nil {
			continue
		}
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return &Guest{Version: "1", PID1: true, Timeline: timeline.New(), Root: root}
}

func zipped(t *testing.T, b []byte) []byte {
	t.Helper()
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return z.Bytes()
}

var nonce = []byte("0123456789abcdef")

func read(t *testing.T, g *Guest) *report.Report {
	t.Helper()
	b, err := g.Report(nonce, nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := report.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestReportSaysWhatTheGuestHolds(t *testing.T) {
	r := read(t, guest(t, nil))
	if r.Nonce != "30313233343536373839616263646566" {
		t.Error("nonce", r.Nonce)
	}
	if k := r.Kernel; k.BuildID != "abcd" || k.Config != digest.Of([]byte("CONFIG_X=y\n")) ||
		k.CommandLine != "console=ttyS0 quiet" || k.Release == "" {
		t.Errorf("kernel %+v", k)
	}
	if a := r.Agent; a.Digest != digest.Of([]byte("the agent")) || a.Version != "1" || a.Go != runtime.Version() ||
		len(a.Settings) == 0 {
		t.Errorf("agent %+v", a)
	}
	if r.Init.Kind != "agent" || r.Root != (report.Root{Kind: "initrd", FileSystem: "rootfs", Source: "rootfs"}) {
		t.Error(r.Init, r.Root)
	}
	if strings.Join(r.Modules, " ") != "af_packet vsock" {
		t.Error("modules", r.Modules)
	}
	if l := r.Timeline; len(l) != 3 || l[0] != (report.Moment{Name: "kernel"}) || l[1].Name != "start" ||
		l[2].Name != "init" {
		t.Error("timeline", l)
	}
}

// TestWhatWasFoundBeforeStandsForTheSameFileAlone executes nothing anew: the file is that of another guest's report.
func TestWhatWasFoundBeforeStandsForTheSameFileAlone(t *testing.T) {
	g := guest(t, nil)
	before, err := g.Ahead()
	if err != nil {
		t.Fatal(err)
	}
	// Whose digests are these is to be seen: the files say other ones.
	other := strings.NewReplacer(string(digest.Of([]byte("the agent"))), string(digest.Of([]byte("a"))),
		string(digest.Of([]byte("CONFIG_X=y\n"))), string(digest.Of([]byte("c")))).Replace(before)
	next := func(before string) *report.Report {
		return read(t, &Guest{Version: "1", PID1: true, Timeline: timeline.New(), Root: g.Root, Before: before})
	}
	if r := next(other); r.Agent.Digest != digest.Of([]byte("a")) || r.Kernel.Config != digest.Of([]byte("c")) {
		t.Errorf("of the same file: %s, %s", r.Agent.Digest, r.Kernel.Config)
	}
	for _, damaged := range []string{"", " ", "x", other + " x", strings.Replace(other, "sha256:", "sha255:", 1),
		other[:len(other)-1], "0" + other} {
		if r := next(damaged); r.Agent.Digest != digest.Of([]byte("the agent")) {
			t.Errorf("%q: %s", damaged, r.Agent.Digest)
		}
	}
	exe := filepath.Join(g.Root, "proc/self/exe")
	if err := os.WriteFile(exe, []byte("the aegnt"), 0o644); err != nil { // of the same size
		t.Fatal(err)
	}
	if r := next(other); r.Agent.Digest != digest.Of([]byte("the aegnt")) {
		t.Errorf("of a file that was changed: %s", r.Agent.Digest)
	}
}

func TestReportOfAPoorerGuest(t *testing.T) {
	g := guest(t, map[string][]byte{"proc/config.gz": nil, "proc/modules": nil, "sys/kernel/notes": nil})
	g.PID1 = false
	r := read(t, g)
	if r.Kernel.Config != "" || r.Kernel.BuildID != "" || r.Modules == nil || len(r.Modules) != 0 ||
		r.Init.Kind != "systemd" {
		t.Errorf("%+v", r)
	}
}

func TestReportRefusesWhatItCannotRead(t *testing.T) {
	for name, change := range map[string]map[string][]byte{
		"a configuration that is not gzip": {"proc/config.gz": []byte("CONFIG_X=y")},
		"a configuration that explodes":    {"proc/config.gz": zipped(t, make([]byte, maxConfig+1))},
		"notes cut short":                  {"sys/kernel/notes": []byte{4, 0, 0, 0, 1}},
		"no mount table":                   {"proc/self/mountinfo": nil},
		"a mount table without a root":     {"proc/self/mountinfo": []byte("1 1 0:2 / /proc rw - proc proc rw\n")},
		"no agent":                         {"proc/self/exe": nil},
		"no command line":                  {"proc/cmdline": nil},
	} {
		g := guest(t, change)
		if _, err := g.Report(nonce, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestExtensionsAreReadFromWhatIsMounted(t *testing.T) {
	g := guest(t, nil)
	g.Extensions = []extension.Extension{{Name: "gpu"}}
	if _, err := g.Report(nonce, nil); err == nil || !strings.Contains(err.Error(),
		"extension gpu: nothing is mounted at /run/kata-extensions/gpu") {
		t.Error(err)
	}
	g = guest(t, map[string][]byte{"proc/self/mountinfo": []byte(
		"1 1 0:2 / / rw - rootfs rootfs rw\n2 1 8:1 / /run/kata-extensions/gpu ro - erofs /dev/sda1 ro\n")})
	g.Extensions = []extension.Extension{{Name: "gpu"}}
	if _, err := g.Report(nonce, nil); err == nil || !strings.Contains(err.Error(),
		"extension gpu: what is mounted at /run/kata-extensions/gpu is not behind dm-verity") {
		t.Error(err)
	}
}

func TestMemoryBlocks(t *testing.T) {
	g := guest(t, nil)
	if n, err := g.MemoryBlockSize(); err != nil || n != 128<<20 {
		t.Error(n, err)
	}
	if g.MemoryProbe() {
		t.Error("a probe file where there is none")
	}
	none := guest(t, map[string][]byte{"sys/devices/system/memory/block_size_bytes": nil})
	if n, err := none.MemoryBlockSize(); err != nil || n != 0 {
		t.Error("without memory blocks:", n, err)
	}
	if _, err := guest(t, map[string][]byte{"sys/devices/system/memory/block_size_bytes": []byte(
		"many")}).MemoryBlockSize(); err == nil {
		t.Error("a size that is no number passes")
	}
}
