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
	if b, err := os.ReadFile(kata); string(b) != "# Kata's\n" || err != nil {
		t.Errorf("Kata's configuration is %q, %v", b, err)
	}
	if b, err := os.ReadFile(own); !strings.Contains(string(b), `guest = "/usr/share/katabuild/guests/default"`) ||
		err != nil {
		t.Errorf("ours is %q, %v", b, err)
	}
	if _, err := os.Stat(dir + "/usr/share/katabuild/guests/default/manifest.json"); err != nil {
		t.Error(err)
	}
	for program, want := range map[string]string{"containerd-shim-kata-v2": "io.containerd.kata.v2",
		"containerd-shim-katabuild-v2": "io.containerd.katabuild.v2"} {
		b, err := exec.Command(dir+"/usr/local/bin/"+program, "-info").Output()
		var info types.RuntimeInfo
		if err != nil || proto.Unmarshal(b, &info) != nil || info.Name != want || info.Features == nil {
			t.Errorf("%s: %v, %v", program, &info, err)
		}
	}
	// What the user has written stays.
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
}
