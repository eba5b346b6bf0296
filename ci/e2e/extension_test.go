package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/report"
)

// The partitions of a small extension. docs/formats/disk.md, mbr.
const (
	extensionData = 1 << 20
	extensionTree = 2 << 20
	erofsSuper    = 1024
)

// byHand bounds a guest that nobody but the test looks after, and which ends by itself.
const byHand = time.Minute

// helloExtension builds an extension with a file in it, and returns its folder and its line of root_hash.txt.
func helloExtension(t *testing.T) (dir, line string) {
	t.Helper()
	dir = t.TempDir()
	const text = "version: 1\nname: hello\nextension: true\nrootfs:\n  layers:\n    - files:\n        - {path: " +
		"/bin/hello, text: \"#!/bin/sh\\necho hello\\n\", mode: 0755}\n"
	if err := os.WriteFile(filepath.Join(dir, "recipe.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	katabuild(t, nil, "lock", dir).want(t, 0)
	katabuild(t, nil, "build", dir, "-o", out).want(t, 0)
	data, err := os.ReadFile(filepath.Join(out, "root_hash.txt"))
	if err != nil {
		t.Fatal(err)
	}
	return out, strings.TrimSuffix(string(data), "\n")
}

// TestAnExtensionIsAttested boots a guest with one and with two, from each kind of root, and checks the report against
// the host's knowledge.
func TestAnExtensionIsAttested(t *testing.T) {
	need(t)
	ext, line := helloExtension(t)
	hash := line[len("root_hash=") : len("root_hash=")+64]
	for name, lines := range map[string]string{
		"virtio-blk microvm": "rootfs: {}\nboot: {machine: microvm, memory: 128MiB}\n",
		"nvdimm q35": "rootfs: {}\nimage: {layout: mbr-dax}\nboot: {machine: q35, memory: 256MiB, disk: " +
			"nvdimm}\n",
	} {
		t.Run(name, func(t *testing.T) {
			guest := diskGuest(t, lines, false)
			kept := filepath.Join(t.TempDir(), "report.json")
			katabuild(t, nil, "boot", guest, "--extension", ext, "--extension", "again="+ext, "--report",
				kept).want(t, 0, "minimal: attested", "extension.hello", "extension.again")
			data, err := os.ReadFile(kept)
			if err != nil {
				t.Fatal(err)
			}
			r, err := report.Decode(data)
			if err != nil {
				t.Fatal(err)
			}
			want := []report.Extension{{Name: "again", RootHash: hash, MountPoint: "/run/kata-extensions/again"},
				{Name: "hello", RootHash: hash, MountPoint: "/run/kata-extensions/hello"}}
			if len(r.Extensions) != 2 || r.Extensions[0] != want[0] || r.Extensions[1] != want[1] {
				t.Errorf("the report has %+v", r.Extensions)
			}
			katabuild(t, nil, "verify", guest, "--report", kept, "--extension", ext, "--extension",
				"again="+ext).want(t, 0, "minimal: attested")
			katabuild(t, nil, "verify", guest, "--report", kept, "--extension", ext).want(t, 3, "kernel.command_line",
				"extension.again")
		})
	}
}

// TestAnExtensionThatIsNotWhatItsHostSaysEndsTheGuest: no guest runs with less, more or other than its host asked for.
func TestAnExtensionThatIsNotWhatItsHostSaysEndsTheGuest(t *testing.T) {
	need(t)
	ext, line := helloExtension(t)
	guest := diskGuest(t, "rootfs: {}\nboot: {machine: microvm, memory: 128MiB}\n", false)
	word := "kata.extension.hello.verity_params=" + line
	refused := func(t *testing.T, guest string, args []string, parts ...string) {
		t.Helper()
		parts = append(parts, "stage agent", "katabuild-agent: panic: ")
		katabuild(t, nil, append([]string{"boot", guest, "--timeout", "1m"}, args...)...).want(t, 1, parts...)
	}
	edit := func(t *testing.T, from, to string) string {
		t.Helper()
		dir := clone(t, ext)
		changed := strings.Replace(line, from, to, 1)
		if changed == line {
			t.Fatalf("%q is not in %q", from, line)
		}
		if err := os.WriteFile(filepath.Join(dir, "root_hash.txt"), []byte(changed+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	t.Run("wrong root hash", func(t *testing.T) {
		digit := line[len("root_hash="):][:1]
		other := "0"
		if digit == other {
			other = "1"
		}
		dir := edit(t, "root_hash="+digit, "root_hash="+other)
		refused(t, guest, []string{"--extension", dir}, "extension hello: mount ",
			"input/output error: its data or hash tree is not what the root hash "+other)
	})
	t.Run("more blocks than there are", func(t *testing.T) {
		refused(t, guest, []string{"--extension", edit(t, "data_blocks=", "data_blocks=99")},
			"extension hello: load the table")
	})
	blocks := strings.Split(line, ",")[2]
	t.Run("a block less than there are", func(t *testing.T) {
		n, err := strconv.Atoi(strings.TrimPrefix(blocks, "data_blocks="))
		if err != nil {
			t.Fatal(err)
		}
		refused(t, guest, []string{"--extension", edit(t, blocks, fmt.Sprintf("data_blocks=%d", n-1))},
			"extension hello: its file system has ")
	})
	t.Run("parameters that the host does not read", func(t *testing.T) {
		katabuild(t, nil, "boot", guest, "--extension", edit(t, "salt=", "slat=")).want(t, 1, "root_hash.txt",
			"slat=", "want root_hash, salt")
	})
	t.Run("parameters twice", func(t *testing.T) {
		refused(t, guest, []string{"--extension", ext, "--append", word},
			"extension hello: the kernel command line has its parameters twice")
	})
	t.Run("not attached", func(t *testing.T) {
		refused(t, guest, []string{"--append", word},
			"extension hello: the kernel command line has its parameters, but no disk has the serial extension-hello")
	})
	t.Run("a kernel without disks", func(t *testing.T) {
		refused(t, tiny(t), []string{"--extension", ext}, "extension hello: ")
	})
	for name, at := range map[string]int64{"data": extensionData + erofsSuper + 80, "hash tree": extensionTree + 5} {
		t.Run("one flipped bit in the "+name, func(t *testing.T) {
			dir := clone(t, ext)
			flip(t, filepath.Join(dir, "image.img"), at)
			refused(t, guest, []string{"--extension", dir}, "device-mapper: verity", "extension hello: mount ",
				"input/output error")
		})
	}
	// katabuild always gives both, so this is QEMU's command line as katabuild prints it, without the word.
	t.Run("parameters missing", func(t *testing.T) {
		r := katabuild(t, nil, "boot", guest, "--extension", ext, "--dry-run")
		r.want(t, 0)
		without := strings.Replace(r.out, " "+word, "", 1)
		if without == r.out {
			t.Fatalf("no %s in %s", word, r.out)
		}
		ctx, cancel := context.WithTimeout(t.Context(), byHand)
		defer cancel()
		cmd := exec.CommandContext(ctx, "sh", "-c", "exec "+without)
		cmd.WaitDelay = time.Second
		console, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(console),
			"katabuild-agent: panic: extension hello: disk vdb holds it, but the kernel command line lacks its "+
				"parameters") {
			t.Errorf("%v; the console has:\n%s", err, console)
		}
	})
}
