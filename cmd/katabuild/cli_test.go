package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/jail"
	"github.com/katabuild/katabuild/internal/papertest"

	"github.com/katabuild/katabuild/internal/manifest"
)

func TestMain(m *testing.M) {
	jail.Main()
	os.Exit(m.Run())
}

// cli runs a command line with a store of its own and returns the exit code and everything it said.
func cli(t *testing.T, store string, args ...string) (int, string) {
	t.Helper()
	var out bytes.Buffer
	code := run(args, &app{out: &out, err: &out, getenv: func(k string) string {
		switch k {
		case "KATABUILD_STORE":
			return store
		case "PATH":
			return os.Getenv("PATH")
		}
		return ""
	}})
	return code, out.String()
}

// guest writes the guest of papertest.Manifest.
func guest(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	m := papertest.Manifest()
	for _, f := range m.Files() {
		write(t, filepath.Join(dir, f.Path), f.Path)
	}
	data, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := manifest.Write(dir, data); err != nil {
		t.Fatal(err)
	}
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestCommandLines(t *testing.T) {
	dir := t.TempDir()
	store := filepath.Join(dir, "store")
	write(t, filepath.Join(dir, "bad/recipe.yaml"), "version: 1\nname: bad\nkernal: {}\n")
	write(t, filepath.Join(dir, "unlocked/recipe.yaml"), "version: 1\nname: unlocked\nkernel:\n  source: {tree: linux}\n  features: [tiny]\n")
	write(t, filepath.Join(dir, "stale/recipe.yaml"), "version: 1\nname: stale\nkernel:\n  source: {tree: linux}\n  features: [tiny]\n")
	write(t, filepath.Join(dir, "stale/lock.json"), "{\n  \"version\": 1,\n  \"name\": \"stale\",\n  \"time\": 1,\n  \"inputs\": []\n}\n")
	g := guest(t)
	spoilt := guest(t)
	write(t, filepath.Join(spoilt, "vmlinux"), "vmlinuX")
	r, err := papertest.Report().Encode()
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "report.json"), string(r))
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"help", 0, "The way of a guest"},
		{"frobnicate", exitUsage, "unknown command"},
		{"plan --frobnicate", exitUsage, "katabuild plan --help"},
		{"plan a b", exitUsage, "accepts at most 1 arg"},
		{"plan nowhere", exitError, "no such file or directory"},
		{"plan " + dir + "/bad", exitError, `recipe.yaml:3:1: unknown key "kernal" in a recipe; did you mean "kernel"?`},
		{"plan " + dir + "/unlocked", exitError, "run: katabuild lock " + dir + "/unlocked"},
		{"plan " + dir + "/stale", exitError, "kernel source: the lock does not hold it"},
		{"build --progress loud " + dir + "/unlocked", exitUsage, "want one of auto, live, plain, json, quiet"},
		{"rootfs", exitError, "guests that boot from an initrd"},
		{"image", exitError, "guests that boot from an initrd"},
		{"features", 0, "vsock"},
		{"features vsock", 0, "CONFIG_VIRTIO_VSOCKETS=y"},
		{"features nothing", exitError, "no kernel feature is called"},
		{"verify " + g, 0, "sample: intact"},
		{"verify " + g + " --report " + dir + "/report.json", 0, "sample: attested"},
		{"verify " + g + " --report " + dir + "/report.json --nonce " + strings.Repeat("cd", 16), exitVerdict, "sample: failed: nonce"},
		{"verify " + spoilt, exitVerdict, "sample: failed: file vmlinux"},
		{"verify " + spoilt + " --json", exitVerdict, `"result": "failed"`},
		{"verify " + g + " --manifest-digest sha256:12", exitUsage, "64 lower-case"},
		{"verify " + g + " --manifest-digest sha256:" + strings.Repeat("0", 64), exitError, "wrong digest: want sha256:0000"},
		{"boot " + g + " --dry-run --machine q35 --accel tcg", 0, "qemu-system-x86_64"},
		{"boot " + spoilt + " --accel tcg", exitError, "vmlinux: wrong digest"},
		{"boot " + g + " --machine vax", exitUsage, "vax"},
		{"store verify", 0, "clean"},
		{"store du", 0, "0 blobs"},
		{"store gc --unused-for soon", exitUsage, "want a number and d, h or m"},
		{"store gc", 0, "removed 0 steps and 0 blobs"},
		{"version", 0, "katabuild dev"},
		{"doctor", -1, "user namespaces"},
	} {
		t.Run(c.args, func(t *testing.T) {
			code, out := cli(t, store, strings.Fields(c.args)...)
			if c.code >= 0 && code != c.code || !strings.Contains(out, c.want) {
				t.Errorf("exit code %d, want %d and %q in:\n%s", code, c.code, c.want, out)
			}
		})
	}
}
