package e2e

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/proto"

	"github.com/katabuild/katabuild/internal/testenv"
)

// TestInstalledBesideKata installs into a folder where Kata Containers has its configuration, which is not touched.
func TestInstalledBesideKata(t *testing.T) {
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_E2E", "test-e2e"), testenv.Tool("make"))
	dir := t.TempDir()
	kata, own := dir+"/etc/kata-containers/configuration.toml", dir+"/etc/katabuild/configuration.toml"
	if err := errors.Join(os.MkdirAll(dir+"/etc/kata-containers", 0o755), os.WriteFile(kata, []byte("# Kata's\n"),
		0o644)); err != nil {
		t.Fatal(err)
	}
	install := func() {
		t.Helper()
		if out, err := exec.Command("make", "-C", "../..", "--no-print-directory", "install", "DESTDIR="+dir,
			"RECIPE=default").CombinedOutput(); err != nil {
			t.Fatalf("make install: %v\n%s", err, out)
		}
	}
	install()
	// behind is what a link leads to, for whoever has dir as its root.
	behind := func(link string) string {
		t.Helper()
		to, err := os.Readlink(link)
		if err != nil {
			t.Fatal(err)
		}
		return dir + to
	}
	if b, err := os.ReadFile(kata); string(b) != "# Kata's\n" || err != nil {
		t.Errorf("Kata's configuration is %q, %v", b, err)
	}
	if b, err := os.ReadFile(behind(own)); !strings.Contains(string(b),
		`guest = "/opt/katabuild/current/release/guests/default"`) || err != nil {
		t.Errorf("ours is %q, %v", b, err)
	}
	if _, err := os.Stat(dir + "/opt/katabuild/current/release/guests/default/manifest.json"); err != nil {
		t.Error(err)
	}
	for program, want := range map[string]string{"containerd-shim-kata-v2": "io.containerd.kata.v2",
		"containerd-shim-katabuild-v2": "io.containerd.katabuild.v2"} {
		cmd := exec.Command(behind(dir+"/usr/local/bin/"+program), "-info")
		cmd.Args[0] = program
		b, err := cmd.Output()
		var info types.RuntimeInfo
		if err != nil || proto.Unmarshal(b, &info) != nil || info.Name != want || info.Features == nil {
			t.Errorf("%s: %v, %v", program, &info, err)
		}
	}
	// What the user has written stays.
	if err := os.Remove(own); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(own, []byte("# mine\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	install()
	if b, err := os.ReadFile(own); string(b) != "# mine\n" || err != nil {
		t.Errorf("written again: %q, %v", b, err)
	}
	if _, err := os.Stat(dir + "/etc/kata-containers/config.d"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if out, err := exec.Command("make", "-C", "../..", "--no-print-directory", "uninstall",
		"DESTDIR="+dir).CombinedOutput(); err != nil {
		t.Fatalf("make uninstall: %v\n%s", err, out)
	}
	if b, err := os.ReadFile(own); string(b) != "# mine\n" || err != nil {
		t.Errorf("taken away: %q, %v", b, err)
	}
	if _, err := os.Lstat(dir + "/opt"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the prefix is there: %v", err)
	}
}
