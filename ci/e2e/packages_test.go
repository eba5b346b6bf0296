package e2e

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/testenv"
)

// makePackages makes the packages in dist/ and returns them with their digests.
func makePackages(t *testing.T) map[string]string {
	t.Helper()
	if err := os.RemoveAll(abs(t, "dist")); err != nil { // packages of other versions
		t.Fatal(err)
	}
	cmd := exec.Command("make", "--no-print-directory", "packages")
	cmd.Dir = abs(t, ".")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make packages: %v\n%s", err, out)
	}
	digests := map[string]string{}
	for _, suffix := range []string{".deb", ".rpm", ".apk", ".pkg.tar.zst"} {
		m, err := filepath.Glob(abs(t, "dist") + "/*" + suffix)
		if err != nil || len(m) != 2 {
			t.Fatalf("packages %s: %v %v, want two", suffix, m, err)
		}
		for _, p := range m {
			data, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			digests[p] = fmt.Sprintf("%x", sha256.Sum256(data))
		}
	}
	return digests
}

// names lists what lies below a folder, without dpkg's own files.
func names(t *testing.T, root string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasSuffix(p, "/var/lib/dpkg") {
			return fs.SkipDir
		}
		out = append(out, strings.TrimPrefix(p, root))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestPackagesAreInstalledAndGo makes packages twice, which gives the same bytes, and has dpkg install and purge them
// in a root of its own.
func TestPackagesAreInstalledAndGo(t *testing.T) {
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_PACKAGES", "test-packages"), testenv.Root, testenv.Tool("dpkg"),
		testenv.Tool("make"), testenv.Tool("lintian"))
	first := makePackages(t)
	for p, d := range makePackages(t) {
		if first[p] != d {
			t.Errorf("%s has other bytes the second time", p)
		}
	}
	root := t.TempDir()
	for _, d := range []string{"/var/lib/dpkg/info", "/var/lib/dpkg/updates"} {
		if err := os.MkdirAll(root+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(root+"/var/lib/dpkg/status", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	dpkg := func(args ...string) {
		t.Helper()
		cmd := exec.Command("dpkg", append([]string{"--root=" + root, "--force-script-chrootless"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("dpkg %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	before := names(t, root)
	debs, err := filepath.Glob(abs(t, "dist") + "/*.deb")
	if err != nil {
		t.Fatal(err)
	}
	dpkg(append([]string{"-i"}, debs...)...)
	if out, err := exec.Command("lintian", append([]string{"--allow-root", "--fail-on", "error"},
		debs...)...).CombinedOutput(); err != nil {
		t.Errorf("lintian: %v\n%s", err, out)
	}
	for _, p := range []string{"/usr/bin/katabuild", "/usr/bin/kata-runtime", "/usr/bin/kata-agent-ctl"} {
		if out, err := exec.Command(root+p, "version").CombinedOutput(); err != nil || !strings.Contains(string(out),
			filepath.Base(p)) {
			t.Errorf("%s version: %v\n%s", p, err, out)
		}
	}
	for _, p := range []string{"/usr/lib/katabuild/kata-agent-s390x", "/usr/lib/katabuild/katabuild-cc",
		"/usr/bin/containerd-shim-katabuild-v2", "/etc/katabuild/configuration.toml",
		"/usr/share/man/man1/katabuild-build.1.gz", "/usr/share/man/man1/kata-runtime-install.1.gz",
		"/usr/share/man/man1/runk.1.gz", "/usr/lib/systemd/system/katabuild-pool.service",
		"/usr/lib/systemd/system/kata-monitor.service", "/usr/share/bash-completion/completions/katabuild",
		"/usr/share/katabuild/recipes/default/recipe.yaml"} {
		if _, err := os.Stat(root + p); err != nil {
			t.Error(err)
		}
	}
	// What a person changes stays when a package goes, and goes when it is purged.
	conf := root + "/etc/katabuild/configuration.toml"
	if err := os.WriteFile(conf, []byte("# mine\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	dpkg("-r", "katabuild-runtime")
	if data, err := os.ReadFile(conf); err != nil || string(data) != "# mine\n" {
		t.Errorf("%v: %q", err, data)
	}
	dpkg("-P", "katabuild-runtime", "katabuild")
	if after := names(t, root); !slices.Equal(before, after) {
		t.Errorf("left behind: %q", after)
	}
}
