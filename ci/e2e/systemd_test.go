package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/testenv"
)

// host is what a machine of Debian's does at its boot in TestPackagesServeASystemdHost: it installs a guest, which has
// systemd restart containerd, and takes it off again. Each line that begins with "host:" is for the test. Folders that
// are written to lie in memory, as the disk is read-only.
const host = `#!/bin/sh
set -eu
trap 'echo "host: ended with $?"; systemctl poweroff --force --force' EXIT
for d in /etc /opt /usr/local; do
	mkdir -p "/run/upper$d" "/run/work$d"
	mount -t overlay overlay "$d" -o "lowerdir=$d,upperdir=/run/upper$d,workdir=/run/work$d"
done
mkdir -p /run/lib && mount --bind /run/lib /var/lib/containerd
seen() { find /etc /opt /usr/local -xdev ! -type d -exec ls -ld --time-style=+ {} + | sort; }
pid() { systemctl show -p MainPID --value containerd.service; }
systemctl start containerd.service
seen >/run/before
first=$(pid)
kata-runtime install /srv/guest
second=$(pid)
[ "$first" != "$second" ] && echo "host: containerd was restarted, and is $(systemctl is-active containerd.service)"
containerd config dump | grep -q 'runtime_type = .io.containerd.kata.v2' && echo "host: containerd knows the runtime"
kata-runtime verify-install
systemd-run --quiet --wait --unit=says.service echo \
	'time=2026-11-30T16:05:00Z level=INFO msg="the machine grows" name=shim pid=7 sandbox=one source=katabuild-shim'
journalctl --sync
kata-runtime logs --unit says.service --since today | grep -q 'katabuild-shim one: the machine grows' &&
	echo "host: the journal has records"
kata-runtime logs --level error --error-if-no-records || echo "host: containerd's own lines are no records"
systemctl stop containerd.service
kata-runtime install /srv/guest --handler other
echo "host: containerd that was stopped is $(systemctl is-active containerd.service)"
systemctl start containerd.service
kata-runtime uninstall
echo "host: containerd is $(systemctl is-active containerd.service) afterwards"
seen >/run/after
diff /run/before /run/after && echo "host: nothing is left"
`

const hostUnit = `[Unit]
Description=What the test wants
After=kata-containers.target
[Service]
Type=oneshot
Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ExecStart=/bin/sh /srv/host
StandardOutput=tty
StandardError=tty
TTYPath=/dev/console
`

// TestPackagesServeASystemdHost boots Debian with systemd, containerd and our packages, which dpkg has installed, as a
// guest that is a host: systemd does for kata-runtime what it does for a user.
func TestPackagesServeASystemdHost(t *testing.T) {
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_PACKAGES", "test-packages"), testenv.Root, testenv.Tool("dpkg"),
		testenv.Tool("make"), testenv.Tool("qemu-system-x86_64"))
	makePackages(t)
	dir := t.TempDir()
	tree := filepath.Join(dir, "recipe/tree")
	unit := filepath.Join(tree, "etc/systemd/system")
	wants := filepath.Join(unit, "kata-containers.target.wants")
	if err := errors.Join(os.MkdirAll(wants, 0o755), os.MkdirAll(tree+"/srv", 0o755),
		os.MkdirAll(tree+"/var/lib/containerd", 0o755), os.CopyFS(tree+"/srv/guest", os.DirFS(tiny(t))),
		os.WriteFile(tree+"/srv/host", []byte(host), 0o644),
		os.WriteFile(unit+"/host.service", []byte(hostUnit), 0o644),
		os.Symlink("../host.service", wants+"/host.service")); err != nil {
		t.Fatal(err)
	}
	debs, err := filepath.Glob(abs(t, "dist") + "/*.deb")
	if err != nil || len(debs) != 2 {
		t.Fatalf("%v, %q", err, debs)
	}
	for _, d := range debs {
		if out, err := exec.Command("dpkg-deb", "-x", d, tree).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	text, err := os.ReadFile(abs(t, "recipes/systemd/recipe.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	recipe := strings.NewReplacer(
		"name: systemd", "name: host",
		"[base-files,", "[containerd, dash, diffutils, findutils, grep, mount, base-files,",
		"  # What has nothing", "    - folder: tree\n  # What has nothing",
	).Replace(string(text))
	if err := errors.Join(os.CopyFS(filepath.Join(dir, "patches"), os.DirFS(abs(t, "recipes/patches"))),
		os.WriteFile(filepath.Join(dir, "recipe/recipe.yaml"), []byte(recipe), 0o644)); err != nil {
		t.Fatal(err)
	}
	out, console := filepath.Join(dir, "out"), filepath.Join(dir, "console")
	katabuild(t, nil, "lock", filepath.Join(dir, "recipe")).want(t, 0)
	katabuild(t, nil, "build", filepath.Join(dir, "recipe"), "-o", out).want(t, 0)
	katabuild(t, nil, "boot", out, "--keep", "--console", console, "--memory", "1024", "--timeout", "5m").want(t, 0,
		"attested")
	said, err := os.ReadFile(console)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"containerd was restarted, and is active", "containerd knows the runtime",
		"the journal has records", "containerd's own lines are no records",
		"containerd that was stopped is inactive", "containerd is active afterwards", "nothing is left",
		"ended with 0"} {
		if !strings.Contains(string(said), "host: "+line) {
			t.Errorf("the host does not say: %s", line)
		}
	}
	if t.Failed() {
		t.Log(string(said))
	}
}
